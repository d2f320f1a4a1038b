"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.grid import load_grid
from bench.testing import test_path as run_contracts

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_attack_in_the_readme_is_short_and_keeps_the_contracts(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file of under 40 lines is enough to add an attack."""
    code, = blocks("python")
    assert len(code.splitlines()) < 40
    (tmp_path / "copycat_profiles.py").write_text(code, encoding="utf-8")
    assert run_contracts(tmp_path) == 0, capsys.readouterr().out


def test_the_grid_in_the_readme_is_a_grid(tmp_path: Path) -> None:
    """Every name and parameter is known, and lists inside parameters expand."""
    (tmp_path / "grid.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    grid = load_grid(tmp_path / "grid.yaml")
    assert [m.name for m in grid.models] == ["pop", "EASE", "BPR", "LightGCN"]
    assert len(grid.attacks) == 1 + 1 + 2 + 2
    assert not grid.notes


def test_the_datasets_in_the_readme_are_datasets(tmp_path: Path) -> None:
    text = blocks("yaml")[1] + "\nmodels: [pop]\n"
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    assert [d.name for d in load_grid(tmp_path / "grid.yaml").datasets] == ["table"] * 3
