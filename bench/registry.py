"""Finds every plugin by its being there: built-in folders, the user's folders, entry points."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import bench
from bench.coerce import check_annotations, parameters
from bench.errors import InputError, nearest
from bench.plugin import KINDS, Plugin

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ARTICLES = {"datasets": "a dataset", "models": "a model", "attacks": "an attack",
            "defenses": "a defense"}
_PACKAGE = "bench_plugins"  # user folders are imported below this name


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


@dataclass(frozen=True)
class _Source:
    """A module to look into: how it is imported, and what kind its folder asks for."""

    module: str
    path: Path
    kind: str
    source: str


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
            for source in _built_in(kind):
                self._read(source, kind)
            for source in self._folder_sources():
                if source.kind in ("", kind):
                    self._read(source, kind)
            self._entry_points(kind)
        return self._found[kind]

    def _folder_sources(self) -> Iterator[_Source]:
        built_in = {source.path for kind in KINDS for source in _built_in(kind)}
        seen: set[Path] = set()
        for folder in self.folders:
            root = folder.parent if folder.is_file() else folder
            package = _package(root)
            flat = [folder] if folder.is_file() else sorted(folder.glob("*.py"))
            files = [(path, "", f"{package}.{path.stem}") for path in flat]
            if folder.is_dir():
                files += [(path, kind, f"{package}.{kind}.{path.stem}") for kind in KINDS
                          for path in sorted((folder / kind).glob("*.py"))]
            for path, kind, module in files:
                skip = path.name.startswith(("_", "test_")) or path.name == "conftest.py"
                if not skip and path.resolve() not in built_in | seen:
                    seen.add(path.resolve())
                    yield _Source(module, path, kind, "folder")

    def _read(self, source: _Source, kind: str) -> None:
        """Add what one file holds of this kind, or the reason why nothing of it can be used."""
        module = _import(source)
        if isinstance(module, str):
            self._break(source, module)
            return
        family = getattr(module, "FAMILY", None)
        if family is not None and kind == (source.kind or "models"):
            for name in module.members():
                self._add(Entry(kind, name, source.path, source.source, family=family,
                                load=functools.partial(module.member, name)))
        own = [c for c in vars(module).values() if inspect.isclass(c)
               and issubclass(c, Plugin) and c.__module__ == module.__name__]
        named = [c for c in dict.fromkeys(own) if c.__dict__.get("name")]
        if not named and family is None:
            self._break(source, f"{source.path}: holds no plugin: " + _nameless(own))
        for cls in named:
            problem = _problem(cls, source)
            if problem:
                self._break(source, f"{source.path}:{_line(cls)}: class {cls.__name__} {problem}")
            elif cls.kind == kind:
                self._add(Entry(kind, cls.name, source.path, source.source,
                                load=functools.partial(_same, cls)))

    def _entry_points(self, kind: str) -> None:
        for point in importlib.metadata.entry_points(group=f"bench.{kind}"):
            source = _Source(point.module, Path(point.value), kind, "entry point")
            try:
                loaded = point.load()
            except (Exception, SystemExit) as error:
                self._break(source, f"entry point {point.name} = {point.value}: "
                            f"{type(error).__name__}: {error}")
                continue
            if isinstance(loaded, types.ModuleType):
                self._read(_Source(loaded.__name__, _module_path(loaded), kind, "entry point"),
                           kind)
            elif not (inspect.isclass(loaded) and issubclass(loaded, Plugin)):
                self._break(source, f"entry point {point.name} = {point.value}: is neither a "
                            "plugin class nor a module with one")
            elif problem := _problem(loaded, source):
                self._break(source, f"entry point {point.name} = {point.value}: class "
                            f"{loaded.__name__} {problem}")
            else:
                module = sys.modules[loaded.__module__]
                self._add(Entry(kind, loaded.name, _module_path(module), "entry point",
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

    def _break(self, source: _Source, error: str) -> None:
        entry = Entry(source.kind, source.path.stem, source.path, source.source, error)
        if entry not in self._broken[source.kind]:
            self._broken[source.kind].append(entry)


def singular(kind: str) -> str:
    """"attacks" -> "attack"."""
    return kind.removesuffix("s")


def _same(cls: type[Plugin]) -> type[Plugin]:
    return cls


def _built_in(kind: str) -> Iterator[_Source]:
    """The files of bench.attacks and so on, wherever the layout has put them."""
    package = f"{bench.__name__}.{kind}"
    for folder in importlib.import_module(package).__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_") and path.name != "base.py":
                yield _Source(f"{package}.{path.stem}", path.resolve(), kind, "built-in")


def _package(folder: Path) -> str:
    """The package a user's folder is imported as: the same in every process.

    Its modules are imported anew when a file in the folder has changed since.
    """
    name = f"{_PACKAGE}_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    files = [path for part in (".", *KINDS) for path in sorted((folder / part).glob("*.py"))]
    stamp = tuple((str(p), s.st_mtime_ns, s.st_size) for p in files for s in [p.stat()])
    package = sys.modules.get(name)
    if package is None or package.__dict__["stamp"] != stamp:
        for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
            del sys.modules[module]
        package = types.ModuleType(name, f"Plugins of {folder}.")
        package.__path__ = [str(folder)]
        package.__dict__["stamp"] = stamp
        sys.modules[name] = package
    return name


def _import(source: _Source) -> types.ModuleType | str:
    """The module, or why it cannot be imported: file, line, error."""
    if "." in source.path.stem:
        return f"{source.path}: a plugin file's name has no dot before .py; rename it"
    try:
        return importlib.import_module(source.module)
    except (Exception, SystemExit) as error:
        line = None
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename) == source.path:
                line = frame.lineno
        if isinstance(error, SyntaxError) and error.filename == str(source.path):
            return f"{source.path}:{error.lineno}: {type(error).__name__}: {error.msg}"
        where = str(source.path) if line is None else f"{source.path}:{line}"
        return f"{where}: {type(error).__name__}: {error}"


def _nameless(own: Sequence[type[Plugin]]) -> str:
    hint = "if it is a helper, start its file name with an underscore"
    if not own:
        return ("a plugin is a class derived from ProfileAttack, EmbeddingAttack, Defense, "
                f"DatasetPlugin or ModelPlugin with a name ({hint})")
    which = " and ".join(f"class {c.__name__} (line {_line(c)})" for c in own)
    return f'{which} has no name; write name = "my-name" as its first line ({hint})'


def _problem(cls: type[Plugin], source: _Source) -> str | None:
    """Which rule a named plugin class breaks, or None."""
    if not isinstance(cls.name, str) or not NAME.fullmatch(cls.name):
        return (f"has the name {cls.name!r}; a name is kebab-case: lower-case letters and "
                "digits, words joined by single hyphens")
    if cls.kind not in KINDS:
        return ("derives from Plugin itself; derive from ProfileAttack, EmbeddingAttack, "
                "Defense, DatasetPlugin or ModelPlugin")
    if source.kind and cls.kind != source.kind:
        where = "entry point group bench." if source.source == "entry point" else "folder "
        return f"is {ARTICLES[cls.kind]}, and stands in the {where}{source.kind}"
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        return f"does not define {' and '.join(missing)}"
    for f in parameters(cls).values():
        if f.default is MISSING:
            return f"has a parameter {f.name!r} without a default; use param(default, help)"
    return check_annotations(cls)


def _line(cls: type) -> int:
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # made at run time: there is no source line
        return 1


def _module_path(module: types.ModuleType) -> Path:
    return Path(module.__file__ or module.__name__)
