"""The pass over all scores: blocks of users, each ranked on the device, counts kept.

What comes out are integers (ranks; exposures in fixed point), so that neither the size of the
blocks nor the order of additions on a device can change a metric.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset
from bench.errors import ScoreError
from bench.metrics.counts import Counts
from bench.metrics.plan import Plan
from bench.metrics.ranks import Ints

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.metrics._watch import Watch
    from bench.models.base import Recommender

SCORES_PER_BLOCK = 1 << 21
MOST_USERS = 1 << 16  # of a block, so that sums of fixed-point weights stay exact in float64
WARM_UP_USERS = 16


def stream(model: Recommender, data: Dataset, plan: Plan, *, split: str, cutoffs: Sequence[int],
           columns: Sequence[Ints] = (), lists: bool = True, defense: Defense | None = None,
           block: int = 0, watch: Watch | None = None) -> Counts:
    """Score and rank all users of the plan, block by block.

    Args:
        model: scores blocks of users on `model.ctx.device`.
        cutoffs: list lengths K.
        columns: integer values of items, (m,) each, to be summed over each user's list.
        lists: whether the cut-offs, exposures, item ranks and list sums are wanted; without
            them only the pairs are ranked, which is faster, and nothing is timed.
        defense: re-ranks where it overrides `rerank`.
        block: users per block; 0 takes as many as keep SCORES_PER_BLOCK scores.
        watch: counts lists and places by group of users, where metrics ask for that.

    Raises:
        ScoreError: a score is NaN or infinite, or the scores have another shape.
    """
    size = min(block or max(1, SCORES_PER_BLOCK // max(data.n_items, 1)), MOST_USERS)
    known = np.bincount(plan.known_owner, minlength=len(plan.users))
    counts = Counts.zeros(len(plan.pair_owner), data.n_items - known, len(cutoffs), len(columns),
                          data.n_items, len(plan.point_owner))
    source = _Source(model, data, split, defense)
    if lists:
        source.warm_up(plan.users[:WARM_UP_USERS])
    index = [source.tensor(c) for c in columns]
    for start, stop in _blocks(plan, size):
        part = _Block(source, plan, start, stop, with_order=lists)
        part.points(counts)
        part.pairs(counts)
        if lists:
            part.item_ranks(counts)
            for place, k in enumerate(cutoffs):
                part.cutoff(counts, place, k, index)
            if watch is not None and start < plan.n_evaluated:
                watch.block(part.scores, part.values, part.known, start)
    counts.seconds, counts.scored = source.seconds, source.scored
    return counts


def _blocks(plan: Plan, size: int) -> list[tuple[int, int]]:
    """Blocks of at most `size` users; none holds both evaluated users and others."""
    n, n_users = plan.n_evaluated, len(plan.users)
    return [(s, min(s + size, end)) for first, end in ((0, n), (n, n_users))
            for s in range(first, end, size)]


class _Source:
    """Scores of blocks of users, checked; re-ranked where a defense does that; and how long
    that took."""

    def __init__(self, model: Recommender, data: Dataset, split: str,
                 defense: Defense | None) -> None:
        from bench.api import Defense

        self.model, self.data, self.split = model, data, split
        self.device = model.ctx.device
        overrides = defense is not None and type(defense).rerank is not Defense.rerank
        self.defense = defense if overrides else None
        self.blind = data.replace(test=data.test[:0])  # what a defense may read
        self.seconds, self.scored = 0.0, 0

    def tensor(self, values: Ints) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=self.device)

    def warm_up(self, users: Ints) -> None:
        """Score a few users untimed: caches fill, kernels are chosen. Not where answers are kept:
        reading them back is not scoring."""
        from bench.models.base import innermost

        if not getattr(innermost(self.model), "keeps_answers", False):
            self.model.scores(self.tensor(users), self.split)

    def raw(self, users: Ints) -> Tensor:
        """The model's scores of users (B,), a copy: float32 or float64, (B, m)."""
        with _Watch(self):
            scores = self.model.scores(self.tensor(users), self.split).detach()
        scores = scores.to(self.device)
        self._check(scores, users, self._name())
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        self.scored += len(users)
        return scores.clone(memory_format=torch.contiguous_format)

    def reranked(self, scores: Tensor, users: Ints, known: tuple[Tensor, Tensor]) -> Tensor:
        """The scores that the lists are made of, −inf at the known pairs (rows, items)."""
        scores[known] = -torch.inf
        if self.defense is None:
            return scores
        with _Watch(self):
            scores = self.defense.rerank(scores, self.tensor(users), self.blind)
        scores = scores.clone(memory_format=torch.contiguous_format)
        if scores.shape == (len(users), self.data.n_items):
            scores[known] = 0.0  # whatever stands there is masked anyway
        self._check(scores, users, f"re-ranking by {self.defense.label()}")
        scores[known] = -torch.inf
        return scores

    def _name(self) -> str:
        hyper: Any = getattr(self.model, "hyper", None)
        return str(hyper.label()) if hasattr(hyper, "label") else type(self.model).__name__

    def _check(self, scores: Tensor, users: Ints, who: str) -> None:
        shape = (len(users), self.data.n_items)
        if tuple(scores.shape) != shape:
            raise ScoreError(f"{who}: the scores have shape {tuple(scores.shape)}, and {shape} "
                             "(users, items) is needed")
        finite = torch.isfinite(scores)
        if not bool(finite.all()):
            bad = (~finite).sum(dim=1).cpu().numpy()  # (B,)
            first = int(np.flatnonzero(bad)[0])
            raise ScoreError(
                f"{who}: {int(bad.sum())} of {scores.numel()} scores of a block are NaN or "
                f"infinite, the first {int(bad[first])} for user "
                f"{self.data.user_ids[int(users[first])]!r}; they have no rank, look for a "
                "training that diverged (lower learning_rate, and the eps or weight of a "
                "defense that trains with it)")


