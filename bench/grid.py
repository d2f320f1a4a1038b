"""grid.yaml, typed: every name and parameter is checked here, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.coerce import CoerceError, convert, number, written
from bench.errors import InputError, nearest
from bench.expand import MOST_CELLS, Axis
from bench.plugin import KINDS, Plugin
from bench.registry import Registry, singular
from bench.yaml_lines import List, Map, Node, Problems, Scalar, read

KEYS = ("name", "seeds", "datasets", "models", "attacks", "defenses", "metrics", "groups",
        "exclude", "engine", "plugins")
METRICS = ("hr@10", "ndcg@10", "recall@10", "target-hr@50")
SEEDS = (0, 1, 2)
ENGINES = ("inline", "processes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Groups:
    """Attributes by which metrics are also given per group."""

    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """Where jobs run.

    Attributes:
        name: one of ENGINES.
        workers: processes at a time; 0: as many as there are cores.
        threads: threads of each job; numbers do not depend on the engine because it is fixed.
        timeout: seconds after which a job is stopped, or None.
    """

    name: str = "inline"
    workers: int = 0
    threads: int = 1
    timeout: float | None = None


@dataclass(frozen=True)
class Grid:
    """What is to be crossed with what. "none" stands first among attacks and defenses.

    Attributes:
        path, text: the file and what it says.
        exclude: conditions; each maps "dataset", "model", "defense", "attack" to names or labels
            and "seed" to numbers. A cell that meets all of one condition is left out.
        plugins: folders of the user's plugins, absolute.
        notes: what was merged or looks unintended, in words.
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
    return _Reader(path, text, root, problems, registry).grid()


