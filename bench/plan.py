"""From a grid to cells and jobs: what there is to run, what is skipped and why."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.api import Attack, DatasetPlugin, Defense, ModelPlugin
from bench.errors import BenchError, InputError
from bench.jobs import describe, load_dataset
from bench.keys import Keys, spec
from bench.results import AXES, SCHEMA, Cell, cell_json, labelled

if TYPE_CHECKING:
    from bench.data import Dataset
    from bench.grid import Grid


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the grid.

    Attributes:
        key, train_key: of the cell, and of the trained model it needs.
        status: "skipped" or "failed" where it is known beforehand that it cannot run, with the
            reason; otherwise None.
        unseen: what an attack that means to be adaptive does not see of the defense, or None.
    """

    key: str
    train_key: str
    seed: int
    dataset: DatasetPlugin
    model: ModelPlugin
    defense: Defense
    attack: Attack
    status: str | None = None
    reason: str | None = None
    unseen: str | None = None

    def header(self) -> dict[str, Any]:
        """What the cell's JSON says of which cell it is."""
        threat, unseen = self.attack.threat_model(), self.unseen
        return {"schema": SCHEMA, "key": self.key, "train_key": self.train_key,
                "seed": self.seed, **{axis: labelled(getattr(self, axis)) for axis in AXES},
                "threat": {"stage": threat.stage, "knowledge": threat.knowledge,
                           "goal": threat.goal, "realisable": threat.realisable,
                           "adaptive": self.attack.is_adaptive and not unseen,
                           **({"unseen": unseen} if unseen else {}),
                           "oracle": self.attack.sees_test,
                           "comparable": self.attack.comparable(),
                           "budget": self.attack.budget_text()}}

    def ended(self) -> Cell:
        """The JSON of a cell whose end is known beforehand."""
        return cell_json(self.header(), status=self.status or "failed", reason=self.reason)


@dataclass(frozen=True)
class PlannedJob:
    """One trained model with its cells.

    Attributes:
        undefended: train key of the same model without attack and defense.
        estimate: its cost in arbitrary units.
    """

    train_key: str
    data_key: str
    undefended: str
    cells: tuple[PlannedCell, ...]
    estimate: float

    def only(self, keep: Callable[[PlannedCell], bool]) -> PlannedJob | None:
        """The job with the cells that pass, or None where none does."""
        cells = tuple(c for c in self.cells if keep(c))
        return dataclasses.replace(self, cells=cells) if cells else None


@dataclass(frozen=True)
class Plan:
    """All cells of a grid in its order, and the jobs of those that can run."""

    grid: Grid
    cells: tuple[PlannedCell, ...]
    jobs: tuple[PlannedJob, ...]
    excluded: int
    data: dict[str, Dataset]  # by label

    def job_json(self, job: PlannedJob, *, cache: Path, results: Path, device: str = "auto",
                 fresh: bool = False) -> dict[str, Any]:
        """A job as it crosses a process boundary (see `bench.jobs`)."""
        first, grid = job.cells[0], self.grid
        poison = first.attack if first.attack.trains else None
        return {"train_key": job.train_key, "data_key": job.data_key, "seed": first.seed,
                "undefended": job.undefended,
                "dataset": spec(first.dataset), "model": spec(first.model),
                "defense": spec(first.defense), "poison": None if poison is None else spec(poison),
                "cells": [{"header": c.header(), "attack": spec(c.attack)} for c in job.cells],
                "metrics": list(grid.metrics),
                "groups": {"users": list(grid.groups.users), "items": list(grid.groups.items)},
                "plugins": [str(p) for p in grid.registry.folders], "cache": str(cache),
                "results": str(results), "device": None if device == "auto" else device,
                "threads": grid.engine.threads, "fresh": fresh, "timeout": grid.engine.timeout,
                "estimate": job.estimate}


