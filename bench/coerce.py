"""What a person wrote, as the type that a parameter declares: checked, bounded, or refused."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Union

from bench.errors import nearest
from bench.plugin import show
from bench.scalars import SIMPLE, CoerceError, scalar, written
from bench.yaml_lines import List, Map, Node, Scalar


def parameters(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The parameters of a plugin class by name, in the order declared."""
    return {f.name: f for f in dataclasses.fields(cls)}


def hints(cls: type) -> dict[str, Any]:
    """The types of a plugin's parameters, by name. Raises NameError for unknown annotations."""
    resolved = typing.get_type_hints(cls)
    return {name: resolved[name] for name in parameters(cls)}


def check_annotations(cls: type) -> str | None:
    """Why a grid could not give this class its parameters, or None."""
    try:
        found = hints(cls)
    except NameError as error:
        return (f"has an annotation that cannot be resolved: {error}; a parameter is int, float, "
                "bool, str, tuple[...] or one of these | None, or import the name at module top")
    for name, hint in found.items():
        if not _supported(hint):
            return (f"has the parameter {name!r} of type {type_name(hint)}; a parameter is int, "
                    "float, bool, str, tuple[...] or one of these | None")
    return None


def _supported(hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return all(_supported(h) for h in inner)
    if origin is tuple:
        return all(h is ... or _supported(h) for h in inner)
    return origin is typing.Literal or hint in (
        int, float, bool, str, None, types.NoneType, Any, tuple)


def type_name(hint: Any) -> str:
    """A type as it is written: "float", "tuple[int, ...]", "str | None"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is types.NoneType:
        return "None"
    if hint is ...:
        return "..."
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(h) for h in inner)
    if origin is typing.Literal:
        return " | ".join(repr(h) for h in inner)
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(type_name, inner))}]"
    return str(getattr(hint, "__name__", hint))


def depth(hint: Any) -> int:
    """How many lists deep a value of this type is: 0 for float, 1 for tuple[int, ...]."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return max(depth(h) for h in inner)
    if origin is tuple or hint is tuple:
        return 1 + max((depth(h) for h in inner if h is not ...), default=0)
    return 0


def written_depth(node: Node) -> int:
    """How many lists deep a value is written, along its deepest element."""
    if not isinstance(node, List):
        return 0
    return 1 + max((written_depth(n) for n in node.items), default=0)


def allowed(field: dataclasses.Field[Any], hint: Any) -> str:
    """The values a parameter may take, in words: "a number above 0 and at most 1"."""
    meta = field.metadata
    if meta.get("choices"):
        return "one of " + ", ".join(show(c) for c in meta["choices"])
    bounds = [f"{word} {show(meta[key])}" for key, word in (
        ("above", "above"), ("low", "at least"), ("high", "at most"))
        if meta.get(key) is not None]
    return _in_words(hint) + (" " + " and ".join(bounds) if bounds else "") + (
        ", or null" if types.NoneType in _members(hint) else "")


def _in_words(hint: Any) -> str:
    """A type for people: "a list of whole numbers"."""
    members = [h for h in _members(hint) if h is not types.NoneType]
    if len(members) > 1:
        return " or ".join(map(_in_words, members))
    inner = typing.get_args(members[0])
    if typing.get_origin(members[0]) is tuple and inner[1:] == (...,):
        plural = {int: "whole numbers", float: "numbers", str: "words", bool: "truth values"}
        return f"a list of {plural.get(inner[0], 'lists')}"
    if typing.get_origin(members[0]) is tuple:
        return f"[{', '.join(map(type_name, inner))}]"
    return SIMPLE.get(members[0], type_name(members[0]))


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def parameter(node: Node, field: dataclasses.Field[Any], hint: Any) -> Any:
    """The value of one parameter, of its type and within its bounds.

    Raises:
        CoerceError: with what is allowed.
    """
    value = convert(node, hint)
    meta, line = field.metadata, node.line
    choices = meta.get("choices")
    for one in value if isinstance(value, tuple) else (value,):
        if choices and one not in choices and one is not None:
            known = [show(c) for c in choices]
            raise CoerceError(f"{show(one)!r} is not allowed", line, hint=nearest(show(one), known))
        if not isinstance(one, (int, float)) or isinstance(one, bool):
            continue
        stated = one in (field.default, meta.get("high")) or one in (choices or ())
        if not math.isfinite(one) and not stated:
            raise CoerceError(f"{show(one)} is not finite", line,
                              hint=f"allowed: {allowed(field, hint)}")
        low, high, above = meta.get("low"), meta.get("high"), meta.get("above")
        said = (f"{show(one)} is below {show(low)}" if low is not None and one < low else
                f"{show(one)} is not above {show(above)}" if above is not None and one <= above
                else f"{show(one)} is above {show(high)}" if high is not None and one > high
                else None)
        if said:
            raise CoerceError(said, line, hint=f"allowed: {allowed(field, hint)}")
    return value


def convert(node: Node, hint: Any) -> Any:
    """The written value as this type. Raises CoerceError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(node, inner)
    if origin is typing.Literal:
        if isinstance(node, Scalar):
            for choice in inner:
                if node.text == str(choice):
                    return choice
        raise CoerceError(f"{written(node)} is not allowed", node.line,
                          hint="allowed: " + ", ".join(map(str, inner)))
    if origin is tuple or hint is tuple:
        return _tuple(node, inner)
    if hint is Any and not isinstance(node, Scalar):
        if isinstance(node, List):
            return tuple(convert(n, Any) for n in node.items)
        raise CoerceError("a mapping is no value", node.line)
    if not isinstance(node, Scalar):
        raise CoerceError(f"{written(node)} is not {SIMPLE.get(hint, 'a single value')}",
                          node.line)
    return scalar(node, hint)


def _tuple(node: Node, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    of = inner[0] if inner else Any
    if isinstance(node, Map):
        raise CoerceError("a mapping is not a list", node.line, hint="write [a, b, …]")
    variadic = not inner or (len(inner) == 2 and inner[1] is ...)
    items = node.items if isinstance(node, List) else [node]
    if variadic:
        return tuple(_inside(n, of, f"[{i}]") for i, n in enumerate(items))
    if not isinstance(node, List) or len(items) != len(inner):
        raise CoerceError(f"{written(node)} is not a list of {len(inner)} values", node.line,
                          hint=f"write [{', '.join(type_name(h) for h in inner)}]")
    return tuple(_inside(n, h, f"[{i}]") for i, (n, h) in enumerate(zip(items, inner, strict=True)))


def _inside(node: Node, hint: Any, at: str) -> Any:
    try:
        return convert(node, hint)
    except CoerceError as error:
        raise CoerceError(error.what, error.line, at + error.at, error.hint) from None


def _one_of(node: Node, choices: tuple[Any, ...]) -> Any:
    """The first fitting type; text last, so that 5 is a number where numbers are allowed."""
    if types.NoneType in choices and isinstance(node, Scalar) and (
            node.is_null or (node.text in ("none", "None") and str not in choices)):
        return None
    rest = [c for c in choices if c is not types.NoneType]
    failures: list[CoerceError] = []
    for choice in sorted(rest, key=lambda c: c is str):
        if choice is str and isinstance(node, Scalar) and not node.quoted and len(rest) > 1:
            pass  # plain text after all numeric readings failed
        try:
            return convert(node, choice)
        except CoerceError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    names = " or ".join(SIMPLE.get(c, type_name(c)) for c in rest)
    raise CoerceError(f"{written(node)} is not {names}", node.line)
