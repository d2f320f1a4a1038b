"""The recommender behind `pairwise`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.errors import InputError
from bench.text.asking import AskingRecommender
from bench.text.likelihood import check_answers, margins
from bench.text.templates import fill, slots

if TYPE_CHECKING:
    from bench.api import Context
    from bench.models.pairwise import Pairwise


class PairwiseRecommender(AskingRecommender):
    """See `bench.models.pairwise.Pairwise`."""

    plugin: Pairwise

    def __init__(self, hyper: Pairwise, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        if "second" not in slots(self.prompt.candidate):
            raise InputError(f"prompt {self.prompt.name!r} does not say where {{second}} goes",
                             key="prompt", hint="a pairwise prompt has {first} and {second}")
        self.answers = check_answers(self.language, self.prompt.yes, self.prompt.no)

    def question(self, first: int, second: int) -> list[int]:
        """Token ids of what follows the prefix for these two items in this order."""
        p = self.prompt
        one, other = (p.titled(self.text_of(i)) for i in (first, second))
        return self.language.ids(self.closed(fill(p.candidate, first=one, second=other)))

    def preferred(self, prefix: list[int], pairs: Sequence[tuple[int, int]]) -> Tensor:
        """How far the first item of each pair is preferred, in [0, 1], ½ where undecided: the
        mean over both orders of P(its label), or of 1[its label is likelier]. (P,)"""
        both = [self.question(a, b) for a, b in pairs] + [self.question(b, a) for a, b in pairs]
        for question in both:
            self.count((tuple(prefix), tuple(question)), answers=1)
        found = self.kept(prefix, both, lambda p, s: self.asker.read(
            p, s, lambda logits: margins(logits, *self.answers)))
        one, two = found[:len(pairs)].double(), found[len(pairs):].double()
        if self.plugin.votes == "hard":
            return (torch.sign(one) - torch.sign(two) + 2) / 4
        return (torch.sigmoid(one) + torch.sigmoid(-two)) / 2

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        items = candidates.tolist()
        if len(items) < 2:
            return torch.zeros(len(items))
        longest = sorted(items, key=lambda i: -len(self.language.ids(self.texts[i])))[:2]
        with self.fitting(items, history.tolist(), lambda: len(self.question(*longest)) + 2,
                          lambda room: self.prefix(history, room=room)) as prefix:
            if self.plugin.method == "all":
                return self._all(prefix, items)
            return self._bubbled(prefix, candidates, user, split)

    def _all(self, prefix: list[int], items: list[int]) -> Tensor:
        """Σ over the others of how far the item is preferred to them."""
        places = [(a, b) for a in range(len(items)) for b in range(a)]
        found = self.preferred(prefix, [(items[a], items[b]) for a, b in places]).tolist()
        scores = torch.zeros(len(items), dtype=torch.double)
        for (a, b), first in zip(places, found, strict=True):
            scores[a] += first
            scores[b] += 1 - first
        return scores.float()

    def _bubbled(self, prefix: list[int], candidates: Ints, user: int, split: str) -> Tensor:
        """−position after passes of a bubble sort from the back of the retriever's order."""
        base = self.retriever.scores(torch.tensor([user], device=self.ctx.device), split)
        first = base[0].float().cpu().numpy()[candidates]
        order = np.argsort(-first, kind="stable").tolist()  # places, the best first
        for turn in range(min(self.plugin.passes, len(order) - 1)):
            for at in range(len(order) - 1, turn, -1):  # the first `turn` places are settled
                upper, lower = order[at - 1], order[at]
                pair = (int(candidates[lower]), int(candidates[upper]))
                if float(self.preferred(prefix, [pair])[0]) > 0.5:
                    order[at - 1], order[at] = lower, upper
        scores = torch.empty(len(order))
        scores[torch.tensor(order)] = -torch.arange(len(order), dtype=torch.float32)
        return scores
