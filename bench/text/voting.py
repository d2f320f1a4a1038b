"""A model asked once per wording of the item texts; what it answers is put together by rank."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bench.errors import InputError
from bench.models.base import Recommender, Wrapped
from bench.text.language import Language
from bench.text.reader import TextReader

Wording = Callable[[str], str]


def ranks(scores: Tensor) -> Tensor:
    """Rank of each score in its row, 1 for the highest; equal ones share the middle: float64
    (B, n)."""
    ordered = scores.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, scores.contiguous())  # how many are lower
    upto = torch.searchsorted(ordered, scores.contiguous(), right=True)
    n = scores.shape[1]
    return 1.0 + (n - upto) + (upto - below - 1).double() / 2


class Voted(Wrapped):
    """Scores are minus the median rank over the wordings, equal medians ordered by mean rank.

    Of an odd number of wordings, an item's median rank is at most k exactly if most of them put
    it among their first k: the median is the majority vote at every length of list. What a user
    has already ranks last everywhere, as lists are made without it.

    Args:
        base: the model, whose innermost part reads texts. wordings: the first one leaves a text
            as it is.
    """

    score_kind = "other"

    def __init__(self, base: Recommender, reader: TextReader, wordings: Sequence[Wording]) -> None:
        super().__init__(base)
        self._reader, self._wordings = reader, list(wordings)
        self._texts = list(base.data.item_text or ())  # as they are now, before any filter

    @property
    def writers(self) -> list[Writer]:
        """The language models among the wordings."""
        return [w for w in self._wordings if isinstance(w, Writer)]

    def worded(self, texts: Sequence[str], which: int) -> list[str]:
        return [self._wordings[which](t) for t in texts]

    @contextlib.contextmanager
    def reading_texts(self, texts: Sequence[str]) -> Iterator[None]:
        before, self._texts = self._texts, list(texts)
        try:
            with super().reading_texts(texts):
                yield
        finally:
            self._texts = before

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        votes = []
        for which in range(len(self._wordings)):
            with self.base.reading_texts(self.worded(self._texts, which)):
                given = self.base.scores(users, split).double()  # (B, n_items)
            for row, user in enumerate(users.tolist()):
                given[row, torch.from_numpy(self._reader.history(user, split))] = -torch.inf
            votes.append(ranks(given))
        stacked = torch.stack(votes)  # (wordings, B, n_items)
        middle, mean = stacked.median(dim=0).values, stacked.mean(dim=0)
        # medians differ by a half at least, and mean / (4 n) by less than a quarter in all
        return -(middle + mean / (4.0 * middle.shape[1]))  # float64: mean counts in the last digits


class Writer:
    """Texts in other words by a causal model, greedily, each once.

    Args:
        language: the model. instruction: with {text} where the text goes. longest: tokens written.

    Attributes:
        cut: texts whose end the model did not read.

    Raises:
        InputError: what it reads leaves no room for a text beside so long an answer.
    """

    def __init__(self, language: Language, instruction: str, longest: int) -> None:
        self.language, self.instruction, self.longest = language, instruction, longest
        self._kept: dict[str, str] = {}
        self.cut: set[str] = set()
        fixed = len(language.begin) + len(language.ids(instruction.replace("{text}", ""))) + 4
        self.room = language.limit - longest - fixed
        if self.room < 1:
            raise InputError(f"{language.name!r} reads and writes {language.limit} tokens in all, "
                             f"and {longest} written ones leave no room for a text",
                             key="paraphrase-vote: longest",
                             hint=f"longest: at most {max(language.limit - fixed - 1, 0)}, or "
                             "another writer")

    @torch.no_grad()
    def __call__(self, text: str) -> str:
        if text not in self._kept:
            own = self.language
            before, after = self.instruction.split("{text}", 1)
            said = own.plain(text)
            if len(own.ids(said)) > self.room:
                self.cut.add(text)
            words = own.tokenizer.decode(own.ids(said)[:self.room])
            ids, mask = own.batch([[*own.begin, *own.ids(before + words + after)]])
            made = own.module.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, max_new_tokens=self.longest, do_sample=False,
                pad_token_id=own.tokenizer.pad_token_id)
            said = own.tokenizer.decode(made[0, ids.shape[1]:], skip_special_tokens=True)
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            self._kept[text] = lines[0] if lines else text  # who writes nothing keeps the text
        return self._kept[text]
