"""The results folder of a run: a cell's JSON and tables, the plan, the long table.

    results/<run>/grid.yaml  environment.json  plan.json
    results/<run>/cells/<key>.json  users/<key>.parquet  items/<key>.parquet  logs/<key>.txt
    results/<run>/results.parquet

Cells that the grid no longer has move to former/, so that no table counts them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from bench.environment import environment
from bench.errors import InputError
from bench.keys import plain, spec
from bench.store import StoredCell, write_atomically

if TYPE_CHECKING:
    from bench.api import Plugin

SCHEMA = 2
STATUSES = ("ok", "skipped", "failed", "timeout")
AXES = ("dataset", "model", "defense", "attack")
COSTS = ("train_seconds", "attack_seconds", "defense_seconds", "score_seconds",
         "train_samples_per_s", "score_users_per_s", "peak_memory_mb", "queries", "device")
LONG = (*AXES, "seed", "status", "metric", "group", "value")


class PluginSpec(TypedDict):
    """A plugin in a cell: enough to make it again, and its name in tables."""

    name: str
    params: dict[str, Any]
    label: str


class Cell(TypedDict):
    """The JSON of a cell. What is not deterministic is in `cost` alone."""

    schema: int
    key: str
    train_key: str
    seed: int
    dataset: PluginSpec
    model: PluginSpec
    defense: PluginSpec
    attack: PluginSpec
    threat: dict[str, Any]
    status: str
    reason: str | None
    values: list[list[Any]]
    facts: dict[str, Any]
    privacy: dict[str, Any]
    cost: dict[str, Any]


def labelled(plugin: Plugin) -> PluginSpec:
    """A plugin as a cell names it."""
    made = plain(spec(plugin))
    return {"name": made["name"], "params": made["params"], "label": plugin.label()}


def cell_json(header: Mapping[str, Any], *, status: str, reason: str | None = None,
              values: Sequence[Sequence[Any]] = (), facts: Mapping[str, Any] | None = None,
              privacy: Mapping[str, Any] | None = None,
              cost: Mapping[str, Any] | None = None) -> Cell:
    """The JSON of a cell: its header (which cell it is) and what came out."""
    made: Cell = plain({**header, "status": status, "reason": reason,
                        "values": [list(v) for v in values], "facts": facts or {},
                        "privacy": privacy or {}, "cost": cost or {}})
    return made


def problem(cell: object) -> str | None:
    """Why this is not the JSON of a cell, or None."""
    if not isinstance(cell, dict):
        return "it is no mapping"
    wanted = Cell.__annotations__
    if set(cell) != set(wanted):
        return f"its keys differ: {sorted(set(cell) ^ set(wanted))}"
    kinds: dict[str, Any] = {"schema": int, "key": str, "train_key": str, "seed": int,
                             "threat": dict, "status": str, "values": list, "facts": dict,
                             "privacy": dict, "cost": dict}
    for key, kind in kinds.items():
        if not isinstance(cell[key], kind) or isinstance(cell[key], bool):
            return f"{key} is not of type {kind.__name__}"
    if cell["schema"] != SCHEMA:
        return f"schema is {cell['schema']}, {SCHEMA} is known"
    if cell["status"] not in STATUSES:
        return f"status {cell['status']!r} is none of {', '.join(STATUSES)}"
    if (cell["reason"] is None) != (cell["status"] == "ok"):
        return "a cell has a reason exactly where it is not ok"
    for axis in AXES:
        part = cell[axis]
        if (not isinstance(part, dict) or set(part) != {"name", "params", "label"}
                or not isinstance(part["params"], dict)):
            return f"{axis} is no {{name, params, label}}"
    for row in cell["values"]:
        if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)
                and isinstance(row[1], str)
                and (row[2] is None or isinstance(row[2], (int, float)))):
            return f"a value is no [metric, group, number]: {row!r}"
    if cell["status"] == "ok" and set(cell["cost"]) != set(COSTS):
        return f"cost has other keys: {sorted(set(cell['cost']) ^ set(COSTS))}"
    return None


@dataclass(frozen=True)
class Folder:
    """The results folder of one run."""

    path: Path

    def cell(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.json"

    def users(self, key: str) -> Path:
        return self.path / "users" / f"{key}.parquet"

    def items(self, key: str) -> Path:
        return self.path / "items" / f"{key}.parquet"

    def log(self, key: str) -> Path:
        return self.path / "logs" / f"{key}.txt"

    def write(self, cell: Cell) -> None:
        """Write a cell's JSON; its tables, where it has any, are written before."""
        wrong = problem(cell)
        if wrong:
            raise ValueError(f"not the JSON of a cell: {wrong}")
        text = json.dumps(cell, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path = self.cell(cell["key"])
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def write_log(self, key: str, text: str) -> None:
        write_atomically(self.log(key), text)

    def read(self, key: str) -> Cell | None:
        """A cell's JSON, or None where it is absent or no such JSON."""
        try:
            cell = json.loads(self.cell(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if problem(cell) or cell["key"] != key:
            return None
        made: Cell = cell
        return made

    def finished(self, key: str) -> bool:
        """Whether the folder holds this cell, ok and with its tables."""
        if not (_is_parquet(self.users(key)) and _is_parquet(self.items(key))):
            return False
        cell = self.read(key)
        return cell is not None and cell["status"] == "ok"

    def restore(self, header: Mapping[str, Any], stored: StoredCell) -> None:
        """Copy a finished cell from the cache; the header is this run's own."""
        key = header["key"]
        for source, target in ((stored.users, self.users(key)), (stored.items, self.items(key))):
            content = source.read_bytes()
            if not target.is_file() or target.read_bytes() != content:
                write_atomically(target, content)
        self.log(key).unlink(missing_ok=True)
        self.write(plain({**stored.cell, **header}))

    # -- of the whole run --------------------------------------------------------------------

    def start(self, grid_text: str, headers: Iterable[Mapping[str, Any]], work: bool) -> None:
        """Write grid.yaml, plan.json and environment.json; move former cells away.

        Args:
            work: whether there is anything to compute; if not, environment.json stays that of
                the run that computed.

        Raises:
            InputError: the folder cannot be written.
        """
        headers = list(headers)
        try:
            write_atomically(self.path / "grid.yaml", grid_text)
            cells = [{"key": h["key"], "train_key": h["train_key"], "seed": h["seed"],
                      **{axis: h[axis]["label"] for axis in AXES}} for h in headers]
            write_atomically(self.path / "plan.json",
                             json.dumps({"schema": SCHEMA, "cells": cells}, indent=1,
                                        ensure_ascii=False) + "\n")
            if work or not _whole(self.path / "environment.json"):
                write_atomically(self.path / "environment.json",
                                 json.dumps(environment(), indent=1, ensure_ascii=False) + "\n")
            for kind in ("cells", "users", "items"):
                (self.path / kind).mkdir(exist_ok=True)
            self._move_former({h["key"] for h in headers})
        except OSError as error:
            at = Path(error.filename or self.path)
            raise InputError(f"the results folder cannot be written: {error.strerror}",
                             file=at if at.parent == self.path else self.path,
                             hint="give another with --results DIR") from error

    def _move_former(self, keys: set[str]) -> None:
        for kind in ("cells", "users", "items", "logs"):
            for path in (self.path / kind).glob("[!.]*"):
                if path.stem not in keys:
                    target = self.path / "former" / kind / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
            for path in (self.path / kind).glob(".*"):  # left by a killed process
                path.unlink()

    def planned(self) -> list[str]:
        """The keys of the run's cells in the grid's order, or of all cells without a plan."""
        try:
            plan = json.loads((self.path / "plan.json").read_text(encoding="utf-8"))
            for cell in plan["cells"]:
                if not (all(isinstance(cell[k], str) for k in ("key", *AXES))
                        and isinstance(cell["seed"], int)):
                    raise ValueError(f"{cell} is no cell of a plan")
            return [c["key"] for c in plan["cells"]]
        except FileNotFoundError:
            return sorted(p.stem for p in (self.path / "cells").glob("*.json"))
        except (ValueError, KeyError, TypeError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"the plan cannot be read: {what}", file=self.path / "plan.json",
                             hint="run the grid again, which writes it anew") from error

    def cells(self) -> list[Cell]:
        """All cells of the run that have been written, in the grid's order."""
        found = (self.read(key) for key in self.planned())
        return [cell for cell in found if cell is not None]

    def write_table(self) -> Path:
        """Write results.parquet, the long table: one row per cell, metric and group. A cell
        without values has one row that names its status. Costs are not in it, so that the same
        seed gives the same bytes."""
        import numpy as np

        from bench.store import write_table

        rows = [row for cell in self.cells() for row in long_rows(cell)]
        columns: dict[str, Any] = {}
        for at, name in enumerate(LONG):
            kind: Any = {"seed": np.int64, "value": np.float64}.get(name, object)
            columns[name] = np.array([row[at] for row in rows], kind)
        write_table(self.path / "results.parquet", columns)
        return self.path / "results.parquet"


def _whole(path: Path) -> bool:
    """Whether a JSON mapping can be read from this file."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _is_parquet(path: Path) -> bool:
    """Whether the file begins and ends as parquet does: one that was cut off does not."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
            file.seek(-4, os.SEEK_END)
            return first == file.read(4) == b"PAR1"
    except OSError:
        return False


def long_rows(cell: Cell) -> list[tuple[Any, ...]]:
    """The rows of the long table that a cell gives, in the order of LONG."""
    names: dict[str, Any] = dict(cell)
    head = (*(names[axis]["label"] for axis in AXES), cell["seed"], cell["status"])
    values = [(metric, group, value) for metric, group, value in cell["values"]]
    values += [(name, "all", v) for name, v in sorted(cell["privacy"].items())
               if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if not values:
        values = [("", "", None)]
    return [(*head, metric, group, float("nan") if value is None else float(value))
            for metric, group, value in values]
