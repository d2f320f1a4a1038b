"""Kill a run anywhere and start it again: what is missing runs, and the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _runs import GRID, cells, command, content, events, no_report

from bench.run import run

ROOT = Path(__file__).parent.parent
RUN = Path("results/tiny")
SLOW = '''\
import time

from bench.api import EmbeddingAttack


class Slow(EmbeddingAttack):
    """Takes its time, so that there is something to interrupt."""

    name = "slow"

    def delta(self, model, radii, data, ctx):
        time.sleep(0.3)
        return {k: t.rows() * 0 for k, t in model.tables().items()}
'''
TEXT = GRID.replace("attacks: [", "plugins: [mine]\nattacks: [{slow: {eps: [0.1, 0.2, 0.3]}}, ")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    Path("mine").mkdir()
    Path("mine/slow.py").write_text(SLOW)
    Path("grid.yaml").write_text(TEXT)
    with no_report(monkeypatch):
        yield


def _start(*options: str) -> subprocess.Popen[str]:
    """A run in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(command("run", "grid.yaml", *options), text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def _ok() -> int:
    return sum(c["status"] == "ok" for c in cells(RUN))


def _models() -> int:
    return len(list(Path("cache/models").glob("[!.]*")))


def test_killed_at_several_points_the_results_are_the_same(monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("BENCH_CACHE", "other-cache")
        assert run("grid.yaml", results="whole") == 0
    whole = content(Path("whole/tiny"))
    points: list[Callable[[], bool]] = [
        lambda: any(Path("cache/models").glob(".*")) or _models() > 0,  # in the first training
        lambda: _ok() >= 1,
        lambda: _models() >= 3 and _ok() >= 4]  # among the cells of one model
    for reached in points:
        process = _start()
        _wait(process, reached)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert all(path.read_bytes() for path in Path("cache").rglob("*.json")
                       if not any(part.startswith(".") for part in path.parts))
    before, models = _ok(), _models()
    assert 4 <= before < 9
    heard = events(monkeypatch)
    assert run("grid.yaml") == 0
    assert sum(e["event"] == "cell" for e in heard) == 9 - before
    assert sum(e["event"] == "training" for e in heard) == 4 - models
    assert content(RUN) == whole


@pytest.mark.parametrize("options", [(), ("--engine", "processes", "--workers", "2")])
def test_interrupted_it_stops_cleanly_and_goes_on(monkeypatch, options: tuple[str, ...]) -> None:
    process = _start(*options)
    _wait(process, lambda: _ok() >= 2)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the workers too
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    before = _ok()
    assert 2 <= before < 9
    assert all(c["status"] in ("ok", "skipped") for c in cells(RUN))
    heard = events(monkeypatch)
    assert run("grid.yaml") == 0
    assert sum(e["event"] == "cell" for e in heard) == 9 - before
