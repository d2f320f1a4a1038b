"""The table of what an order of candidates does alone, beside what attacks on texts do."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench._board_tables import Builder
from bench._board_view import Table
from bench._cells import load
from bench.cli import main
from bench.flags import find
from bench.leaderboard import build
from bench.report import report
from tests.synthetic_run import SyntheticRun, spec

NONE, CONTROL = spec("none"), spec("candidate-permutation", orders=3)
TEXT = {"stage": "test-input", "knowledge": "black", "goal": "push", "realisable": True}
NOBODY = {"stage": "test-input", "knowledge": "none", "goal": "none", "realisable": False}
TARGETS = ["i3", "i7"]


class Ranked(SyntheticRun):
    """The rank of the targets is what the facts call `rank`, 0.5 more in each further seed; and
    is all that is measured of them."""

    def _write(self, head: dict[str, Any], facts: Any, privacy: Any) -> None:
        facts = dict(facts)
        rank = facts.pop("rank", None)
        super()._write(head, facts, privacy)
        cell = self.folder.read(head["key"])
        assert cell is not None
        values = [v for v in cell["values"] if not v[0].startswith("target-")]
        if rank is not None:
            values.append(["target-rank", "all", rank + 0.5 * head["seed"]])
        cell["values"] = values
        self.folder.write(cell)


def control(mean: float, sd: float, **more: Any) -> dict[str, Any]:
    return {"users": 8, "orders": 3, "rank_variance": 1.5, "chance": 2.0, "first_moves": 0.75,
            "clean_targets": {"target-rank": 6.0}, "targets": TARGETS, "rank": mean + 0.25,
            "over_orders": {"target-rank": {"mean": mean, "sd": sd}}, **more}


def pushed(rank: float, **more: Any) -> dict[str, Any]:
    return {"clean_targets": {"target-rank": 6.0}, "targets": TARGETS, "rank": rank, **more}


def tables(run: SyntheticRun) -> dict[str, Table]:
    board = build(load(run.finish()), draws=20)
    return {t.kind: t for t in Builder(board, find(board)).tables()}


def test_the_change_by_an_order_stands_beside_that_by_an_attack(tmp_path: Path) -> None:
    run = Ranked(tmp_path, seeds=(0, 1))
    for defense in (NONE, spec("text-sanitizer")):
        run.add(spec("listwise"), defense, NONE)
        run.add(spec("listwise"), defense, CONTROL, NOBODY, facts=control(6.5, 0.8))
        run.add(spec("listwise"), defense, spec("prompt-injection"), TEXT, facts=pushed(2.0))
        run.add(spec("listwise"), defense, spec("paraphrase"), TEXT, facts=pushed(5.75))
    found = tables(run)
    table = found["order"]
    assert table.headers == ["model", "defense", "users", "orders", "rank variance", "chance",
                             "first moves", "order alone", "spread", "prompt-injection",
                             "paraphrase"]
    assert [row[1].text for row in table.rows] == ["none", "text-sanitizer"]
    for row in table.rows:
        # over both seeds: 6.5 - 6; and 2 + 0.25 - 6, 5.75 + 0.25 - 6
        assert [v.text for v in row[2:]] == ["8", "3", "1.5", "2", "0.75", "+0.5000", "0.8000",
                                             "−3.7500", "+0.0000"]
        assert row[9].interval
    told = " ".join(table.notes)
    assert "1.4 times the spread" in told
    # among the targets the control stands with the order drawn first, 6.75, though it pushes none
    exposure = found["exposure"]
    assert exposure.headers[2:] == ["candidate-permutation", "prompt-injection", "paraphrase"]
    assert any("nobody pushes" in note for note in exposure.notes)
    assert [v.change for v in exposure.rows[0][2:]] == ["+1.0000", "−3.7500", "+0.0000"]


def test_the_spread_is_pooled_over_seeds(tmp_path: Path) -> None:
    run = Ranked(tmp_path, seeds=(0, 1))
    run.add(spec("listwise"), NONE, NONE)
    run.add(spec("listwise"), NONE, CONTROL, NOBODY, facts=control(6.0, 0.6))
    for path in (tmp_path / "cells").glob("*.json"):
        cell = run.folder.read(path.stem)
        assert cell is not None
        if cell["attack"]["name"] != "none":
            cell["facts"]["over_orders"]["target-rank"]["sd"] = (0.6, 0.8)[cell["seed"]]
            run.folder.write(cell)
    (row,) = tables(run)["order"].rows
    assert row[8].sort == pytest.approx(math.sqrt((0.36 + 0.64) / 2))


@pytest.mark.parametrize("more", [{"targets": ["i3", "i9"]}, {"users_evaluated": 3}])
def test_what_was_measured_on_others_does_not_stand_beside_it(tmp_path: Path,
                                                              more: dict[str, Any]) -> None:
    run = Ranked(tmp_path, seeds=(0,))
    for model, own in (("listwise", more), ("p5", {})):
        run.add(spec(model), NONE, NONE)
        run.add(spec(model), NONE, CONTROL, NOBODY, facts=control(6.5, 0.8))
        run.add(spec(model), NONE, spec("paraphrase"), TEXT, facts=pushed(2.0, **own))
    rows = {row[0].text: row for row in tables(run)["order"].rows}
    assert rows["listwise"][9].text == "–"
    assert rows["listwise"][9].full == "measured on other targets or users"
    assert rows["p5"][9].text == "−4.0000"


def test_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    run = Ranked(tmp_path, seeds=(0, 1))
    run.add(spec("listwise"), NONE, NONE)
    run.add(spec("listwise"), NONE, CONTROL, NOBODY, facts=control(6.5, 0.8),
            bad_seeds={0: "timeout"})
    run.add(spec("listwise"), NONE, spec("paraphrase"), TEXT, facts=pushed(2.0))
    (row,) = tables(run)["order"].rows
    assert row[9].text == "−3.5000"  # of seed 1


def test_models_without_such_a_floor_are_named_and_failures_stay(tmp_path: Path) -> None:
    why = "yes-no asks for each candidate alone: their order does not reach it"
    run = Ranked(tmp_path, seeds=(0,))
    for model in ("listwise", "yes-no", "p5"):
        run.add(spec(model), NONE, NONE)
    run.add(spec("listwise"), NONE, CONTROL, NOBODY, facts={
        k: v for k, v in control(6.5, 0.8).items() if k not in (
            "targets", "rank", "clean_targets", "over_orders")})
    run.add(spec("yes-no"), NONE, CONTROL, NOBODY, status="skipped", reason=why)
    run.add(spec("p5"), NONE, CONTROL, NOBODY, status="failed", reason="out of memory")
    run.add(spec("yes-no"), NONE, spec("paraphrase"), TEXT, facts=pushed(2.0))
    table = tables(run)["order"]
    rows = {row[0].text: row for row in table.rows}
    assert set(rows) == {"listwise", "p5"}
    assert [v.text for v in rows["listwise"][2:]] == ["8", "3", "1.5", "2", "0.75", "–", "–"]
    assert rows["p5"][2].status == "failed"
    assert "[1] failed: out of memory" in table.notes
    assert [n for n in table.notes if n.startswith("no such floor")] == [
        "no such floor: yes-no with none: the model asks for each candidate alone: their order "
        "does not reach it"]


def test_several_controls_are_told_apart_and_none_has_no_table(tmp_path: Path) -> None:
    run = Ranked(tmp_path, seeds=(0,))
    run.add(spec("listwise"), NONE, NONE)
    for orders in (3, 9):
        run.add(spec("listwise"), NONE, spec("candidate-permutation", orders=orders), NOBODY,
                facts=control(6.5, 0.8))
    table = tables(run)["order"]
    assert table.headers[2] == "control"
    assert [row[2].text for row in table.rows] == ["candidate-permutation(orders=3)",
                                                   "candidate-permutation(orders=9)"]
    other = Ranked(tmp_path / "other", seeds=(0,))
    other.add(spec("listwise"), NONE, NONE)
    assert "order" not in tables(other)


GRID = """\
name: orders
seeds: [0]
datasets: [{blocks: {users: 10, items: 16}}]
models: [{listwise: {model: tiny-random, candidates: 3, history: 1, bootstraps: 1}}]
attacks: [{candidate-permutation: {orders: 2, targets: 1}},
          {keyword-insertion: {words: 1, targets: 1}}]
metrics: [ndcg@5, target-hr@5, target-rank]
engine: inline
"""


def test_a_run_has_both_in_one_line(tmp_path: Path) -> None:
    """Made and read, not made up: the same targets, so that a change stands beside the floor."""
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    assert main(["run", str(grid), "--results", str(tmp_path / "out")]) == 0
    folder = next(p.parent for p in (tmp_path / "out").rglob("plan.json"))
    board = build(load(folder), draws=20)
    (row,) = next(t for t in Builder(board, find(board)).tables() if t.kind == "order").rows
    assert row[2].text == "10"
    cells = {e.attack.split("(")[0]: e.first for e in board.entries.values()}
    text, order = cells["keyword-insertion"], cells["candidate-permutation"]
    assert row[9].sort == pytest.approx(text.values["target-rank", "all"]
                                        - text.facts["clean_targets"]["target-rank"])
    assert row[7].sort == pytest.approx(order.facts["over_orders"]["target-rank"]["mean"]
                                        - order.facts["clean_targets"]["target-rank"])
    out = io.StringIO()
    report(folder, console=Console(file=out, width=140), draws=20)
    assert "what the order of candidates does alone" in out.getvalue()
