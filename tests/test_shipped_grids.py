"""The grids that come with the package: every name and parameter is known."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench.grid import load_grid

GRIDS = sorted(Path(bench.__file__).parent.glob("grids/**/*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_it_loads(path: Path) -> None:
    grid = load_grid(path)
    assert grid.models
    assert grid.datasets
    assert not grid.notes