class _Reader:
    """Reads the sections one after the other; problems are collected until the end."""

    def __init__(self, path: Path, text: str, root: Node, problems: Problems,
                 registry: Registry | None) -> None:
        if not isinstance(root, Map):
            raise InputError(f"{written(root)} stands where a grid is a mapping", file=path,
                             line=root.line, hint=f"write keys with values: {', '.join(KEYS)}")
        self.path, self.text, self.root, self.problems = path, text, root, problems
        self.notes: list[str] = []
        self.registry = registry or Registry()

    def grid(self) -> Grid:
        for key in self.root.items:
            if key not in KEYS:
                self.problems.add(f"a grid has no key {key!r}", self.root.lines[key], key,
                                  nearest(key, KEYS))
        folders = self._plugins()
        self.registry = Registry([*self.registry.folders, *folders])
        axes = {kind: self._axis(kind) for kind in KINDS}
        seeds, metrics = self._seeds(), self._metrics()
        name, groups, engine = self._name(), self._groups(), self._engine()
        cells = len(seeds)
        for plugins in axes.values():
            cells *= len(plugins)
        if cells > MOST_CELLS:
            self.problems.add(f"{cells:,} cells (" + " × ".join(
                [f"{len(seeds)} seeds", *(f"{len(p)} {k}" for k, p in axes.items())]) + f"); a "
                f"grid has at most {MOST_CELLS:,}", self.root.line, None,
                "give shorter lists, or make several grids")
        exclude = self._exclude(axes, seeds) if not self.problems.errors else ()
        self.problems.check()
        for entry in self.registry.broken():
            if entry.source != "built-in":
                self.notes.append(f"not usable: {entry.error}")
        grid = Grid(self.path, self.text, name, seeds, axes["datasets"], axes["models"],
                    axes["attacks"], axes["defenses"], metrics, groups, exclude, engine,
                    folders, self.registry, tuple(self.notes))
        if exclude and all(grid.excluded(d, m, f, a, s) for d in grid.datasets
                           for m in grid.models for f in grid.defenses for a in grid.attacks
                           for s in seeds):
            raise InputError("exclude leaves out every cell; nothing is left to run",
                             file=self.path, line=self.root.lines["exclude"], key="exclude")
        return grid

    # -- sections --------------------------------------------------------------------------

    def _get(self, key: str) -> Node | None:
        """What a key holds; None where it is absent or empty."""
        node = self.root.items.get(key)
        return None if isinstance(node, Scalar) and node.is_null else node

    def _axis(self, kind: str) -> tuple[Plugin, ...]:
        node = self._get(kind)
        found = len(self.problems.errors)
        made = Axis(kind, self.registry, self.problems, self.notes).plugins(node)
        if not made and len(self.problems.errors) == found:
            example = {"datasets": "[ml-100k]", "models": "[pop, BPR]"}[kind]
            line = self.root.lines.get(kind, self.root.line)
            self.problems.add(f"no {kind} are given", line, kind, f"write {kind}: {example}")
        return made

    def _name(self) -> str:
        node = self._get("name")
        if node is None:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem).strip("-._")
            return stem or "grid"
        if not isinstance(node, Scalar) or not _NAME.fullmatch(node.text):
            self.problems.add(f"{written(node)} is no name for a run", node.line, "name",
                              "its results folder is called so: letters, digits, - _ .")
            return ""
        return node.text

    def _seeds(self) -> tuple[int, ...]:
        node = self._get("seeds")
        if node is None:
            return SEEDS
        made: list[int] = []
        items = node.items if isinstance(node, List) else [node]
        if not items:
            self.problems.add("an empty list leaves nothing to run", node.line, "seeds",
                              "write seeds: [0, 1, 2]")
        for i, item in enumerate(items):
            key = f"seeds[{i}]" if isinstance(node, List) else "seeds"
            value = self._whole(item, key, 0, 2**32 - 1)
            if value is not None:
                made.append(value)
        for seed in dict.fromkeys(s for s in made if made.count(s) > 1):
            self.notes.append(f"seeds: {seed} stands twice; it runs once")
        return tuple(dict.fromkeys(made))

    def _whole(self, node: Node, key: str, low: int, high: int) -> int | None:
        """A whole number within bounds, or None with a problem noted."""
        try:
            if not isinstance(node, Scalar):
                raise CoerceError(f"{written(node)} is not a whole number", node.line)
            if node.is_null:
                raise CoerceError("nothing is given", node.line)
            value = int(number(node, int))
        except CoerceError as error:
            self.problems.add(error.what, error.line, key,
                              error.hint or f"a whole number, at least {low}, is needed")
            return None
        if not low <= value <= high:
            self.problems.add(f"{value} is {'below' if value < low else 'above'} "
                              f"{low if value < low else high}", node.line, key,
                              f"allowed: {low} to {high}")
            return None
        return value

    def _texts(self, node: Node | None, key: str) -> list[tuple[str, int, str]]:
        """A list of words (or one): (text, line, key path) of each."""
        made = []
        if node is None:
            return []
        for i, item in enumerate(node.items if isinstance(node, List) else [node]):
            at = f"{key}[{i}]" if isinstance(node, List) else key
            if isinstance(item, Scalar) and not item.is_null and item.text.strip():
                made.append((item.text.strip(), item.line, at))
            else:
                what = "nothing is given" if isinstance(item, Scalar) else \
                    f"{written(item)} is not text"
                self.problems.add(what, item.line, at, "a list of words is needed")
        return made

    def _unique(self, words: list[str], key: str) -> tuple[str, ...]:
        for word in dict.fromkeys(w for w in words if words.count(w) > 1):
            self.notes.append(f"{key}: {word} stands twice; it counts once")
        return tuple(dict.fromkeys(words))

    def _metrics(self) -> tuple[str, ...]:
        from bench.metrics.names import parse_metric

        node = self._get("metrics")
        if node is None:
            return METRICS
        made, found = [], self._texts(node, "metrics")
        if isinstance(node, List) and not node.items:
            self.problems.add("an empty list leaves nothing to measure", node.line, "metrics",
                              "leave the key out for " + ", ".join(METRICS))
        for word, line, key in found:
            try:
                made.append(str(parse_metric(word)))
            except InputError as error:
                self.problems.add(error.what, line, key, error.hint)
        return self._unique(made, "metrics")

    def _section(self, node: Node, key: str, known: tuple[str, ...]) -> dict[str, Node]:
        """A mapping with known keys."""
        if not isinstance(node, Map):
            self.problems.add(f"{written(node)} stands where a mapping is needed", node.line, key,
                              f"write {key}: {{{known[0]}: …}}")
            return {}
        for name in node.items:
            if name not in known:
                self.problems.add(f"{key} has no key {name!r}", node.lines[name], f"{key}.{name}",
                                  nearest(name, known))
        return {k: v for k, v in node.items.items()
                if k in known and not (isinstance(v, Scalar) and v.is_null)}

    def _groups(self) -> Groups:
        node = self._get("groups")
        parts = {} if node is None else self._section(node, "groups", ("users", "items"))
        made = {part: self._unique([t for t, _, _ in self._texts(parts.get(part),
                                                                 f"groups.{part}")],
                                   f"groups.{part}") for part in ("users", "items")}
        return Groups(**made)

    def _engine(self) -> Engine:
        node = self._get("engine")
        if node is None:
            return Engine()
        parts = {"name": node} if isinstance(node, Scalar) else self._section(
            node, "engine", ("name", "workers", "threads", "timeout"))
        made: dict[str, Any] = {}
        name = parts.get("name")
        if name is not None:
            if not isinstance(name, Scalar) or name.text not in ENGINES:
                text = name.text if isinstance(name, Scalar) else ""
                self.problems.add(f"there is no engine {written(name)}", name.line, "engine.name",
                                  nearest(text, ENGINES))
            else:
                made["name"] = name.text
        for key, low in (("workers", 0), ("threads", 1)):
            if key in parts:
                value = self._whole(parts[key], f"engine.{key}", low, 4096)
                made |= {} if value is None else {key: value}
        if "timeout" in parts:
            try:
                seconds = convert(parts["timeout"], float)
                if not 0 < seconds < float("inf"):
                    raise CoerceError(f"{seconds:g} is no duration", parts["timeout"].line)
                made["timeout"] = seconds
            except CoerceError as error:
                self.problems.add(error.what, error.line, "engine.timeout",
                                  error.hint or "seconds above 0 are needed, or null")
        engine = Engine(**made)
        if engine.name == "inline" and engine.workers > 1 and "name" in made | {"name": ""}:
            self.problems.add(f"inline runs one job at a time, and workers is {engine.workers}",
                              parts["workers"].line, "engine.workers",
                              "write engine: {name: processes, workers: …}")
        return engine

    def _plugins(self) -> tuple[Path, ...]:
        made = []
        for word, line, key in self._texts(self._get("plugins"), "plugins"):
            folder = (self.path.parent / Path(word).expanduser()).resolve()
            if not folder.exists():
                self.problems.add(f"there is no folder {word!r}", line, key,
                                  f"looked for {folder}; paths count from the grid file")
            elif folder.is_file() and folder.suffix != ".py":
                self.problems.add(f"{word!r} is neither a folder nor a Python file", line, key)
            else:
                made.append(folder)
        return tuple(dict.fromkeys(made))

    def _exclude(self, axes: Mapping[str, tuple[Plugin, ...]],
                 seeds: tuple[int, ...]) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
        node = self._get("exclude")
        if node is None:
            return ()
        known = (*(singular(kind) for kind in KINDS), "seed")
        made = []
        for i, item in enumerate(node.items if isinstance(node, List) else [node]):
            key = f"exclude[{i}]" if isinstance(node, List) else "exclude"
            if not isinstance(item, Map) or not item.items:
                self.problems.add(f"{written(item) if not isinstance(item, Map) else 'nothing'} "
                                  "stands where a condition is needed", item.line, key,
                                  "write {model: pop, attack: [fgsm, pgd]}")
                continue
            condition: dict[str, tuple[Any, ...]] = {}
            for part, value in self._section(item, key, known).items():
                read_values: Callable[..., tuple[Any, ...]] = (
                    self._excluded_seeds if part == "seed" else self._excluded_names)
                condition[part] = read_values(value, f"{key}.{part}", part,
                                              seeds if part == "seed" else axes[f"{part}s"])
            for part, value in item.items.items():
                if part in known and part not in condition:
                    self.problems.add("nothing is given", value.line, f"{key}.{part}",
                                      "name what is left out, or remove the key")
            made.append(condition)
        return tuple(made)

    def _excluded_seeds(self, node: Node, key: str, part: str,
                        seeds: tuple[int, ...]) -> tuple[int, ...]:
        made = []
        for item in node.items if isinstance(node, List) else [node]:
            value = self._whole(item, key, 0, 2**32 - 1)
            if value is not None and value not in seeds:
                self.problems.add(f"seed {value} is not in this grid", item.line, key,
                                  "its seeds: " + ", ".join(map(str, seeds)))
            elif value is not None:
                made.append(value)
        return tuple(made)

    def _excluded_names(self, node: Node, key: str, part: str,
                        plugins: tuple[Plugin, ...]) -> tuple[str, ...]:
        made: list[str] = []
        families = self.registry.families(f"{part}s")
        present = {text for p in plugins for text in (p.name, p.label())}
        if isinstance(node, List) and not node.items:
            self.problems.add("an empty list matches nothing", node.line, key)
        for word, line, at in self._texts(node, key):
            if word == "none" and part == "attack":
                self.problems.add("attack 'none' cannot be left out", line, at, "it is the clean "
                                  "baseline that every other number is compared with")
            elif word in present:
                made.append(word)
            elif word in families and word not in self.registry.names(f"{part}s"):
                made += families[word]
            elif word in self.registry.names(f"{part}s"):
                self.notes.append(f"{at} (line {line}): {word} is not in this grid")
                made.append(word)
            else:
                self.problems.add(f"no {part} of this grid is called {word!r}", line, at,
                                  nearest(word, present))
        return tuple(made)
