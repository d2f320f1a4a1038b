"""`bench new`: one working plugin file to start from."""

from __future__ import annotations

import string
from pathlib import Path

import bench
from bench.discovery import ARTICLES, NAME, singular
from bench.errors import InputError, nearest
from bench.registry import Registry

BASES = ("profile", "embedding")
_TEMPLATES = Path(__file__).resolve().parent / "templates"


def new(kind: str, name: str, *, into: Path | None = None, base: str | None = None) -> Path:
    """Write the skeleton of a plugin; it passes the contract tests as it is.

    Args:
        kind: one of KINDS.
        name: kebab-case; the file gets underscores instead of hyphens.
        into: folder to write to, made where it is missing. Default: in a checkout the folder
            where plugins of this kind stand, elsewhere the current folder.
        base: for attacks "profile" (the default) or "embedding".

    Returns:
        The file written.

    Raises:
        InputError: the name is not kebab-case or is taken, the file exists, or the folder
            cannot be written to.
    """
    if kind != "attacks" and base is not None:
        raise InputError(f"--base is for attacks; {ARTICLES[kind]} has no choice of base",
                         hint="leave --base out")
    if base is not None and base not in BASES:
        raise InputError(f"there is no base {base!r}", hint=nearest(base, BASES))
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for {ARTICLES[kind]}",
                         hint="kebab-case is: lower-case letters and digits, words joined by "
                              f"single hyphens, such as {_kebab(name)}")
    stem = name.replace("-", "_")
    if stem.startswith("test_") or stem in ("base", "conftest"):
        raise InputError(f"a file called {stem}.py is not taken for a plugin",
                         hint="take another name")
    registry = Registry([into] if into is not None and into.is_dir() else [])
    if name in registry.names(kind):
        raise InputError(f"there is already {ARTICLES[kind]} called {name!r}",
                         file=registry.entry(kind, name).path, hint="take another name")
    template = f"attack_{base or BASES[0]}" if kind == "attacks" else singular(kind)
    text = string.Template((_TEMPLATES / f"{template}.txt").read_text("utf-8")).substitute(
        name=name, class_name=_class_name(name))
    path = (_own_folder(kind) if into is None else into) / f"{stem}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # "x": never overwrite
            file.write(text)
    except FileExistsError:
        what = "exists and is no folder" if path.parent.exists() and not path.parent.is_dir() \
            else "exists already, and is not overwritten"
        raise InputError(what, file=path.parent if "folder" in what else path,
                         hint="take another name, or another folder with --into") from None
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path,
                         hint="take another folder with --into") from None
    return path


def _own_folder(kind: str) -> Path:
    """The folder of built-in plugins in a checkout; the current folder elsewhere."""
    package = Path(bench.__file__).resolve().parent
    if not (package.parent / "pyproject.toml").is_file():
        return Path()
    return package / kind if kind == "models" else package.parent / kind


def _class_name(name: str) -> str:
    joined = "".join(word.capitalize() for word in name.split("-"))
    return joined if joined[0].isalpha() else f"Plugin{joined}"


def _kebab(name: str) -> str:
    """The nearest kebab-case name: "My_Attack" -> "my-attack"."""
    import re

    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    return "-".join(word.lower() for word in words) or "my-plugin"
