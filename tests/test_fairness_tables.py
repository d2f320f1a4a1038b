"""The report's tables of fairness: what was asked for is there, explained, with its interval."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import SyntheticRun, spec

from bench._board_fairness import BY_GROUP, ITEMS, USERS
from bench._board_tables import Builder
from bench._board_view import Table
from bench._cells import load
from bench.flags import find
from bench.leaderboard import build
from bench.metrics.names import METRICS

NONE = spec("none")


def changed(run: SyntheticRun, values: dict[int, list[list[Any]]],
            facts: dict[str, Any] | None = None) -> Path:
    """The finished run with further values in the cells of each seed."""
    for path in (run.path / "cells").glob("*.json"):
        cell = json.loads(path.read_text())
        cell["values"] += values[cell["seed"]]
        cell["facts"] |= facts or {}
        path.write_text(json.dumps(cell))
    return run.finish()


def tables(path: Path) -> dict[str, Table]:
    board = build(load(path), draws=20)
    return {t.kind: t for t in Builder(board, find(board)).tables()}


def made(path: Path, seeds: tuple[int, ...] = (0, 1, 2), **facts: Any) -> Path:
    run = SyntheticRun(path, seeds=seeds)
    run.add(spec("BPR"), NONE, NONE)
    return changed(run, {seed: [
        ["parity@10:gender", "all", 0.1 + 0.01 * seed], ["tpr@10", "all", 0.5],
        ["tpr@10-gap:gender", "all", 0.2], ["tpr@10", "gender=F", 0.4],
        ["exposure-dp@10:popularity", "all", None], ["exposure-dp@10", "popularity=head", 3.0],
        ["gini@10", "all", 0.9], ["gini@10", "popularity=head", 0.25]] for seed in seeds},
        {"group_sizes": {"gender=F": 40, "gender=M": 80}, **facts})


def test_every_fairness_metric_is_explained_and_exists() -> None:
    assert set(USERS) | set(ITEMS) <= set(METRICS)
    assert not set(USERS) & set(ITEMS)
    assert set(BY_GROUP) <= set(ITEMS)
    compared = {n for n, s in METRICS.items() if s.kind in ("parity", "odds", "ratio", "due")}
    assert compared <= set(USERS) | set(ITEMS)
    assert {n for n, s in METRICS.items() if s.kind == "rating"} - set(USERS) == {"rmse", "mae"}


def test_what_was_asked_for_stands_in_the_tables(tmp_path: Path) -> None:
    found = tables(made(tmp_path))
    users = found["fairness-users"]
    assert users.headers[2:] == ["parity@10 by gender", "tpr@10-gap by gender"]
    row = users.rows[0]
    assert row[2].text == "0.1100"
    # t interval over seeds 0.10, 0.11, 0.12: sd 0.01, quantile 4.3027
    assert row[2].interval == f"[{0.11 - 4.3027 * 0.01 / math.sqrt(3):.4f}, " \
                              f"{0.11 + 4.3027 * 0.01 / math.sqrt(3):.4f}]"
    assert row[3].text == "0.2000"
    items = found["fairness-items"]
    assert items.headers[2:] == ["exposure-dp@10 by popularity", "gini@10",
                                 "gini@10 in popularity=head"]
    assert [v.text for v in items.rows[0][2:]] == ["–", "0.9000", "0.2500"]
    for table, names in ((users, ("parity", "tpr")), (items, ("exposure-dp", "gini"))):
        for name in names:
            assert sum(note.startswith(f"{name}: ") for note in table.notes) == 1
        assert any("over seeds alone" in note for note in table.notes)
        assert not any(note.startswith("ks: ") for note in table.notes)


def test_three_groups_show_how_they_lie(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path, seeds=(0,))
    run.add(spec("BPR"), NONE, NONE)
    ages = [["ndcg@10", f"age={g}", v] for g, v in (("a", 0.1), ("b", 0.3), ("c", 0.4),
                                                    ("d", 0.9))]
    path = changed(run, {0: ages}, {"small_groups": {"age=d": 3}, "group_sizes": {
        "age=a": 20, "age=b": 20, "age=c": 20, "age=d": 3}})
    table = tables(path)["fairness-users"]
    shown = dict(zip(table.headers, (v.text for v in table.rows[0]), strict=True))
    assert shown["ndcg@10-mad by age"] == "0.2000"
    assert shown["ndcg@10-sd by age"] == "0.1247"  # of 0.1, 0.3, 0.4
    assert shown["ndcg@10-weighted by age"] == "0.1111"
    assert not any("gender" in header for header in shown)  # of two groups, multiples of the gap
    assert any(note.startswith("ndcg@10-weighted: ") for note in table.notes)
    assert all(view.interval == "" for view in table.rows[0])  # one seed says nothing of spread


def test_what_is_undefined_says_why(tmp_path: Path) -> None:
    found = tables(made(tmp_path, undefined={"exposure-dp@10:popularity": "too few items",
                                             "value-unfairness": "the scores are no ratings"}))
    assert "no value-unfairness: the scores are no ratings" in found["fairness-users"].notes
    table = found["fairness-items"]
    assert table.rows[0][2].text == "–"
    assert table.rows[0][2].note == 1
    assert "[1] too few items" in table.notes


def test_many_groups_of_items_are_left_to_the_long_table(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path, seeds=(0,))
    run.add(spec("BPR"), NONE, NONE)
    values = [["gini@10", "all", 0.9], *([f"gini@{k}", f"{name}={n}", 0.5] for k, name, many in (
        (10, "genre", 5), (10, "decade", 4)) for n in range(many))]
    headers = tables(changed(run, {0: values}))["fairness-items"].headers
    assert [h for h in headers if "genre" in h] == []
    assert len([h for h in headers if "decade" in h]) == 4


def test_a_model_that_draws_nothing_has_no_interval_and_small_numbers_their_digits(
        tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path)
    run.add(spec("BPR"), NONE, NONE)
    path = changed(run, {seed: [["parity@10:gender", "all", 0.00123],
                                ["ks:gender", "all", 0.1 + 0.1 * seed]] for seed in range(3)})
    still, moving = tables(path)["fairness-users"].rows[0][2:]
    assert (still.text, still.interval, still.half) == ("0.001230", "", "")
    assert moving.interval


def test_no_table_where_nothing_was_asked_for(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path, groups=False)
    run.add(spec("BPR"), NONE, NONE)
    found = tables(run.finish())
    assert "fairness-users" not in found
    assert "fairness-items" not in found


def test_a_grid_asks_by_name_and_the_report_shows_it(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.run import run

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "grid.yaml").write_text("""\
name: fair
seeds: [0]
datasets: [{blocks: {users: 60, items: 120}}]
models: [pop]
metrics: [ndcg@5, fpr@5, equalised-odds@5, differential-fairness@5, wasserstein, aclt@5,
          exposure-dp@5, exposure-eo@5, gini@5]
groups: {users: [gender], items: [popularity]}
""")
    assert run(tmp_path / "grid.yaml", results=tmp_path / "run") == 0
    text = (tmp_path / "run" / "fair" / "leaderboard.md").read_text()
    for words in ("fpr@5-gap by gender", "equalised-odds@5 by gender", "wasserstein by gender",
                  "differential-fairness@5 by gender", "exposure-dp@5 by popularity",
                  "exposure-eo@5 by popularity", "gini@5 in popularity=head", "aclt@5",
                  "fairness between items, without attack", USERS["wasserstein"]):
        assert words in text
