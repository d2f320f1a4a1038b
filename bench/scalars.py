"""Single values as a person means them, where YAML 1.1 reads something else."""

from __future__ import annotations

import math
import re
import types
from typing import Any

from bench.yaml_lines import List, Node, Scalar

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(([0-9]+(_[0-9]+)*)?\.[0-9]+|[0-9]+(_[0-9]+)*\.?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.?(inf|infinity|nan)", re.IGNORECASE)
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
SIMPLE: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false",
                           str: "text"}


class CoerceError(Exception):
    """A value that does not fit: what is wrong, the line, an index inside the value."""

    def __init__(self, what: str, line: int, at: str = "", hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.line, self.at, self.hint = what, line, at, hint


def scalar(node: Scalar, hint: Any) -> Any:
    """One written value as int, float, bool, str, None or Any. Raises CoerceError."""
    text = node.text.strip()
    if hint is str:
        if node.is_null:
            raise CoerceError("nothing is given", node.line)
        return node.text
    if hint in (None, types.NoneType):
        if node.is_null:
            return None
        raise CoerceError(f"{written(node)} is not null", node.line)
    if hint is Any:
        return _native(node)
    if node.is_null:
        raise CoerceError("nothing is given", node.line)
    if hint is bool:
        word = text.lower()
        if word in _TRUE + _FALSE:
            return word in _TRUE
        raise CoerceError(f"{written(node)} is not true or false", node.line)
    return number(node, hint)


def number(node: Scalar, hint: type[int] | type[float]) -> int | float:
    """An int or a float as a person means it, whatever YAML 1.1 makes of it.

    Raises:
        CoerceError: octal, hexadecimal or sexagesimal forms, truth values, fractions for ints.
    """
    text, what = node.text.strip(), SIMPLE[hint]
    bare = text.lstrip("+-")
    if re.fullmatch(r"0[0-9_]+", bare):
        raise CoerceError(f"{text!r} has a leading zero, which YAML reads as octal", node.line,
                          hint=f"write {bare.replace('_', '').lstrip('0') or '0'}")
    if re.fullmatch(r"0[xXbBoO][0-9a-fA-F_]+", bare):
        raise CoerceError(f"{text!r} is not a decimal number", node.line,
                          hint="write it in decimal digits")
    if re.fullmatch(r"[0-9]+(:[0-9.]+)+", bare):
        raise CoerceError(f"{text!r} is not a number; YAML reads it in base 60", node.line,
                          hint=f"write {what}")
    if not node.quoted and node.tag == "bool":
        raise CoerceError(f"{text!r} is a truth value, not {what}", node.line)
    if special := _SPECIAL.fullmatch(text):
        if hint is int:
            raise CoerceError(f"{text!r} is not a whole number", node.line)
        return float(special[1] + special[2])
    if hint is int and _INT.fullmatch(text):
        if len(text) > 30:
            raise CoerceError(f"a number of {len(text)} digits is too large", node.line)
        return int(text)
    if not _FLOAT.fullmatch(text):
        comma = re.fullmatch(r"[-+]?[0-9]+,[0-9]+", text)
        raise CoerceError(f"{written(node)} is not {what}", node.line,
                          hint=f"write {text.replace(',', '.')}" if comma else None)
    value = float(text)
    if math.isinf(value):
        raise CoerceError(f"{text!r} is too large", node.line)
    if hint is float:
        return value
    if value != int(value) or abs(value) > 2**53:
        raise CoerceError(f"{text!r} is not a whole number", node.line)
    return int(value)


def _native(node: Scalar) -> Any:
    """A scalar where the parameter takes anything: YAML's reading, with 1e-5 a number."""
    if node.quoted:
        return node.text
    if node.tag == "null":
        return None
    if node.tag == "bool":
        return node.text.lower() in _TRUE
    if _INT.fullmatch(node.text):
        return number(node, int)
    if _FLOAT.fullmatch(node.text):
        return number(node, float)
    return node.text


def written(node: Node) -> str:
    """A value as an error message quotes it."""
    if isinstance(node, Scalar):
        if node.is_null:
            return "null"
        return repr(node.text if len(node.text) <= 60 else node.text[:57] + "...")
    return "a list" if isinstance(node, List) else "a mapping"
