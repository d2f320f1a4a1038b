"""Item texts cleaned of look-alike letters, hidden characters and small misspellings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models.base import Recommender

_INNER = re.compile(r"(?<=\w)[^\w\s]+(?=\w)")  # punctuation with a letter or digit on both sides
_SHORTEST = 4  # shorter words are one letter from too many others


class TextSanitizer(Defense):
    """Every item text passes these steps, until none changes it any more, before a model reads it.

    hidden: control, zero-width, bidi, tag and other blank characters go; nfkc: compatibility
    characters as Unicode's NFKC writes them (full-width, mathematical, ligatures); spaces: runs of
    white space become one space; confusables: letters of other scripts that look like Latin ones
    become Latin (UTS 39; the table is `bench.text.lookalikes`), and marks stacked on letters go;
    punctuation: "be-st" becomes "best" (the Punc edits of Formento et al., EACL 2023), where
    that is a word of the catalogue; spelling: a word of four letters or more that is one letter
    inserted, deleted, replaced or swapped with its neighbour (DeepWordBug, Gao et al., 2018;
    distance of Damerau, 1964) away from exactly one word of the catalogue becomes that word.

    The last three leave every word alone that the catalogue has: what they know are the texts as
    they were at training, which whoever runs the catalogue keeps. A text that stayed as it was can
    thus be changed by the first three alone; the report gives the share that is. They can tell
    what was written after the training, and not what an attack put into texts before it
    (backdoor-titles): its words are the catalogue's, and the report flags such a cell. A homoglyph
    edit is undone in full where the word has no letter outside the table. What it cannot undo:
    words of the catalogue put elsewhere, and what changes two letters of a word.

    No budget, no noise. A model that was fine-tuned was so on the texts as they were. All steps
    false: nothing happens. Adaptive attack: those on texts ask the model behind the sanitiser.

    Example: defenses: [{text-sanitizer: {spelling: [true, false]}}]
    """

    name = "text-sanitizer"
    hidden: bool = param(True, "characters that nobody sees are removed")
    nfkc: bool = param(True, "compatibility characters are normalised")
    spaces: bool = param(True, "runs of white space become one space")
    confusables: bool = param(True, "letters that look like Latin ones become Latin")
    punctuation: bool = param(True, "punctuation inside a word goes where a known word results")
    spelling: bool = param(True, "unknown words become the one known word a letter away")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return None if "text" in model.gives else f"{model.name} reads no texts of items"

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        from bench.models.base import innermost
        from bench.text.reader import TextReader

        reader = innermost(model)
        if any(self.params().values()) and isinstance(reader, TextReader):
            reader.filtered(Sanitizer(self, data.item_text or ()))
        return model

    def unseen(self) -> None:
        return None  # it changes what the model inside reads, and attackers read it there

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """How many of the catalogue's own texts it changes, and the first of them."""
        from bench.models.base import innermost

        own = next((f for f in getattr(innermost(model), "filters", ())
                    if isinstance(f, Sanitizer)), None)
        if own is None:
            return {}
        pairs = list(zip(model.data.item_text or (), own(model.data.item_text or ()), strict=True))
        changed = [list(pair) for pair in pairs if pair[0] != pair[1]]
        return {"takes_for_genuine": "the texts of the training",
                "clean_texts_changed": len(changed) / max(len(pairs), 1), "of": len(pairs),
                "examples": changed[:3]}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return dict.fromkeys(("hidden", "nfkc", "spaces", "confusables", "punctuation",
                              "spelling"), False)


