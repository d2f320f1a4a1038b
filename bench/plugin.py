"""What all plugins share: a name, parameters that are typed fields, documentation."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self, dataclass_transform

KINDS = ("datasets", "models", "attacks", "defenses")


def param(default: Any, help: str, *, choices: tuple[Any, ...] | None = None,
          low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A parameter: its default, a sentence on what it means, and what is allowed.

    Args:
        default: the value when the grid says nothing; its annotation gives the type.
        help: one sentence with the unit; `bench show` prints it.
        choices: the allowed values, where they are few.
        low, high: inclusive bounds. above: exclusive lower bound.
    """
    meta = {"help": help, "choices": choices, "low": low, "high": high, "above": above}
    return dataclasses.field(default=default, metadata=meta)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(param,))
class Plugin:
    """Base of datasets, models, attacks and defenses.

    A subclass becomes a frozen keyword-only dataclass by itself: its annotated fields are its
    parameters, which gives equality, JSON, grid expansion and error messages at once.

    Attributes:
        name: kebab-case, what a grid calls it. A class without one of its own is abstract.
        kind: one of KINDS, set by the base classes in `bench.api`.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def params(self) -> dict[str, Any]:
        """All parameters with their values, ready for JSON (tuples as lists)."""
        return {f.name: _plain(getattr(self, f.name)) for f in _fields(type(self))}

    def changed(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        return {f.name: _plain(getattr(self, f.name)) for f in _fields(type(self))
                if getattr(self, f.name) != f.default}

    def label(self) -> str:
        """A short name for tables: the name and what differs from the defaults."""
        inside = ", ".join(f"{k}={show(v)}" for k, v in self.changed().items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """The plugin back from `params()`: lists become tuples, lists inside lists too.

        Values are taken as they are; `bench.grid` checks and coerces what users write.
        """
        return cls(**{k: _solid(v) for k, v in params.items()})

    def uses(self) -> tuple[tuple[str, str], ...]:
        """(kind, name) of built-in plugins that it makes by name: their code determines what it
        does, and is part of its keys."""
        return ()

    def contents(self) -> tuple[str, ...]:
        """Hashes of outside files that it reads (a prompt, a language model on disk): part of
        its keys."""
        return ()

    def keyed(self) -> dict[str, Any]:
        """Its parameters as its keys hold them. Where one is a path and `contents` hashes what
        lies there, a subclass takes the path out: a folder that moves is the same folder."""
        return self.params()

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        """Parameters with which the contract tests run it in under a second."""
        return {}

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(cls) or "").strip().split("\n")[0]


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _solid(value: Any) -> Any:
    return tuple(_solid(v) for v in value) if isinstance(value, list) else value


def show(value: Any) -> str:
    """A parameter value as a person writes it."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
