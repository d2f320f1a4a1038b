"""Contract tests: what a plugin promises by deriving from its base class, checked on tiny data.

    python -m bench test my_attacks/

In a test suite of your own:

    @pytest.mark.parametrize("check", contracts("attacks", MyAttack), ids=str)
    def test_contract(check):
        check.run()

Each check is a plain function in `bench/_contracts_*.py`; it raises ContractError with what is
wrong and what to do, or Skip with the reason why it does not apply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InputError
from bench.plugin import KINDS, Plugin

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.registry import Registry


class ContractError(AssertionError):
    """A plugin broke a contract: what is wrong, and what to do."""

    def __init__(self, what: str, todo: str) -> None:
        self.what, self.todo = what, todo
        super().__init__(f"{what}\n  what to do: {todo}")


class Skip(Exception):
    """A check does not apply to this plugin, for the reason given."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin. `run` raises ContractError, Skip, or what the plugin raised."""

    name: str
    plugin: str
    meaning: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.plugin}: {self.name}"


def require(holds: bool, what: str, todo: str) -> None:
    """Raise ContractError unless it holds."""
    if not holds:
        raise ContractError(what, todo)


def contracts(kind: str, cls: type[Plugin], *, registry: Registry | None = None,
              params: Mapping[str, Any] | None = None) -> list[Check]:
    """The checks of a plugin class.

    Args:
        kind: "datasets", "models", "attacks" or "defenses".
        registry: where a grid would find the class; the built-in plugins if not given.
        params: parameters to test with; the class's `test_params()` if not given.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of plugin", hint=f"known: {', '.join(KINDS)}")
    from bench import (
        _contracts_attacks,
        _contracts_common,
        _contracts_datasets,
        _contracts_defenses,
        _contracts_models,
    )
    from bench._contracts_lab import Lab

    own = {"datasets": _contracts_datasets.checks, "models": _contracts_models.checks,
           "attacks": _contracts_attacks.checks, "defenses": _contracts_defenses.checks}[kind]
    lab = Lab(kind, cls, registry, params)
    return [Check(function.__name__.strip("_").replace("_", "-"), cls.name,
                  (function.__doc__ or "").strip().split("\n")[0],
                  functools.partial(_run, function, lab))
            for function in (*_contracts_common.checks(cls), *own(cls))]


def _run(function: Callable[[Lab], None], lab: Lab) -> None:
    """Run one check. The plugin's own errors become broken contracts, with their text."""
    try:
        function(lab)
    except (ContractError, Skip):
        raise
    except BenchError as error:
        raise ContractError(f"{type(error).__name__}: {error}",
                            "the harness refused what the plugin did; correct it") from error
    except Exception as error:
        from bench.jobs import describe

        raise ContractError(f"it raised {describe(error)}",
                            "correct the plugin, or answer in `unfit` why it cannot run "
                            "here") from error


def test_path(path: Path) -> int:
    """Run the contract tests on a plugin file or folder and print what they found.

    Returns:
        0: every check passed or does not apply; 1: some failed; 2: there is nothing to test.
    """
    from bench.registry import Registry

    path = Path(path)
    registry = Registry([path])
    chosen = {path.resolve()} if path.is_file() else None
    entries = [e for kind in KINDS for e in registry.entries(kind)
               if _inside(e.path, path) and (chosen is None or e.path.resolve() in chosen)]
    broken = [e for e in registry.broken() if _inside(e.path, path)]
    if not entries and not broken:
        print(f"{path}: holds no plugin; a plugin is a class derived from a base class of "
              "bench.api, with a name (`bench new attack NAME` writes one)")
        return 2
    failed = 0
    for entry in broken:
        failed += 1
        print(f"FAILED  {entry.path.name}: import\n  {entry.error}")
    for entry in entries:
        if entry.cls is None or entry.error:
            continue
        print(f"\n{entry.kind} {entry.name}  ({entry.path.name})")
        for check in contracts(entry.kind, entry.cls, registry=registry):
            failed += _report(check)
    print(f"\n{failed} failed" if failed else "\nall checks passed")
    return 1 if failed else 0


test_path.__test__ = False  # type: ignore[attr-defined]  # pytest: this is no test


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _report(check: Check) -> int:
    """Print one check; 1 if it failed."""
    try:
        check.run()
    except Skip as reason:
        print(f"  skipped {check.name}: {reason}")
        return 0
    except ContractError as error:
        print(f"  FAILED  {check.name}: {error.what}\n          what to do: {error.todo}")
        return 1
    print(f"  ok      {check.name}")
    return 0
