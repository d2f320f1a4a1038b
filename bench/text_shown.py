"""What an attacker on texts gets to know, and how far a text is from what it was."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data import Ints
from bench.errors import InputError
from bench.queries import uncounted

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.text_attack import TextAttack


@dataclass
class Shown:
    """What a text attacker gets to know.

    Args:
        _model: as it is served; not for the attacker. _attack: its bounds.
        users: those whose lists it sees. texts: of all items, before the attack.
    """

    _model: Recommender
    _attack: TextAttack
    users: Ints
    texts: list[str]
    asked: int = 0
    _known: dict[tuple[int, str], Any] = field(default_factory=dict)
    _judge: Any = None
    _made: dict[str, Any] = field(default_factory=dict)
    _histories: dict[int, Ints] = field(default_factory=dict)

    def exposure(self, item: int, text: str, k: int = 20) -> float:
        """Share of the attacker's users, of those without the item, in whose list of `k` it
        would be with this text."""
        ranks = self._ranks(item, text)
        return float((ranks <= k).mean()) if len(ranks) else 0.0

    def gain(self, item: int, text: str) -> float:
        """Mean of 1/log2(1 + rank) over these users: as exposure, and without its plateaus."""
        ranks = self._ranks(item, text)
        return float((1.0 / np.log2(1.0 + ranks)).mean()) if len(ranks) else 0.0

    def best(self, item: int, now: str, options: Iterable[str]) -> str:
        """Of `now` and the options within the bounds the one with the highest gain: a greedy
        step. `now` stays where none is better; of equal ones the first is taken."""
        chosen, reached = now, self.gain(item, now)
        for option in dict.fromkeys(options):
            if option != now and self.allowed(item, option) and (
                    gain := self.gain(item, option)) > reached:
                chosen, reached = option, gain
        return chosen

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once per attack: a language model that is not the victim's."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _ranks(self, item: int, text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Expected rank of the item for each user without it (ties in the middle)."""
        import torch

        key = (item, text)
        if key not in self._known:
            changed = list(self.texts)
            changed[item] = text
            rows = self._model.data.known("test")
            owns = set(rows.users[rows.items == item].tolist())
            users = np.array([u for u in self.users.tolist() if u not in owns], np.int64)
            if not self._histories:
                self._histories = {u: rows.items[rows.users == u] for u in self.users.tolist()}
            ranks = np.empty(len(users))
            with torch.no_grad(), uncounted(self._model), self._model.reading_texts(changed):
                for start in range(0, len(users), 256):
                    block = users[start:start + 256]
                    scores = self._model.scores(torch.as_tensor(
                        block, device=self._model.ctx.device)).double().cpu().numpy().copy()
                    for row, user in enumerate(block.tolist()):
                        mine = scores[row, item]
                        scores[row, self._histories[user]] = -np.inf
                        tied = (scores[row] == mine).sum() - 1
                        ranks[start + row] = 1 + (scores[row] > mine).sum() + tied / 2
            self.asked += len(users)
            self._known[key] = ranks
        found: np.ndarray[Any, np.dtype[np.float64]] = self._known[key]
        return found

    def over(self, item: int, text: str) -> str | None:
        """Why this text of the item is out of bounds, or None."""
        a, was = self._attack, self.texts[item]
        spent = levenshtein(was, text, a.edits)
        if spent is None:
            return f"is more than {a.edits} characters from what it was"
        if np.isfinite(a.share):
            words, changed = max(len(was.split()), 1), word_edits(was, text)
            if changed > a.share * words + 1e-9:
                return f"has {changed} of {words} words changed, the bound is {a.share:g}"
        if not a.writes_hidden:
            had, has = Counter(was), Counter(text)
            bad = next((c for c in has if has[c] > had[c] and not visible(c)), None)
            if bad is not None:
                return f"gets the character U+{ord(bad):04X}, which nobody sees"
        if a.similarity > -1 and self.cosine(was, text) < a.similarity - 1e-6:
            return (f"has cosine {self.cosine(was, text):.3f} with what it was, the bound is "
                    f"{a.similarity:g}")
        return None

    def allowed(self, item: int, text: str) -> bool:
        """Whether the text is within the bounds."""
        return self.over(item, text) is None

    def cosine(self, a: str, b: str) -> float:
        """Cosine of both texts' vectors, by the attack's judge."""
        from torch.nn.functional import cosine_similarity

        if self._judge is None:
            from bench.text.encode import Encoder

            self._judge = Encoder(language("judge", self._attack.judge, "encoder",
                                           corpus=self.texts, dtype="float32",
                                           device=self._model.ctx.device))
        first, second = self._judge([self._judge.language.plain(t) for t in (a, b)])
        return float(cosine_similarity(first, second, dim=0))

    def facts(self, targets: Ints, made: Sequence[str]) -> dict[str, Any]:
        """Means over the targets, for the report."""
        pairs = [(self.texts[t], made[t]) for t in targets.tolist()]
        found: dict[str, Any] = {
            "changed": sum(a != b for a, b in pairs), "of": len(pairs),
            "edit distance": float(np.mean([levenshtein(a, b) or 0 for a, b in pairs])),
            "words changed": float(np.mean([word_edits(a, b) / max(len(a.split()), 1)
                                            for a, b in pairs]))}
        if self._attack.judge:
            found["cosine"] = float(np.mean([self.cosine(a, b) for a, b in pairs]))
        return found


@contextlib.contextmanager
def offering(model: Recommender, items: Ints) -> Iterator[None]:
    """Inside, a model that re-ranks candidates has these among everybody's."""
    from bench.models.base import innermost

    offers = getattr(innermost(model), "offering", None)
    if offers is None:
        yield
        return
    try:
        with offers(items):
            model.forget()  # a wrapper may have kept scores made of other candidates
            yield
    finally:
        model.forget()


def language(key: str, name: str, role: str, **more: Any) -> Any:
    """A language model of an attack's or a defense's own, as `bench.text.language.load`; errors
    name the parameter `key` that asked for it."""
    from bench.text.language import load

    try:
        return load(name, role, **more)
    except InputError as error:
        raise InputError(error.what, key=key, hint=error.hint) from error


# Letters, marks, blanks by their category that Python calls printable and nobody sees: grapheme
# joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation selectors, the
# blank Braille pattern.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0,
          *range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def visible(character: str) -> bool:
    """Whether a reader sees the character, or the space that it takes.

    >>> visible("a"), visible("\\u200b"), visible("\\u3164")
    (True, False, False)
    """
    return (character.isprintable() or character in "\n\t") and ord(character) not in _BLANK


def levenshtein(a: Sequence[Any], b: Sequence[Any], most: int | None = None) -> int | None:
    """Fewest insertions, deletions and substitutions from one to the other; None: over `most`.

    >>> levenshtein("heat", "heats!")
    2
    >>> levenshtein("heat", "heats!", 1) is None
    True
    """
    from bench.edit_distance import distance

    far = max(len(a), len(b)) if most is None else most
    codes: dict[Any, int] = {}
    first, second = ([codes.setdefault(c, len(codes)) for c in text] for text in (a, b))
    return distance(first, second, far, ("insert", "delete", "substitute"))


def word_edits(a: str, b: str) -> int:
    """Fewest words inserted, deleted or substituted.

    >>> word_edits("a film of three genres", "a fine film of genres")
    2
    """
    found = levenshtein(a.split(), b.split())
    assert found is not None
    return found
