"""The pass over all scores: blocks of users, each ranked on the device, counts kept.

What comes out are integers (ranks, and exposures and sums in fixed point), so that neither the
size of the blocks nor the order of additions on a device can change a metric.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset
from bench.errors import ScoreError
from bench.metrics.plan import Plan
from bench.metrics.ranks import Floats, Ints

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.models.base import Recommender

SCORES_PER_BLOCK = 1 << 22
FIXED = 1 << 36  # one, in fixed point
WARM_UP_USERS = 64


@dataclass
class Counts:
    """What one pass over the users of a plan found (P pairs, U users, C cut-offs, m items).

    Attributes:
        better, tied: per pair, eligible items scored higher, and as high (itself included), (P,).
        eligible: per user, items that are not masked, (U,).
        cut_better, cut_tied: the same two counts for the last item of the list of length K,
            (U, C): which items are in the list is open where cut_better + cut_tied > K.
        exposure: expected number of lists that hold an item, in units of 1/FIXED, for the
            evaluated users and for the others, (2, C, m).
        rank_sum: twice the expected ranks of an item, summed over users who do not have it
            masked, (m,).
        list_sum: per value column, the expected sum over a user's list, in the column's units,
            (U, C).
        seconds: time spent scoring, the warm-up left out. scored: users in that time.
    """

    better: Ints
    tied: Ints
    eligible: Ints
    cut_better: Ints
    cut_tied: Ints
    exposure: Ints
    rank_sum: Ints
    list_sum: list[Ints] = field(default_factory=list)
    seconds: float = 0.0
    scored: int = 0


def stream(model: Recommender, data: Dataset, plan: Plan, *, split: str, cutoffs: Sequence[int],
           columns: Sequence[Ints] = (), lists: bool = True, defense: Defense | None = None,
           block: int = 0) -> Counts:
    """Score and rank all users of the plan, block by block.

    Args:
        model: scores blocks of users on `model.ctx.device`.
        cutoffs: list lengths K.
        columns: integer values of items, (m,) each, to be summed over each user's list.
        lists: whether exposures, item ranks and list sums are wanted; without them only the
            pairs are ranked, which is faster.
        defense: re-ranks where it overrides `rerank`.
        block: users per block; 0 takes as many as keep SCORES_PER_BLOCK scores.

    Raises:
        ScoreError: a score is NaN or infinite, or the scores have another shape.
    """
    n_users, m = len(plan.users), data.n_items
    size = block or max(1, SCORES_PER_BLOCK // max(m, 1))
    c = Counts(better=np.zeros(len(plan.pair_owner), np.int64),
               tied=np.ones(len(plan.pair_owner), np.int64),
               eligible=m - np.bincount(plan.known_owner, minlength=n_users).astype(np.int64),
               cut_better=np.zeros((n_users, len(cutoffs)), np.int64),
               cut_tied=np.zeros((n_users, len(cutoffs)), np.int64),
               exposure=np.zeros((2, len(cutoffs), m), np.int64), rank_sum=np.zeros(m, np.int64),
               list_sum=[np.zeros((n_users, len(cutoffs)), np.int64) for _ in columns])
    source = _Source(model, data, split, defense)
    if lists:
        source.warm_up(plan.users[:WARM_UP_USERS])
    for start, stop in _blocks(plan, size):
        _one_block(c, source, plan, start, stop, cutoffs, columns, lists)
    c.seconds, c.scored = source.seconds, source.scored
    return c


def _blocks(plan: Plan, size: int) -> list[tuple[int, int]]:
    """Blocks of at most `size` users; none holds both evaluated users and others."""
    n, n_users = plan.n_evaluated, len(plan.users)
    return [(s, min(s + size, end)) for first, end in ((0, n), (n, n_users))
            for s in range(first, end, size)]


class _Source:
    """Scores of blocks of users, checked, with known items at −inf; and how long they took."""

    def __init__(self, model: Recommender, data: Dataset, split: str,
                 defense: Defense | None) -> None:
        from bench.api import Defense

        self.model, self.data, self.split = model, data, split
        self.device = model.ctx.device
        overrides = defense is not None and type(defense).rerank is not Defense.rerank
        self.defense = defense if overrides else None
        self.seconds, self.scored = 0.0, 0

    def warm_up(self, users: Ints) -> None:
        """Score a few users untimed: caches fill, kernels are chosen."""
        self.model.scores(self._tensor(users), self.split)

    def _tensor(self, values: Ints) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=self.device)

    def block(self, users: Ints, rows: Ints, items: Ints) -> Tensor:
        """Scores (B, m) of users (B,), −inf at the known pairs (rows, items)."""
        from bench.training import synchronise

        synchronise(self.device)
        begin = time.perf_counter()
        index = self._tensor(users)
        scores = self.model.scores(index, self.split)  # (B, m)
        self._check(scores, users, self._name())
        scores = scores.detach().to(self.device)
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        scores = scores.clone(memory_format=torch.contiguous_format)
        known = self._tensor(rows), self._tensor(items)
        scores[known] = -torch.inf
        if self.defense is not None:
            scores = self.defense.rerank(scores, index, self.data)
            self._check(scores.index_put(known, scores.new_zeros(())), users,
                        f"rerank of {self.defense.label()}")
            scores = scores.clone(memory_format=torch.contiguous_format)
            scores[known] = -torch.inf
        synchronise(self.device)
        self.seconds += time.perf_counter() - begin
        self.scored += len(users)
        return scores

    def _name(self) -> str:
        hyper: Any = getattr(self.model, "hyper", None)
        return str(hyper.label()) if hasattr(hyper, "label") else type(self.model).__name__

    def _check(self, scores: Tensor, users: Ints, who: str) -> None:
        shape = (len(users), self.data.n_items)
        if tuple(scores.shape) != shape:
            raise ScoreError(f"{who}: scores have shape {tuple(scores.shape)}, {shape} (users, "
                             "items) is needed")
        finite = torch.isfinite(scores)
        if not bool(finite.all()):
            bad = (~finite).sum(dim=1).cpu().numpy()  # (B,)
            first = int(np.flatnonzero(bad)[0])
            raise ScoreError(
                f"{who}: {int(bad.sum())} of {scores.numel()} scores are NaN or infinite, the "
                f"first for user {self.data.user_ids[int(users[first])]!r} ({int(bad[first])} "
                "items); such scores have no rank, look for a diverged training")


def _sort(scores: Tensor, with_order: bool) -> tuple[Tensor, Tensor | None]:
    """Rows in ascending order, and the items in that order. On a CPU numpy sorts faster."""
    if scores.device.type != "cpu":
        values, order = torch.sort(scores, dim=1)
        return values, order
    if not with_order:
        return torch.from_numpy(np.sort(scores.numpy(), axis=1)), None
    order = torch.from_numpy(np.argsort(scores.numpy(), axis=1))
    return scores.gather(1, order), order


def _one_block(c: Counts, source: _Source, plan: Plan, start: int, stop: int,
               cutoffs: Sequence[int], columns: Sequence[Ints], lists: bool) -> None:
    k0, k1 = np.searchsorted(plan.known_owner, [start, stop])
    p0, p1 = np.searchsorted(plan.pair_owner, [start, stop])
    known_rows, known_items = plan.known_owner[k0:k1] - start, plan.known_item[k0:k1]
    scores = source.block(plan.users[start:stop], known_rows, known_items)  # (B, m)
    values, order = _sort(scores, lists)  # (B, m) ascending, −inf first
    pair = [source._tensor(x) for x in (plan.pair_owner[p0:p1] - start, plan.pair_item[p0:p1])]
    c.better[p0:p1], c.tied[p0:p1] = _rank_pairs(scores, values, pair[0], pair[1])


def _rank_pairs(scores: Tensor, values: Tensor, rows: Tensor, items: Tensor) -> tuple[Ints, Ints]:
    """Higher and equal eligible scores for pairs sorted by row, (P,) each."""
    m = values.shape[1]
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    counts = torch.bincount(rows, minlength=len(values))  # (B,)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    asked = values.new_zeros(len(values), int(counts.max()))  # (B, most pairs of a user)
    asked[rows, place] = scores[rows, items]
    low = torch.searchsorted(values, asked)[rows, place]  # (P,)
    high = torch.searchsorted(values, asked, right=True)[rows, place]  # (P,)
    return (m - high).cpu().numpy(), (high - low).cpu().numpy()
