"""Reading a run folder back: cells, their per-user and per-item tables, the grid's own order."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.results import AXES, SCHEMA, Folder, problem

ACCURACY = ("ndcg", "hr", "recall", "precision", "f1", "mrr", "map", "auc", "point-")


@dataclass(frozen=True)
class Spec:
    """A plugin as a cell names it."""

    name: str
    params: Mapping[str, Any]
    label: str


@dataclass(frozen=True)
class Cell:
    """One cell of the run: one seed of one row and column of the leaderboard. `raw` is its
    JSON as `bench.results` describes it."""

    raw: Any
    key: str
    seed: int
    dataset: Spec
    model: Spec
    defense: Spec
    attack: Spec
    threat: Mapping[str, Any]
    status: str
    reason: str | None
    values: Mapping[tuple[str, str], float]
    facts: Mapping[str, Any]
    privacy: Mapping[str, float]
    cost: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def _mistyped(raw: Any) -> str | None:
    """What the report computes with and is of another type, or None."""
    for axis in AXES:
        if not all(isinstance(raw[axis][key], str) for key in ("name", "label")):
            return f"name and label of {axis} are not text"
    kinds: dict[str, Any] = {"small_groups": dict, "targets": list, "tie_share": (int, float)}
    for key, kind in kinds.items():
        if not isinstance(raw["facts"].get(key), (kind, type(None))):
            return f"facts: {key} has another type: {raw['facts'][key]!r}"
    for key in ("epsilon", "delta"):
        if not isinstance(raw["privacy"].get(key, 0.0), (int, float)):
            return f"privacy: {key} is no number: {raw['privacy'][key]!r}"
    return None


def _cell(path: Path) -> Cell:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"the cell cannot be read: {error}", file=path,
                         hint="delete this file and run the grid again: only it is made anew"
                         ) from error
    wrong = problem(raw) or _mistyped(raw)
    if wrong:
        raise InputError(f"this is no cell of schema {SCHEMA}: {wrong}", file=path,
                         hint="delete this file and run the grid again: only it is made anew")
    specs = {axis: Spec(**raw[axis]) for axis in AXES}
    values = {(metric, group): math.nan if value is None else float(value)
              for metric, group, value in raw["values"]}
    return Cell(raw=raw, key=raw["key"], seed=raw["seed"], threat=raw["threat"],
                status=raw["status"], reason=raw["reason"], values=values, facts=raw["facts"],
                privacy=raw["privacy"], cost=raw["cost"], **specs)


@dataclass(frozen=True)
class Run:
    """A run folder. Tables are read when they are asked for."""

    path: Path
    cells: tuple[Cell, ...]
    plan: tuple[Mapping[str, Any], ...] = ()
    grid: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.grid.get("name") or self.path.resolve().name)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds asked for by the grid, or all that occur."""
        asked = {int(cell["seed"]) for cell in self.plan}
        return tuple(sorted(asked | {cell.seed for cell in self.cells}))

    def users(self, cell: Cell, columns: Sequence[str] | None = None
              ) -> dict[str, npt.NDArray[Any]]:
        """The cell's per-user table; of `columns`, those that are there. Empty if not stored."""
        return _table(self.path / "users" / f"{cell.key}.parquet", columns)

    def items(self, cell: Cell, columns: Sequence[str] | None = None
              ) -> dict[str, npt.NDArray[Any]]:
        """The cell's per-item table, as `users`."""
        return _table(self.path / "items" / f"{cell.key}.parquet", columns)

    @cached_property
    def _planned(self) -> dict[str, dict[str, int]]:
        """Axis -> label -> its place in the grid."""
        places: dict[str, dict[str, int]] = {axis: {} for axis in AXES}
        for cell in self.plan:
            for axis in AXES:
                places[axis].setdefault(cell[axis], len(places[axis]))
        return places

    def place(self, axis: str, spec: Spec) -> tuple[Any, ...]:
        """A sort key: none first, then the grid's order, then names and parameters by value."""
        known = self._planned[axis]
        natural = [(0, float(part), "") if _number(part) else (1, 0.0, part)
                   for part in re.split(r"([-+]?\d+\.?\d*(?:e[-+]?\d+)?)", spec.label)]
        return (spec.name != "none", known.get(spec.label, len(known)), natural)

    @property
    def waiting(self) -> int:
        """Cells of the plan that have not been written yet."""
        written = {cell.key for cell in self.cells}
        return sum(cell["key"] not in written for cell in self.plan)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _table(path: Path, columns: Sequence[str] | None) -> dict[str, npt.NDArray[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        return {}
    try:
        file = parquet.ParquetFile(path)
        wanted = None if columns is None else [c for c in columns if c in file.schema_arrow.names]
        table = file.read(columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"the table cannot be read: {error}", file=path,
                         hint="delete it together with its cell and run the grid again"
                         ) from error
    return {name: np.asarray(table[name].to_numpy()) for name in table.column_names}


def load(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: no such folder, no cells in it, or a file that cannot be read.
    """
    import yaml

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such run folder", file=folder,
                         hint="give the folder that `bench run` printed, such as results/NAME")
    keys = Folder(folder).planned()
    paths = [p for p in (folder / "cells" / f"{key}.json" for key in keys) if p.is_file()]
    if not paths:
        raise InputError("the run folder has no cells", file=folder,
                         hint="`bench run GRID` fills it; a run folder holds cells/*.json")
    plan = _json(folder / "plan.json").get("cells", [])
    grid: Any = {}
    if (folder / "grid.yaml").is_file():
        try:
            grid = yaml.safe_load((folder / "grid.yaml").read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"the run's grid cannot be read: {error}",
                             file=folder / "grid.yaml") from error
    return Run(folder, tuple(_cell(p) for p in paths), tuple(plan),
               grid if isinstance(grid, dict) else {}, _json(folder / "environment.json"))


def _json(path: Path) -> dict[str, Any]:
    """A JSON mapping, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"the file cannot be read: {error}", file=path,
                         hint="run the grid again, which writes it anew") from error
    return found if isinstance(found, dict) else {}


def primary_metric(cells: Sequence[Cell]) -> str:
    """ndcg@10 where it was measured, else the first accuracy metric; "" where nothing ran."""
    names = list(dict.fromkeys(m for c in cells if c.ok for m, group in c.values
                               if group == "all"))
    accuracy = [n for n in names if n.startswith(ACCURACY)]
    return "ndcg@10" if "ndcg@10" in accuracy else (accuracy[0] if accuracy else "")
