"""The recommenders behind `listwise` and `sliding`: several candidates in one prompt."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.errors import InputError
from bench.text.answers import completed, parse
from bench.text.asking import AskingRecommender, label_tokens
from bench.text.templates import fill, slots

if TYPE_CHECKING:
    from bench.api import Context
    from bench.models.listwise import Listwise
    from bench.models.sliding import Sliding

LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""Labels whose logits are read. Written answers have numbers: "A" is an English word."""


class ListReader(AskingRecommender):
    """Shows several candidates in one prompt and reads their order.

    Args:
        shown: most candidates in one prompt.
    """

    plugin: Listwise | Sliding

    def __init__(self, hyper: Listwise | Sliding, data: Dataset, ctx: Context, shown: int) -> None:
        super().__init__(hyper, data, ctx)
        self.shown = shown
        self.tokens: list[list[int]] = []
        if hyper.read == "logits":
            self.tokens = label_tokens(self.language, LETTERS[:shown])
        elif self.language.role == "masked":
            raise InputError(f"{hyper.name}: {hyper.model!r} fills gaps and writes no answer",
                             key="read", hint="read: logits, or a GPT- or T5-type model")

    def labels(self, size: int) -> list[str]:
        if self.plugin.read == "logits":
            return list(LETTERS[:size])
        return [str(n + 1) for n in range(size)]

    def question(self, items: Sequence[int]) -> list[int]:
        """Token ids of what follows the prefix when these items are shown in this order."""
        p = self.prompt
        lines = (fill(p.line, label=label, item=p.titled(self.text_of(i)))
                 for label, i in zip(self.labels(len(items)), items, strict=True))
        return self.language.ids(self.closed(fill(p.candidate, items="".join(lines))))

    @contextlib.contextmanager
    def before(self, history: Ints, candidates: Ints) -> Iterator[list[int]]:
        """The prefix of this user; inside, questions fit behind it. A prompt with {example} gets
        the last item there, and the history without it."""
        items = candidates.tolist()
        longest = sorted(items, key=lambda i: -len(self.language.ids(self.texts[i])))

        def room() -> int:
            writes = self.plugin.read == "generate" and self.language.role == "causal"
            return (len(self.question(longest[:self.shown])) + self.shown
                    + (self.plugin.tokens if writes else 0))

        def begin(room: int) -> list[int]:
            if "example" not in slots(self.prompt.prefix):
                return self.prefix(history, room=room)
            last = self.prompt.titled(self.text_of(history[-1])) if len(history) else \
                "(nothing yet)"
            return self.prefix(history[:-1], room=room, example=last)

        with self.fitting(items, history.tolist(), room, begin) as prefix:
            yield prefix

    def positions(self, prefix: list[int], shown: Sequence[Sequence[int]],
                  rest: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
        """Position of each item in the order read, 0 the best, equal logits in the middle.

        Args:
            shown: items of each question in the order shown.
            rest: a random permutation per question, for what an answer does not name.
        """
        questions = [self.question(items) for items in shown]
        answers = self._answers(prefix, questions, [len(items) for items in shown])
        keys = [(tuple(prefix), tuple(q)) for q in questions]
        if self.plugin.read == "logits":
            for key in keys:
                self.count(key, answers=1)
            return [_ranks(np.asarray(a)) for a in answers]
        found = []
        for key, items, answer, order in zip(keys, shown, answers, rest, strict=True):
            read = parse(answer, self.labels(len(items)), [self.text_of(i) for i in items])
            self.count(key, answers=1, answers_without_candidates=int(not read),
                       answers_incomplete=int(len(read) < len(items)),
                       candidates_appended_at_random=len(items) - len(read))
            found.append(np.argsort(completed(read, len(items), order)).astype(float))
        return found

    def _answers(self, prefix: list[int], questions: list[list[int]], sizes: list[int]
                 ) -> list[Any]:
        """Logits of the labels, or the text written; each question asked once."""
        keys = [(hash(tuple(prefix)), len(prefix), tuple(q)) for q in questions]
        new = {k: n for n, k in enumerate(keys) if k not in self._kept}
        if new:
            asked = [questions[n] for n in new.values()]
            if self.plugin.read == "logits":
                found: Any = self.asker.read(prefix, asked, self._pick).tolist()
            else:
                found = self.asker.write(prefix, asked, self.plugin.tokens)
            self._kept.update(zip(new, found, strict=True))
        if self.plugin.read == "logits":
            return [self._kept[k][:size] for k, size in zip(keys, sizes, strict=True)]
        return [self._kept[k] for k in keys]

    def _pick(self, logits: Tensor) -> Tensor:
        return torch.stack([logits[:, t].logsumexp(dim=-1) for t in self.tokens], 1)


def _ranks(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Position of each score from 0, the highest first; equal ones share their mean."""
    higher = (scores[None, :] > scores[:, None]).sum(axis=1)
    equal = (scores[None, :] == scores[:, None]).sum(axis=1) - 1
    ranks: np.ndarray[Any, Any] = higher + equal / 2
    return ranks


class ListwiseRecommender(ListReader):
    """See `bench.models.listwise.Listwise`."""

    plugin: Listwise

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        size, rounds = len(candidates), range(self.plugin.bootstraps)
        orders = [self.permutation(user, b, size) for b in rounds]
        rest = [self.permutation(user, b, size, "missing") for b in rounds]
        with self.before(history, candidates) as prefix:
            found = self.positions(prefix, [candidates[o].tolist() for o in orders],
                                   [r.tolist() for r in rest])
        scores = np.zeros(size)
        for order, position in zip(orders, found, strict=True):
            scores[order] += size - position
        return torch.from_numpy(scores).float()

    def permutation(self, user: int, bootstrap: int, size: int, what: str = "shown") -> Ints:
        """How the candidates are shown, of its own for each user and bootstrap."""
        stream = self.ctx.stream("listwise", what, self.data.user_ids[user], bootstrap)
        return stream.permutation(size).astype(np.int64)


class SlidingRecommender(ListReader):
    """See `bench.models.sliding.Sliding`."""

    plugin: Sliding

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        size, p = len(candidates), self.plugin
        base = self.retriever.scores(torch.tensor([user], device=self.ctx.device), split)
        first = base[0].float().cpu().numpy()[candidates]
        order = np.argsort(-first, kind="stable")  # of places in candidates, the best first
        turns = [(t, s) for t in range(p.passes) for s in windows(size, p.window, p.step)]
        with self.before(history, candidates) as prefix:
            for turn, start in turns:
                part = order[start:start + p.window]
                stream = self.ctx.stream("sliding", self.data.user_ids[user], turn, start)
                position, = self.positions(prefix, [candidates[part].tolist()],
                                           [stream.permutation(len(part)).tolist()])
                order[start:start + p.window] = part[np.argsort(position, kind="stable")]
        scores = np.empty(size)
        scores[order] = size - np.arange(size)
        return torch.from_numpy(scores).float()


def windows(size: int, window: int, step: int) -> list[int]:
    """Where the windows begin, from the back; the last one begins at 0.

    >>> windows(9, 4, 2)
    [5, 3, 1, 0]
    """
    last = max(size - window, 0)
    starts = list(range(last, 0, -step))
    return [*starts, 0]
