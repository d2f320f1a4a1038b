"""Imports before a clock starts: what a plugin imports inside its methods would else count as work
of the first one that is timed."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import sys
from pathlib import Path


def import_what_it_names(plugin: type) -> None:
    """Import the modules that the methods of this class and of its bases import.

    Those not installed, or broken, are left to the method that asks for them, which says so.
    Modules that these import inside functions of their own are not followed.
    """
    for base in plugin.__mro__:
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        for name in named(file) if file and base is not object else ():
            with contextlib.suppress(Exception):
                importlib.import_module(name)


@functools.lru_cache(maxsize=256)
def named(file: str) -> tuple[str, ...]:
    """The modules that functions of this source file import, by absolute name, sorted."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ()
    inside = [node for function in ast.walk(tree)
              if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
              for node in ast.walk(function)]
    found = {alias.name for node in inside if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in inside
              if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return tuple(sorted(found))
