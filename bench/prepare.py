"""From a log of outside ids to a split dataset: number, filter, split, count; in this order.

    rows read -> users with too many rows -> duplicate pairs -> threshold -> k-core -> split
    -> shots

All of it happens before any injection, and every row that goes is counted in `Dataset.notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import filtering
from bench.api import Dataset, DatasetPlugin, Interactions, param
from bench.data import Ints, check
from bench.errors import InputError
from bench.filtering import Mask
from bench.logs import Log
from bench.shots import few_shot
from bench.splits import SPLITS, TEST, TOGETHER, TRAIN, VALID, Parts, hold_out_newest, split_rows


class PreparedDataset(DatasetPlugin):
    """Base of datasets that are filtered and split here; these are the parameters they share."""

    split: str = param("ratio-time", "how rows are split: per user, but for time-cut, and for "
                       "cold-items, where drawn items have all their rows in test and none "
                       "before", choices=SPLITS)
    ratios: tuple[float, ...] = param((0.8, 0.1, 0.1), "shares of train, valid and test; for "
                                      "cold-items, the share of test is one of the items")
    last: int = param(1, "rows per user in valid and in test, for leave-last-out", low=1)
    split_seed: int = param(0, "of ratio-random, ratio-hash and cold-items; the run's seed "
                            "does not enter",
                            low=0)
    threshold: float | None = param(None, "rating from which a row counts as liked; null: every "
                                    "row does")
    below: str = param("keep", "rows under the threshold: kept as disliked, or dropped",
                       choices=("keep", "drop"))
    duplicates: str = param("auto", "which row of a (user, item) pair is kept: last or first in "
                            "time, best (highest label, then rating), or error; auto: best in "
                            "event logs, so that browsing never undoes a purchase, else last",
                            choices=("auto", *filtering.DUPLICATES))
    max_user_rows: int = param(0, "users with more rows than this are dropped as outliers; 0: "
                               "nobody is", low=0)
    ask_users: int = param(0, "so many users, drawn by split_seed, are evaluated and no others; "
                           "all stay in train; 0: everybody is", low=0)
    shots: int = param(0, "few-shot: examples that all models learn from (TALLRec: 16, 64, 256), "
                       "drawn by split_seed; the other train rows are known when lists are made, "
                       "and learned from by nobody; 0: all rows are learned from", low=0)
    shot_history: int = param(10, "an example is a row and at most so many liked rows before it, "
                              "and as many disliked ones", low=1)
    k_core: int = param(0, "users and items with fewer rows are dropped, again and again", low=0)

    def prepare(self, log: Log, rating_scale: tuple[float, float] | None = None,
                overlap: str = "error", valid_rows: int = 0) -> Dataset:
        """The log filtered and split; users and items in the order of their ids, no attributes.

        Args:
            log: rows as read.
            rating_scale: lowest and highest possible rating, where there are ratings.
            overlap: for given parts, what to do with pairs in two of them: "error", "keep-first"
                (they leave the later part) or "keep-last" (they leave the earlier part).
            valid_rows: for given parts, newest train rows per user that become validation.

        Raises:
            InputError: a rule is broken, or nothing is left to train on or to test.
        """
        sieve = _Sieve.of(log)
        sieve.drop_outliers(self.max_user_rows)
        usual = "last" if log.labels is None else "best"
        sieve.one_per_pair(usual if self.duplicates == "auto" else self.duplicates)
        sieve.no_overlap(overlap)
        sieve.label(self.threshold, drop=self.below == "drop")
        sieve.k_core(self.k_core)
        if not len(sieve.rows):
            raise InputError(f"dataset {self.name!r}: no row is left after filtering",
                             hint="; ".join(f"{k}: {n:,}" for k, n in sieve.notes.items()))
        together = self._together(None)
        if sieve.parts is None:
            together = self._together(TOGETHER.get(self.split))
            sieve.parts = split_rows(sieve.rows, self.split, ratios=self.ratios, last=self.last,
                                     seed=self.split_seed,
                                     names=(sieve.user_ids, sieve.item_ids))
        elif valid_rows:
            if log.times is None:
                together = ("valid_rows are drawn without times; set valid_rows to 0 or name the "
                            "time column")
            train = sieve.parts == TRAIN
            sieve.parts[train] = hold_out_newest(sieve.rows[train], valid_rows, self.split_seed)
        sieve.drop_strangers()
        made = sieve.dataset(self.name).replace(
            rating_scale=rating_scale if log.ratings is not None else None,
            threshold=self.threshold, together=together)
        return check(self._asking(few_shot(made, self.shots, self.shot_history, self.split_seed)))

    def _together(self, split: str | None) -> str | None:
        """How one user decides about others' rows with these parameters; see `Dataset`."""
        if self.k_core > 1:
            return (f"k_core {self.k_core} keeps rows by how many other users have; set k_core to "
                    "0, or filter the file beforehand where who is kept is no secret")
        return None if split is None else (
            f"split: {self.split} is {split}; take ratio-hash, ratio-time, leave-one-out or "
            "leave-last-out")

    def _asking(self, data: Dataset) -> Dataset:
        """The data with `ask_users` of the users who have something to find in test."""
        able = np.unique(data.truth("test").users)
        if not self.ask_users or self.ask_users >= len(able):
            return data
        drawn = np.random.default_rng([self.split_seed, 7]).permutation(able)[:self.ask_users]
        return data.replace(asked=np.sort(drawn), notes={
            **data.notes, "users asked, of those with test items": self.ask_users})


