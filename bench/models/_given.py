"""Lists made elsewhere: read, matched with a dataset's ids, turned into scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.columns import Faults, ids, numbers
from bench.data import Dataset, Floats, Ints
from bench.errors import InputError
from bench.models.base import Recommender
from bench.tables import find_file, read_lists, read_table

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.given_lists import GivenLists
    from bench.training import FitResult, Progress


@dataclass(frozen=True)
class Rows:
    """The rows of a file: user, item, and what the list is sorted by (lower first)."""

    users: Sequence[str]
    items: Sequence[str]
    order: Floats
    notes: Mapping[str, int]


def read_rows(hyper: GivenLists) -> Rows:
    """The rows of the plugin's file.

    Raises:
        InputError: with file and line, for what cannot be read.
    """
    path = find_file(hyper.path, "path")
    if hyper.layout == "lists":
        return _lists(path, hyper)
    places = [hyper.user, hyper.item, hyper.rank, hyper.score]
    table = read_table(path, separator=hyper.separator, header=hyper.header,
                       encoding=hyper.encoding,
                       by_name=any(p and not p.isdecimal() for p in places))
    faults = Faults(path, table.lines, hyper.bad_rows)
    faults.uneven(table.uneven, len(table.columns))
    users = ids(table.column(hyper.user, "user"), "user", faults)
    items = ids(table.column(hyper.item, "item"), "item", faults)
    order = np.arange(len(table), dtype=np.float64)
    for key, sign in (("rank", 1.0), ("score", -1.0)):
        if getattr(hyper, key):
            texts = table.column(getattr(hyper, key), key)
            order = sign * numbers(texts)
            faults.add(~np.isfinite(order), f"{key} is not a finite number", texts)
    notes = faults.settle()
    good = np.flatnonzero(faults.good).tolist()
    return Rows([users[n] for n in good], [items[n] for n in good], order[good], notes)


def _lists(path: Path, hyper: GivenLists) -> Rows:
    """A user and its items, the best first, on each line."""
    fields, lines = read_lists(path, separator=hyper.separator, encoding=hyper.encoding)
    if hyper.header:
        fields, lines = fields[1:], lines[1:]
    faults = Faults(path, lines, hyper.bad_rows)
    faults.add(np.array([not all(f) for f in fields], bool), "an empty id",
               [" ".join(f) for f in fields])
    notes = faults.settle()
    kept = [f for f, good in zip(fields, faults.good, strict=True) if good]
    pairs = [(f[0], item) for f in kept for item in f[1:]]
    return Rows([u for u, _ in pairs], [i for _, i in pairs],
                np.arange(len(pairs), dtype=np.float64), notes)


class ListRecommender(Recommender):
    """See `bench.models.given_lists.GivenLists`."""

    score_kind = "other"

    def __init__(self, hyper: GivenLists, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper = hyper
        self.notes: dict[str, int] = {}
        self._lists = self._matched(read_rows(hyper))
        self._rest = self._unlisted()

    def _matched(self, rows: Rows) -> dict[int, tuple[Ints, Ints]]:
        """User -> items, the best first, and their levels 0, 1, …, equal where the file ties."""
        data, real = self.data, self.data.n_genuine
        user = {u: n for n, u in enumerate(data.user_ids[:real])}
        item = {i: n for n, i in enumerate(data.item_ids)}
        users = np.array([user.get(u, -1) for u in rows.users], np.int64)
        items = np.array([item.get(i, -1) for i in rows.items], np.int64)
        for what, found, given in (("user", users, rows.users), ("item", items, rows.items)):
            if not (found >= 0).any():
                raise InputError(
                    f"none of the {what}s is in {data.name}: the file has {given[0]!r}, the data "
                    f"{(data.user_ids if what == 'user' else data.item_ids)[0]!r}" if given else
                    "the file has no lists", file=self.hyper.path, key=what,
                    hint="ids are those of the data's own files; check the columns")
        good = (users >= 0) & (items >= 0)
        if not good.any():
            raise InputError(f"no row has both a user and an item of {data.name}",
                             file=self.hyper.path, hint="check the columns user and item, and "
                             "that the ids are the dataset's outside ids")
        key, order = users[good] * data.n_items + items[good], rows.order[good]
        by = np.lexsort((np.arange(len(key)), order, key))
        key, order = key[by], order[by]
        first = np.append(True, key[1:] != key[:-1])[:len(key)]  # of a repeated pair the best row
        repeated = int((~first).sum())
        key, order = key[first], order[first]
        known = data.known("test")
        old = np.isin(key, known.users * data.n_items + known.items)
        lists: dict[int, tuple[Ints, Ints]] = {}
        owner, chosen = key // data.n_items, key % data.n_items
        for part in np.split(np.arange(len(key)), np.flatnonzero(np.diff(owner)) + 1):
            places = part[np.argsort(order[part], kind="stable")]
            levels = np.cumsum(np.append(False, np.diff(order[places]) > 0))
            lists[int(owner[part[0]])] = chosen[places], levels.astype(np.int64)
        self.notes = {
            **rows.notes, "list_users": len(lists), "users_without_list": real - len(lists),
            "rows_of_unknown_users": int((users < 0).sum()),
            "rows_of_unknown_items": int(((items < 0) & (users >= 0)).sum()),
            "rows_repeated": repeated, "rows_already_known": int(old.sum()),
            "rows_used": int((~old).sum())}
        return lists

    def _unlisted(self) -> Tensor:
        """Scores below every list, (items,)."""
        rest = np.zeros(self.data.n_items, np.float32)
        if self.hyper.rest == "rare-first":
            order = np.lexsort((np.arange(self.data.n_items), self.data.popularity))
            rest[order] = -np.arange(self.data.n_items, dtype=np.float32)
        return torch.from_numpy(rest).to(self.ctx.device)

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        return FitResult(notes=dict(self.notes))

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        found = self._rest.repeat(len(users), 1)  # (B, items)
        for row, user in enumerate(users.tolist()):
            if user in self._lists:
                items, levels = self._lists[user]
                values = torch.from_numpy(levels[-1] + 1 - levels).float()
                found[row, torch.from_numpy(items).to(found.device)] = values.to(found.device)
        return found

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        return None
