"""Interactions from any delimited files: one file to split, or files that are split already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.api import Dataset, param
from bench.attributes import Attributes, wanted
from bench.columns import event_labels
from bench.errors import InputError
from bench.logs import Format, read_logs
from bench.prepare import PreparedDataset
from bench.splits import TEST, TRAIN, VALID
from bench.tables import find_file, read_table

PARTS = {"path": TRAIN, "train": TRAIN, "valid": VALID, "test": TEST}
COLUMNS = ("user", "item", "rating", "time", "event")


class Table(PreparedDataset):
    """Reads users, items, ratings, times, events and attributes from delimited files.

    Columns are asked for by their name in the header or by position, counted from 1. Give `path`
    for one file that is filtered and split here, or `train`, `test` and perhaps `valid` for files
    whose split is kept. No paper.

    Rules, each counted in the dataset's notes: a broken row stops everything unless `bad_rows`
    says drop; of a repeated (user, item) pair one row stays (`duplicates`); a pair that is in two
    given parts stops everything unless `overlap` says which part keeps it; valid and test rows of
    users who are not in train are dropped, since no model could know them; test items that are
    not in train stay, since a recommender is answerable for the whole catalogue. The catalogue is
    every item that has a row.

    Raises InputError, with file and line, for what cannot be read.

    Example: datasets: [{table: {path: ratings.tsv, rating: 3, time: 4, split: leave-one-out}}]
    """

    name = "table"
    called: str = param("", "name of the data in tables; empty: what the files are called")
    path: str = param("", "the one file that is split here; ~ and .gz are understood")
    train: str = param("", "train rows, where the split is given")
    valid: str = param("", "validation rows, where the split is given")
    test: str = param("", "test rows, where the split is given")
    layout: str = param("rows", "rows: an interaction per line; lists: a user and all its items "
                        "per line", choices=("rows", "lists"))
    separator: str = param("auto", "between fields: auto (from extension and first line), tab, "
                           "comma, semicolon, pipe, space (any run of blanks), or a text like ::")
    header: bool | None = param(None, "whether the first line names the columns; null: yes if "
                                "columns are asked by name, else if it looks like it")
    encoding: str = param("utf-8", "of all files, such as utf-8, latin-1, utf-16")
    user: str = param("1", "column of users: name, or position from 1")
    item: str = param("2", "column of items")
    rating: str = param("", "column of ratings; empty: implicit data")
    time: str = param("", "column of times, numbers or ISO dates; empty: none")
    scale: tuple[float, ...] = param((), "lowest and highest possible rating; empty: as found")
    event: str = param("", "column of event types, for event logs")
    events: tuple[str, ...] = param((), "label of each event type, such as [purchase=1, browse=0]")
    unknown_events: str = param("error", "event types that are not in events",
                                choices=("error", "drop"))
    bad_rows: str = param("error", "broken rows: named and refused, or dropped and counted",
                          choices=("error", "drop"))
    overlap: str = param("error", "pairs in two given parts: refused, or kept in the first or in "
                         "the last of train, valid, test alone",
                         choices=("error", "keep-first", "keep-last"))
    valid_rows: int = param(0, "with train and test given and no valid: newest train rows of each "
                            "user held out for validation (drawn, where there are no times)",
                            low=0)
    user_file: str = param("", "attributes of users, a row each")
    user_id: str = param("1", "its column of user ids")
    user_columns: tuple[str, ...] = param((), "columns to take: name, name=position, and :number, "
                                          ":category or :list after it; empty: all in the header")
    item_file: str = param("", "attributes of items, a row each")
    item_id: str = param("1", "its column of item ids")
    item_columns: tuple[str, ...] = param((), "as user_columns")
    feature_file: str = param("", "feature vectors of items (image, text): the id, then numbers, "
                              "a row each; models find them under the name \"file\"")
    text: str = param("", "column of item_file with the text that language models read")
    value_separator: str = param("|", "between the values of a list in an attribute")

    def label(self) -> str:
        """`called` and the rules that differ; or everything that differs."""
        if not self.called:
            return super().label()
        shared = set(PreparedDataset.__dataclass_fields__)
        rules = ", ".join(f"{k}={v}" for k, v in self.changed().items() if k in shared)
        return f"{self.called}({rules})" if rules else self.called

    def files(self) -> list[str]:
        return [str(path) for path in self._paths().values()]

    def load(self) -> Dataset:
        self._refuse_contradictions()
        paths = self._paths()
        parts = {PARTS[key]: path for key, path in paths.items() if key in PARTS}
        log = read_logs(parts, self._format(), split=not self.path)
        scale = self.scale
        if not scale and log.ratings is not None and len(log.ratings):
            scale = (float(log.ratings.min()), float(log.ratings.max()))
        data = self.prepare(log, (scale[0], scale[1]) if scale else None, self.overlap,
                            self.valid_rows)
        for what in ("user", "item"):
            if f"{what}_file" in paths:
                data = self._described(data, what, paths[f"{what}_file"])
        if "feature_file" in paths:
            data = self._with_features(data, paths["feature_file"])
        return data.replace(name=self.called or self.name)

    def _paths(self) -> dict[str, Path]:
        """Parameter -> the file it names, for all that are given."""
        keys = (*PARTS, "user_file", "item_file", "feature_file")
        return {key: find_file(getattr(self, key), key) for key in keys if getattr(self, key)}

    def _format(self) -> Format:
        shared = {f: getattr(self, f) for f in (
            "layout", "separator", "header", "encoding", "scale", "unknown_events", "bad_rows")}
        columns = {c: str(getattr(self, c)) for c in COLUMNS}
        return Format(events=event_labels(self.events), **shared, **columns)

    def _refuse_contradictions(self) -> None:
        """Parameters that cannot go together, before any file is read."""
        split = bool(self.train or self.valid or self.test)
        for wrong, key, what, hint in (
            (not self.path and not (self.train and self.test), "path", "no file is given to read",
             "path: one file to split; or train and test, and perhaps valid: files already split"),
            (bool(self.path) and split, "path", "both path and files already split are given",
             "take one of the two"),
            (split and self.k_core > 1, "k_core", "a k-core would change a split that is given",
             "give one file as path, or leave k_core out"),
            (bool(self.valid_rows) and (not split or bool(self.valid)), "valid_rows",
             "valid_rows is for train and test without valid", "leave one of them out"),
            (bool(self.event) != bool(self.events), "events",
             "event and events need each other", "event: type, events: [purchase=1, browse=0]"),
            (bool(self.events) and self.threshold is not None, "threshold",
             "both events and a threshold say what is liked", "leave one of them out"),
            (bool(self.scale) and not (len(self.scale) == 2 and self.scale[0] < self.scale[1]),
             "scale", "a scale is its lowest and its highest rating", "such as [1, 5]"),
            (not self.user or not self.item, "user", "users and items need a column each",
             "its name, or its position counted from 1"),
            (self.layout == "lists" and any(self.changed().get(c) for c in (*COLUMNS, "header")),
             "layout", "lists hold a user and its items, and no other columns",
             "leave user, item, rating, time, event and header out, or set layout: rows"),
            (bool(self.user_columns) and not self.user_file, "user_columns",
             "columns of users are asked, and no user_file is given", "give user_file"),
            (bool(self.item_columns or self.text) and not self.item_file, "item_columns",
             "columns or text of items are asked, and no item_file is given", "give item_file"),
        ):
            if wrong:
                raise InputError(what, key=f"{self.name}: {key}", hint=hint)

    def _with_features(self, data: Dataset, path: Path) -> Dataset:
        """The data with the feature vectors of its items; an item without a row has zeros."""
        table = read_table(path, encoding=self.encoding)
        rows = Attributes(table, "1", data.item_ids, "item", self.bad_rows)
        if len(table.columns) < 2:
            raise InputError("the rows hold an id and no numbers", file=path, line=1,
                             key=f"{self.name}: feature_file", hint="the id, then the vector")
        columns = rows.columns([f"{n}={n}:number" for n in range(2, len(table.columns) + 1)], "1",
                               self.value_separator)
        vectors = np.nan_to_num(np.stack(list(columns.values()), axis=1)).astype(np.float32)
        notes = {**data.notes, **{f"feature_file, {k}": n for k, n in rows.notes.items()}}
        return data.replace(item_features={"file": vectors}, notes=notes)

    def _described(self, data: Dataset, what: str, path: Path) -> Dataset:
        """The data with the attributes of one file."""
        id_column = str(getattr(self, f"{what}_id"))
        asked: tuple[str, ...] = getattr(self, f"{what}_columns")
        text = self.text if what == "item" else ""
        places = [id_column, text, *(w.where for w in wanted(asked, f"{what}_columns"))]
        table = read_table(path, encoding=self.encoding,
                           by_name=any(p and not p.isdecimal() for p in places))
        known = data.user_ids if what == "user" else data.item_ids
        rows = Attributes(table, id_column, known, what, self.bad_rows)
        columns = rows.columns(asked, id_column, self.value_separator, skip=(text,))
        changes: dict[str, object] = {f"{what}_attributes": columns,
                                      "notes": {**data.notes, **rows.notes}}
        if text:
            changes["item_text"] = rows.texts(text, "text")
        return data.replace(**changes)
