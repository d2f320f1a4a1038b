"""Mistakes in plugins, in the command and in a run's files: one clear line, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _runs import GRID, cells, content

from bench.cli import main
from bench.grid import load_grid
from bench.plan import make_plan
from bench.progress import short_names
from bench.registry import Registry
from bench.run import run
from bench.session import Session

RUN = Path("results/tiny")
HEAD = "from bench.api import Attack, DatasetPlugin, ProfileAttack, param\n"
ATTACK = HEAD + '''

class Odd(ProfileAttack):
    """An attack with one mistake; no paper."""

    name = "odd"
    grade: int = param(0, "how odd")

    def profiles(self, data, targets, lengths, ctx):
        return []
'''
DATASET = HEAD + '''

class Odd(DatasetPlugin):
    """A dataset with one mistake; no paper."""

    name = "odd"

    def load(self):
        return None
'''


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def _write(plugin: str = "", **changes: str) -> None:
    text = GRID
    if plugin:
        Path("own").mkdir(exist_ok=True)
        Path("own/odd.py").write_text(plugin)
        text += "plugins: [own]\n"
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        text = "\n".join([*lines, f"{key}: {value}"]) + "\n"
    Path("grid.yaml").write_text(text)


def _refused(capsys, *args: str) -> str:
    """The one line with which a run is refused; nothing has run."""
    assert main(["run", "grid.yaml", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(Path().glob("cache/models/*"))
    return err


# -- plugins -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "told"), [
    ("def __post_init__(self): raise TypeError('two\\nlines')", "its defaults: TypeError: two li"),
    ("def label(self): return 3", "gives int with label()"),
    ("def label(self): raise KeyError('x')", "label(): KeyError"),
    ("def budget_text(self): raise ValueError('no')", "budget_text(): ValueError: no"),
    ("threat = None", "no threat model"),
    ("thing: int = param(object(), 'no JSON')", "params(): TypeError"),
])
def test_a_plugin_that_cannot_be_named_is_broken_and_stops_no_list(capsys, method: str,
                                                                   told: str) -> None:
    _write(ATTACK + f"\n    {method}\n", attacks="[odd]")
    assert told in _refused(capsys)
    assert main(["list", "--plugins", "own"]) == 0
    assert told in capsys.readouterr().out


def test_a_plugin_may_refuse_its_defaults() -> None:
    _write(ATTACK.replace("param\n", "param\nfrom bench.errors import InputError\n") + '''
    def __post_init__(self):
        if not self.grade:
            raise InputError("say the grade")
''')
    assert "odd" in Registry([Path("own")]).names("attacks")


def test_parameters_that_break_a_plugin_are_told_with_the_line(capsys) -> None:
    _write(ATTACK + "\n    def __post_init__(self):\n        [0][self.grade]\n",
           attacks="[{odd: {grade: 7}}]")
    text = _refused(capsys)
    assert text.startswith("error: grid.yaml:7 [attacks[0].odd]: attack 'odd' fails with these")
    assert "IndexError" in text


@pytest.mark.parametrize(("body", "told"), [
    ("return 42", "unfit() gave int"), ("raise SystemExit(4)", "SystemExit: 4"),
    ("return 1 / 0", "ZeroDivisionError")])
def test_an_answer_that_is_no_reason_fails_the_cell(body: str, told: str) -> None:
    _write(ATTACK + f"\n    def unfit(self, model, data):\n        {body}\n", attacks="[odd]")
    found = [c for c in make_plan(load_grid(Path("grid.yaml"))).cells if c.attack.name == "odd"]
    assert {c.status for c in found} == {"failed"}
    assert all(told in (c.reason or "") for c in found)


@pytest.mark.parametrize(("text", "told"), [
    (DATASET, "gives NoneType"), (DATASET.replace("return None", "raise SystemExit(9)"), "9"),
    (DATASET + "\n    def files(self):\n        return None\n", "cannot name its files"),
    (DATASET + "\n    def files(self):\n        raise ValueError('files')\n", "ValueError: files")])
def test_a_dataset_that_breaks_is_bad_input(capsys, text: str, told: str) -> None:
    _write(text, datasets="[odd]")
    error = _refused(capsys)
    assert told in error
    assert error.startswith("error: grid.yaml:")


# -- the grid and the data ---------------------------------------------------------------------

@pytest.mark.parametrize(("groups", "told"), [
    ("{users: [gendr]}", "did you mean 'gender'"),
    ("{items: [popularty]}", "did you mean 'popularity'")])
def test_groups_are_checked_before_anything_runs(capsys, groups: str, told: str) -> None:
    _write(groups=groups)
    error = _refused(capsys)
    assert error.startswith("error: grid.yaml:7 [groups.")
    assert told in error


def test_what_is_wrong_with_data_names_the_grid_too(capsys) -> None:
    Path("d.csv").write_text("a,x\na,y\nb,x\n")
    _write(datasets="[{table: {path: d.csv}}]")
    assert _refused(capsys).startswith("error: grid.yaml:6 [datasets: table: split]: a split by")


@pytest.mark.parametrize("called", ['"a\\0b"', "x" * 300, "~nobody-here"])
def test_text_that_is_no_path_is_no_path(called: str) -> None:
    Path("d.csv").write_text("".join(f"u{u},i{(u + k) % 9}\n" for u in range(9) for k in range(5)))
    _write(datasets=f"[{{table: {{path: d.csv, split: ratio-random, called: {called}}}}}]")
    assert make_plan(load_grid(Path("grid.yaml"))).jobs


@pytest.mark.parametrize("folder", ['"a\\0b"', "y" * 300, "~nobody-here/plugins"])
def test_folders_that_cannot_be_are_told_with_the_line(capsys, folder: str) -> None:
    _write(plugins=f"[{folder}]")
    assert _refused(capsys).startswith("error: grid.yaml:7 [plugins[0]]: there is no folder")


def test_workers_of_an_engine_that_runs_one_job_are_refused(capsys) -> None:
    _write()
    assert "add --engine processes" in _refused(capsys, "--workers", "4")


def test_metrics_that_cannot_be_measured_are_told_beforehand() -> None:
    _write(metrics="[ndcg@5, point-auc, target-hr@5]", attacks="[noise]")
    notes = Session.open("grid.yaml").lines()
    assert any("point-auc" in n and "no labelled" in n for n in notes)
    assert any("target-hr@5" in n and "no attack" in n for n in notes)
    _write(metrics="[ndcg@5, target-hr@5]")
    assert not [n for n in Session.open("grid.yaml").lines() if "no attack of" in n]
    metrics = "[ndcg@5, parity@5, ks, equalised-odds@5, exposure-dp@5]"
    _write(metrics=metrics)
    notes = [n for n in Session.open("grid.yaml").lines() if "no groups of" in n]
    assert ["parity@5, ks, equalised-odds@5: no groups of users" in notes[0],
            "exposure-dp@5: no groups of items" in notes[1]] == [True, True]
    _write(metrics=metrics, groups="{users: [activity], items: [popularity]}")
    assert not [n for n in Session.open("grid.yaml").lines() if "no groups of" in n]


# -- files of a run ----------------------------------------------------------------------------

def test_damaged_files_of_a_run_are_made_again(capsys) -> None:
    _write()
    assert run("grid.yaml") == 0
    before, key = content(RUN), next(c["key"] for c in cells(RUN) if c["status"] == "ok")
    (RUN / "environment.json").write_text("{")
    (RUN / "users" / f"{key}.parquet").write_bytes(b"PAR1 and no more")
    for name in ("users.parquet", "cell.json"):
        (Path("cache/cells") / key / name).write_text("damaged")
    assert run("grid.yaml") == 0
    assert "computed again" in capsys.readouterr().err
    assert content(RUN) == before
    assert json.loads((RUN / "environment.json").read_text())["versions"]


@pytest.mark.parametrize("plan", [
    '{"cells": 3}', "[]", '{"cells": [1]}', '{"cells": [{"key": 3}]}', '{"cells": [{"key": "a"}]}',
    '{"cells": [{"key": "a", "seed": 0, "dataset": "d", "model": [], "defense": "", "attack": ""}]}'
])
def test_a_damaged_plan_stops_the_report_in_one_line(capsys, plan: str) -> None:
    (RUN / "cells").mkdir(parents=True)
    (RUN / "plan.json").write_text(plan)
    assert main(["report", str(RUN)]) == 2
    err = capsys.readouterr().err
    assert "run the grid again" in err
    assert err.count("\n") == 1


def test_a_run_whose_report_fails_is_no_success(monkeypatch, capsys) -> None:
    from bench.errors import InputError

    def report(folder: Path) -> int:
        raise InputError("no ink")

    monkeypatch.setattr("bench.report.report", report)
    _write(models="[pop]", attacks="[]")
    assert run("grid.yaml") == 1
    assert "no ink" in capsys.readouterr().err


def test_a_file_where_a_folder_belongs_is_named(capsys) -> None:
    RUN.mkdir(parents=True)
    (RUN / "cells").write_text("")
    _write()
    assert "cells: the results folder cannot be written" in _refused(capsys)


# -- in words ----------------------------------------------------------------------------------

def test_a_run_begins_with_counts_and_a_plan_with_cells(capsys) -> None:
    _write()
    session = Session.open("grid.yaml")
    brief, full = session.lines(brief=True), session.lines()
    assert "  2 skipped: pop exposes no embeddings and no gradients" in brief
    assert not [line for line in brief if "·" in line]
    assert len([line for line in full if "·" in line]) == 3


def test_short_names_stay_apart() -> None:
    _write(models="[pop, {bprmf: {dim: [4, 8], epochs: 2}}]", defenses="[pca-filter]")
    short = short_names([c.header() for c in make_plan(load_grid(Path("grid.yaml"))).cells])
    assert list(short["dataset"].values()) == [""]
    assert list(short["model"].values()) == ["pop", "bprmf(dim=4)", "bprmf(dim=8)"]
    assert list(short["defense"].values()) == ["none", "pca-filter"]
    assert len(set(short["attack"].values())) == 4
