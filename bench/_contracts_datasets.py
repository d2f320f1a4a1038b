"""Contracts of datasets: unique ids, a split that does not leak, genuine users only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bench.plugin import Plugin
from bench.testing import require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.data import Dataset


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [ids_unique, indices_in_range, split_disjoint, something_to_find, columns_aligned]


def loaded(lab: Lab) -> Dataset:
    """The dataset with its test parameters."""
    from bench._contracts_lab import load

    return load(lab)


def ids_unique(lab: Lab) -> None:
    """No two users and no two items have the same id, and no user is injected."""
    data = loaded(lab)
    for what, ids in (("user", data.user_ids), ("item", data.item_ids)):
        require(len(set(ids)) == len(ids), f"{len(ids) - len(set(ids))} {what} ids stand twice",
                "number each outside id once")
        require(all(isinstance(i, str) for i in ids), f"{what} ids are not all text",
                "keep outside ids as str")
    require(data.n_fake == 0, f"{data.n_fake} users count as injected",
            "a dataset holds genuine users; attacks inject")


def indices_in_range(lab: Lab) -> None:
    """Users and items of every row are indices into the id lists."""
    data = loaded(lab)
    for split in ("train", "valid", "test"):
        rows = getattr(data, split)
        for what, column, size in (("user", rows.users, data.n_users),
                                   ("item", rows.items, data.n_items)):
            require(not len(column) or (column.min() >= 0 and column.max() < size),
                    f"{split} has {what} indices outside 0 to {size - 1}",
                    "index the id lists, counted from 0")
            require(column.dtype == np.int64, f"{split}: {what}s are {column.dtype}",
                    "store indices as int64")


def split_disjoint(lab: Lab) -> None:
    """No (user, item) pair is in two parts of the split."""
    data = loaded(lab)
    parts = {s: set(zip(getattr(data, s).users.tolist(), getattr(data, s).items.tolist(),
                        strict=True)) for s in ("train", "valid", "test")}
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        both = parts[a] & parts[b]
        require(not both, f"{len(both)} (user, item) pairs are in {a} and in {b}",
                "drop repeated pairs before splitting: what is known cannot be recommended")


def something_to_find(lab: Lab) -> None:
    """There are train and test positives."""
    data = loaded(lab)
    require(len(data.train.positives()) > 0 and len(data.truth("test")) > 0,
            "train or test has no positive row", "return check(dataset): it says why")


def columns_aligned(lab: Lab) -> None:
    """Attribute columns have one entry per genuine user, or per item."""
    data = loaded(lab)
    for what, columns, size in (("user", data.user_attributes, data.n_genuine),
                                ("item", data.item_attributes, data.n_items)):
        for name, column in columns.items():
            require(len(column) == size, f"{what} attribute {name!r} has {len(column)} entries, "
                    f"there are {size} {what}s", "give one entry each, \"\" or NaN where missing")
    if data.item_text is not None:
        require(len(data.item_text) == data.n_items, "item_text has another length than item_ids",
                "give one text per item")