class Sanitizer:
    """The filter: texts in, texts out.

    Args:
        steps: which are taken. genuine: texts of the catalogue before any attack.
    """

    def __init__(self, steps: TextSanitizer, genuine: Sequence[str]) -> None:
        self.steps = steps
        self._kept: dict[str, str] = {}
        texts = [self._characters(t) for t in genuine]
        self._chunks = {c for t in texts for c in t.split()}
        seen = Counter(w for t in texts for w in _words(t))
        self.known = {w.casefold() for w in seen}
        self._form: dict[str, str] = {}  # how a word is mostly written
        for word, _ in seen.most_common():
            self._form.setdefault(word.casefold(), word)
        self._near: dict[str, set[str]] = {}  # by each form with at most one letter left out
        for word in self.known if steps.spelling else ():
            if word.isalpha() and len(word) >= _SHORTEST - 1:
                for short in _shorter(word):
                    self._near.setdefault(short, set()).add(word)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        if len(self._kept) > 200_000:
            self._kept.clear()
        for text in texts:
            if text not in self._kept:
                self._kept[text] = self._one(text)
        return [self._kept[t] for t in texts]

    def _one(self, text: str) -> str:
        """Until nothing changes: what a step leaves behind may be work for an earlier one."""
        while True:
            now = self._characters(text)
            now = "".join(self._chunk(c) if n % 2 == 0 else c
                          for n, c in enumerate(re.split(r"(\s+)", now)))
            if now == text:
                return now
            text = now

    def _characters(self, text: str) -> str:
        if self.steps.hidden:
            from bench.text.lookalikes import unseen

            text = "".join(c for c in text if not unseen(c))
        if self.steps.nfkc:
            text = unicodedata.normalize("NFKC", text)
        return " ".join(text.split()) if self.steps.spaces else text

    def _chunk(self, chunk: str) -> str:
        """One word with the punctuation around it."""
        start, stop = _core(chunk)
        word = chunk[start:stop]
        if chunk in self._chunks:
            return chunk
        if word.casefold() in self.known:
            if self.steps.confusables:  # the quotation marks around a known word
                from bench.text.lookalikes import latin

                return latin(chunk[:start]) + word + latin(chunk[stop:])
            return chunk
        if self.steps.confusables:
            from bench.text.lookalikes import latin

            chunk = latin(chunk)
            start, stop = _core(chunk)
            word = chunk[start:stop]
        if self.steps.punctuation and word.casefold() not in self.known:
            joined = _INNER.sub("", word)
            word = joined if joined.casefold() in self.known else word
        if self.steps.spelling and word.casefold() not in self.known:
            word = self._spelled(word)
        return chunk[:start] + word + chunk[stop:]

    def _spelled(self, word: str) -> str:
        low = word.casefold()
        if len(low) < _SHORTEST or not low.isalpha():
            return word
        near = {c for s in _shorter(low) for c in self._near.get(s, ()) if _one_apart(low, c)}
        if len(near) != 1:
            return word
        form = self._form[near.pop()]
        if word.isupper():
            return form.upper()
        return form[:1].upper() + form[1:] if word[:1].isupper() else form


def _core(chunk: str) -> tuple[int, int]:
    """Where the word in a chunk begins and ends: its first and last letter or digit; without any,
    a dash say, all of it."""
    inside = [n for n, c in enumerate(chunk) if c.isalnum()]
    return (inside[0], inside[-1] + 1) if inside else (0, len(chunk))


def _words(text: str) -> Iterator[str]:
    for chunk in text.split():
        start, stop = _core(chunk)
        yield chunk[start:stop]


def _shorter(word: str) -> set[str]:
    return {word, *(word[:n] + word[n + 1:] for n in range(len(word)))}


def _one_apart(a: str, b: str) -> bool:
    """One insertion, deletion, substitution or swap of neighbours apart.

    >>> _one_apart("heat", "haet"), _one_apart("heat", "hat"), _one_apart("heat", "team")
    (True, True, False)
    """
    first = next((n for n in range(min(len(a), len(b))) if a[n] != b[n]), min(len(a), len(b)))
    x, y = a[first:], b[first:]
    return (x[1:] == y[1:] or x[1:] == y or x == y[1:]
            or (x[:2] == y[:2][::-1] and x[2:] == y[2:])) and a != b
