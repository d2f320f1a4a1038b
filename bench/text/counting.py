"""Counts of what a language model answered, for a cell's facts under "scoring"."""

from __future__ import annotations


class Counting:
    """What was asked and what became of the answers, by one scheme for local and remote models:

    answers: questions whose answers were used. answers_without_candidates: nothing of what was
    written is a candidate. answers_incomplete: a candidate at least is missing.
    candidates_appended_at_random: candidates that answers did not name. answers_undecided: neither
    yes nor no was among the probabilities given.
    """

    _counts: dict[str, int] | None = None
    _counted: set[int] | None = None

    def count(self, question: object, **what: int) -> None:
        """Count these for a question, once however often its answer is used: an evaluation asks
        for some scores twice."""
        self._counts = {} if self._counts is None else self._counts
        self._counted = set() if self._counted is None else self._counted
        if hash(question) not in self._counted:
            self._counted.add(hash(question))
            for name, n in what.items():
                self._counts[name] = self._counts.get(name, 0) + n

    def take_counts(self) -> dict[str, int]:
        """What was counted since it was last asked; counting starts over."""
        found, self._counts, self._counted = self._counts or {}, None, None
        return found
