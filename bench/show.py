"""What `bench list` and `bench show` print."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from bench.api import Attack, Defense, ModelPlugin
from bench.coerce import allowed, hints, parameters, type_name
from bench.discovery import singular
from bench.errors import InputError, nearest
from bench.plugin import Plugin, _plain, show
from bench.registry import Entry, Registry

HOOKS = ("clean", "loss", "wrap", "harden", "rerank")
COLUMNS = {"datasets": (), "models": ("family", "exposes"), "defenses": ("acts on",),
           "attacks": ("stage", "knowledge", "goal")}


def list_plugins(registry: Registry, kinds: Sequence[str], *, as_json: bool = False) -> str:
    """All plugins of these kinds as aligned columns, or as JSON; broken files at the end."""
    if as_json:
        return json.dumps({kind: [_json(e) for e in registry.entries(kind)] for kind in kinds},
                          indent=1)
    parts = []
    for kind in kinds:
        usable = [e for e in registry.entries(kind) if e.error is None]
        rows = [(e.name, *_facts(e).values(), _summary(e)) for e in usable]
        head = (singular(kind), *COLUMNS[kind], "what it does")
        parts.append(f"{kind} ({len(usable)})\n" + table([head, *rows], cut=True))
    broken = registry.broken() if len(kinds) > 1 else [
        e for e in registry.broken() if e.kind in ("", kinds[0])]
    if broken:
        parts.append(f"not usable ({len(broken)})\n" + "\n".join(f"  {e.error}" for e in broken))
    return "\n\n".join(parts)


def table(rows: Sequence[Sequence[str]], *, cut: bool = False) -> str:
    """Rows in aligned columns, indented by two; on a terminal the last column is cut to fit."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    room = shutil.get_terminal_size().columns - sum(widths) - 2 * len(widths) - 3
    lines = []
    for row in rows:
        last = row[-1]
        if cut and sys.stdout.isatty() and len(last) > room > 10:
            last = last[:room - 1] + "…"
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, last]).rstrip())
    return "\n".join(lines)


def _facts(entry: Entry) -> dict[str, str]:
    """The columns of a kind for one plugin."""
    cls = entry.cls
    assert cls is not None
    if issubclass(cls, Attack):
        return {"stage": cls.threat.stage, "knowledge": cls.threat.knowledge,
                "goal": cls.threat.goal}
    if issubclass(cls, Defense):
        acts = [h for h in HOOKS if getattr(cls, h) is not getattr(Defense, h)]
        return {"acts on": ", ".join(acts) or "-"}
    if issubclass(cls, ModelPlugin):
        family = " ".join(f for f in (entry.family, getattr(cls, "family", None)) if f)
        return {"family": family or "-", "exposes": _exposes(cls)}
    return {}


def _exposes(cls: type[ModelPlugin]) -> str:
    """What attacks and defenses may use of a model, with default parameters."""
    try:
        return ", ".join(sorted(cls().gives)) or "-"
    except Exception as error:  # one broken model must not stop the list; the list says so
        return f"({type(error).__name__}: {error})"


def _summary(entry: Entry) -> str:
    assert entry.cls is not None
    return entry.cls.summary()


def _json(entry: Entry) -> dict[str, Any]:
    made: dict[str, Any] = {"name": entry.name, "kind": entry.kind, "source": entry.source,
                            "path": str(entry.path)}
    if entry.error is not None:
        return made | {"error": entry.error}
    return made | _facts(entry) | {"summary": _summary(entry)}


def show_plugin(registry: Registry, kind: str, name: str, *, as_json: bool = False) -> str:
    """Documentation, parameters and threat model of one plugin, or a family's members.

    Raises:
        InputError: no such plugin, with the nearest name or the kind that has it.
    """
    families = registry.families(kind)
    if name in families and name not in registry.names(kind):
        return _show_family(kind, name, families[name], as_json=as_json)
    try:
        entry = registry.entry(kind, name)
    except InputError as error:
        other = find_elsewhere(registry, kind, name)
        known = [*registry.names(kind), *families]
        if other:
            raise InputError(error.what, hint=f"{name!r} is among the {other}; bench show "
                             f"{singular(other)} {name}") from None
        if error.hint == nearest(name, registry.names(kind)):
            raise InputError(error.what, hint=nearest(name, known)) from None
        raise
    cls = entry.cls
    assert cls is not None
    if as_json:
        return json.dumps(_json(entry) | {"documentation": inspect.getdoc(cls),
                                          "parameters": list(_parameter_facts(cls))}, indent=1)
    parts = [f"{singular(kind)} {name}   ({entry.source}: {entry.path})",
             textwrap.indent(inspect.getdoc(cls) or "(no documentation)", "  ")]
    if issubclass(cls, Attack):
        parts.append("threat model\n" + table([
            ("stage", cls.threat.stage), ("knowledge", cls.threat.knowledge),
            ("goal", cls.threat.goal),
            ("realisable", "yes" if cls.threat.realisable else
             "no: a probe of stability that no attacker could carry out as it is"),
            ("budget", cls().budget_text())]))
    elif issubclass(cls, (Defense, ModelPlugin)):
        parts += [f"{key}: {value}" for key, value in _facts(entry).items()]
    rows = [(p["name"], p["type"], show(p["default"]), p["allowed"], p["help"])
            for p in _parameter_facts(cls)]
    parts.append("parameters\n" + table([("name", "type", "default", "allowed", "meaning"), *rows])
                 if rows else "parameters: none")
    parts.append(f"in a grid\n  {kind}: [{_example(cls)}]")
    return "\n\n".join(parts)


def find_elsewhere(registry: Registry, kind: str, name: str) -> str | None:
    """Another kind that has a plugin of this name."""
    from bench.plugin import KINDS

    return next((k for k in KINDS if k != kind and name in registry.names(k)), None)


def _show_family(kind: str, name: str, members: list[str], *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"family": name, "kind": kind, "members": members}, indent=1)
    text = textwrap.fill(", ".join(members), 96, initial_indent="  ", subsequent_indent="  ")
    word = singular(kind)
    return (f"{name}: a family of {len(members)} {kind}\n\n{text}\n\nin a grid\n  {kind}: "
            f"[{{{name}: {{{word}: [{members[0]}, {members[-1]}]}}}}]\n\n"
            f"`bench show {word} {members[0]}` shows one.")


def _parameter_facts(cls: type[Plugin]) -> Iterable[dict[str, Any]]:
    types = hints(cls)
    for name, field in parameters(cls).items():
        bounds = {k: v for k, v in field.metadata.items()
                  if k in ("choices", "low", "high", "above") and v is not None}
        yield {"name": name, "type": type_name(types[name]), "default": _plain(field.default),
               "allowed": allowed(field, types[name]), "help": field.metadata.get("help", ""),
               **bounds}


def _example(cls: type[Plugin]) -> str:
    """One entry of a grid: the first number among the parameters, at its default."""
    for name, field in parameters(cls).items():
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            return f"{{{cls.name}: {{{name}: {show(field.default)}}}}}"
    return cls.name
