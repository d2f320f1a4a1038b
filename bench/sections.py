"""The sections of a grid file other than its axes: seeds, metrics, groups, engine and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.coerce import convert
from bench.discovery import singular
from bench.errors import InputError, nearest
from bench.plugin import KINDS, Plugin
from bench.registry import Registry
from bench.scalars import CoerceError, number, written
from bench.yaml_lines import List, Map, Node, Problems, Scalar

METRICS = ("hr@10", "ndcg@10", "recall@10", "target-hr@50")
SEEDS = (0, 1, 2)
ENGINES = ("inline", "processes")
MOST_SEED = 2**32 - 1  # what numpy's and RecBole's generators take
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


@dataclass
class Sections:
    """Reads one section at a time; what is wrong is collected in `problems`, not raised.

    Attributes:
        notes: what was merged or looks unintended, in words.
    """

    path: Path
    root: Map
    problems: Problems
    notes: list[str] = field(default_factory=list)

    def get(self, key: str) -> Node | None:
        """What a key holds; None where it is absent or empty."""
        node = self.root.items.get(key)
        return None if isinstance(node, Scalar) and node.is_null else node

    def name(self) -> str:
        node = self.get("name")
        if node is None:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem).strip("-._")
            return stem or "grid"
        if not isinstance(node, Scalar) or not _NAME.fullmatch(node.text):
            self.problems.add(f"{written(node)} is no name for a run", node.line, "name",
                              "its results folder is called so: letters, digits, - _ .")
            return ""
        return node.text

    def seeds(self) -> tuple[int, ...]:
        node = self.get("seeds")
        if node is None:
            return SEEDS
        made: list[int] = []
        items = node.items if isinstance(node, List) else [node]
        if not items:
            self.problems.add("an empty list leaves nothing to run", node.line, "seeds",
                              "write seeds: [0, 1, 2]")
        for i, item in enumerate(items):
            key = f"seeds[{i}]" if isinstance(node, List) else "seeds"
            value = self._whole(item, key, 0, MOST_SEED)
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

    def metrics(self) -> tuple[str, ...]:
        from bench.metrics.names import parse_metric

        node = self.get("metrics")
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

    def groups(self) -> Groups:
        node = self.get("groups")
        parts = {} if node is None else self._section(node, "groups", ("users", "items"))
        made = {part: self._unique([t for t, _, _ in self._texts(parts.get(part),
                                                                 f"groups.{part}")],
                                   f"groups.{part}") for part in ("users", "items")}
        return Groups(**made)

    def engine(self) -> Engine:
        node = self.get("engine")
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

    def plugins(self) -> tuple[Path, ...]:
        made = []
        for word, line, key in self._texts(self.get("plugins"), "plugins"):
            folder = self.path.parent / Path(word)
            try:
                folder = (self.path.parent / Path(word).expanduser()).resolve()
                there = folder.exists()
            except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown ~user
                there = False
            if not there:
                self.problems.add(f"there is no folder {word!r}", line, key,
                                  f"looked for {folder}; paths count from the grid file")
            elif folder.is_file() and folder.suffix != ".py":
                self.problems.add(f"{word!r} is neither a folder nor a Python file", line, key)
            else:
                made.append(folder)
        return tuple(dict.fromkeys(made))

    def exclude(self, axes: Mapping[str, tuple[Plugin, ...]], seeds: tuple[int, ...],
                registry: Registry) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
        node = self.get("exclude")
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
                at = f"{key}.{part}"
                condition[part] = self._excluded_seeds(value, at, seeds) if part == "seed" else \
                    self._excluded_names(value, at, part, axes[f"{part}s"], registry)
            for part, value in item.items.items():
                if part in known and part not in condition:
                    self.problems.add("nothing is given", value.line, f"{key}.{part}",
                                      "name what is left out, or remove the key")
            made.append(condition)
        return tuple(made)

    def _excluded_seeds(self, node: Node, key: str,
                        seeds: tuple[int, ...]) -> tuple[int, ...]:
        made = []
        for item in node.items if isinstance(node, List) else [node]:
            value = self._whole(item, key, 0, MOST_SEED)
            if value is not None and value not in seeds:
                self.problems.add(f"seed {value} is not in this grid", item.line, key,
                                  "its seeds: " + ", ".join(map(str, seeds)))
            elif value is not None:
                made.append(value)
        return tuple(made)

    def _excluded_names(self, node: Node, key: str, part: str, plugins: tuple[Plugin, ...],
                        registry: Registry) -> tuple[str, ...]:
        made: list[str] = []
        families = registry.families(f"{part}s")
        present = {text for p in plugins for text in (p.name, p.label())}
        if isinstance(node, List) and not node.items:
            self.problems.add("an empty list matches nothing", node.line, key)
        for word, line, at in self._texts(node, key):
            if word == "none" and part == "attack":
                self.problems.add("attack 'none' cannot be left out", line, at, "it is the clean "
                                  "baseline that every other number is compared with")
            elif word in present:
                made.append(word)
            elif word in families and word not in registry.names(f"{part}s"):
                made += families[word]
            elif word in registry.names(f"{part}s"):
                self.notes.append(f"{at} (line {line}): {word} is not in this grid")
                made.append(word)
            else:
                self.problems.add(f"no {part} of this grid is called {word!r}", line, at,
                                  nearest(word, present))
        return tuple(made)
