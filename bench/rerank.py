"""Re-ranking of a trained model's lists: candidates, greedy choice, and lists as scores again.

A re-ranker is a wrapper around the trained model, not a function of the data that evaluation
uses: that data is clean also where the training was poisoned, and a defender has no clean counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import comb

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Floats, Ints
from bench.models.base import Recommender, Wrapped


class Reranked(Wrapped):
    """Chooses the first `length` items of each list among the model's `candidates` best.

    The items chosen stand first, in the order chosen; all others keep their scores below. Equal
    scores of the model are taken by item index, as a list that is served has to be. What users
    are known to have (by the data the model was trained on) is no candidate.

    Args:
        base: the trained model. data: what it was trained on, with no test split.
    """

    score_kind = "other"

    def __init__(self, base: Recommender, data: Dataset, length: int, candidates: int) -> None:
        super().__init__(base)
        self.seen, self.length = data, min(length, data.n_items)
        self.n_candidates = min(max(candidates, length), data.n_items)
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def choose(self, users: Tensor, items: Tensor, values: Tensor, split: str) -> Tensor:
        """Places of the chosen candidates in the order served.

        Args:
            users: (B,). items, values: candidates and their scores, best first, (B, N); −inf
                where a user has fewer candidates.

        Returns:
            places among the candidates, (B, length), each at most once per row.
        """

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        scores = self.base.scores(users, split).detach()  # (B, n_items)
        items, values = self.best(scores, users, split)
        return lift(scores, items.gather(1, self.choose(users, items, values, split)))

    def best(self, scores: Tensor, users: Tensor, split: str) -> tuple[Tensor, Tensor]:
        """The best unknown items of each user and their scores, (B, N) each."""
        masked = scores.clone()
        masked[self.known(users, split)] = -torch.inf
        order = masked.argsort(dim=1, descending=True, stable=True)[:, :self.n_candidates]
        return order, masked.gather(1, order)

    def known(self, users: Tensor, split: str) -> tuple[Tensor, Tensor]:
        """(rows, items) of what these users are known to have before the split."""
        if split not in self._known:
            rows = self.seen.known(split)
            order = np.argsort(rows.users, kind="stable")
            first = np.searchsorted(rows.users[order], np.arange(self.seen.n_users + 1))
            self._known[split] = (torch.as_tensor(first, device=self.ctx.device),
                                  torch.as_tensor(rows.items[order], device=self.ctx.device))
        first_row, items = self._known[split]
        count = first_row[users + 1] - first_row[users]  # (B,)
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
        offset = torch.arange(len(row), device=users.device) - (count.cumsum(0) - count)[row]
        return row, items[first_row[users][row] + offset]


def lift(scores: Tensor, chosen: Tensor) -> Tensor:
    """The scores with the chosen items (B, k) on top in their order, the others as they were.

    >>> lift(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 2]]))
    tensor([[5., 2., 4.]])
    """
    top = scores.max(dim=1, keepdim=True).values  # (B, 1)
    step = (top.abs() * 1e-3).clamp_min(1.0)  # apart in float32 too
    places = torch.arange(chosen.shape[1], 0, -1, device=scores.device)  # k, …, 1
    return scores.scatter(1, chosen, (top + step * places).to(scores.dtype))


def unit(values: Tensor) -> Tensor:
    """Each row's finite scores brought to 0 … 1 (all 1 where they are equal); −inf stays.

    >>> unit(torch.tensor([[4.0, 3.0, 2.0, -torch.inf]]))
    tensor([[1.0000, 0.5000, 0.0000,   -inf]])
    """
    there = values.isfinite()
    low = values.masked_fill(~there, torch.inf).amin(dim=1, keepdim=True)  # (B, 1)
    high = values.amax(dim=1, keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1.0), 1.0)
    return scaled.masked_fill(~there, -torch.inf)


def greedy(length: int, values: Tensor, gain: Callable[[int, Tensor | None], Tensor]) -> Tensor:
    """Places chosen one after another, each the best by `gain` of those not chosen yet.

    Args:
        values: the candidates' scores (B, N); −inf for none, which come last.
        gain: given how many are chosen and the place chosen last (B,), the worth of adding each
            candidate now, (B, N). Equal worth goes to the earlier candidate.

    Returns:
        (B, length).
    """
    missing = ~values.isfinite()
    taken = torch.zeros_like(missing)
    last: Tensor | None = None
    chosen = []
    for n in range(length):
        worth = gain(n, last).masked_fill(missing, -torch.finfo(values.dtype).max)
        last = worth.masked_fill(taken, -torch.inf).argmax(dim=1)  # (B,), the first of equals
        taken = taken.scatter(1, last[:, None], True)
        chosen.append(last)
    return torch.stack(chosen, dim=1)


def tail_of(data: Dataset) -> Ints:
    """1 for items outside the head, by the rows the model was trained on (injected ones too):
    (n_items,)."""
    from bench.metrics.beyond import long_tail

    return long_tail(np.bincount(data.train.positives().items, minlength=data.n_items))


def quota(length: int, share: float, alpha: float) -> Ints:
    """How many protected items each prefix must hold so that a draw with this share would have
    fewer only with probability α or less: the α-quantile of Bin(k, share) for k = 1 … length.

    As the example values of Zehlike et al. (CIKM 2017) for α = 0.1:

    >>> quota(12, 0.5, 0.1)
    array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4])
    """
    needed = np.zeros(length, np.int64)
    for k in range(1, length + 1):
        below = 0.0  # P(Bin(k, share) ≤ m)
        for m in range(k + 1):
            below += comb(k, m) * share**m * (1 - share)**(k - m)
            if below > alpha - 1e-12:
                needed[k - 1] = m
                break
    return needed


def history_shares(data: Dataset, split: str, membership: Floats) -> Floats:
    """Share of each group in what a user liked before the split, weights of items given by
    (n_items, G): (n_users, G), zero for those who liked nothing that is in a group."""
    rows = data.known(split).positives()
    total = np.zeros((data.n_users, membership.shape[1]))
    np.add.at(total, rows.users, membership[rows.items])
    mass = total.sum(axis=1, keepdims=True)
    shares: Floats = total / np.where(mass > 0, mass, 1.0)
    return shares
