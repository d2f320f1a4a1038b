"""One axis of a grid: what is written under `attacks:` becomes plugins, products expanded."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.coerce import allowed, depth, hints, parameter, parameters, written_depth
from bench.discovery import ARTICLES, singular
from bench.errors import BenchError, InputError, nearest, one_line
from bench.plugin import KINDS, Plugin
from bench.registry import Registry
from bench.scalars import CoerceError, written
from bench.yaml_lines import List, Map, Node, Problems, Scalar

MOST_CELLS = 100_000


@dataclass
class Axis:
    """Reads one axis; problems are collected, not raised.

    Attributes:
        notes: what was merged, in words.
    """

    kind: str
    registry: Registry
    problems: Problems
    notes: list[str]

    def plugins(self, node: Node | None) -> tuple[Plugin, ...]:
        """The plugins in the order written, equal ones once; "none" first where it exists."""
        made: list[tuple[Plugin, int]] = []
        if self.kind in ("attacks", "defenses"):
            made.append((self.registry.get(self.kind, "none")(), 0))
        for name, params, line, key in self._entries(node):
            made += [(plugin, line) for plugin in self._entry(name, params, line, key)]
        return self._merged(made)

    def _entries(self, node: Node | None) -> Iterator[tuple[str, Node | None, int, str]]:
        """(name, parameters, line, key path) of each entry."""
        kind = self.kind
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return
        if isinstance(node, Map):  # names as keys, without dashes
            for name, params in node.items.items():
                yield name, params, node.lines[name], f"{kind}.{name}"
            return
        for i, item in enumerate(node.items if isinstance(node, List) else [node]):
            key = f"{kind}[{i}]" if isinstance(node, List) else kind
            if isinstance(item, Scalar) and not item.is_null and item.text.strip():
                yield item.text, None, item.line, key
            elif isinstance(item, Map) and len(item.items) == 1:
                (name, params), = item.items.items()
                yield name, params, item.lines[name], f"{key}.{name}"
            elif isinstance(item, Map) and item.items:
                first, second = list(item.items)[:2]
                self.problems.add(
                    f"{second!r} stands beside {first!r}, not below it", item.lines[second], key,
                    f"parameters go inside: {{{first}: {{{second}: …}}}}; another "
                    f"{singular(kind)} gets its own dash")
            else:
                what = "nothing" if isinstance(item, (Scalar, Map)) else "a list"
                self.problems.add(f"{what} stands where {ARTICLES[kind]} is named", item.line, key,
                                  "write a name, or {name: {parameter: value}}")

    def _entry(self, name: str, params: Node | None, line: int, key: str) -> list[Plugin]:
        if params is None or (isinstance(params, Scalar) and params.is_null):
            params = Map({}, {}, line)
        if not isinstance(params, Map):
            self.problems.add(f"{written(params)} stands where the parameters of {name!r} go",
                              params.line, key, f"write {{{name}: {{parameter: value}}}}")
            return []
        family = self.registry.families(self.kind).get(name)
        if family is not None and name not in self.registry.names(self.kind):
            return self._family(name, family, params, line, key)
        return self._make(name, params, line, key, key)

    def _family(self, name: str, members: list[str], params: Map, line: int,
                key: str) -> list[Plugin]:
        """{recbole: {model: [BPR, LightGCN], epochs: 50}}: each of them with these parameters."""
        word = singular(self.kind)
        chosen = params.items.get(word)
        if chosen is None:
            self.problems.add(f"{name!r} is a family of {len(members)} {self.kind}; say which",
                              line, key, f"write {{{name}: {{{word}: [{members[0]}, …]}}}}; "
                              f"`bench list {self.kind}` shows them")
            return []
        rest = Map({k: v for k, v in params.items.items() if k != word}, params.lines, params.line)
        made: list[Plugin] = []
        listed = chosen.items if isinstance(chosen, List) else [chosen]
        if not listed:
            self.problems.add("an empty list names nothing", chosen.line, f"{key}.{word}")
        chosen_names = [n.text for n in listed if isinstance(n, Scalar) and n.text in members]
        rest = self._known_to_all(chosen_names, rest, key)
        for i, item in enumerate(listed):
            at = f"{key}.{word}[{i}]" if isinstance(chosen, List) else f"{key}.{word}"
            if not isinstance(item, Scalar):
                self.problems.add(f"{written(item)} is not the name of a {word}", item.line, at,
                                  "parameters stand beside it and count for each")
            elif item.text not in members:
                self.problems.add(f"{name} has no {word} {item.text!r}", item.line, at,
                                  nearest(item.text, members))
            else:
                made += self._make(item.text, rest, line, at, key)
        return made

    def _known_to_all(self, names: list[str], params: Map, key: str) -> Map:
        """The parameters that every one of these members has; the others are problems, once."""
        known = {name: parameters(self.registry.get(self.kind, name)) for name in names}
        for param in params.items:
            lacking = [name for name in names if param not in known[name]]
            if lacking:
                which = ", ".join(lacking[:5]) + (" and others" if len(lacking) > 5 else "")
                self.problems.add(
                    f"{which} {'has' if len(lacking) == 1 else 'have'} no parameter {param!r}",
                    params.lines[param], f"{key}.{param}",
                    nearest(param, {p for name in lacking for p in known[name]}))
        shared = {p: node for p, node in params.items.items()
                  if all(p in known[name] for name in names)}
        return Map(shared, params.lines, params.line)

    def _make(self, name: str, params: Map, line: int, key: str, under: str) -> list[Plugin]:
        """Every combination of the values given for one plugin's parameters."""
        try:
            cls = self.registry.get(self.kind, name)
        except InputError as error:
            known = [*self.registry.names(self.kind), *self.registry.families(self.kind)]
            hint = error.hint
            if error.hint == nearest(name, self.registry.names(self.kind)):
                hint = self._elsewhere(name) or nearest(name, known)
            self.problems.add(error.what, line, key, hint)
            return []
        known_fields, types = parameters(cls), hints(cls)
        choices: dict[str, list[Any]] = {}
        for param, node in params.items.items():
            at = f"{under}.{param}"
            if param not in known_fields:
                hint = nearest(param, known_fields) if known_fields else \
                    "it has no parameters at all"
                if param.isdigit():
                    hint = "a comma separates parameters; decimals have a point, as in 0.5"
                self.problems.add(f"{singular(self.kind)} {name!r} has no parameter {param!r}",
                                  params.lines[param], at, hint)
                continue
            choices[param] = self._values(node, known_fields[param], types[param], at)
        if any(not values for values in choices.values()):
            return []
        count = 1
        for values in choices.values():
            count *= len(values)
        if count > MOST_CELLS:
            self.problems.add(f"{count:,} combinations of parameters; at most {MOST_CELLS:,} "
                              "cells make a grid", line, under, "give shorter lists")
            return []
        made: list[Plugin] = []
        for combination in itertools.product(*choices.values()):
            try:
                plugin = cls(**dict(zip(choices, combination, strict=True)))
                plugin.label()
            except (BenchError, ValueError) as error:  # the plugin's own check of what fits
                self.problems.add(getattr(error, "what", one_line(error)), line, under,
                                  getattr(error, "hint", None))
                break
            except Exception as error:
                self.problems.add(f"{singular(self.kind)} {name!r} fails with these parameters: "
                                  f"{type(error).__name__}: {one_line(error)}", line, under,
                                  "a mistake in the plugin")
                break
            made.append(plugin)
        return made

    def _values(self, node: Node, field: dataclasses.Field[Any], hint: Any, key: str) -> list[Any]:
        """The values a parameter takes: one, or those of a list; empty if there was a problem."""
        expands = isinstance(node, List) and written_depth(node) > depth(hint)
        if isinstance(node, List) and expands and not node.items:
            self.problems.add("an empty list leaves nothing to run", node.line, key,
                              "give at least one value, or leave the parameter out")
            return []
        values: list[Any] = []
        for i, one in enumerate(node.items if expands and isinstance(node, List) else [node]):
            at = f"{key}[{i}]" if expands else key
            if written_depth(one) > depth(hint) or (
                    expands and depth(hint) and not isinstance(one, List)):
                what = "a list of lists and single values are mixed" if depth(hint) else \
                    "a list stands inside a list"
                self.problems.add(what, one.line, at, f"a value is {allowed(field, hint)}; a list "
                                  "of values runs each")
                return []
            try:
                values.append(parameter(one, field, hint))
            except CoerceError as error:
                text = error.hint or f"allowed: {allowed(field, hint)}"
                self.problems.add(error.what, error.line, at + error.at, text)
        return values if len(values) == (len(node.items) if expands and isinstance(node, List)
                                         else 1) else []

    def _elsewhere(self, name: str) -> str | None:
        """"it is a defense": the name exists, and is of another kind."""
        for kind in KINDS:
            if kind != self.kind and name in self.registry.names(kind):
                return f"{name!r} is {ARTICLES[kind]}; put it under {kind}:"
        return None

    def _merged(self, made: list[tuple[Plugin, int]]) -> tuple[Plugin, ...]:
        """Equal entries once. Different ones under one label are refused: the label is what
        tables and exclusions know them by."""
        kept: dict[str, tuple[Plugin, int]] = {}
        for plugin, line in made:
            other, first = kept.setdefault(plugin.label(), (plugin, line))
            if other is plugin:
                continue
            if other != plugin or type(other) is not type(plugin):
                self.problems.add(f"two entries would both be called {plugin.label()!r} in the "
                                  "table", line, self.kind, "they differ too little to be told "
                                  "apart; give values that differ in six digits")
            elif first:
                self.notes.append(f"{self.kind}: {plugin.label()} stands twice (lines {first} and "
                                  f"{line}); it runs once")
        return tuple(plugin for plugin, _ in kept.values())
