"""What the pass over the scores counts by group of users: whose lists hold an item, and where the
item stands. Only where metrics ask for it, since it costs as much again as the lists themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.metrics.counts import FIXED
from bench.metrics.fair import BINS
from bench.metrics.ranks import Floats, Ints


class Watch:
    """Counts over the evaluated users of each group.

    Args:
        members: attribute=value -> 1 for the evaluated users of the group, (n_evaluated,).
        cutoffs: list lengths.
        places: whether percentiles are wanted too.

    Attributes:
        lists: expected lists that hold an item, in units of 1/FIXED, (G, C, m).
        bins: users who have the item in each bin of percentiles, (G, m, BINS).
    """

    def __init__(self, members: Mapping[str, Floats], n_items: int, cutoffs: Sequence[int],
                 places: bool, device: str) -> None:
        self.names, self.cutoffs, self.places = list(members), tuple(cutoffs), places
        stacked = np.stack(list(members.values())) if members else np.zeros((0, 0))
        self.members = torch.as_tensor(stacked, dtype=torch.float64, device=device)
        self.lists: Ints = np.zeros((len(members), len(self.cutoffs), n_items), np.int64)
        self.bins: Ints = np.zeros((len(members), n_items, BINS if places else 0), np.int64)

    def block(self, scores: Tensor, values: Tensor, known: Tensor, start: int) -> None:
        """Take the users start … of the plan into account.

        Args:
            scores: (B, m), −inf where known. values: the same, ascending in each row. known: how
                many are known, (B,).
        """
        b, m = scores.shape
        mine = self.members[:, start:start + b]  # (G, B)
        for place, k in enumerate(self.cutoffs):
            held = (_chance(scores, values, known, k) * FIXED).floor()  # (B, m)
            summed = mine @ held  # whole numbers below 2^53: exact
            self.lists[:, place] += summed.cpu().numpy().astype(np.int64)
        if not self.places:
            return
        low = torch.searchsorted(values, scores)
        high = torch.searchsorted(values, scores, right=True)
        rank = (m - high).double() + (high - low + 1).double() / 2  # (B, m), expected, 1 is best
        eligible = scores > -torch.inf
        share = (rank - 0.5) / (m - known).clamp_min(1)[:, None].double()  # (B, m), in 0 … 1
        at = (share * BINS).long().clamp(0, BINS - 1)
        items = torch.arange(m, device=scores.device).expand(b, m)
        for g in range(len(mine)):
            inside = eligible & (mine[g] > 0)[:, None]
            counted = torch.bincount((items * BINS + at)[inside], minlength=m * BINS)
            self.bins[g] += counted.view(m, BINS).cpu().numpy()


def _chance(scores: Tensor, values: Tensor, known: Tensor, k: int) -> Tensor:
    """P(an item is in its user's list of length k), (B, m) in float64; ties share their places."""
    m = values.shape[1]
    last = torch.clamp(torch.maximum(known, known.new_tensor(m - k)), max=m - 1)
    edge = values.gather(1, last[:, None])  # (B, 1), the last value in the list
    edge[known == m] = torch.inf  # nothing is left to recommend
    low = torch.searchsorted(values, edge)
    high = torch.searchsorted(values, edge, right=True)
    room = ((k - (m - high)).double() / (high - low).clamp_min(1)).clamp(max=1.0)  # (B, 1)
    return torch.where(scores == edge, room, (scores > edge).double())