def make_plan(grid: Grid) -> Plan:
    """Cross everything with everything; load the datasets; ask every plugin what it cannot do.

    Raises:
        InputError: a dataset cannot be loaded, or has no attribute that `groups` asks for.
    """
    from bench.metrics.groups import check_groups

    keys = Keys(threads=grid.engine.threads)
    groups = {"users": grid.groups.users, "items": grid.groups.items}
    data = {}
    data_keys = {}
    for dataset in cast("tuple[DatasetPlugin, ...]", grid.datasets):
        try:
            data_keys[dataset] = keys.data(dataset)
            data[dataset.label()] = load_dataset(dataset, data_keys[dataset])
            check_groups(data[dataset.label()], grid.groups)
        except InputError as error:
            raise _placed(error, grid, dataset) from error
    cells: dict[str, PlannedCell] = {}
    jobs: dict[str, list[PlannedCell]] = {}
    excluded = 0
    for dataset, model, defense, attack in itertools.product(
            cast("tuple[DatasetPlugin, ...]", grid.datasets),
            cast("tuple[ModelPlugin, ...]", grid.models),
            cast("tuple[Defense, ...]", grid.defenses),
            cast("tuple[Attack, ...]", grid.attacks)):
        asked = False
        for seed in grid.seeds:
            if grid.excluded(dataset, model, defense, attack, seed):
                excluded += 1
                continue
            if not asked:
                status, reason, unseen = _ask(model, defense, attack, data[dataset.label()])
                asked = True
            poison = attack if attack.trains else None
            train = keys.train(data_keys[dataset], poison, model, defense, seed)
            key = keys.cell(train, attack, grid.metrics, groups)
            if key in cells:
                continue
            cells[key] = PlannedCell(key, train, seed, dataset, model, defense, attack,
                                     status, reason, unseen)
            if status is None:
                jobs.setdefault(train, []).append(cells[key])
    none = cast(Defense, grid.registry.make("defenses", {"name": "none"}))

    def job(train: str, own: list[PlannedCell]) -> PlannedJob:
        first = own[0]
        data_key = data_keys[first.dataset]
        return PlannedJob(train, data_key, keys.train(data_key, None, first.model, none,
                                                      first.seed),
                          tuple(own), _estimate(own, data[first.dataset.label()]))

    made = tuple(job(train, own) for train, own in jobs.items())
    return Plan(grid, tuple(cells.values()), made, excluded, data)


def _placed(error: InputError, grid: Grid, dataset: DatasetPlugin) -> InputError:
    """The error with the grid it came from, where it names no file of its own."""
    if error.file is not None:
        return error
    key = error.key or ""
    if not key.startswith("groups"):
        key = f"datasets: {dataset.name}" + (f": {key.removeprefix(f'{dataset.name}: ')}"
                                             if key else "")
    line = grid.lines.get(key.split(".")[0].split(":")[0])
    return InputError(error.what, file=grid.path, line=line, key=key, hint=error.hint)


def _ask(model: ModelPlugin, defense: Defense, attack: Attack,
         data: Dataset) -> tuple[str | None, str | None, str | None]:
    """Status, reason, and what the attack does not see of the defense: ("skipped", reason, None)
    by the first that cannot, ("failed", …) where asking fails."""
    asks: tuple[tuple[Any, Callable[[], str | None]], ...] = (
        (model, lambda: model.unfit(data)), (defense, lambda: defense.unfit(model, data)),
        (attack, lambda: attack.unfit(model, data)),
        (attack, lambda: attack.unfit_defended(defense, model, data)))
    for plugin, ask in asks:
        try:
            reason = ask()
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, BenchError) else describe(error)
            return "failed", f"{plugin.name} could not say whether it fits: {text}", None
        if reason is not None and not isinstance(reason, str):
            return "failed", (f"{plugin.name} could not say whether it fits: unfit() gave "
                              f"{type(reason).__name__}; a reason in words, or None, is "
                              "needed"), None
        if reason:
            return "skipped", reason, None
    try:
        return None, None, attack.unseen(defense, data)
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, BenchError) else describe(error)
        return "failed", f"{attack.name} could not say what it sees of {defense.name}: {text}", None


def _estimate(cells: Sequence[PlannedCell], data: Dataset) -> float:
    """A cheap guess at a job's cost: rows times epochs, and a pass of scoring per cell."""
    epochs = float(getattr(cells[0].model, "epochs", 1))
    factor = 1.0 if cells[0].defense.name == "none" else 3.0
    rows = len(data.train)
    return rows * epochs * factor + len(cells) * rows + 1.0


def show_plan(grid_path: Path | str, *, results: Path | str | None = None,
              only: Sequence[str] = (), engine: str | None = None,
              workers: int | None = None) -> int:
    """Print cells, trainings, what is finished, what is skipped and why; run nothing.

    Returns:
        0, or 2 for bad input.
    """
    from bench.session import Session, complaint

    try:
        for line in Session.open(grid_path, results, engine, workers, only).lines():
            print(line)
    except InputError as error:
        print(complaint(error), file=sys.stderr)
        return 2
    return 0
