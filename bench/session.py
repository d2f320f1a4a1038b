"""One call of `run` or `plan`: which cells are meant, and what is finished already."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import engines
from bench.errors import InputError, nearest
from bench.plan import Plan, PlannedCell, make_plan
from bench.results import AXES, Folder
from bench.sections import METRICS
from bench.store import Store, cache_folder

if TYPE_CHECKING:
    from bench.grid import Grid

RESULTS = Path("results")
_REASONS = 8  # shown when a run starts


def complaint(error: InputError) -> str:
    """Bad input in words, one line per problem."""
    several = getattr(error, "errors", None) or [error]
    return "\n".join(f"error: {one}" for one in several)


class Session:
    """The plan of a grid with the choices of one call.

    Args:
        results: folder that holds the run's folder; "results" in the current folder if None.
        engine, workers: instead of the grid's (workers 0: one per core).
        only: "key=pattern" (see `selector`).
        fresh: nothing counts as finished.

    Attributes:
        states: by cell key, see `state`.
    """

    def __init__(self, grid: Grid, results: Path | str | None = None, engine: str | None = None,
                 workers: int | None = None, only: Sequence[str] = (),
                 fresh: bool = False) -> None:
        self.grid, self.fresh = grid, fresh
        self.engine = engine or grid.engine.name
        self.workers = (grid.engine.workers if workers is None else workers) or cpus()
        if self.engine == "inline" and (workers or 0) > 1:
            raise InputError(f"--workers {workers} asks for several jobs at a time, and engine "
                             "inline runs one", hint="add --engine processes")
        self.runner = engines.make(self.engine, workers=self.workers,
                                   threads=grid.engine.threads, timeout=grid.engine.timeout)
        self.plan: Plan = make_plan(grid)
        self.chosen = select(self.plan, only)
        self.folder = Folder(results_folder(grid, None if results is None else Path(results)))
        self.store = Store(cache_folder(), warn=lambda text: print(f"note: {text}",
                                                                   file=sys.stderr))
        self.states = {c.key: state(c, self.store, self.folder) for c in self.plan.cells}
        if fresh:
            self.states |= {c.key: "to run" for c in self.chosen if c.status is None}

    @classmethod
    def open(cls, grid_path: Path | str, results: Path | str | None = None,
             engine: str | None = None, workers: int | None = None, only: Sequence[str] = (),
             fresh: bool = False) -> Self:
        """From a grid file. Raises InputError for whatever is wrong; nothing has run then."""
        from bench.grid import load_grid

        selector(only)  # a mistake in the command is told before the grid is read
        return cls(load_grid(Path(grid_path)), results, engine, workers, only, fresh)

    def lines(self, brief: bool = False) -> list[str]:
        """The plan in words; brief: counts and reasons in place of every cell."""
        how = self.engine + (f", {self.workers} workers" if self.engine != "inline" else "")
        return [*explain(self.plan, self.chosen, self.states, self.store, self.fresh, brief),
                f"engine: {how}; cache: {self.store.folder}",
                f"results: {self.folder.path}",
                *(f"note: {text}" for text in (*self.grid.notes, *unmeasured(self.plan),
                                               *self.runner.notes()))]


# -- selection and state ------------------------------------------------------------------------

def selector(only: Sequence[str]) -> Callable[[PlannedCell], bool]:
    """The test that `--only key=pattern` asks for: patterns (fnmatch on names and labels) of one
    key are or-ed, keys are and-ed.

    Raises:
        InputError: no such key, or no pattern.
    """
    wanted: dict[str, list[str]] = {}
    for text in only:
        key, sign, pattern = text.partition("=")
        key = key.strip()
        if not sign or not pattern.strip():
            raise InputError(f"--only {text!r} is no key=pattern",
                             hint="for example --only model=bprmf --only 'attack=*-profiles*'")
        if key not in (*AXES, "seed"):
            raise InputError(f"--only knows no key {key!r}", hint=nearest(key, (*AXES, "seed")))
        wanted.setdefault(key, []).append(pattern.strip())

    def keep(cell: PlannedCell) -> bool:
        for key, patterns in wanted.items():
            value = getattr(cell, key)
            texts = [str(value)] if key == "seed" else [value.name, value.label()]
            if not any(text == p or fnmatch.fnmatchcase(text, p)
                       for p in patterns for text in texts):
                return False
        return True

    return keep


def select(plan: Plan, only: Sequence[str]) -> tuple[PlannedCell, ...]:
    """The cells that `--only` leaves. Raises InputError where it leaves none."""
    keep = selector(only)
    cells = tuple(c for c in plan.cells if keep(c))
    if not cells:
        known = {axis: dict.fromkeys(getattr(c, axis).label() for c in plan.cells)
                 for axis in AXES}
        raise InputError("--only leaves no cell", hint="the grid has " + "; ".join(
            f"{axis}: {', '.join(labels)}" for axis, labels in known.items()))
    return cells


def state(cell: PlannedCell, store: Store, folder: Folder) -> str:
    """"skipped" or "failed" beforehand, "done" (in the results), "cached", or "to run"."""
    if cell.status is not None:
        return cell.status
    if store.has_cell(cell.key):
        return "done" if folder.finished(cell.key) else "cached"
    return "done" if folder.finished(cell.key) else "to run"


def results_folder(grid: Grid, results: Path | None) -> Path:
    """results/<run>, below the folder given with --results where there is one."""
    return (RESULTS if results is None else Path(results)).expanduser().resolve() / grid.name


def cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") \
        else os.cpu_count() or 1


def unmeasured(plan: Plan) -> list[str]:
    """Which of the metrics asked for cannot be measured, and why, in words."""
    from bench.metrics.names import parse_metric

    kinds: dict[str, list[str]] = {}
    for text in plan.grid.metrics:
        kinds.setdefault(parse_metric(text).spec.kind, []).append(text)
    notes = []
    for label, data in plan.data.items():
        if "point" in kinds and data.test.labels is None:
            notes.append(f"{', '.join(kinds['point'])}: {label} has no labelled test pairs, so "
                         "they stay empty there")
    pushes = any(cell.attack.threat_model().goal in ("push", "nuke") for cell in plan.cells)
    for whose, groups, those in (("users", plan.grid.groups.users, ("parity", "odds")),
                                 ("items", plan.grid.groups.items, ("due",))):
        compare = [text for kind in those for text in kinds.get(kind, ())]
        if compare and not groups:
            notes.append(f"{', '.join(compare)}: no groups of {whose} are asked for; name "
                         f"attributes in groups: {{{whose}: [...]}}")
    if "target" in kinds and not pushes and plan.grid.metrics != METRICS:
        notes.append(f"{', '.join(kinds['target'])}: no attack of this grid has targets")
    return notes


# -- in words -----------------------------------------------------------------------------------

def explain(plan: Plan, chosen: Sequence[PlannedCell], states: dict[str, str],
            store: Store, fresh: bool = False, brief: bool = False) -> Iterator[str]:
    """The plan in lines of text; brief: reasons are counted, and cells are not listed."""
    grid = plan.grid
    sizes = [(len(grid.datasets), "dataset"), (len(grid.models), "model"),
             (len(grid.defenses), "defense"), (len(grid.attacks), "attack"),
             (len(grid.seeds), "seed")]
    yield (f"{grid.name}: {len(plan.cells)} cells = "
           + " × ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in sizes)
           + (f", {plan.excluded} excluded" if plan.excluded else "")
           + (f"; {len(chosen)} chosen by --only" if len(chosen) < len(plan.cells) else ""))
    for label, data in plan.data.items():
        yield (f"  {label}: {data.n_genuine} users, {data.n_items} items, "
               f"{len(data.train)} train rows")
    count = Counter(states[c.key] for c in chosen)
    yield "cells: " + ", ".join(f"{count[s]} {s}" for s in
                                ("done", "cached", "to run", "skipped", "failed") if count[s])
    trainings = {c.train_key for c in chosen if states[c.key] == "to run"}
    kept = 0 if fresh else sum(store.has_model(key) for key in trainings)
    yield f"trainings needed: {len(trainings) - kept}" + (
        f" ({kept} more: the model is cached)" if kept else "")
    if brief:
        yield from _reasons(chosen, states)
        return
    for mark in ("to run", "skipped", "failed"):
        rows: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for c in chosen:
            if states[c.key] == mark:
                row = (c.dataset.label(), c.model.label(), c.defense.label(), c.reason or "")
                rows.setdefault(row, {}).setdefault(c.attack.label(), []).append(c.seed)
        if rows:
            yield f"{mark}:"
        for (dataset, model, defense, why), attacks in rows.items():
            seeds = sorted({s for own in attacks.values() for s in own})
            yield (f"  {dataset} · {model} · {defense} · {', '.join(attacks)} · seed"
                   f"{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
                   + (f": {why}" if why else ""))


def _reasons(chosen: Sequence[PlannedCell], states: dict[str, str]) -> Iterator[str]:
    """How many cells cannot run for which reason, the most frequent first."""
    why = Counter((states[c.key], c.reason) for c in chosen if c.status is not None)
    for (mark, reason), n in why.most_common(_REASONS):
        yield f"  {n} {mark}: {reason}"
    if len(why) > _REASONS:
        yield f"  {len(why) - _REASONS} more reasons; `bench plan` gives them all"
