"""Where plugin files are, how they are imported, and which rules a plugin class must keep."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

import bench
from bench.coerce import check_annotations, parameters
from bench.errors import BenchError, one_line
from bench.plugin import KINDS, Plugin

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ARTICLES = {"datasets": "a dataset", "models": "a model", "attacks": "an attack",
            "defenses": "a defense"}
_PACKAGE = "bench_plugins"  # user folders are imported below this name


@dataclass(frozen=True)
class Source:
    """A module to look into: how it is imported, and what kind its folder asks for ("": any)."""

    module: str
    path: Path
    kind: str
    source: str


def singular(kind: str) -> str:
    """"attacks" -> "attack"."""
    return kind.removesuffix("s")


def built_in(kind: str) -> Iterator[Source]:
    """The files of bench.attacks and so on, wherever the layout has put them."""
    package = f"{bench.__name__}.{kind}"
    for folder in importlib.import_module(package).__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_") and path.name != "base.py":
                yield Source(f"{package}.{path.stem}", path.resolve(), kind, "built-in")


def folder_files(folders: Sequence[Path]) -> Iterator[Source]:
    """The plugin files of the user's folders, built-in ones left out."""
    built = {source.path for kind in KINDS for source in built_in(kind)}
    seen: set[Path] = set()
    for folder in folders:
        root = folder.parent if folder.is_file() else folder
        package = package_of(root)
        flat = [folder] if folder.is_file() else sorted(folder.glob("*.py"))
        files = [(path, "", f"{package}.{path.stem}") for path in flat]
        if folder.is_dir():
            files += [(path, kind, f"{package}.{kind}.{path.stem}") for kind in KINDS
                      for path in sorted((folder / kind).glob("*.py"))]
        for path, kind, module in files:
            skip = path.name.startswith(("_", "test_")) or path.name == "conftest.py"
            if not skip and path.resolve() not in built | seen:
                seen.add(path.resolve())
                yield Source(module, path, kind, "folder")


def package_of(folder: Path) -> str:
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


def import_file(source: Source) -> types.ModuleType | str:
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
        return f"{where}: {type(error).__name__}: {one_line(error)}"


def nameless(own: Sequence[type[Plugin]]) -> str:
    """What to do about a file without a named plugin."""
    hint = "if it is a helper, start its file name with an underscore"
    if not own:
        return ("a plugin is a class derived from ProfileAttack, EmbeddingAttack, Defense, "
                f"DatasetPlugin or ModelPlugin with a name ({hint})")
    which = " and ".join(f"class {c.__name__} (line {line_of(c)})" for c in own)
    return f'{which} has no name; write name = "my-name" as its first line ({hint})'


def problem(cls: type[Plugin], source: Source) -> str | None:
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
    return check_annotations(cls) or _described(cls)


def _described(cls: type[Plugin]) -> str | None:
    """Why plans, lists and tables cannot name this class with its default parameters, or None."""
    from bench.api import Attack, ThreatModel

    if issubclass(cls, Attack) and not isinstance(getattr(cls, "threat", None), ThreatModel):
        return ("has no threat model; write threat = ThreatModel(stage, knowledge, goal) with "
                "ThreatModel from bench.api")
    asked = "its defaults"
    try:
        made = cls()
        asked = "params()"
        json.dumps(made.params())
        asked = "label()"
        texts = {asked: made.label()}
        if isinstance(made, Attack):
            asked = "budget_text()"
            texts[asked] = made.budget_text()
    except BenchError:  # its own check: some parameter has to be given
        return None
    except Exception as error:
        return f"fails with {asked}: {type(error).__name__}: {one_line(error)}"
    for asked, text in texts.items():
        if not isinstance(text, str):
            return f"gives {type(text).__name__} with {asked}; text is needed"
    return None


def line_of(cls: type) -> int:
    """The line a class starts on."""
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # made at run time: there is no source line
        return 1


def module_path(module: types.ModuleType) -> Path:
    """The file a module came from."""
    return Path(module.__file__ or module.__name__)
