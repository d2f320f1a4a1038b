"""Runs: cells, their schema, failures, what a change of the grid or of code recomputes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from _runs import GRID, cells, content, events, no_report

from bench.results import COSTS, Folder, cell_json, long_rows, problem
from bench.run import run

MINE = '''\
import torch

from bench.api import EmbeddingAttack


class Mine(EmbeddingAttack):
    """Moves every row the same way."""

    name = "mine"

    def delta(self, model, radii, data, ctx):
        # the first coordinate
        made = {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}
        for k in made:
            made[k][:, 0] = radii[k] * 0.5
        return made
'''
FAILING = '''\
from bench.api import EmbeddingAttack, ProfileAttack


class Breaks(EmbeddingAttack):
    """Has a mistake."""

    name = "breaks"

    def delta(self, model, radii, data, ctx):
        return {k: 1 / 0 for k in radii}


class Greedy(EmbeddingAttack):
    """Goes over its budget."""

    name = "greedy"

    def delta(self, model, radii, data, ctx):
        return {k: model.tables()[k].rows() + 9 for k in radii}


class Exits(ProfileAttack):
    """Leaves the program, and would take the run with it."""

    name = "exits"

    def profiles(self, data, targets, lengths, ctx):
        raise SystemExit(3)


class Huge(EmbeddingAttack):
    """Wants more memory than there is."""

    name = "huge"

    def delta(self, model, radii, data, ctx):
        raise MemoryError
'''


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    with no_report(monkeypatch):
        yield


def _run(text: str = GRID, **options) -> int:
    Path("grid.yaml").write_text(text)
    return run("grid.yaml", **options)


def _told(heard: list[dict], event: str) -> list[dict]:
    return [e for e in heard if e["event"] == event]


RUN = Path("results/tiny")


def test_all_cells_are_written_as_the_schema_says(capsys) -> None:
    assert _run() == 0
    found = cells(RUN)
    assert [problem(c) for c in found] == [None] * 8
    status = {(c["model"]["name"], c["attack"]["label"]): c["status"] for c in found}
    assert {k for k, s in status.items() if s == "skipped"} == {
        ("pop", "noise(eps=0.1)"), ("pop", "noise")}
    assert sum(s == "ok" for s in status.values()) == 6
    assert sum(c["attack"]["name"] == "none" and c["status"] == "ok" for c in found) == 2
    for cell in found:
        users, items = Folder(RUN).users(cell["key"]), Folder(RUN).items(cell["key"])
        assert users.is_file() == items.is_file() == (cell["status"] == "ok")
        if cell["status"] != "ok":
            continue
        assert set(cell["cost"]) == set(COSTS)
        assert cell["cost"]["peak_memory_mb"] > 10
        assert cell["facts"]["n_users"] == 24
        assert len(pd.read_parquet(users)) == 24
        assert {m for m, g, _ in cell["values"] if g == "all"} == {"hr@5", "ndcg@5"}
        poisoned = cell["attack"]["name"] == "random-profiles"
        assert cell["facts"]["n_fake"] == (2 if poisoned else 0)
        assert ("targets" in cell["facts"]) == poisoned
        if poisoned:
            assert len(cell["facts"]["targets"]) == 2
            assert set(cell["facts"]["targets"]) <= set(pd.read_parquet(items)["item"])
        assert ("radii" in cell["facts"]) == (cell["attack"]["name"] == "noise")
        assert (cell["facts"]["epochs"] > 0) == (cell["model"]["name"] == "bprmf")
    assert (RUN / "grid.yaml").read_text() == GRID
    environment = json.loads((RUN / "environment.json").read_text())
    assert environment["device"] == "cpu"
    assert environment["versions"]["torch"]
    assert "results:" in capsys.readouterr().out


def test_the_schema_refuses_what_is_no_cell() -> None:
    _run(only=["model=pop", "attack=none"])
    good = next(c for c in cells(RUN) if c["status"] == "ok")
    assert problem(good) is None
    for change in ({"status": "fine"}, {"reason": "x"}, {"values": [["hr@5", 0.1]]},
                   {"schema": 1}, {"cost": {}}, {"seed": "0"}, {"model": "pop"}, {"extra": 1}):
        assert problem(good | change), change
    assert problem([]) == "it is no mapping"
    header = {k: good[k] for k in ("schema", "key", "train_key", "seed", "dataset", "model",
                                   "defense", "attack", "threat")}
    with pytest.raises(ValueError, match="reason exactly where"):
        Folder(RUN).write(cell_json(header, status="failed"))


def test_the_long_table_has_every_value_and_every_status() -> None:
    _run()
    table = pd.read_parquet(RUN / "results.parquet")
    assert list(table.columns) == ["dataset", "model", "defense", "attack", "seed", "status",
                                   "metric", "group", "value"]
    assert len(table[table.status == "ok"]) == 6 * 2
    assert len(table[table.status == "skipped"]) == 2
    row = table[(table.model.str.startswith("bprmf")) & (table.attack == "none")
                & (table.metric == "ndcg@5")]
    cell = next(c for c in cells(RUN) if c["model"]["name"] == "bprmf"
                and c["attack"]["name"] == "none")
    assert row.value.tolist() == [v for m, _, v in cell["values"] if m == "ndcg@5"]
    private = {**cell, "privacy": {"epsilon": 2.0, "adjacency": "user"}}
    assert [r[6:] for r in long_rows(private)][-1] == ("epsilon", "all", 2.0)


def test_the_same_seed_twice_gives_the_same_bytes(monkeypatch, tmp_path: Path) -> None:
    _run(results="one")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "other-cache"))
    _run(results="two")
    one, two = content(Path("one/tiny")), content(Path("two/tiny"))
    assert one == two
    assert len(one) == 8 + 6 * 2 + 3


def test_another_seed_gives_other_numbers() -> None:
    _run(GRID.replace("seeds: [0]", "seeds: [0, 1]"), only=["model=bprmf", "attack=none"])
    values = [c["values"] for c in cells(RUN) if c["status"] == "ok"]
    assert len(values) == 2
    assert values[0] != values[1]


def test_the_second_run_computes_nothing(monkeypatch) -> None:
    _run()
    before, environment = content(RUN), (RUN / "environment.json").read_bytes()
    monkeypatch.setattr("bench.jobs.run_job", lambda *a: pytest.fail("a job ran"))
    monkeypatch.setattr("bench.engines.inline.run_job", lambda *a: pytest.fail("a job ran"))
    assert _run() == 0
    assert content(RUN) == before
    assert (RUN / "environment.json").read_bytes() == environment
    shutil.rmtree("results")  # from the cache alone
    assert _run() == 0
    assert content(RUN) == before
    shutil.rmtree("cache")  # from the results alone
    assert _run() == 0
    assert content(RUN) == before


def test_one_more_eps_trains_nothing(monkeypatch) -> None:
    _run()
    heard = events(monkeypatch)
    assert _run(GRID.replace("[0.1, 0.5]", "[0.1, 0.3, 0.5]")) == 0
    assert [e["cached"] for e in _told(heard, "trained")] == [True]
    assert len(_told(heard, "cell")) == 1
    assert _told(heard, "epoch") == []


def test_one_more_metric_trains_nothing(monkeypatch) -> None:
    _run()
    heard = events(monkeypatch)
    _run(GRID.replace("ndcg@5", "ndcg@5, recall@5"))
    assert [e["cached"] for e in _told(heard, "trained")] == [True] * 4
    assert len(_told(heard, "cell")) == 6
    assert len(cells(RUN)) == 8
    assert len(list((RUN / "former/cells").iterdir())) == 8


def test_a_comment_recomputes_nothing_and_a_formula_its_own_cells(monkeypatch) -> None:
    Path("mine").mkdir()
    Path("mine/mine.py").write_text(MINE)
    text = GRID.replace("attacks: [", "plugins: [mine]\nattacks: [mine, ")
    assert _run(text) == 0
    heard = events(monkeypatch)
    Path("mine/mine.py").write_text(MINE.replace("# the first", "# only the first")
                                    .replace("Moves every", "Shifts every"))
    assert _run(text) == 0
    assert heard == []
    values = {c["attack"]["name"]: c["values"] for c in cells(RUN)
              if c["model"]["name"] == "bprmf"}
    Path("mine/mine.py").write_text(MINE.replace("* 0.5", "* -1.0").replace(
        "[:, 0]", "[::2, 0]"))
    assert _run(text) == 0
    assert [e["cached"] for e in _told(heard, "trained")] == [True]
    after = {c["attack"]["name"]: c["values"] for c in cells(RUN)
             if c["model"]["name"] == "bprmf"}
    assert len(_told(heard, "cell")) == 1
    assert after["mine"] != values["mine"]
    assert {k: v for k, v in after.items() if k != "mine"} == {
        k: v for k, v in values.items() if k != "mine"}


def test_failures_are_cells_with_reasons_and_the_rest_goes_on(capsys, monkeypatch) -> None:
    Path("mine").mkdir()
    Path("mine/failing.py").write_text(FAILING)
    text = GRID.replace("attacks: [", "plugins: [mine]\nattacks: [breaks, greedy, exits, huge, ")
    assert _run(text, only=["model=bprmf"]) == 1
    found = {c["attack"]["label"]: c for c in cells(RUN) if c["model"]["name"] == "bprmf"}
    assert {k: c["status"] for k, c in found.items()} == {
        "none": "ok", "noise": "ok", "noise(eps=0.1)": "ok",
        "random-profiles(budget=0.1, targets=2)": "ok",
        "breaks": "failed", "greedy": "failed", "exits": "failed", "huge": "failed"}
    assert found["breaks"]["reason"] == \
        "ZeroDivisionError: division by zero (mine/failing.py:10)"
    assert "the budget is" in found["greedy"]["reason"]
    assert found["exits"]["reason"] == "SystemExit: 3 (mine/failing.py:28)"
    assert found["huge"]["reason"].startswith("out of memory on cpu")
    log = Folder(RUN).log(found["breaks"]["key"]).read_text()
    assert "Traceback" in log
    assert "1 / 0" in log
    error = capsys.readouterr().err
    assert "4 of 8 cells failed" in error
    assert "ZeroDivisionError" in error
    assert "Traceback" not in error
    heard = events(monkeypatch)  # failures are tried again, and nothing else is
    assert _run(text, only=["model=bprmf"]) == 1
    assert sorted(e["status"] for e in _told(heard, "cell")) == ["failed"] * 4
    Path("mine/failing.py").write_text(FAILING.replace(
        "{k: 1 / 0 for k in radii}", "{k: model.tables()[k].rows() * 0 for k in radii}"))
    assert _run(text, only=["attack=breaks", "model=bprmf"]) == 0
    key = next(c["key"] for c in cells(RUN) if c["attack"]["name"] == "breaks"
               and c["status"] == "ok")
    assert not Folder(RUN).log(key).exists()


def test_a_failed_training_fails_all_its_cells(capsys) -> None:
    text = GRID.replace("epochs: 2", "epochs: 2, learning_rate: 1e30, optimizer: sgd, dim: 8")
    text = text.replace("dim: 4, ", "")
    assert _run(text) == 1
    failed = [c for c in cells(RUN) if c["status"] == "failed"]
    assert {c["model"]["name"] for c in failed} == {"bprmf"}
    assert {c["train_key"] for c in failed if c["attack"]["name"] == "none"} <= {
        c["train_key"] for c in failed if c["attack"]["name"] == "noise"}
    assert all("loss became" in c["reason"] for c in failed)
    assert not list(Path("cache/models").glob("[!.]*")) or all(
        c["train_key"] not in {p.name for p in Path("cache/models").iterdir()} for c in failed)


@pytest.mark.parametrize("damage", ["truncated", "another model"])
def test_a_damaged_model_is_trained_again(monkeypatch, damage: str) -> None:
    _run()
    before = content(RUN)
    shutil.rmtree("results")
    shutil.rmtree("cache/cells")
    cell = json.loads(before[next(k for k in before if k.startswith("cells")
                                  and b'"bprmf"' in before[k] and b'"noise"' in before[k])])
    path = Path("cache/models") / cell["train_key"] / "weights.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        from bench.store import Store

        meta = Store(Path("cache")).load_model(cell["train_key"])[1]
        Store(Path("cache")).save_model(cell["train_key"], {}, meta)
    heard = events(monkeypatch)
    assert _run() == 0
    assert sorted(e["cached"] for e in _told(heard, "trained")) == [False, True, True, True]
    assert len(_told(heard, "note")) == 1
    assert content(RUN) == before


def test_a_damaged_cell_is_computed_again() -> None:
    _run()
    before = content(RUN)
    keys = [p.stem for p in (RUN / "cells").iterdir() if Folder(RUN).finished(p.stem)]
    for key, damage in zip(keys, ("{", "[]", '{"schema": 1}'), strict=False):
        Folder(RUN).cell(key).write_text(damage)
        (Path("cache/cells") / key / "cell.json").write_text(damage)
    (Path("cache/cells") / keys[3] / "users.parquet").write_bytes(b"PAR1")
    Folder(RUN).users(keys[3]).unlink()
    assert _run() == 0
    assert content(RUN) == before


def test_fresh_computes_again_what_is_chosen(monkeypatch) -> None:
    _run()
    before = content(RUN)
    heard = events(monkeypatch)
    assert _run(fresh=True, only=["model=bprmf"]) == 0
    assert [e["cached"] for e in _told(heard, "trained")] == [False, False]
    assert len(_told(heard, "cell")) == 4
    assert content(RUN) == before


def test_only_keeps_the_rest_of_the_table() -> None:
    assert _run(only=["model=pop"]) == 0
    assert len(pd.read_parquet(RUN / "results.parquet")) == 2 * 2 + 2
    assert _run(only=["model=bprmf"]) == 0
    assert len(pd.read_parquet(RUN / "results.parquet")) == 6 * 2 + 2


def test_cells_that_left_the_grid_leave_the_table() -> None:
    _run()
    assert _run(GRID.replace("[0.1, 0.5]", "0.1")) == 0
    assert len(cells(RUN)) == 6
    assert not pd.read_parquet(RUN / "results.parquet").attack.eq("noise").any()
    assert len(list((RUN / "former/cells").iterdir())) == 2
    _run()  # and come back
    assert len(cells(RUN)) == 8


def test_a_results_folder_that_cannot_be_written_is_bad_input(capsys) -> None:
    Path("results").write_text("a file")
    assert _run() == 2
    assert "--results" in capsys.readouterr().err


def test_the_device_is_checked(monkeypatch, capsys) -> None:
    monkeypatch.setenv("BENCH_DEVICE", "abacus")
    assert _run() == 2
    assert "allowed: auto, cpu" in capsys.readouterr().err


def test_progress_in_plain_lines_counts_and_names(capsys) -> None:
    _run(only=["model=bprmf", "attack=no*"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == ["[1/3]", "[2/3]", "[3/3]"]
    # the only dataset and the only defense go without saying, and so do shared parameters
    assert [line[5:].split("  (")[0] for line in lines] == [
        " ok      bprmf · none · seed 0", " ok      bprmf · noise(eps=0.1) · seed 0",
        " ok      bprmf · noise(eps=0.5) · seed 0"]


def test_time_left_follows_the_estimates(monkeypatch) -> None:
    from bench.progress import Progress, duration

    header = {axis: {"name": axis, "params": {}, "label": axis}
              for axis in ("dataset", "model", "defense", "attack")}
    jobs = [{"train_key": k, "estimate": e, "poison": None,
             "cells": [{"header": {**header, "key": k, "seed": 0}}]}
            for k, e in (("a", 1.0), ("b", 3.0))]
    now = [100.0]
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: now[0])
    progress = Progress(jobs, 0, 2)
    assert progress.left() is None
    now[0] += 10
    progress.tell({"event": "end", "job": "a"})
    assert progress.left() == pytest.approx(30)
    assert [duration(s) for s in (8, 200, 7500)] == ["8 s", "3 min", "2 h 5 min"]
