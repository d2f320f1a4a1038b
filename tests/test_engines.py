"""Engines: the same table from each; a worker that dies or hangs takes its own job alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from _runs import GRID, cells, content, no_report

from bench import engines
from bench.errors import InputError
from bench.run import run

RUN = Path("results/tiny")
TROUBLE = '''\
import os
import signal
import time

from bench.api import EmbeddingAttack


class Killed(EmbeddingAttack):
    """Its process is killed, as the kernel does when memory runs out."""

    name = "killed"

    def delta(self, model, radii, data, ctx):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(EmbeddingAttack):
    """Never ends."""

    name = "hangs"

    def delta(self, model, radii, data, ctx):
        time.sleep(3600)
'''


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    with no_report(monkeypatch):
        yield


def test_engines_are_found_by_their_files() -> None:
    assert engines.names() == ["inline", "processes"]
    from bench.grid import ENGINES

    assert set(ENGINES) == set(engines.names())
    with pytest.raises(InputError, match="did you mean 'processes'"):
        engines.make("process", workers=1, threads=1, timeout=None)


def test_inline_says_that_it_cannot_stop_a_job() -> None:
    notes = engines.make("inline", workers=1, threads=1, timeout=5.0).notes()
    assert len(notes) == 1
    assert "timeout" in notes[0]
    assert engines.make("inline", workers=1, threads=1, timeout=None).notes() == []


def test_two_workers_give_the_table_that_inline_gives(monkeypatch, tmp_path: Path) -> None:
    Path("grid.yaml").write_text(GRID)
    assert run("grid.yaml", results="one") == 0
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "other-cache"))
    assert run("grid.yaml", results="two", engine="processes", workers=2) == 0
    one = content(Path("one/tiny"))
    assert one == content(Path("two/tiny"))
    assert sum(name.startswith("cells") for name in one) == 8


def test_a_worker_that_dies_or_hangs_takes_its_job_alone(capsys) -> None:
    Path("mine").mkdir()
    Path("mine/trouble.py").write_text(TROUBLE)
    text = GRID.replace("{noise: {eps: [0.1, 0.5]}}, ", "")
    first = text.replace("attacks: [", "plugins: [mine]\nattacks: [killed, ") \
        + "engine: {name: processes, workers: 1}\n"
    Path("grid.yaml").write_text(first)
    assert run("grid.yaml") == 1
    status = {(c["model"]["name"], c["attack"]["name"]): c for c in cells(RUN)}
    assert {k: c["status"] for k, c in status.items()} == {
        ("pop", "none"): "ok", ("pop", "random-profiles"): "ok", ("pop", "killed"): "skipped",
        ("bprmf", "none"): "ok", ("bprmf", "random-profiles"): "ok",
        ("bprmf", "killed"): "failed"}
    assert "killed (signal 9), most often because memory ran out" in \
        status["bprmf", "killed"]["reason"]
    assert "1 of 6 cells failed" in capsys.readouterr().err
    second = first.replace("[killed", "[hangs").replace("workers: 1", "workers: 1, timeout: 1")
    Path("grid.yaml").write_text(second)
    assert run("grid.yaml") == 1  # what is cached runs no more; the hanging cell alone does
    hung = [c for c in cells(RUN) if c["status"] not in ("ok", "skipped")]
    assert [(c["attack"]["name"], c["status"], c["reason"]) for c in hung] == [
        ("hangs", "timeout", "the job took longer than 1 s and was stopped")]
