"""Where the relevant items of each user stand, in counts that leave ties open.

Every accuracy metric is a function of these integers alone, so its value depends neither on how
users were cut into blocks nor on the device that scored them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Ranks of N relevant items of U users, sorted by user and within a user by `better`.

    An item with `better` = g and `tied` = t is equally likely at each of the ranks g+1 … g+t:
    the expectation over all orders of equal scores (CATALOGUE H1, ties). Build it with `make`.

    Attributes:
        counts: relevant items of each user, at least one, shape (U,).
        better: eligible items scored strictly higher, shape (N,).
        tied: eligible items with the same score, the item itself included, shape (N,).
        eligible: items the user's list is drawn from (not masked), shape (U,).
    """

    counts: Ints
    better: Ints
    tied: Ints
    eligible: Ints

    @staticmethod
    def make(owner: Ints, better: Ints, tied: Ints, eligible: Ints) -> Ranks:
        """From rows in any order; `owner` is a row's user, 0 … U−1, each with a row at least."""
        order = np.lexsort((better, owner))
        counts = np.bincount(owner, minlength=len(eligible)).astype(np.int64)
        if len(counts) != len(eligible) or not counts.all():
            raise ValueError("each user needs at least one relevant item")
        return Ranks(counts, better[order], tied[order], eligible)

    @staticmethod
    def of(ranks: Sequence[Sequence[int]], eligible: int) -> Ranks:
        """Without ties: the 1-based ranks of each user's relevant items (worked examples)."""
        owner = np.repeat(np.arange(len(ranks)), [len(r) for r in ranks])
        better = np.array([r - 1 for user in ranks for r in user], np.int64)
        return Ranks.make(owner, better, np.ones_like(better),
                          np.full(len(ranks), eligible, np.int64))

    @cached_property
    def starts(self) -> Ints:
        """First row of each user, shape (U,)."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @cached_property
    def owner(self) -> Ints:
        """The user of each row, shape (N,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def _runs(self) -> tuple[Ints, Ints]:
        """First row and length of the run of equal scores that a row is in, shape (N,) each."""
        new = np.ones(len(self.better), bool)
        new[1:] = (self.better[1:] != self.better[:-1]) | (self.owner[1:] != self.owner[:-1])
        first = np.flatnonzero(new)
        length = np.diff(np.append(first, len(new)))
        return np.repeat(first, length), np.repeat(length, length)

    @cached_property
    def before(self) -> Ints:
        """Relevant items of the same user scored strictly higher, shape (N,)."""
        return self._runs[0] - self.starts[self.owner]

    @cached_property
    def group(self) -> Ints:
        """Relevant items of the same user with the same score, itself included, shape (N,)."""
        return self._runs[1]

    @cached_property
    def place(self) -> Ints:
        """0, 1, … within the relevant items of equal score, shape (N,)."""
        return np.arange(len(self.better)) - self._runs[0]

    def total(self, values: Floats) -> Floats:
        """Sum of a value per row over each user's rows, (N,) -> (U,)."""
        return np.add.reduceat(values, self.starts) if len(values) else np.empty(0)

    def inside(self, k: int) -> Floats:
        """P(rank ≤ k) of each row, shape (N,)."""
        return np.clip((k - self.better) / self.tied, 0.0, 1.0)
