"""Attribute files of users and items: one row per id, columns of numbers, categories or lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.columns import Faults, ids, numbers
from bench.errors import InputError
from bench.tables import Table

KINDS = ("number", "category", "list")


@dataclass(frozen=True)
class Wanted:
    """A column to take: what to call it, where it is, and what it holds ("" is to be seen)."""

    name: str
    where: str
    kind: str = ""


def wanted(texts: Sequence[str], key: str) -> list[Wanted]:
    """Columns from texts such as "gender", "gender=2", "zip=5:category", "genre:list"."""
    found: list[Wanted] = []
    for text in texts:
        match = re.fullmatch(rf"(?:([^=]+)=)?(.+?)(?::({'|'.join(KINDS)}))?", text.strip())
        if match is None:
            raise InputError(f"{text!r} names no column", key=key,
                             hint="such as gender, gender=2 or zip=5:category")
        name, where, kind = match.groups()
        if name is None and where.isdecimal():
            raise InputError(f"the column at position {where} has no name", key=key,
                             hint=f"such as gender={where}")
        found.append(Wanted((name or where).strip(), where.strip(), kind or ""))
        if len({w.name for w in found}) < len(found):
            raise InputError(f"two columns are called {found[-1].name!r}", key=key)
    return found


class Attributes:
    """An attribute file joined to the users or items of a dataset.

    Args:
        table: the file's columns.
        id_column: where the ids stand.
        known: the dataset's ids; rows of other ids are left out, and counted.
        what: "user" or "item"; the parameters are called after it.
        bad_rows: "error" or "drop", for broken rows and for a second row of one id.
    """

    def __init__(self, table: Table, id_column: str, known: Sequence[str], what: str,
                 bad_rows: str) -> None:
        self.table, self.what = table, what
        faults = Faults(table.path, table.lines, bad_rows)
        faults.uneven(table.uneven, len(table.columns))
        names = ids(table.column(id_column, f"{what}_id"), what, faults)
        row_of: dict[str, int] = {}
        again = np.array([row_of.setdefault(name, n) != n for n, name in enumerate(names)], bool)
        faults.add(again, f"{what} id stands on a second row", names)
        counted = faults.settle()
        self.rows = np.array([row_of.get(name, -1) for name in known], np.int64)
        if (self.rows < 0).all():
            raise InputError(f"no {what} of the interactions is in this file; its ids are like "
                             f"{names[0]!r}, theirs like {known[0]!r}", file=table.path,
                             key=f"{what}_id", hint="name the column that holds the ids")
        self.notes = {f"{what} file: {k}": n for k, n in counted.items()}
        self.notes[f"{what}s without attributes"] = int((self.rows < 0).sum())
        self.notes[f"{what}s described, without rows"] = \
            len(row_of) - int((self.rows >= 0).sum())

    def texts(self, where: str, key: str) -> list[str]:
        """One text per known id, "" where it has no row."""
        column = self.table.column(where, key)
        return ["" if n < 0 else column[n] for n in self.rows]

    def columns(self, asked: Sequence[str], id_column: str, separator: str,
                skip: Sequence[str] = ()) -> Mapping[str, npt.NDArray[np.generic]]:
        """The columns asked for, or all but the id and `skip` where none are and a header names
        them. A kind not stated is seen: a list where a value holds the separator, a number where
        all values are numbers or missing, else a category.
        """
        key = f"{self.what}_columns"
        names = wanted(asked, key)
        if not names and self.table.header is None and not any(skip):
            raise InputError("no columns are named, and the file has no header to name them",
                             file=self.table.path, key=key,
                             hint="such as gender=2, with positions counted from 1")
        if not names and self.table.header is not None:
            apart = [self.table.column(c, key) for c in (id_column, *skip) if c]
            names = [Wanted(h, str(n)) for n, h in enumerate(self.table.header, 1)
                     if not any(self.table.columns[n - 1] is c for c in apart)]
        return {w.name: self._typed(w, self.texts(w.where, key), separator) for w in names}

    def _typed(self, want: Wanted, texts: list[str], separator: str) -> npt.NDArray[np.generic]:
        filled = [t for t in texts if t]
        kind = want.kind
        if not kind:
            seen = np.isfinite(numbers(filled))
            kind = "list" if any(separator in t for t in filled) else \
                "number" if len(filled) and seen.all() else "category"
        if kind == "list":
            column = np.empty(len(texts), object)
            column[:] = [tuple(v.strip() for v in t.split(separator) if v.strip()) for t in texts]
            return column
        if kind == "category":
            return np.array(texts, object)
        values = numbers(texts)
        wrong = [n for n, t in enumerate(texts) if t and not np.isfinite(values[n])]
        if wrong:
            raise InputError(f"{texts[wrong[0]]!r} is not a number, and {want.name!r} is said to "
                             "hold numbers", file=self.table.path,
                             line=int(self.table.lines[self.rows[wrong[0]]]),
                             key=f"{self.what}_columns", hint=f"{want.name}:category takes texts")
        return values


