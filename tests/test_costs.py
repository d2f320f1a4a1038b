"""What a cell is said to cost is its own: not the memory of cells before it, not what Python takes
to import a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _runs import cells, no_report

from bench.device import Memory
from bench.run import run
from bench.warm import named

PLUGINS = '''\
import numpy as np

from bench.api import EmbeddingAttack, ProfileAttack, Profile


class Big(EmbeddingAttack):
    """Takes 400 MB for a moment."""

    name = "big"

    def delta(self, model, radii, data, ctx):
        np.ones(50_000_000).sum()
        return {k: 0 * model.tables()[k].rows() for k in radii}


class Slow(Big):
    """Uses a library that takes its time to load."""

    name = "slow"

    def delta(self, model, radii, data, ctx):
        import loads_slowly

        return {k: loads_slowly.NOTHING * model.tables()[k].rows() for k in radii}


class SlowProfiles(ProfileAttack):
    """Does so before training."""

    name = "slow-profiles"

    def profiles(self, data, targets, lengths, ctx):
        from profiles_slowly import NOTHING

        return [Profile(np.append(targets, np.setdiff1d(np.arange(n + NOTHING), targets)
                                  )[:n]) for n in lengths]


class BigProfiles(SlowProfiles):
    """Takes 400 MB for a moment, before training."""

    name = "big-profiles"

    def profiles(self, data, targets, lengths, ctx):
        np.ones(50_000_000).sum()
        return super().profiles(data, targets, lengths, ctx)
'''
GRID = """\
name: tiny
seeds: [0]
datasets: [{blocks: {users: 24, items: 24, explicit: false}}]
models: [{bprmf: {dim: 4, epochs: 2, batch_size: 128}}]
attacks: [{noise: {eps: 0.1}}, big, {noise: {eps: 0.5}}, slow, slow-profiles, big-profiles]
metrics: [hr@5, ndcg@5]
plugins: [mine]
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    monkeypatch.syspath_prepend(str(tmp_path))
    with no_report(monkeypatch):
        yield


def costs() -> dict[str, dict[str, Any]]:
    Path("mine").mkdir()
    Path("mine/costly.py").write_text(PLUGINS)
    for name in ("loads_slowly", "profiles_slowly"):
        Path(f"{name}.py").write_text("import time\ntime.sleep(0.7)\nNOTHING = 0\n")
    Path("grid.yaml").write_text(GRID)
    assert run("grid.yaml") == 0
    return {c["attack"]["label"]: c["cost"] for c in cells(Path("results/tiny"))}


def test_a_cell_has_its_own_memory_and_no_imports_in_its_seconds() -> None:
    found = costs()
    peak = {name: cost["peak_memory_mb"] for name, cost in found.items()}
    seconds = {name: cost["attack_seconds"] for name, cost in found.items()}
    assert all(0 <= seconds[name] < 0.5 for name in ("slow", "slow-profiles"))
    assert found["slow-profiles"]["defense_seconds"] < 0.5
    restarts = Memory("cpu")
    np.ones(50_000_000).sum()
    if restarts.peak() - Memory("cpu").peak() < 300:
        pytest.skip("this system does not let a process restart its mark")
    for name in ("none", "noise(eps=0.1)", "noise", "slow", "slow-profiles"):
        assert peak["big"] - peak[name] > 300, name
        assert peak["big-profiles"] - peak[name] > 300, name  # the making counts, and training


@pytest.mark.parametrize("inner", [9.0, 2.0])
def test_marks_lie_within_marks(monkeypatch: pytest.MonkeyPatch, inner: float) -> None:
    """What a part took counts for the whole as well; what the whole took does not for the part."""
    resident = peak = 1.0

    def restart(self: Memory) -> None:
        nonlocal peak
        peak = resident

    def uses(mb: float) -> None:
        nonlocal peak
        peak = max(peak, mb)
    monkeypatch.setattr(Memory, "_restart", restart)
    monkeypatch.setattr(Memory, "_marked", lambda self: peak)
    memory = Memory("cpu")
    uses(5.0)
    with memory.apart():
        assert memory.peak() == 1.0
        uses(inner)
        with memory.apart():
            uses(3.0)
            assert memory.peak() == 3.0
        assert memory.peak() == max(inner, 3.0)
    assert memory.peak() == max(inner, 5.0)


def test_what_a_file_names_is_what_its_functions_import(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                    "    import heavy\n\nclass A:\n    def f(self):\n        import b.c, d\n"
                    "        def g():\n            from e.f import h\n        from . import i\n")
    assert named(str(file)) == ("b.c", "d", "e.f")
    assert named(str(tmp_path / "absent.py")) == ()
