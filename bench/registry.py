"""Finds every plugin by its being there: built-in folders, the user's folders, entry points."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.coerce import parameters
from bench.discovery import (
    Source,
    built_in,
    folder_files,
    import_file,
    line_of,
    module_path,
    nameless,
    problem,
    singular,
)
from bench.errors import InputError, nearest, one_line
from bench.plugin import KINDS, Plugin


@dataclass(frozen=True)
class Entry:
    """One plugin, or one broken file.

    Attributes:
        kind: one of KINDS; "" for a broken file that does not say.
        name: what a grid calls it; the file's stem where broken.
        path: the file it stands in.
        source: "built-in", "folder" or "entry point".
        error: why it cannot be used (with file and line), or None.
        family: the family it is a member of ("recbole"), or None.
    """

    kind: str
    name: str
    path: Path
    source: str
    error: str | None = None
    family: str | None = None
    load: Callable[[], type[Plugin]] | None = field(default=None, repr=False, compare=False)

    @property
    def cls(self) -> type[Plugin] | None:
        """The plugin class (made when first asked for), or None where the file is broken."""
        return None if self.load is None else self.load()


class Registry:
    """All plugins by kind and name. Nothing is imported before it is asked for.

    Args:
        plugin_folders: folders of the user (or single .py files): flat, or with subfolders
            attacks/, defenses/, datasets/, models/. Files that start with an underscore or with
            `test_` are left alone; plugins may import the former (`from ._helper import f`).

    Raises:
        InputError: a folder does not exist.
    """

    def __init__(self, plugin_folders: Sequence[Path] = ()) -> None:
        self.folders = tuple(dict.fromkeys(Path(f).expanduser().resolve()
                                           for f in plugin_folders))
        for folder in self.folders:
            if not folder.exists():
                raise InputError(f"plugin folder {folder} does not exist")
            if folder.is_file() and folder.suffix != ".py":
                raise InputError(f"{folder} is neither a folder nor a Python file")
        importlib.invalidate_caches()
        self._found: dict[str, dict[str, Entry]] = {}
        self._clashes: dict[tuple[str, str], str] = {}
        self._broken: dict[str, list[Entry]] = {}
        self._points: Any = None

    # -- asking ----------------------------------------------------------------------------

    def names(self, kind: str) -> list[str]:
        """The names of all usable plugins of a kind, sorted; members of families included."""
        return sorted(self._scan(kind), key=lambda n: (n.lower(), n))

    def families(self, kind: str) -> dict[str, list[str]]:
        """Family name -> names of its members."""
        made: dict[str, list[str]] = {}
        for entry in self._scan(kind).values():
            if entry.family:
                made.setdefault(entry.family, []).append(entry.name)
        return made

    def entry(self, kind: str, name: str) -> Entry:
        """The entry of that name. Raises InputError: unknown (with the nearest), or ambiguous."""
        found = self._scan(kind)
        if (kind, name) in self._clashes:
            raise InputError(self._clashes[kind, name], hint="rename one of them")
        if name not in found:
            raise InputError(f"no {singular(kind)} is called {name!r}",
                             hint=self._suspect(kind, name) or nearest(name, found))
        return found[name]

    def get(self, kind: str, name: str) -> type[Plugin]:
        """The class of that name. Raises InputError as `entry` does."""
        cls = self.entry(kind, name).cls
        assert cls is not None, "usable entries have a class"
        return cls

    def make(self, kind: str, spec: Mapping[str, Any]) -> Plugin:
        """The plugin that a JSON spec {"name", "params"} describes.

        Raises:
            InputError: no such plugin, or it has no such parameter.
        """
        cls = self.get(kind, spec["name"])
        params, known = spec.get("params", {}), parameters(cls)
        for key in params:
            if key not in known:
                raise InputError(f"{singular(kind)} {spec['name']!r} has no parameter {key!r}",
                                 hint=nearest(key, known))
        return cls.from_params(params)

    def entries(self, kind: str) -> list[Entry]:
        """Every plugin of a kind, and the broken files of that kind, sorted by name."""
        usable = self._scan(kind).values()
        return sorted([*usable, *self._broken[kind]],
                      key=lambda e: (e.family or "", e.name.lower(), str(e.path)))

    def broken(self) -> list[Entry]:
        """The files that could not be used, with the reasons."""
        for kind in KINDS:
            self._scan(kind)
        entries = [e for some in self._broken.values() for e in some]
        return sorted(dict.fromkeys(entries), key=lambda e: (str(e.path), e.error or ""))

    def _suspect(self, kind: str, name: str) -> str | None:
        """A broken file that seems to be the one meant."""
        for entry in [*self._broken[kind], *self._broken[""]]:
            text = ""
            if entry.path.is_file():
                text = entry.path.read_text("utf-8", errors="replace")
            if entry.name.replace("_", "-") == name or re.search(
                    rf"name\s*(:[^=]+)?=\s*['\"]{re.escape(name)}['\"]", text):
                return f"its file is broken: {entry.error}"
        return None

    # -- looking ---------------------------------------------------------------------------

    def _scan(self, kind: str) -> dict[str, Entry]:
        if kind not in KINDS:
            raise InputError(f"{kind!r} is no kind of plugin", hint=nearest(kind, KINDS))
        if kind not in self._found:
            self._found[kind], self._broken[kind] = {}, []
            self._broken.setdefault("", [])
            for source in built_in(kind):
                self._read(source, kind)
            for source in folder_files(self.folders):
                if source.kind in ("", kind):
                    self._read(source, kind)
            self._entry_points(kind)
        return self._found[kind]

    def _read(self, source: Source, kind: str) -> None:
        """Add what one file holds of this kind, or the reason why nothing of it can be used."""
        module = import_file(source)
        if isinstance(module, str):
            self._break(source, module)
            return
        family = getattr(module, "FAMILY", None)
        if family is not None and kind == (source.kind or "models"):
            try:
                members = list(module.members())
            except Exception as error:
                members = []
                self._break(source, f"{source.path}: its list of members fails: "
                            f"{type(error).__name__}: {one_line(error)}")
            for name in members:
                self._add(Entry(kind, name, source.path, source.source, family=family,
                                load=functools.cache(functools.partial(module.member, name))))
        own = [c for c in vars(module).values() if inspect.isclass(c)
               and issubclass(c, Plugin) and c.__module__ == module.__name__]
        named = [c for c in dict.fromkeys(own) if c.__dict__.get("name")]
        if not named and family is None:
            self._break(source, f"{source.path}: holds no plugin: " + nameless(own))
        for cls in named:
            wrong = problem(cls, source)
            if wrong:
                self._break(source, f"{source.path}:{line_of(cls)}: class {cls.__name__} {wrong}")
            elif cls.kind == kind:
                self._add(Entry(kind, cls.name, source.path, source.source,
                                load=functools.partial(_same, cls)))

    def _entry_points(self, kind: str) -> None:
        if self._points is None:  # reads the metadata of every package: once is enough
            self._points = importlib.metadata.entry_points()
        for point in self._points.select(group=f"bench.{kind}"):
            source = Source(point.module, Path(point.value), kind, "entry point")
            try:
                loaded = point.load()
            except (Exception, SystemExit) as error:
                self._break(source, f"entry point {point.name} = {point.value}: "
                            f"{type(error).__name__}: {one_line(error)}")
                continue
            if isinstance(loaded, types.ModuleType):
                self._read(Source(loaded.__name__, module_path(loaded), kind, "entry point"),
                           kind)
            elif not (inspect.isclass(loaded) and issubclass(loaded, Plugin)):
                self._break(source, f"entry point {point.name} = {point.value}: is neither a "
                            "plugin class nor a module with one")
            elif wrong := problem(loaded, source):
                self._break(source, f"entry point {point.name} = {point.value}: class "
                            f"{loaded.__name__} {wrong}")
            else:
                module = sys.modules[loaded.__module__]
                self._add(Entry(kind, loaded.name, module_path(module), "entry point",
                                load=functools.partial(_same, loaded)))

    def _add(self, entry: Entry) -> None:
        other = self._found[entry.kind].setdefault(entry.name, entry)
        if other is not entry:
            text = (f"{entry.path}: the {singular(entry.kind)} name {entry.name!r} is already "
                    f"taken by {other.path}")
            self._clashes[entry.kind, entry.name] = (
                f"two {entry.kind} are called {entry.name!r}: {other.path} and {entry.path}")
            self._broken[entry.kind].append(
                Entry(entry.kind, entry.name, entry.path, entry.source, text))

    def _break(self, source: Source, error: str) -> None:
        entry = Entry(source.kind, source.path.stem, source.path, source.source, error)
        if entry not in self._broken[source.kind]:
            self._broken[source.kind].append(entry)


def _same(cls: type[Plugin]) -> type[Plugin]:
    return cls