@dataclass
class _Sieve:
    """Rows on their way through the filters, with what has been counted."""

    rows: Interactions
    user_ids: list[str]
    item_ids: list[str]
    parts: Parts | None
    log: Log
    read: Ints  # which row of the log each row is
    notes: dict[str, int]

    @classmethod
    def of(cls, log: Log) -> _Sieve:
        users, user_ids = number(log.users)
        items, item_ids = number(log.items)
        rows = Interactions(users, items, log.ratings, log.times, log.labels)
        parts = None if log.parts is None else log.parts.copy()
        return cls(rows, user_ids, item_ids, parts, log, np.arange(len(rows)),
                   {"rows read": len(rows), **log.notes})

    def keep(self, mask: Mask, note: str) -> None:
        self.notes[note] = int((~mask).sum())
        if not mask.all():
            self.rows, self.read = self.rows[mask], self.read[mask]
            self.parts = None if self.parts is None else self.parts[mask]

    def drop_outliers(self, most: int) -> None:
        if most:
            before = len(np.unique(self.rows.users))
            self.keep(filtering.users_with_at_most(self.rows, most), "rows dropped as outliers")
            self.notes["users dropped as outliers"] = before - len(np.unique(self.rows.users))

    def one_per_pair(self, keep: str) -> None:
        """Within each part, where parts are given."""
        mask = np.zeros(len(self.rows), bool)
        parts = np.zeros(len(self.rows), np.int8) if self.parts is None else self.parts
        for part in np.unique(parts):
            own = np.flatnonzero(parts == part)
            if keep == "error":
                self._refuse_repeated(own, "duplicates", "last, first or best")
            mask[own] = filtering.one_per_pair(self.rows[own], keep)
        self.keep(mask, "rows dropped as duplicate pairs")

    def no_overlap(self, rule: str) -> None:
        if self.parts is None:
            return
        if rule == "error":
            self._refuse_repeated(np.arange(len(self.rows)), "overlap", "keep-first or keep-last")
        mask = filtering.one_part_per_pair(self.rows, self.parts, rule.removeprefix("keep-"))
        self.keep(mask, "rows dropped, pair in another part too")

    def _refuse_repeated(self, own: Ints, key: str, ways: str) -> None:
        """InputError with both places if a pair stands twice among these rows."""
        pair = filtering.repeated_pair(self.rows[own])
        if pair is None:
            return
        user, item = (ids[column[own[pair[1]]]] for ids, column in (
            (self.user_ids, self.rows.users), (self.item_ids, self.rows.items)))
        earlier, later = ((None, None) if self.log.where is None else
                          self.log.where(int(self.read[own[n]])) for n in pair)
        before = "" if earlier[0] is None else f", first at {earlier[0]}:{earlier[1]}"
        raise InputError(f"user {user!r} has item {item!r} a second time{before}", file=later[0],
                         line=later[1], key=key, hint=f"set {key} to {ways}")

    def label(self, threshold: float | None, drop: bool) -> None:
        if threshold is None:
            return
        if self.rows.ratings is None:
            raise InputError("a threshold is given, and the data has no ratings", key="threshold",
                             hint="name the rating column, or leave threshold out")
        labels = filtering.liked(self.rows.ratings, threshold)
        if drop:
            self.keep(labels == 1, "rows dropped under the threshold")
        else:
            self.notes["rows under the threshold, kept as disliked"] = int((labels == 0).sum())
            self.rows = Interactions(self.rows.users, self.rows.items, self.rows.ratings,
                                     self.rows.times, labels)

    def k_core(self, k: int) -> None:
        if k < 2:  # every user and item that occurs has a row
            return
        before = [len(np.unique(c)) for c in (self.rows.users, self.rows.items)]
        self.keep(filtering.k_core(self.rows, k), "rows dropped by k-core")
        for what, n, c in zip(("users", "items"), before, (self.rows.users, self.rows.items)):
            self.notes[f"{what} dropped by k-core"] = n - len(np.unique(c))

    def drop_strangers(self) -> None:
        """Rows of valid and test whose user has none in train: no model could know them."""
        assert self.parts is not None
        known = filtering.used(self.rows.users[self.parts == TRAIN], len(self.user_ids))
        self.keep((self.parts == TRAIN) | known[self.rows.users],
                  "valid and test rows dropped, user not in train")

    def dataset(self, name: str) -> Dataset:
        """Numbered without gaps and cut into its parts."""
        assert self.parts is not None
        users, user_ids = _close_up(self.rows.users, self.user_ids)
        items, item_ids = _close_up(self.rows.items, self.item_ids)
        rows = Interactions(users, items, self.rows.ratings, self.rows.times, self.rows.labels)
        train, valid, test = (rows[self.parts == part] for part in (TRAIN, VALID, TEST))
        seen = filtering.used(train.items, len(item_ids))
        tested = filtering.used(test.positives().users, len(user_ids))
        self.notes["users without test items"] = int((~tested).sum())
        self.notes["test items unseen in train"] = int((~seen[np.unique(test.items)]).sum())
        return Dataset(name, user_ids, item_ids, train, valid, test, notes=self.notes)


def number(ids: Sequence[str]) -> tuple[Ints, list[str]]:
    """Each id's number, and the ids by number: in order of value where all are whole numbers,
    else of the alphabet. So neither depends on the order of the rows.

    >>> number(["10", "9", "10"])
    (array([1, 0, 1]), ['9', '10'])
    """
    distinct = list(dict.fromkeys(ids))
    whole = all(i.isdecimal() for i in distinct)
    ordered = sorted(distinct, key=lambda i: (int(i), i)) if whole else sorted(distinct)
    place = {name: n for n, name in enumerate(ordered)}
    return np.fromiter(map(place.__getitem__, ids), np.int64, len(ids)), ordered


def _close_up(column: Ints, ids: list[str]) -> tuple[Ints, tuple[str, ...]]:
    """Numbers without gaps for the ids that still occur."""
    kept = filtering.used(column, len(ids))
    return (np.cumsum(kept) - 1)[column], tuple(i for i, k in zip(ids, kept) if k)
