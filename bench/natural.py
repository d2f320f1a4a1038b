"""Noise that nobody made: what a model meets without an attacker, as a control for attacks."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import Attack, Struck, ThreatModel
from bench.context import Context
from bench.data import Dataset, Floats, Interactions, Ints
from bench.errors import PluginError
from bench.plugin import param

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared

_THREATS = {"train": ThreatModel("train-poison", "none", "none"),  # nobody's goal
            "test": ThreatModel("test-input", "none", "none")}


class NaturalNoise(Attack):
    """Changes rows at random; nobody's intention. Authors write `corrupt`; this class keeps to
    the budget.

    Guaranteed where `changes` is "train": at most int(rate · train rows) rows differ, a replaced
    row counting once; validation and test rows stay and are not shown; no pair is doubled. Where
    it is "test": test rows are only left out, at most int(rate · test rows) of them; what is left
    out counts neither for nor against a list, as its item is masked for its user. Always: users
    and items keep their numbers, and rate 0 changes nothing.

    It is a control and has no goal: the report's worst cases, which are over attacks that aim at
    accuracy, leave it out. Where `changes` is "test" it is not even the model that differs, but
    what it is measured on.

    Attributes:
        changes: "train", so that the cell trains a model of its own, or "test".
    """

    rate: float = param(0.1, "share of the rows that may change", low=0, high=1)
    changes: ClassVar[str] = "train"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.changes not in _THREATS:
            raise TypeError(f"{cls.__name__}.changes is train or test, not {cls.changes!r}")
        if "threat" not in cls.__dict__:
            cls.threat = _THREATS[cls.changes]

    @abstractmethod
    def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with other train rows, or with fewer test rows.

        Args:
            data: genuine data; without validation and test rows where train rows change.
            ctx: for randomness, by name.
        """

    def budget_text(self) -> str:
        done = "change" if self.changes == "train" else "are left out"
        return f"at most {self.rate:.1%} of {self.changes} rows {done}"

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        rows: Interactions = getattr(data, self.changes)
        if self.rate and not self.budget(rows):
            return (f"{self.rate:.2%} of the {len(rows)} {self.changes} rows of {data.name} is not "
                    "one row")
        return None

    @property
    def trains(self) -> bool:
        return self.changes == "train"

    def budget(self, rows: Interactions) -> int:
        """How many of these rows may change."""
        return int(self.rate * len(rows) + 1e-9)

    @final
    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with its train rows changed, budget and contract enforced."""
        if not self.rate or self.changes != "train":
            return data
        blind = data.replace(valid=data.valid[:0], test=data.test[:0])
        made = self._enforced(blind, ctx)
        removed, added = differing(data.train, made.train, self.name)
        changed = max(removed, added)
        if changed > self.budget(data.train):
            raise PluginError(f"{self.name}: {changed} train rows differ, the budget is "
                              f"{self.budget(data.train)} of {len(data.train)}")
        if _doubled(made.train, data) > _doubled(data.train, data):
            raise PluginError(f"{self.name}: a user has an item twice")
        if not len(made.train.positives()):
            raise PluginError(f"{self.name}: nothing is left to train on; lower rate")
        ctx.notes["changed_rows"] = {"removed": removed, "added": added, "of": len(data.train)}
        return data.replace(train=made.train)

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        data, facts = prepared.genuine, {}
        if self.rate and self.changes == "test":
            data = self.shifted(data, ctx)
            before, after = (_mean_popularity(prepared.genuine, d.test)
                             for d in (prepared.genuine, data))
            facts = {"test_rows": {"kept": len(data.test), "of": len(prepared.genuine.test)},
                     "mean_popularity": {"before": before, "after": after}}
        yield Struck(model, data, prepared.targets, facts)

    @final
    def shifted(self, data: Dataset, ctx: Context) -> Dataset:
        """The data to evaluate on, budget and contract enforced: rows left out of the test split
        stand in the validation split, where evaluation masks them."""
        made = self._enforced(data, ctx)
        left = _places(data.test, made.test, self.name)
        if left is None:
            raise PluginError(f"{self.name}: test rows may only be left out, and there is a row "
                              "that was not in the test split")
        out = np.ones(len(data.test), bool)
        out[left] = False
        if out.sum() > self.budget(data.test):
            raise PluginError(f"{self.name}: {out.sum()} test rows are left out, the budget is "
                              f"{self.budget(data.test)} of {len(data.test)}")
        if not len(data.test[~out].positives()):
            raise PluginError(f"{self.name}: no positive test row is left; lower rate")
        return data.replace(test=data.test[~out], valid=data.valid.plus(data.test[out]))

    def _enforced(self, data: Dataset, ctx: Context) -> Dataset:
        """What `corrupt` makes; refused where anything else than the rows in question differs."""
        made = self.corrupt(data, ctx)
        if not isinstance(made, Dataset):
            raise PluginError(f"{self.name}: corrupt() gives {type(made).__name__}; it must "
                              "return a Dataset (data.replace(train=…))")
        for f in dataclasses.fields(Dataset):
            if f.name == self.changes:
                continue
            mine, theirs = getattr(data, f.name), getattr(made, f.name)
            if mine is not theirs and (f.name not in ("train", "valid", "test")
                                       or differing(mine, theirs, self.name) != (0, 0)):
                raise PluginError(f"{self.name}: corrupt() changes {f.name}, and only the "
                                  f"{self.changes} rows may change")
        rows: Interactions = getattr(made, self.changes)
        for what, column, size in (("user", rows.users, data.n_users),
                                   ("item", rows.items, data.n_items)):
            if len(column) and (column.min() < 0 or column.max() >= size):
                raise PluginError(f"{self.name}: a row has a number that is no {what}'s")
        return made


# -- what noises share -------------------------------------------------------------------------

def over_users(rows: Interactions, ctx: Context, *names: object,
               worth: Floats | None = None) -> Ints:
    """All rows in an order whose every beginning holds about the same share of each user's rows:
    of a user's n rows the j-th (from 0) has the key (j + U) / n, with one U in [0, 1) a user.
    A larger share begins with the rows of a smaller one. A user's rows come by `worth` (rows,),
    smallest first and ties in their order, or at random."""
    n = len(rows)
    order = np.lexsort((np.arange(n) if worth is None else worth, rows.users))
    users, first, count = np.unique(rows.users[order], return_index=True, return_counts=True)
    keys = np.empty(n)
    for user, start, size in zip(users.tolist(), first.tolist(), count.tolist(), strict=True):
        rng = ctx.stream(*names, user)
        turn = np.arange(size) if worth is not None else rng.permutation(size)
        keys[order[start:start + size]] = (turn + rng.random()) / size
    return np.argsort(keys, kind="stable").astype(np.int64)


def _columns(rows: Interactions) -> list[Any]:
    return [getattr(rows, f.name) for f in dataclasses.fields(rows)]


def _row_keys(mine: Interactions, theirs: Interactions, who: str) -> tuple[Ints, Ints]:
    """Numbers for rows, equal where all their columns are equal (a missing number equals a
    missing number)."""
    n = len(mine)
    keys = np.zeros(n + len(theirs), np.int64)
    for a, b in zip(_columns(mine), _columns(theirs), strict=True):
        if (a is None) != (b is None):
            raise PluginError(f"{who}: rows lose or gain a column")
        if a is not None:
            _, column = np.unique(np.concatenate([a, b]), return_inverse=True, equal_nan=True)
            _, keys = np.unique(keys * (int(column.max(initial=0)) + 1) + column,
                                return_inverse=True)
    return keys[:n], keys[n:]


def differing(mine: Interactions, theirs: Interactions, who: str = "noise") -> tuple[int, int]:
    """How many of my rows are gone in theirs, and how many of theirs are new."""
    a, b = _row_keys(mine, theirs, who)
    size = int(max(a.max(initial=-1), b.max(initial=-1))) + 1
    more = np.bincount(a, minlength=size) - np.bincount(b, minlength=size)
    return int(more.clip(min=0).sum()), int((-more).clip(min=0).sum())


def _places(mine: Interactions, theirs: Interactions, who: str) -> Ints | None:
    """Where in mine their rows stand, each place once; None where one is not among mine."""
    a, b = _row_keys(mine, theirs, who)
    at: dict[int, list[int]] = {}
    for place, key in enumerate(a.tolist()):
        at.setdefault(key, []).append(place)
    found = []
    for key in b.tolist():
        if not at.get(key):
            return None
        found.append(at[key].pop(0))
    return np.array(found, np.int64)


def _doubled(rows: Interactions, data: Dataset) -> int:
    return len(rows) - len(np.unique(rows.users * data.n_items + rows.items))


def _mean_popularity(data: Dataset, rows: Interactions) -> float:
    return float(data.popularity[rows.positives().items].mean()) if len(rows.positives()) else 0.0
