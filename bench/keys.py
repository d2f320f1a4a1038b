"""Keys: a hash of everything that determines a stored value, the code that made it included.

A comment, a docstring or the help text of a parameter changes no key; a formula changes exactly
the keys of what used it. Paths, device, workers, log level and run names are in no key.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.api import Attack, DatasetPlugin, Defense, ModelPlugin, Plugin
from bench.errors import InputError

LIBRARIES = ("torch", "numpy", "scipy", "recbole")
"""Libraries whose version may change a trained model's numbers."""

# Modules of bench that name, transport or print, and compute no number of a result.
_INTERFACE = {"bench", "bench.errors", "bench.plugin", "bench.registry", "bench.grid", "bench.keys",
              "bench.plan", "bench.jobs", "bench.store", "bench.results", "bench.run",
              "bench.progress", "bench.report", "bench.cli", "bench._version", "bench.testing",
              "bench.coerce", "bench.yaml_lines", "bench.discovery", "bench.expand"}

# Data files that stand beside a plugin and that it names count with their bytes.
_RESOURCES = (".json", ".yaml", ".csv", ".tsv", ".txt", ".npy", ".safetensors")

# Where each stage's own code begins; what these modules import counts as well.
_ROOTS = {"data": ("bench.data",),
          "train": ("bench.stages", "bench.training", "bench.models.base", "bench.sampling"),
          "cell": ("bench.stages", "bench.evaluate")}


# -- values ------------------------------------------------------------------------------------

def plain(value: Any) -> Any:
    """The value as JSON knows it: numpy values as numbers and lists, tuples and sets as lists,
    numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) has no form in JSON")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, floats by repr."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(*parts: Any) -> str:
    """20 hex digits that stand for these values."""
    return hashlib.sha256(canonical(list(parts)).encode()).hexdigest()[:20]


def spec(plugin: Plugin) -> dict[str, Any]:
    """A plugin as JSON: its name and all its parameters."""
    return {"name": plugin.name, "params": plugin.params()}


# -- code --------------------------------------------------------------------------------------

class _Meaning(ast.NodeTransformer):
    """Drops what does not change a number: docstrings and the help text of parameters."""

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)):
            node.body = node.body[1:]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _body

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "param" and len(node.args) > 1:
            node.args = node.args[:1]
        return node


def code_hash(path: Path) -> str:
    """The hash of a Python file's meaning (memoised while the file does not change)."""
    return _parsed(*_stamp(path)).meaning


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_mtime_ns, stat.st_size


@dataclass(frozen=True)
class _Parsed:
    """One state of a Python file.

    Attributes:
        meaning: its hash.
        imports: modules as (dotted name, level of relativity).
        resources: names in it that may be data files beside it.
    """

    meaning: str
    imports: tuple[tuple[str, int], ...]
    resources: tuple[str, ...]


