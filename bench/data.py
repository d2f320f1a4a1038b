"""Interactions and datasets: who took what, when, with what rating; ids that never move."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interactions:
    """Rows of (user, item), each an index into the dataset's id lists.

    Attributes:
        users, items: int64, shape (rows,).
        ratings: float64 (rows,), or None where the data is implicit.
        times: float64 seconds (rows,), or None.
        labels: int8 (rows,), 1 liked and 0 disliked, or None where every row is a positive.
    """

    users: Ints
    items: Ints
    ratings: Floats | None = None
    times: Floats | None = None
    labels: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: npt.NDArray[np.generic] | slice) -> Interactions:
        """The rows selected by a mask, an index array or a slice, with all their columns."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        picked: dict[str, Any] = {k: None if v is None else v[rows] for k, v in columns.items()}
        return Interactions(**picked)

    def positives(self) -> Interactions:
        """The rows that count as liked (all, where there are no labels)."""
        return self if self.labels is None else self[self.labels == 1]

    def plus(self, other: Interactions) -> Interactions:
        """These rows, then the other's. A column must be in both or in neither."""
        columns: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if (mine is None) != (theirs is None) and len(self) and len(other):
                raise ValueError(f"column {f.name!r} is in one set of rows and not in the other")
            mine = theirs[:0] if mine is None and theirs is not None else mine
            theirs = mine[:0] if theirs is None and mine is not None else theirs
            columns[f.name] = None if mine is None else np.concatenate([mine, theirs])
        return Interactions(**columns)

    @staticmethod
    def empty(like: Interactions | None = None) -> Interactions:
        """No rows, with the same columns as `like`."""
        if like is not None:
            return like[:0]
        return Interactions(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class KnowledgeGraph:
    """Triples between entities, and which item is which entity (names, not numbers)."""

    heads: Sequence[str]
    relations: Sequence[str]
    tails: Sequence[str]
    item_entities: Mapping[str, str]  # item id -> entity


@dataclass(frozen=True)
class Dataset:
    """A split dataset. Users and items are numbered once; injected users come after the real.

    Attributes:
        name: of the dataset, for messages.
        user_ids, item_ids: outside ids; the position is the index used in the interactions.
        train, valid, test: the split. Valid and test hold genuine users only.
        user_attributes, item_attributes: name -> column of length n_users / n_items: float64
            for numbers (NaN missing), object of str for categories ("" missing), object of
            tuple[str, ...] for several values. Columns of users cover genuine users only.
        fake_attributes: the same of injected users, (n_fake,), as their attacker filled them in;
            empty where he left them out. Only what trains or defends reads them, by
            `all_attributes`.
        item_text: one text per item, for models that read, or None.
        item_features: name -> float32 (items, width) feature vectors.
        knowledge: knowledge graph, or None.
        n_fake: how many injected users stand at the end of user_ids.
        rating_scale: (lowest, highest) possible rating where explicit.
        threshold: rating from which a row counts as liked; None: every row does.
        context: rows that are known of their users when lists are made, and that nothing is
            learned from, before valid and test; None: none. See `bench.shots`.
        shots: (examples, 2) user and item of the train rows that models which learn row by row
            learn from, the other train rows being what came before them; None: all.
        together: which preparation let one user decide which train rows others have, and what to
            set instead; None: none did. User-level privacy promises nothing then.
        asked: users whose lists are asked for and who alone are evaluated, sorted; None: all.
            A model's own data has None: everybody validates.
        notes: counted facts about loading (duplicates dropped, users without test items, …).
    """

    name: str
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    train: Interactions
    valid: Interactions
    test: Interactions
    user_attributes: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    fake_attributes: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    item_attributes: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    item_text: Sequence[str] | None = None
    item_features: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    knowledge: KnowledgeGraph | None = None
    n_fake: int = 0
    rating_scale: tuple[float, float] | None = None
    threshold: float | None = None
    context: Interactions | None = None
    shots: Ints | None = None
    together: str | None = None
    asked: Ints | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """All users, injected ones included."""
        return len(self.user_ids)

    @property
    def n_genuine(self) -> int:
        return len(self.user_ids) - self.n_fake

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def has_times(self) -> bool:
        return self.train.times is not None

    @property
    def has_labels(self) -> bool:
        return self.train.labels is not None

    def replace(self, **changes: object) -> Dataset:
        """A copy with some fields changed (dataclasses.replace)."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    # -- views -----------------------------------------------------------------------------

    @cached_property
    def popularity(self) -> Ints:
        """Train positives of each item by genuine users, shape (items,)."""
        rows = self.train.positives()
        return np.bincount(rows.items[rows.users < self.n_genuine], minlength=self.n_items)

    @cached_property
    def activity(self) -> Ints:
        """Train rows of each genuine user, shape (genuine users,)."""
        return np.bincount(self.train.users, minlength=self.n_users)[: self.n_genuine]

    def known(self, split: str) -> Interactions:
        """What is known before `split` ("valid": train and context; "test": valid too)."""
        if split not in ("valid", "test"):
            raise ValueError(f"split is 'valid' or 'test', not {split!r}")
        rows = self.train if self.context is None else self.train.plus(self.context)
        return rows if split == "valid" else rows.plus(self.valid)

    def truth(self, split: str) -> Interactions:
        """The positives to be found in `split` ("valid" or "test") of the users asked."""
        rows: Interactions = getattr(self, split).positives()
        return rows if self.asked is None else rows[np.isin(rows.users, self.asked)]

    def genuine(self) -> Dataset:
        """The same dataset without its injected users."""
        if not self.n_fake:
            return self
        keep = self.train.users < self.n_genuine
        return self.replace(user_ids=self.user_ids[: self.n_genuine], train=self.train[keep],
                            n_fake=0, fake_attributes={})

    @property
    def all_attributes(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """The attributes of all users, (n_users,) each, as a platform holds them, which does not
        know who is injected."""
        return {name: _longer(column if name not in self.fake_attributes else np.concatenate(
            [column, self.fake_attributes[name]]), self.n_users, column)
            for name, column in self.user_attributes.items()}

    # -- injection -------------------------------------------------------------------------

    def with_fakes(self, rows: Interactions, n_fake: int,
                   attributes: Mapping[str, npt.NDArray[np.generic]] | None = None) -> Dataset:
        """Add `n_fake` users after all others; `rows.users` counts them from 0.

        Args:
            attributes: what the fakes say of themselves, (n_fake,) a column; None: nothing.

        Real rows stay untouched and first; ids of real users and items do not move; fakes are
        in train only. Labels of the new rows follow the dataset's rating threshold.
        """
        if len(rows) and (rows.users.min() < 0 or rows.users.max() >= n_fake):
            raise ValueError(f"fake users are numbered 0 to {n_fake - 1}")
        if len(rows) and (rows.items.min() < 0 or rows.items.max() >= self.n_items):
            raise ValueError(f"items are numbered 0 to {self.n_items - 1}")
        labels = None
        if rows.ratings is not None and self.threshold is not None:
            liked = rows.ratings >= self.threshold
            if self.train.labels is None:  # the dataset drops what is below the threshold
                rows = rows[liked]
            else:
                labels = liked.astype(np.int8)
        elif self.train.labels is not None:
            labels = np.ones(len(rows), np.int8)
        added = dataclasses.replace(rows, users=rows.users + self.n_users, labels=labels)
        ids = tuple(f"fake:{self.n_fake + k}" for k in range(n_fake))
        said = {name: np.concatenate([
            _longer(self.fake_attributes.get(name, column[:0]), self.n_fake, column),
            _longer((attributes or {}).get(name, column[:0]), n_fake, column)])
            for name, column in self.user_attributes.items()} \
            if attributes or self.fake_attributes else {}
        return self.replace(user_ids=self.user_ids + ids, train=self.train.plus(added),
                            n_fake=self.n_fake + n_fake, fake_attributes=said)

    def without_users(self, flagged: npt.NDArray[np.bool_]) -> Dataset:
        """Drop the train and context rows of flagged users (shape (n_users,)); the users stay.

        Nobody is renumbered: a genuine user flagged by mistake is still evaluated, as one whose
        history the model has not seen.
        """
        if flagged.shape != (self.n_users,):
            raise ValueError(f"one flag per user is needed: {(self.n_users,)}, got {flagged.shape}")
        context = None if self.context is None else self.context[~flagged[self.context.users]]
        return self.replace(train=self.train[~flagged[self.train.users]], context=context)


def _longer(column: npt.NDArray[np.generic], n: int, like: npt.NDArray[np.generic]
            ) -> npt.NDArray[np.generic]:
    """The first n values of an attribute; where it has fewer, missing ones at the end, such as a
    column like that has."""
    missing = np.empty(max(0, n - len(column)), like.dtype)
    if like.dtype == object:
        missing[:] = [() if any(isinstance(v, tuple) for v in like) else ""] * len(missing)
    elif len(missing):
        missing[:] = np.nan
    return np.concatenate([column[:n], missing])


def check(data: Dataset) -> Dataset:
    """Refuse a dataset that cannot be evaluated, with the reason; returns it otherwise."""
    if not len(data.train.positives()):
        raise InputError(f"dataset {data.name!r}: no positive train interactions are left",
                         hint="lower the rating threshold or the k-core, or check the split")
    if not len(data.truth("test")):
        raise InputError(f"dataset {data.name!r}: no user has a positive test item",
                         hint="give a larger test share, or lower the rating threshold")
    for split in ("valid", "test"):
        rows: Interactions = getattr(data, split)
        if len(rows) and rows.users.max() >= data.n_genuine:
            raise ValueError(f"{split} holds rows of injected users")
    return data