class _Watch:
    """Adds the time spent inside, the device waited for, to the source's seconds."""

    def __init__(self, source: _Source) -> None:
        self.source = source

    def __enter__(self) -> None:
        from bench.training import synchronise

        synchronise(self.source.device)
        self.begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        from bench.training import synchronise

        synchronise(self.source.device)
        self.source.seconds += time.perf_counter() - self.begin


class _Block:
    """The users start … stop of a plan, scored and sorted.

    `scores` are in the order of items, `values` ascending within a row (known items first, at
    −inf), `order` the items in that order; all (B, m).
    """

    def __init__(self, source: _Source, plan: Plan, start: int, stop: int,
                 with_order: bool) -> None:
        self.plan, self.start, self.stop, self.tensor = plan, start, stop, source.tensor
        users = plan.users[start:stop]
        raw = source.raw(users)  # (B, m)
        self.point_values = self._at(raw, plan.point_owner, plan.point_item)
        rows, items = self._pairs(plan.known_owner, plan.known_item)
        self.scores = source.reranked(raw, users, (rows, items))  # (B, m)
        self.known = torch.bincount(rows, minlength=len(users))  # (B,)
        self.values, self.order = _sort(self.scores, with_order)

    def _span(self, owners: Ints) -> slice:
        first, last = np.searchsorted(owners, [self.start, self.stop])
        return slice(int(first), int(last))

    def _pairs(self, owners: Ints, items: Ints) -> tuple[Tensor, Tensor]:
        span = self._span(owners)
        return self.tensor(owners[span] - self.start), self.tensor(items[span])

    def _at(self, scores: Tensor, owners: Ints, items: Ints) -> Tensor:
        rows, columns = self._pairs(owners, items)
        return scores[rows, columns]

    def points(self, counts: Counts) -> None:
        """The model's own scores of the labelled pairs."""
        counts.points[self._span(self.plan.point_owner)] = self.point_values.double().cpu()

    def pairs(self, counts: Counts) -> None:
        """Eligible items scored higher and equal, for each pair asked."""
        span = self._span(self.plan.pair_owner)
        rows, items = self._pairs(self.plan.pair_owner, self.plan.pair_item)
        if not len(rows):
            return
        many = torch.bincount(rows, minlength=len(self.values))  # (B,)
        place = torch.arange(len(rows), device=rows.device) - (many.cumsum(0) - many)[rows]
        asked = self.values.new_zeros(len(many), int(many.max()))  # (B, most pairs of a user)
        asked[rows, place] = self.scores[rows, items]
        low, high = self._bounds(asked)
        counts.better[span] = (self.values.shape[1] - high)[rows, place].cpu()
        counts.tied[span] = (high - low)[rows, place].cpu()

    def _bounds(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """First place, and first place after, of values asked per row in the sorted rows."""
        return (torch.searchsorted(self.values, asked),
                torch.searchsorted(self.values, asked, right=True))

    def item_ranks(self, counts: Counts) -> None:
        """Twice the expected rank g + (t+1)/2 of every item, added up over these users."""
        assert self.order is not None
        b, m = self.values.shape
        place = torch.arange(m, device=self.values.device)  # (m,)
        eligible = place >= self.known[:, None]  # (B, m)
        new = torch.ones_like(eligible)
        torch.ne(self.values[:, 1:], self.values[:, :-1], out=new[:, 1:])
        if bool((new | ~eligible | (place == self.known[:, None])).all()):  # no ties
            twice = (2 * (m - place)).double().expand(b, m)  # (B, m)
        else:
            first = new.flatten().nonzero()[:, 0]  # runs of equal values; none crosses a row
            run = new.flatten().cumsum(0) - 1  # (B·m,)
            edge = torch.cat([first, first.new_tensor([b * m])])
            ends = (edge[run] + edge[run + 1]).view(b, m)
            offset = torch.arange(b, device=ends.device)[:, None] * (2 * m)  # (B, 1)
            twice = (2 * m + 1 + offset - ends).double()  # (B, m)
        twice = twice * eligible
        summed = torch.bincount(self.order.flatten(), weights=twice.flatten(), minlength=m)
        counts.rank_sum += summed.cpu().numpy().astype(np.int64)  # integers below 2^53: exact

    def cutoff(self, counts: Counts, place: int, k: int, columns: Sequence[Tensor]) -> None:
        """Which items the lists of length k hold: for sure, and with which probability."""
        m = self.values.shape[1]
        last = torch.clamp(torch.maximum(self.known, self.known.new_tensor(m - k)), max=m - 1)
        edge = self.values.gather(1, last[:, None])  # (B, 1), the last value in the list
        edge[self.known == m] = torch.inf  # nothing is left to recommend
        low, high = (x[:, 0] for x in self._bounds(edge))  # (B,) each
        better, tied = m - high, high - low
        users = slice(self.start, self.stop)
        counts.cut_better[users, place] = better.cpu()
        counts.cut_tied[users, place] = tied.cpu()
        part = 0 if self.start < self.plan.n_evaluated else 1
        sure = (self.scores >= edge).sum(dim=0)  # (m,)
        open_ = (better + tied > k).nonzero()[:, 0]  # (S,) users whose boundary is tied
        tie = (self.scores[open_] == edge[open_])  # (S, m)
        counts.sure[part, place] += (sure - tie.sum(dim=0)).cpu().numpy()
        if len(open_):
            weights = Counts.weights(better[open_].cpu().numpy(), tied[open_].cpu().numpy(), k)
            summed = torch.as_tensor(weights, device=tie.device) @ tie.double()  # (2, m)
            added = summed.cpu().numpy().astype(np.int64)  # integers below 2^53: exact
            counts.chance[part, place] += added[0]
            counts.miss[part, place] += added[1]
        if columns:
            self._list_sums(counts, place, k, columns, torch.where(
                better + tied > k, better, better + tied), open_, low, high)

    def _list_sums(self, counts: Counts, place: int, k: int, columns: Sequence[Tensor],
                   certain: Tensor, open_: Tensor, low: Tensor, high: Tensor) -> None:
        """Sums of item values over what is surely in the list, and over the items tied at its
        end; `certain` (B,) says how many are sure."""
        assert self.order is not None
        users = slice(self.start, self.stop)
        top = self.order[:, -k:].flip(1)  # (B, min(k, m)), best first
        for at, column in enumerate(columns):
            sums = torch.nn.functional.pad(column[top].cumsum(1), (1, 0))  # (B, min(k, m) + 1)
            counts.sure_sum[at, users, place] = sums.gather(1, certain[:, None])[:, 0].cpu()
            if len(open_):
                run = torch.nn.functional.pad(column[self.order[open_]].cumsum(1), (1, 0))
                ends = [run.gather(1, x[open_, None])[:, 0] for x in (high, low)]  # (S,) each
                tied = torch.zeros_like(certain)
                tied[open_] = ends[0] - ends[1]
                counts.open_sum[at, users, place] = tied.cpu()


def _sort(scores: Tensor, with_order: bool) -> tuple[Tensor, Tensor | None]:
    """Rows in ascending order, and the items in that order. On a CPU numpy sorts faster."""
    if scores.device.type != "cpu":
        values, order = torch.sort(scores, dim=1)
        return values, order
    if not with_order:
        return torch.from_numpy(np.sort(scores.numpy(), axis=1)), None
    order = torch.from_numpy(np.argsort(scores.numpy(), axis=1))
    return scores.gather(1, order), order
