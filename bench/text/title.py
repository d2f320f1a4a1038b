"""The recommender behind `title-likelihood`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.data import Ints
from bench.text.likelihood import log_likelihood
from bench.text.scorer import PromptRecommender

if TYPE_CHECKING:
    from bench.models.title_likelihood import TitleLikelihood


class TitleRecommender(PromptRecommender):
    """See `bench.models.title_likelihood.TitleLikelihood`."""

    plugin: TitleLikelihood
    answers_candidate = True

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        items = candidates.tolist()

        def room() -> int:
            lead, titles = self.titles([self.text_of(i) for i in items])
            return len(lead) + max(map(len, titles))

        with self.fitting(items, history.tolist(), room,
                          lambda room: self.prefix(history, room=room)) as prefix:
            lead, titles = self.titles([self.text_of(i) for i in items])
            need = room()
        found = self.likelihoods([*prefix, *lead], titles)
        if self.plugin.pmi:
            found = found - self.likelihoods([*self.prefix([], room=need), *lead], titles)
        return found

    def titles(self, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Tokens of what stands before a title, and of each title. A space before the title
        belongs to it: tokenizers join it to the word that follows."""
        before, _, _ = self.prompt.after("")
        stem = before.rstrip(" ")
        gap = before[len(stem):]
        nothing = [int(self.language.tokenizer.eos_token_id or 0)]  # for an empty text
        return self.language.ids(stem), [self.language.ids(gap + t) or nothing for t in texts]

    def likelihoods(self, prefix: list[int], titles: list[list[int]]) -> Tensor:
        """(1/L) Σ log p of each title after the prefix, (C,)."""
        return self.kept(prefix, titles, self._ask)

    def _ask(self, prefix: Sequence[int], titles: Sequence[Sequence[int]]) -> Tensor:
        with torch.no_grad():
            return log_likelihood(self.language, prefix, titles, self.plugin.prompts_at_once)