@functools.cache
def _parsed(path: str, mtime: int, size: int) -> _Parsed:
    tree = ast.parse(Path(path).read_bytes(), path)
    imports = tuple(_imports(tree))
    meaning = _Meaning().visit(tree)
    texts = {node.value for node in ast.walk(meaning)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return _Parsed(hashlib.sha256(ast.dump(meaning).encode()).hexdigest(), imports,
                   tuple(sorted(t for t in texts if t.endswith(_RESOURCES))))


def _imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _imports(ast.Module([other], []))
        elif isinstance(child, ast.Import):
            yield from ((alias.name, 0) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if base:
                yield base, child.level
            for alias in child.names:
                yield f"{base}.{alias.name}" if base else alias.name, child.level
        else:
            yield from _imports(child)


def _bench_file(module: str) -> Path | None:
    """The file of a module of bench, without importing it."""
    import bench

    parts = module.split(".")[1:]
    for root in bench.__path__:
        base = Path(root, *parts)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if parts and path.is_file():
                return path
    return None


def _resolve(name: str, level: int, importer: Path) -> Path | None:
    """The file an import means where it is part of bench or stands beside the importer."""
    if level == 0 and name in _INTERFACE:
        return None
    if level == 0 and name.startswith("bench."):
        return _bench_file(name)
    folder = importer.parent
    for _ in range(level - 1):
        folder = folder.parent
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.is_file() and path != importer else None


def closure(roots: Iterable[Path], stop: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """The files, and all they import from bench or from beside them, less those in `stop`."""
    found: set[Path] = set()
    todo = [p for p in roots if p not in stop]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        parsed = _parsed(*_stamp(path))
        others = [_resolve(name, level, path) for name, level in parsed.imports]
        others += [path.parent / name for name in parsed.resources
                   if "/" not in name and (path.parent / name).is_file()]
        todo += [other for other in others if other is not None and other not in stop]
    return frozenset(found)


def _files_hash(files: Iterable[Path]) -> str:
    return digest(sorted((p.name, code_hash(p) if p.suffix == ".py" else file_hash(p))
                         for p in files))


def stage_files(stage: str) -> frozenset[Path]:
    """The harness's own files that determine a stage: "data", "train" or "cell"."""
    paths = [_bench_file(name) for name in _ROOTS[stage]]
    return closure([p for p in paths if p is not None])


def stage_code(stage: str) -> str:
    """The hash of a stage's harness code."""
    return _files_hash(stage_files(stage))


def plugin_files(cls: type[Plugin]) -> frozenset[Path]:
    """The files that determine a plugin: its own, its base classes', what they import; less
    the harness's own, which count by stage."""
    core = stage_files("train") | stage_files("cell")
    roots = []
    for base in cls.__mro__:
        module = sys.modules.get(base.__module__)
        file = getattr(module, "__file__", None)
        if (base is not Plugin and issubclass(base, Plugin) and file is not None
                and base.__module__ not in _INTERFACE):
            roots.append(Path(file))
    if not [r for r in roots if r not in core]:
        raise InputError(f"the code of {cls.kind} {cls.name!r} cannot be found",
                         hint=f"its module {cls.__module__!r} has no file")
    return closure(roots, core)


def plugin_code(cls: type[Plugin]) -> str:
    """The hash of a plugin's code."""
    return _files_hash(plugin_files(cls))


# -- files and libraries -----------------------------------------------------------------------

def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, or InputError where it cannot be read."""
    try:
        return _bytes_hash(*_stamp(Path(path)))
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path,
                         hint="check the path and its permissions") from error


@functools.cache
def _bytes_hash(path: str, mtime: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions, without the local part ("+cpu"): the device is in no key."""
    import importlib.metadata

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# -- the three keys ----------------------------------------------------------------------------

class Keys:
    """Makes the keys of one plan, each part hashed once.

    Args:
        threads: of the computation; 1 is the default and stays out of the keys, another number
            may change sums in their last digits and enters.
    """

    def __init__(self, threads: int = 1) -> None:
        self._extra = {} if threads == 1 else {"threads": threads}
        self._stage = functools.cache(stage_code)
        self._codes: dict[type[Plugin], str] = {}
        self._data: dict[DatasetPlugin, str] = {}

    def _plugin(self, plugin: Plugin | None) -> Any:
        return None if plugin is None else [spec(plugin), self._code(type(plugin))]

    def _code(self, cls: type[Plugin]) -> str:
        if cls not in self._codes:
            self._codes[cls] = plugin_code(cls)
        return self._codes[cls]

    def data(self, dataset: DatasetPlugin) -> str:
        """H(dataset spec, its code, hashes of its files); where a file lies does not matter."""
        if dataset not in self._data:
            paths = [Path(p).expanduser() for p in dataset.files()]
            hashes = {p: file_hash(p) for p in paths}
            params = {k: _without_paths(v, hashes) for k, v in dataset.params().items()}
            self._data[dataset] = digest("data", dataset.name, params, list(hashes.values()),
                                         self._code(type(dataset)), self._stage("data"))
        return self._data[dataset]

    def train(self, data_key: str, poison: Attack | None, model: ModelPlugin, defense: Defense,
              seed: int) -> str:
        """H(data key, poisoning or none, model, defense, seed, code, library versions)."""
        return digest("train", data_key, self._plugin(poison), self._plugin(model),
                      self._plugin(defense), seed, self._stage("train"), versions(), self._extra)

    def cell(self, train_key: str, evasion: Attack | None, metrics: Sequence[str],
             groups: Mapping[str, Sequence[str]]) -> str:
        """H(train key, evasion or none, metrics, groups, code of the evaluation)."""
        return digest("cell", train_key, self._plugin(evasion), list(metrics), dict(groups),
                      self._stage("cell"))


def _without_paths(value: Any, hashes: Mapping[Path, str]) -> Any:
    """A parameter with the paths of hashed files, or of a folder that holds some, taken out."""
    if isinstance(value, (list, tuple)):
        return [_without_paths(v, hashes) for v in value]
    if isinstance(value, str) and value and hashes:
        path = Path(value).expanduser()
        resolved = {p.resolve(): h for p, h in hashes.items()}
        if path.resolve() in resolved:
            return f"file {resolved[path.resolve()]}"
        if path.is_dir() and any(path.resolve() in p.parents for p in resolved):
            return "folder"
    return value
