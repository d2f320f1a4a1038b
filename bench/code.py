"""The hash of code by its meaning: comments, docstrings and help texts do not count."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.plugin import Plugin

# Modules of bench that name, transport or print, and compute no number of a result.
_INTERFACE = {"bench", "bench.errors", "bench.plugin", "bench.registry", "bench.grid", "bench.keys",
              "bench.plan", "bench.jobs", "bench.store", "bench.results", "bench.run",
              "bench.progress", "bench.report", "bench.cli", "bench._version", "bench.testing",
              "bench.coerce", "bench.yaml_lines", "bench.discovery", "bench.expand", "bench.code",
              "bench.device", "bench.environment", "bench.locks", "bench.session"}

# Data files that stand beside a plugin and that it names count with their bytes.
_RESOURCES = (".json", ".yaml", ".csv", ".tsv", ".txt", ".npy", ".safetensors")

# Where each stage's own code begins; what these modules import counts as well.
_ROOTS = {"data": ("bench.data",),
          "train": ("bench.stages", "bench.training", "bench.models.base", "bench.sampling"),
          "cell": ("bench.stages", "bench.evaluate")}


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
    parts = sorted((p.name, code_hash(p) if p.suffix == ".py" else file_hash(p)) for p in files)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


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
