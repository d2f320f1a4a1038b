"""Splits: which rows are for training, for validation, for testing.

Every split gives each row exactly one part (TRAIN, VALID or TEST), so no row is lost and none is
in two. Rows of one user at the same time keep the order they have in the file. A user with too
few rows to have one in every part keeps all of them in train; `time_cut` and `cold_items`, which
test a moment and a set of items, may leave a user none there. Nothing depends on a run's seed: a
random split has a seed of its own, so that all seeds of a run meet the same data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.context import Context
from bench.data import Floats, Interactions, Ints
from bench.errors import InputError

Parts = npt.NDArray[np.int8]
Names = tuple[Sequence[str], Sequence[str]]
TRAIN, VALID, TEST = 0, 1, 2

SPLITS = ("ratio-time", "ratio-random", "ratio-hash", "leave-one-out", "leave-last-out",
          "time-cut", "cold-items")
TOGETHER = {
    "ratio-random": "one stream of random numbers for everybody's rows",
    "time-cut": "a share of everybody's rows", "cold-items": "drawn among everybody's items"}
"""Splits in which one user more or less changes which train rows others have, and why."""


def split_rows(rows: Interactions, how: str, *, ratios: Sequence[float] = (0.8, 0.1, 0.1),
               last: int = 1, seed: int = 0, names: Names | None = None) -> Parts:
    """The part of each row, int8 (rows,).

    Args:
        rows: all interactions, filtered.
        how: one of SPLITS.
        ratios: shares of train, valid and test; they sum to 1 (ratio-time, ratio-random,
            ratio-hash, time-cut, cold-items).
        last: rows per user in valid and in test (leave-last-out).
        seed: of ratio-random, ratio-hash and cold-items.
        names: outside ids of users and of items, for ratio-hash; None: their indices.

    Raises:
        InputError: the ratios make no sense, or a split by time was asked of rows without times.
    """
    if how == "leave-one-out":
        return leave_last_out(rows, 1, 1)
    if how == "leave-last-out":
        return leave_last_out(rows, last, last)
    if how == "ratio-time":
        return ratio_by_time(rows, ratios)
    if how == "ratio-random":
        return ratio_at_random(rows, ratios, seed)
    if how == "ratio-hash":
        return ratio_by_hash(rows, ratios, seed, names)
    if how == "time-cut":
        return time_cut(rows, ratios)
    if how == "cold-items":
        return cold_items(rows, ratios, seed)
    raise InputError(f"unknown split {how!r}", key="split", hint="known: " + ", ".join(SPLITS))


def leave_last_out(rows: Interactions, test: int = 1, valid: int = 1) -> Parts:
    """Each user's newest `test` rows are for testing, the `valid` before them for validation.

    Users with no more than test + valid rows keep all of them in train.
    """
    newer, count = _places(rows, _times(rows))
    return _from_end(newer, count, np.full(len(rows), valid), np.full(len(rows), test),
                     enough=test + valid + 1)


def hold_out_newest(rows: Interactions, valid: int, seed: int) -> Parts:
    """Each user's newest `valid` rows are for validation; drawn at random where there are no
    times. Users with no more rows than that keep all of them in train."""
    key = rows.times if rows.times is not None else \
        Context(seed).stream("split", "hold-out").random(len(rows))
    newer, count = _places(rows, key)
    return _from_end(newer, count, np.full(len(rows), valid), np.zeros(len(rows), np.int64),
                     enough=valid + 1)


def ratio_by_time(rows: Interactions, ratios: Sequence[float]) -> Parts:
    """Each user's newest share of rows is for testing, the share before it for validation.

    A share of n rows is ⌊share · n⌋, at least one where the share is above zero; train has what
    is left. Users with fewer rows than parts keep all of them in train.
    """
    return _by_ratio(rows, _times(rows), ratios)


def ratio_at_random(rows: Interactions, ratios: Sequence[float], seed: int) -> Parts:
    """As `ratio_by_time`, with each user's rows in random order."""
    drawn = Context(seed).stream("split", "ratio-random").random(len(rows))
    return _by_ratio(rows, drawn, ratios)


def ratio_by_hash(rows: Interactions, ratios: Sequence[float], seed: int,
                  names: Names | None = None) -> Parts:
    """As `ratio_at_random`, in the order of a hash of seed, user id and item id: nobody's parts
    depend on who else is in the data, as user-level privacy needs it."""
    pairs = zip(rows.users.tolist(), rows.items.tolist(), strict=True)
    if names is not None:
        pairs = ((names[0][u], names[1][i]) for u, i in pairs)  # type: ignore[assignment]
    key = np.array([_hashed(f"{seed}\0{user}\0{item}") for user, item in pairs], np.float64)
    return _by_ratio(rows, key, ratios)


