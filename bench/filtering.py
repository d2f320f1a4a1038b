"""Filtering, before any split and before any injection: which rows are kept, and what was dropped.

Each function gives a mask over the rows, True for what is kept, and changes nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.data import Floats, Interactions, Ints

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int8]

DUPLICATES = ("last", "first", "best", "error")


def one_per_pair(rows: Interactions, keep: str = "last") -> Mask:
    """One row of each (user, item) pair.

    Args:
        keep: "last" or "first" by time (without times, or at equal times, by row order), or
            "best": the highest label, then the highest rating, then the last.
    """
    if not len(rows):
        return np.zeros(0, bool)
    pairs = _pairs(rows)
    keys = [c for c in (rows.times, *((rows.ratings, rows.labels) if keep == "best" else ()))
            if c is not None]
    order = np.lexsort((*keys, pairs))  # stable: equal keys stay in row order
    changes = np.diff(pairs[order]) != 0
    wins = np.r_[True, changes] if keep == "first" else np.r_[changes, True]
    mask = np.zeros(len(rows), bool)
    mask[order[wins]] = True
    return mask


def one_part_per_pair(rows: Interactions, parts: npt.NDArray[np.int8], keep: str) -> Mask:
    """Rows of a pair that stands in several parts: only those of its first or last part."""
    if not len(rows):
        return np.zeros(0, bool)
    _, pair = np.unique(_pairs(rows), return_inverse=True)
    if keep == "first":
        chosen = np.full(pair.max() + 1, np.iinfo(np.int8).max, np.int8)
        np.minimum.at(chosen, pair, parts)
    else:
        chosen = np.full(pair.max() + 1, -1, np.int8)
        np.maximum.at(chosen, pair, parts)
    mask: Mask = parts == chosen[pair]
    return mask


def repeated_pair(rows: Interactions) -> tuple[int, int] | None:
    """(earlier row, later row) of the first row whose pair stands in a row before, or None."""
    mask = one_per_pair(Interactions(rows.users, rows.items), "first")
    if mask.all():
        return None
    later = int(np.argmin(mask))
    same = (rows.users == rows.users[later]) & (rows.items == rows.items[later])
    return int(np.argmax(same)), later


def k_core(rows: Interactions, k: int) -> Mask:
    """Rows left when users and items with fewer than k rows are removed until none is left."""
    mask = np.ones(len(rows), bool)
    while mask.any():
        users, items = rows.users[mask], rows.items[mask]
        enough = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if enough.all():
            break
        mask[np.flatnonzero(mask)[~enough]] = False
    return mask


def users_with_at_most(rows: Interactions, most: int) -> Mask:
    """Rows of users who have no more than `most` rows."""
    return np.bincount(rows.users)[rows.users] <= most


def liked(ratings: Floats, threshold: float) -> Labels:
    """1 where the rating reaches the threshold, 0 below it."""
    return (ratings >= threshold).astype(np.int8)


def _pairs(rows: Interactions) -> Ints:
    """One number per (user, item) pair, equal for equal pairs."""
    pairs: Ints = rows.users * (rows.items.max() + 1) + rows.items
    return pairs


def used(column: Ints, n: int) -> Mask:
    """Which of the numbers 0 to n − 1 occur in the column, shape (n,)."""
    return np.bincount(column, minlength=n) > 0
