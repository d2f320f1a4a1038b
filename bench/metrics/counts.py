"""What the pass over the scores counts, and the exact expectations that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.metrics.beyond import list_mean
from bench.metrics.ranks import Floats, Ints

FIXED = 1 << 36  # the probability 1 in fixed point
MISS = 1 << 32  # the unit of −ln P(an item is in no list) in fixed point


@dataclass
class Counts:
    """Counts of one pass (P pairs, U users, C cut-offs, m items, V value columns).

    The list of length K holds `cut_better` items for sure, and K − cut_better of the `cut_tied`
    items that share the score at its end; all of them, where they fit. Axes of length 2 are:
    evaluated users, other genuine users.

    Attributes:
        better, tied: per pair, eligible items scored higher, and as high (itself included), (P,).
        eligible: per user, items that are not masked, (U,).
        cut_better, cut_tied: as above, (U, C).
        sure: lists that hold an item for sure, (2, C, m).
        chance: expected number of further lists that hold it, in units of 1/FIXED, (2, C, m).
        miss: −ln P(none of those lists holds it), in units of 1/MISS, (2, C, m).
        rank_sum: twice the expected rank of an item, summed over users who do not have it
            masked, (m,).
        sure_sum, open_sum: per value column, its sum over the items surely in a user's list, and
            over those tied at its end, (V, U, C).
        points: the model's own scores of the labelled pairs.
        seconds: time spent scoring, the warm-up left out. scored: users in that time.
    """

    better: Ints
    tied: Ints
    eligible: Ints
    cut_better: Ints
    cut_tied: Ints
    sure: Ints
    chance: Ints
    miss: Ints
    rank_sum: Ints
    sure_sum: Ints
    open_sum: Ints
    points: Floats
    seconds: float = 0.0
    scored: int = 0

    @staticmethod
    def zeros(pairs: int, eligible: Ints, cutoffs: int, columns: int, items: int,
              points: int) -> Counts:
        """All counts at zero."""
        users = len(eligible)

        def ints(*shape: int) -> Ints:
            return np.zeros(shape, np.int64)

        return Counts(ints(pairs), ints(pairs), eligible.astype(np.int64), ints(users, cutoffs),
                      ints(users, cutoffs), ints(2, cutoffs, items), ints(2, cutoffs, items),
                      ints(2, cutoffs, items), ints(items), ints(columns, users, cutoffs),
                      ints(columns, users, cutoffs), np.zeros(points))

    @staticmethod
    def weights(better: Ints, tied: Ints, k: int) -> Floats:
        """For users whose list ends inside a tie: P(a tied item is in the list) in units of
        1/FIXED, and −ln P(it is not) in units of 1/MISS; whole numbers, (2, S)."""
        room = k - better
        return np.stack([(room * FIXED // tied).astype(np.float64),
                         np.rint(-np.log1p(-room / tied) * MISS)])

    def pair_chance(self, k: int) -> Ints:
        """P(a pair's item is in its user's list) in units of 1/FIXED, as counted in `sure` and
        `chance`, (P,)."""
        room = np.clip(k - self.better, 0, self.tied)
        return np.where(room == self.tied, FIXED, room * FIXED // np.maximum(self.tied, 1))

    def exposure(self, place: int, evaluated_only: bool = True) -> Floats:
        """Expected number of lists that hold each item, (m,)."""
        part = slice(0, 1 if evaluated_only else 2)
        lists: Floats = (self.sure[part, place].sum(axis=0)
                         + self.chance[part, place].sum(axis=0) / FIXED)
        return lists

    def covered(self, place: int) -> Floats:
        """P(an item is in the list of at least one evaluated user), (m,)."""
        missed = np.exp(-self.miss[0, place] / MISS)
        return np.where(self.sure[0, place] > 0, 1.0, 1.0 - missed)

    def list_mean(self, column: int, place: int, k: int, n_users: int) -> Floats:
        """Expected mean of a value column over the list of each of the first users, (n_users,)."""
        first = slice(n_users)
        return list_mean(self.sure_sum[column, first, place], self.open_sum[column, first, place],
                         self.cut_better[first, place], self.cut_tied[first, place],
                         self.eligible[first], k)

    def tie_share(self, place: int, k: int, n_users: int) -> float:
        """Share of the first users whose list ends inside a tie."""
        ends = self.cut_better[:n_users, place] + self.cut_tied[:n_users, place]
        return float(np.mean(ends > k)) if n_users else 0.0