def _hashed(text: str) -> float:
    """A number in [0, 1) that anybody's text alone decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def time_cut(rows: Interactions, ratios: Sequence[float]) -> Parts:
    """One moment for everybody: the newest share of all rows is for testing.

    Rows at the very time of a cut belong to the later part. Users may be without train rows.
    """
    check_ratios(ratios)
    times = _times(rows)
    parts = np.full(len(rows), TRAIN, np.int8)
    if len(rows):
        ordered = np.sort(times)
        for part, share in ((VALID, ratios[0]), (TEST, ratios[0] + ratios[1])):
            first = min(int(_floor(share * len(rows))), len(rows) - 1)
            parts[times >= ordered[first]] = part
    return parts


def cold_items(rows: Interactions, ratios: Sequence[float], seed: int) -> Parts:
    """Items nobody has met: the test share of the items, drawn, has all its rows in test.

    Of n items ⌊share · n⌋ are drawn, at least one where the share is above zero, and one is
    always left. All other rows are divided per user between train and validation, in the
    proportion of their two shares and as `ratio_by_time` does; at random where there are no
    times. Users may be without train rows.

    The whole catalogue is ranked all the same: what learns from interactions alone puts the
    items that were met first, and so does worse here than chance.
    """
    check_ratios(ratios)
    draw = Context(seed).stream("split", "cold-items")
    items = np.unique(rows.items)
    n = min(max(int(_floor(ratios[2] * len(items))), int(ratios[2] > 0)), len(items) - 1)
    cold = np.isin(rows.items, draw.permutation(items)[:max(n, 0)])
    parts = np.full(len(rows), TEST, np.int8)
    key = rows.times if rows.times is not None else draw.random(len(rows))
    valid = ratios[1] / (ratios[0] + ratios[1])
    parts[~cold] = _by_ratio(rows[~cold], key[~cold], (1 - valid, valid, 0.0))
    return parts


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse shares that are not three, are negative, or do not sum to one."""
    shown = "[" + ", ".join(f"{r:g}" for r in ratios) + "]"
    hint = "three shares for train, valid and test, such as [0.8, 0.1, 0.1]"
    if len(ratios) != 3:
        raise InputError(f"{len(ratios)} ratios in {shown}", key="ratios", hint=hint)
    if not all(math.isfinite(r) and 0 <= r <= 1 for r in ratios) or not ratios[0] > 0:
        raise InputError(f"ratios {shown} are not shares with something to train on",
                         key="ratios", hint=hint)
    if abs(sum(ratios) - 1) > 1e-6:
        raise InputError(f"ratios {shown} sum to {sum(ratios):g} and not to 1", key="ratios",
                         hint=hint)


def _by_ratio(rows: Interactions, key: Floats, ratios: Sequence[float]) -> Parts:
    check_ratios(ratios)
    newer, count = _places(rows, key)
    some_valid, some_test = int(ratios[1] > 0), int(ratios[2] > 0)
    test = np.maximum(_floor(ratios[2] * count), some_test)
    test = np.minimum(test, count - 1 - some_valid)
    valid = np.maximum(_floor(ratios[1] * count), some_valid)
    valid = np.minimum(valid, count - 1 - test)
    return _from_end(newer, count, valid, test, enough=1 + some_valid + some_test)


def _from_end(newer: Ints, count: Ints, valid: Ints, test: Ints, enough: int) -> Parts:
    """Parts by how many of the user's rows are newer; users with too few stay in train."""
    parts = np.full(len(newer), TRAIN, np.int8)
    parts[newer < valid + test] = VALID
    parts[newer < test] = TEST
    parts[count < enough] = TRAIN
    return parts


def _places(rows: Interactions, key: Floats) -> tuple[Ints, Ints]:
    """How many of the same user's rows come after each row, and how many the user has.

    Ordered by the key; rows of equal key keep their order (lexsort is stable).
    """
    order = np.lexsort((key, rows.users))
    counts = np.bincount(rows.users)
    ends = np.cumsum(counts)
    newer = np.empty(len(rows), np.int64)
    newer[order] = ends[rows.users[order]] - 1 - np.arange(len(rows))
    return newer, counts[rows.users]


def _times(rows: Interactions) -> Floats:
    if rows.times is None:
        raise InputError("a split by time was asked, and the data has no times", key="split",
                         hint="name the time column, or take ratio-random or ratio-hash")
    return rows.times


def _floor(x: npt.ArrayLike) -> Ints:
    """⌊x⌋, forgiving the rounding of products such as 0.29 · 100."""
    return np.floor(np.asarray(x) + 1e-9).astype(np.int64)
