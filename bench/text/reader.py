"""What all models that read item texts share: the texts as they are now, and as an attack left
them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bench.data import Dataset, Ints
from bench.errors import CannotActError
from bench.models.base import Recommender

if TYPE_CHECKING:
    from bench.text.language import Language

Filter = Callable[[Sequence[str]], list[str]]


def no_text(data: Dataset) -> str | None:
    """Why no model can read this data's items, or None."""
    if data.item_text is None:
        return f"{data.name} has no item texts"
    if len(data.item_text) != data.n_items:
        return f"{data.name} has {len(data.item_text)} texts for {data.n_items} items"
    return None


class TextReader(Recommender):
    """A recommender that reads the texts of items when it scores.

    Subclasses read `self.texts` and drop in `forget` whatever they computed from it, and read
    `self.history(user, split)`. `filters` is what a defense put between the catalogue and the
    model: every text passes through them in order.
    """

    _now: list[str] | None = None
    _given: Sequence[str] | None = None
    _read: list[Ints] | None = None
    _known: dict[str, list[Ints]] | None = None

    @property
    def filters(self) -> list[Filter]:
        return self.__dict__.setdefault("_filters", [])  # type: ignore[no-any-return]

    @property
    def texts(self) -> list[str]:
        """The text of each item as the model gets to read it, filters applied."""
        if self._now is None:
            self._now = self.passed(self.data.item_text or ())
        return self._now

    def reads_with(self) -> Language | None:
        """The language model on this machine that reads the texts, if one does."""
        return None

    def passed(self, texts: Sequence[str]) -> list[str]:
        """The texts as they reach the model: through all filters, and without anything that its
        tokenizer would take for a control token."""
        made = self.filtered_alone(texts)
        language = self.reads_with()
        return made if language is None else [language.plain(t) for t in made]

    def filtered_alone(self, texts: Sequence[str]) -> list[str]:
        """The texts through the filters that a defense put before the model."""
        made = list(texts)
        for one in self.filters:
            made = one(made)
        return made

    def take_facts(self) -> dict[str, int]:
        """What of the texts as they are now does not reach the model as it stands, for the
        report: `texts_cut`, longer than it reads; `control_tokens`, texts with something that
        its tokenizer takes for a control token. What is 0 is left out."""
        language = self.reads_with()
        if language is None:
            return {}
        before = self.data.item_text or () if self._given is None else self._given
        split = sum(a != language.plain(a) for a in self.filtered_alone(before))
        found = {"texts_cut": self.texts_cut(), "control_tokens": split}
        return {k: n for k, n in found.items() if n}

    def texts_cut(self) -> int:
        """How many items' texts are longer than what the model reads of a text."""
        language = self.reads_with()
        assert language is not None
        return sum(len(language.ids(t)) > language.room for t in self.texts)

    def filtered(self, added: Filter) -> None:
        """Put one more filter before the model."""
        self.filters.append(added)
        self._now = None
        self.forget()

    @contextlib.contextmanager
    def reading_texts(self, texts: Sequence[str]) -> Iterator[None]:
        if len(texts) != self.data.n_items:
            raise CannotActError(f"{len(texts)} texts for {self.data.n_items} items")
        before, given = self._now, self._given
        self._now, self._given = self.passed(texts), texts
        self.forget()
        try:
            yield
        finally:
            self._now, self._given = before, given
            self.forget()

    def history(self, user: int, split: str) -> Ints:
        """Positive items of a user known before the split, oldest first."""
        if self._read is not None and split == "test":
            return self._read[user]
        if self._known is None:
            self._known = {}
        if split not in self._known:
            import numpy as np

            from bench.sampling import in_order

            _, items, starts = in_order(self.data.known(split).positives(), self.data.n_users)
            self._known[split] = np.split(items, starts[1:-1])
        return self._known[split][user]

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        before, self._read = self._read, list(histories)
        self.forget()
        try:
            yield
        finally:
            self._read = before
            self.forget()
