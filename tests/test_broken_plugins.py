"""Negative controls: each file in broken_plugins/ breaks one rule, and the suite must notice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench import testing
from bench.plugin import KINDS
from bench.registry import Registry
from bench.testing import Check, ContractError, contracts

FOLDER = Path(__file__).parent / "broken_plugins"
FILES = sorted(FOLDER.glob("*.py"))


def expected(path: Path) -> tuple[str, str]:
    """The check that the file breaks, and words of its message: it must fail for that reason."""
    spec = importlib.util.spec_from_file_location(f"broken_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BREAKS, module.BECAUSE


def checks(path: Path) -> dict[str, Check]:
    registry = Registry([path])
    entries = [e for kind in KINDS for e in registry.entries(kind)
               if e.path.resolve() == path.resolve()]
    assert len(entries) == 1, registry.broken()
    assert entries[0].cls is not None, entries[0].error
    return {c.name: c for c in contracts(entries[0].kind, entries[0].cls, registry=registry)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_suite_notices(path: Path) -> None:
    name, reason = expected(path)
    with pytest.raises(ContractError) as caught:
        checks(path)[name].run()
    assert reason in caught.value.what
    assert caught.value.todo


def test_every_check_has_a_plugin_that_breaks_it() -> None:
    """A check that nothing can fail checks nothing. Those without a control are named here."""
    without = {
        "name", "json-round-trip",  # the registry refuses such a plugin before
        "runs", "something-to-find", "nothing-genuine-moves",  # base classes and `check` see to it
        "eps-zero-is-identity", "eps-zero-changes-nothing",  # they never ask the author
        "never-beats-the-exact-radius", "poison-reaches-the-model",
    }
    broken = {expected(path)[0] for path in FILES}
    registry = Registry()
    names = {check.name for kind, name in (
        ("datasets", "blocks"), ("models", "bprmf"), ("attacks", "pgd"),
        ("attacks", "random-profiles"), ("attacks", "rev-adv-profiles"),
        ("attacks", "fed-rec-attack"), ("attacks", "random-clients"),
        ("attacks", "feature-pgd"), ("attacks", "lira"), ("attacks", "substitution"),
        ("defenses", "pca-filter"), ("defenses", "dp-sgd"),
        ("defenses", "adversarial-training"))
        for check in contracts(kind, registry.get(kind, name), registry=registry)}
    assert broken <= names
    assert names - broken == without


def test_the_command_reports_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert testing.test_path(FOLDER / "no_reference.py") == 1
    out = capsys.readouterr().out
    assert "FAILED  documentation: the docstring names no paper" in out
    assert "what to do: name authors" in out
    assert "1 failed" in out
    assert "ok      example" in out


def test_a_file_that_cannot_be_imported_fails(tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "torn.py"
    path.write_text("import nowhere_to_be_found\n")
    assert testing.test_path(path) == 1
    assert "nowhere_to_be_found" in capsys.readouterr().out


def test_an_empty_folder_is_nothing_to_test(tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert testing.test_path(tmp_path) == 2
    assert "holds no plugin" in capsys.readouterr().out
