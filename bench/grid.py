"""grid.yaml, typed: every name and parameter is checked here, before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import InputError, nearest
from bench.expand import MOST_CELLS, Axis
from bench.plugin import KINDS, Plugin
from bench.registry import Registry
from bench.scalars import written
from bench.sections import ENGINES, METRICS, SEEDS, Engine, Groups, Sections
from bench.yaml_lines import Map, Problems, read

__all__ = ["ENGINES", "KEYS", "METRICS", "SEEDS", "Engine", "Grid", "Groups", "load_grid"]

KEYS = ("name", "seeds", "datasets", "models", "attacks", "defenses", "metrics", "groups",
        "exclude", "engine", "plugins")


@dataclass(frozen=True)
class Grid:
    """What is to be crossed with what. "none" stands first among attacks and defenses.

    Attributes:
        path, text: the file and what it says.
        exclude: conditions; each maps "dataset", "model", "defense", "attack" to names or labels
            and "seed" to numbers. A cell that meets all of one condition is left out.
        plugins: folders of the user's plugins, absolute.
        notes: what was merged or looks unintended, in words.
        lines: the line of each key of the file.
    """

    path: Path
    text: str
    name: str
    seeds: tuple[int, ...]
    datasets: tuple[Plugin, ...]
    models: tuple[Plugin, ...]
    attacks: tuple[Plugin, ...]
    defenses: tuple[Plugin, ...]
    metrics: tuple[str, ...]
    groups: Groups
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...]
    engine: Engine
    plugins: tuple[Path, ...]
    registry: Registry = field(compare=False)
    notes: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def excluded(self, dataset: Plugin, model: Plugin, defense: Plugin, attack: Plugin,
                 seed: int) -> bool:
        """Whether a condition of `exclude` leaves this cell out."""
        cell = {"dataset": dataset, "model": model, "defense": defense, "attack": attack}
        return any(all(seed in values if key == "seed" else
                       not {cell[key].name, cell[key].label()}.isdisjoint(values)
                       for key, values in condition.items())
                   for condition in self.exclude)


def load_grid(path: Path, registry: Registry | None = None) -> Grid:
    """Read and check a grid file.

    Args:
        path: the YAML file.
        registry: where plugins are looked up, besides the folders in the grid's `plugins:`.

    Raises:
        InputError: for everything that is wrong, with file, line, key and what is allowed.
            Several problems come as one InputErrors.
    """
    path = Path(path)
    text, root, problems = read(path)
    if not isinstance(root, Map):
        raise InputError(f"{written(root)} stands where a grid is a mapping", file=path,
                         line=root.line, hint=f"write keys with values: {', '.join(KEYS)}")
    for key in root.items:
        if key not in KEYS:
            problems.add(f"a grid has no key {key!r}", root.lines[key], key, nearest(key, KEYS))
    sections = Sections(path, root, problems)
    folders = sections.plugins()
    registry = Registry([*(registry.folders if registry else ()), *folders])
    axes: dict[str, Any] = {kind: _axis(kind, registry, sections) for kind in KINDS}
    seeds = sections.seeds()
    rest: dict[str, Any] = {"name": sections.name(), "metrics": sections.metrics(),
                            "groups": sections.groups(), "engine": sections.engine()}
    _check_size(axes, seeds, root, problems)
    # conditions name what is on the axes, so they are read once the axes are right
    exclude = () if problems.errors else sections.exclude(axes, seeds, registry)
    problems.check()
    notes = [*sections.notes, *(f"not usable: {e.error}" for e in registry.broken()
                                if e.source != "built-in")]
    grid = Grid(path=path, text=text, seeds=seeds, exclude=exclude, plugins=folders,
                registry=registry, notes=tuple(notes), lines=dict(root.lines), **axes, **rest)
    if exclude and all(grid.excluded(d, m, f, a, s) for d in grid.datasets for m in grid.models
                       for f in grid.defenses for a in grid.attacks for s in seeds):
        raise InputError("exclude leaves out every cell; nothing is left to run", file=path,
                         line=root.lines["exclude"], key="exclude")
    return grid


def _axis(kind: str, registry: Registry, sections: Sections) -> tuple[Plugin, ...]:
    problems = sections.problems
    found = len(problems.errors)
    made = Axis(kind, registry, problems, sections.notes).plugins(sections.get(kind))
    mistyped = [k for k in sections.root.items if k not in KEYS]  # told already, once is enough
    meant = kind not in sections.root.items and difflib.get_close_matches(kind, mistyped)
    if not made and len(problems.errors) == found and not meant:
        example = {"datasets": "[ml-100k]", "models": "[pop, BPR]"}[kind]
        line = sections.root.lines.get(kind, sections.root.line)
        problems.add(f"no {kind} are given", line, kind, f"write {kind}: {example}")
    return made



def _check_size(axes: Mapping[str, tuple[Plugin, ...]], seeds: tuple[int, ...], root: Map,
                problems: Problems) -> None:
    cells = len(seeds)
    for plugins in axes.values():
        cells *= len(plugins)
    if cells > MOST_CELLS:
        parts = [f"{len(seeds)} seeds", *(f"{len(p)} {kind}" for kind, p in axes.items())]
        problems.add(f"{cells:,} cells ({' × '.join(parts)}); a grid has at most {MOST_CELLS:,}",
                     root.line, None, "give shorter lists, or make several grids")
