"""Worst cases per user, static against adaptive, the cross-table, detection, inference, cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench._board_tables import Builder
from bench._board_view import Table
from bench._cells import load
from bench.flags import find
from bench.leaderboard import Board, Estimate, build
from bench.report import leaderboard_csv, report
from tests.synthetic_run import EMBEDDING, PROFILES, SyntheticRun, spec

NONE = spec("none")
BALL = {**EMBEDDING, "comparable": "l2 ball of 0.5, both vectors"}
APR = spec("adversarial-training", eps=0.5)


def boarded(run: SyntheticRun) -> tuple[Board, dict[str, Table]]:
    board = build(load(run.finish()), draws=300)
    return board, {t.kind: t for t in Builder(board, find(board)).tables()}


class Alternating(SyntheticRun):
    """Attack "odd" harms users with odd numbers alone, "even" the others."""

    def _write(self, head: dict[str, Any], facts: Any, privacy: Any) -> None:
        super()._write(head, facts, privacy)
        name, path = head["attack"]["name"], self.folder.users(head["key"])
        if name in ("odd", "even"):
            frame = pd.read_parquet(path)
            harmed = np.arange(len(frame)) % 2 == (name == "odd")
            frame.loc[harmed, "ndcg@10"] *= 0.5
            frame.to_parquet(path)
            cell = self.folder.read(head["key"])
            assert cell is not None
            cell["values"] = [["ndcg@10", "all", float(frame["ndcg@10"].mean())]]
            self.folder.write(cell)


def test_the_worst_case_is_per_user_then_averaged(tmp_path: Path) -> None:
    run = Alternating(tmp_path, groups=False)
    for attack in (NONE, spec("odd", eps=0.5), spec("even", eps=0.5)):
        run.add(spec("BPR"), NONE, attack, BALL)
    run.add(spec("BPR"), NONE, spec("other", eps=9.0), {**EMBEDDING, "comparable": "another ball"})
    for name in ("flips", "dropout"):  # trained apart: no worst case of one model
        run.add(spec("BPR"), NONE, spec(name), {**BALL, "stage": "train-poison"})
    board, tables = boarded(run)
    (case,) = board.worst_cases["toy", "BPR", "none"]
    clean = board.entries[("toy", "BPR", "none"), "none"].value
    assert clean is not None
    assert case.value.mean == pytest.approx(0.5 * clean.mean)  # every user is halved by one of them
    assert case.drop.mean == pytest.approx(0.5)
    assert case.value.low < case.value.mean < case.value.high
    assert set(case.attacks) == {"odd(eps=0.5)", "even(eps=0.5)"}
    singles = [e.value.mean for e in board.of(("toy", "BPR", "none")) if e.value is not None]
    assert case.value.mean < min(singles)  # at most the worst single attack
    assert len(tables["worst-case"].rows) == 1
    assert "worst of test-param: l2 ball of 0.5" in leaderboard_csv(board, [])
    report(tmp_path, draws=50)
    long = pd.read_parquet(tmp_path / "results.parquet")
    mine = long[long["attack"].str.startswith("worst of")]
    assert mine["value"].mean() == pytest.approx(case.value.mean)


def test_no_user_gains_by_an_attack_in_the_worst_case(tmp_path: Path) -> None:
    """The attacker may also leave the user alone: where every attack helps, that is the worst."""
    run = SyntheticRun(tmp_path, groups=False, loss=lambda m, d, a: {
        "a": -0.5, "b": -0.2}.get(a[0], 0.0))
    for attack in (NONE, spec("a", eps=0.5), spec("b", eps=0.5)):
        run.add(spec("BPR"), NONE, attack, BALL)
    board, _ = boarded(run)
    clean = board.entries[("toy", "BPR", "none"), "none"].value
    (case,) = board.worst_cases["toy", "BPR", "none"]
    assert clean is not None
    assert case.value.mean == pytest.approx(clean.mean)
    assert case.drop.mean == pytest.approx(0.0)


def test_static_and_adaptive_stand_side_by_side(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path, loss=lambda m, d, a: 0.3 if "True" in a else
                       0.1 if "False" in a else 0.0,
                       lift=lambda m, d, a: 0.01 if "True" in a else 0.05)
    for defense in (NONE, APR):
        run.add(spec("BPR"), defense, NONE)
        for adaptive in (True, False):
            run.add(spec("BPR"), defense, spec("pgd", eps=0.5, adaptive=adaptive), BALL)
            run.add(spec("BPR"), defense, spec("random-profiles", budget=0.1, adaptive=adaptive),
                    PROFILES)
    board, tables = boarded(run)
    table = tables["adaptive"]
    assert [row[1].text for row in table.rows] == ["adversarial-training"] * 2  # not undefended
    pgd = table.rows[0]
    assert pgd[6].sort == pytest.approx(pgd[5].sort - pgd[4].sort)
    assert pgd[6].sort < 0  # the adaptive attack leaves less
    weak = [f for f in find(board) if f.code == "adaptive-weaker"]
    assert [f.attack for f in weak] == ["random-profiles(budget=0.1, adaptive=True)"]


def profiles(knowledge: str, adaptive: bool, **params: Any) -> tuple[dict[str, Any], Any]:
    """Fake profiles as a cell names them: with the parameters that differ from the defaults."""
    made = spec("leg-up-profiles", budget=0.1,
                **({} if knowledge == "gray" else {"knowledge": knowledge}),
                **({"adaptive": True} if adaptive else {}), **params)
    return made, {**PROFILES, "knowledge": knowledge, "adaptive": adaptive or knowledge == "white"}


def test_who_is_adaptive_by_what_he_knows_is_paired_as_well(tmp_path: Path) -> None:
    """A white attacker has trained the defended pipeline, whatever his parameters say."""
    static, white = profiles("gray", False), profiles("white", False)
    several = [profiles("gray", True, tries=7), profiles("white", True, tries=7)]
    black = profiles("black", False, known=0.2), profiles("black", True, known=0.2)
    lone = profiles("white", False, length=9)  # another budget: nothing to be compared with
    run = SyntheticRun(tmp_path, lift=lambda m, d, a: 0.01 * len(a))
    for defense in (NONE, spec("pca-filter")):
        run.add(spec("BPR"), defense, NONE)
        for attack, threat in (static, white, *several, *black, lone):
            run.add(spec("BPR"), defense, attack, threat)
    board, tables = boarded(run)
    found = {(s.attack, e.attack) for s, e in board.static_and_adaptive()}
    assert found == {(static[0]["label"], e[0]["label"]) for e in (white, *several)} | {
        (black[0][0]["label"], black[1][0]["label"])}
    assert {s.row[2] for s, _ in board.static_and_adaptive()} == {"pca-filter"}
    assert len(tables["adaptive"].rows) == 4


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_who_meant_to_be_adaptive_and_met_nothing_is_no_static_attack(
        tmp_path: Path, order: tuple[int, ...]) -> None:
    """Its profiles are disguised all the same: it stands for nobody."""
    (meant, threat), static, white = (profiles("gray", True), profiles("gray", False),
                                      profiles("white", True))
    made = [(meant, {**threat, "adaptive": False, "unseen": "no surrogate"}), static, white]
    run = SyntheticRun(tmp_path, lift=lambda m, d, a: 0.01 * len(a))
    for attack, who in ((NONE, None), *(made[n] for n in order)):
        run.add(spec("BPR"), spec("apt"), attack, *([] if who is None else [who]))
    board, _ = boarded(run)
    assert [(s.attack, e.attack) for s, e in board.static_and_adaptive()] == [
        (static[0]["label"], white[0]["label"])]


@pytest.mark.parametrize(("loss", "lift", "code"), [
    (0.0, 0.0, "adaptive-equals-static"), (1e-9, 0.0, None), (0.0, 1e-9, None),
    (0.0, -1e-9, "adaptive-weaker")])
def test_an_adaptive_attack_that_leaves_what_the_static_one_leaves_says_so(
        tmp_path: Path, loss: float, lift: float, code: str | None) -> None:
    """To the last digit, in what it aims at and in all else."""
    run = SyntheticRun(tmp_path, loss=lambda m, d, a: 0.1 + loss * ("white" in a),
                       lift=lambda m, d, a: 0.05 + lift * ("white" in a))
    for defense in (NONE, spec("pca-filter")):
        run.add(spec("BPR"), defense, NONE)
        for attack, threat in (profiles("gray", False), profiles("white", False)):
            run.add(spec("BPR"), defense, attack, threat)
    board, tables = boarded(run)
    flags = [f for f in find(board) if f.code in ("adaptive-equals-static", "adaptive-weaker")]
    assert [f.code for f in flags] == ([code] if code else [])
    (row,) = tables["adaptive"].rows
    assert row[6].flags == ((code,) if code else ())
    if code:
        assert flags[0].attack == profiles("white", False)[0]["label"]
        there = next(r for r in tables["exposure"].rows if r[1].text == "pca-filter")
        assert code in there[3].flags


def test_a_full_exposure_is_marked_where_exposure_stands(tmp_path: Path) -> None:
    """Before and after: every list holds the targets, so that nothing can be seen."""
    run = SyntheticRun(tmp_path, lift=lambda m, d, a: 0.0)
    run.add(spec("BPR"), NONE, NONE)
    run.add(spec("BPR"), NONE, spec("keyword-insertion"), PROFILES)
    board = build(load(run.finish()), draws=20)
    e = board.entries[("toy", "BPR", "none"), "keyword-insertion"]
    e.exposure["target-hr@50"] = Estimate(1.0, 1.0, 1.0)
    e.lifts["target-hr@50"] = Estimate(0.0, 0.0, 0.0)
    tables = {t.kind: t for t in Builder(board, find(board)).tables()}
    assert tables["exposure"].rows[0][2].flags == ("exposure-ceiling",)


def test_each_defense_meets_each_attack(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path, loss=lambda m, d, a: 0.0 if a == "none" else
                       0.05 if d == "adversarial-training" else 0.2)
    for defense, facts in ((NONE, {}), (APR, {"trained_against": "fgsm"}), (spec("ips"), {})):
        for attack in (NONE, spec("fgsm", eps=0.5), spec("pgd", eps=0.5)):
            run.add(spec("BPR"), defense, attack, BALL, facts=facts)
    _, tables = boarded(run)
    rows = {row[1].text: [view.text for view in row[2:]] for row in tables["crossed"].rows}
    assert rows == {"none": ["–", "80.0%", "80.0%"],
                    "adversarial-training": ["fgsm", "95.0% (seen)", "95.0%"]}
    ends = tables["crossed"].rows[1][3].interval  # in the units of what it is the interval of
    low, high = (float(x.rstrip("%")) for x in ends.strip("[]").split(", "))
    assert low <= 95.0 <= high


def test_what_is_inferred_has_a_table_of_its_own(tmp_path: Path) -> None:
    infer = {"stage": "output-query", "knowledge": "black", "goal": "infer", "realisable": True}
    run = SyntheticRun(tmp_path)
    found = {"mia-auc": 0.7, "mia-auc-low": 0.65, "mia-auc-high": 0.75, "mia-tpr@1%fpr": 0.5,
             "mia-tpr@1%fpr-low": 0.4, "mia-tpr@1%fpr-high": 0.6}
    for defense, spent in ((NONE, {}), (spec("dp-sgd", epsilon=1.0),
                                        {"epsilon": 1.0, "delta": 1e-5})):
        run.add(spec("BPR"), defense, NONE, privacy=spent)
        run.add(spec("BPR"), defense, spec("mia"), infer, privacy={**found, **spent},
                facts={"exchangeable": True, "non_members": 1000})
        run.add(spec("BPR"), defense, spec("by-taste"), infer, privacy={**found, **spent},
                facts={"exchangeable": False, "non_members": 1000})
        run.add(spec("BPR"), defense, spec("few"), infer, privacy={**found, **spent},
                facts={"exchangeable": True, "non_members": 20})
        for reads in ("own", "released"):
            run.add(spec("BPR"), defense, spec(reads), infer, privacy={**found, **spent},
                    facts={"exchangeable": True, "non_members": 1000, "reads": reads,
                           "training": {"dp": {"released": "all but the users' own rows"}}})
    board, tables = boarded(run)
    table = tables["inference"]
    assert table.headers[3:] == ["mia-auc", "mia-tpr@1%fpr"]
    assert table.rows[0][3].text == "0.7000"
    assert table.rows[0][3].interval == "[0.6500, 0.7500]"
    assert "mia" not in " ".join(tables["accuracy"].headers)
    assert "attacked" not in tables  # it changes no recommendation
    assert all(e.drop is None for (_, a), e in board.entries.items() if a == "mia")
    assert not board.tests() or all(t is not board.entries[
        ("toy", "BPR", "none"), "mia"].against_clean for t in board.tests())
    assert not [f for f in find(board) if f.code == "below-chance"]
    broken = [f for f in find(board) if f.code == "dp-bound"]
    assert [f.row for f in broken] == [("toy", "BPR", "dp-sgd(epsilon=1)")] * 6  # e·0.018 < 0.4
    assert {f.attack for f in broken} == {"mia", "released"}  # 20 others leave it up to 17 %
    assert not [f for f in find(board) if f.code == "noise-floor"]


def test_detectors_and_costs_have_tables(tmp_path: Path) -> None:
    facts = {"defense": {"flagged": 9, "precision": 0.5, "recall": 1.0, "auc": 0.99,
                         "false_positives": 0.02,
                         "trained_on_evaluated_attack": True,
                         "false_positives_by_group": {"gender=F": 0.05, "gender=M": 0.01}}}
    run = SyntheticRun(tmp_path)
    run.add(spec("BPR"), spec("pca-filter"), NONE)
    run.add(spec("BPR"), spec("pca-filter"), spec("random-profiles"), PROFILES, facts=facts)
    on_clean = {"defense": {**facts["defense"], "trained_on_evaluated_attack": False}}
    run.add(spec("BPR"), spec("pca-filter"), spec("fgsm", eps=0.5), BALL, facts=on_clean)
    board, tables = boarded(run)
    assert [f.attack for f in find(board) if f.code == "met-before"] == ["random-profiles"]
    (row,) = tables["detection"].rows
    assert row[2].flags == ("met-before",)
    assert [view.text for view in row[3:]] == ["9", "0.5", "1", "0.99", "0.02", "gender=F: 0.050"]
    cost, _ = tables["attack-cost"].rows
    assert [view.text for view in cost[3:]] == ["0.5", "0", "12.5", "512"]


def test_who_weighs_users_stands_among_the_detectors(tmp_path: Path) -> None:
    """Its figures are of the training, as the forest is learned there; and nobody is left out."""
    said = {"flagged": 7, "precision": 0.5, "recall": 0.25, "auc": 0.9, "false_positives": 0.01,
            "false_positives_by_group": {"gender=F": 0.03, "gender=M": 0.01},
            "taken_for_fakes": "P(fake) above ½, so that they count less than half"}
    run = SyntheticRun(tmp_path)
    run.add(spec("BPR"), spec("graphrfi"), NONE, facts={"training": {"graphrfi": said}})
    run.add(spec("BPR"), spec("graphrfi"), spec("random-profiles"), PROFILES, facts={
        "training": {"graphrfi": said}, "defense": {"trained_on_evaluated_attack": True}})
    run.add(spec("BPR"), spec("pca-filter"), spec("random-profiles"), PROFILES,
            facts={"defense": {**said, "taken_for_fakes": None}, "training": {"dp": {"steps": 3}}})
    run.add(spec("BPR"), spec("dp-sgd"), NONE, facts={"training": {"dp": {"steps": 3}}})
    _, tables = boarded(run)
    clean, attacked, filtered = tables["detection"].rows
    assert [row[1].text for row in (clean, attacked, filtered)] == ["graphrfi", "graphrfi",
                                                                    "pca-filter"]
    assert [v.text for v in attacked[3:]] == ["7", "0.5", "0.25", "0.9", "0.01",
                                              "gender=F: 0.030"]
    assert attacked[2].flags == ("met-before",)
    weighs = [n for n in tables["detection"].notes if "graphrfi" in n]
    assert len(weighs) == 1
    assert "weighs users and leaves nobody out" in weighs[0]
    assert "P(fake) above ½" in weighs[0]


def test_every_pair_of_groups_counts_in_the_long_table(tmp_path: Path) -> None:
    """MAD beside gap and worst group: three groups, one of them too small to count."""
    run = SyntheticRun(tmp_path, seeds=(0,))
    run.add(spec("BPR"), NONE, NONE, facts={"small_groups": {"gender=X": 2}, "group_sizes": {
        "gender=F": 20, "gender=M": 60, "gender=N": 20, "gender=X": 2}})
    path = next((tmp_path / "cells").glob("*.json"))
    cell = json.loads(path.read_text())
    means = {"F": 0.1, "M": 0.4, "N": 0.2, "X": 0.9}
    cell["values"] = [v for v in cell["values"] if "gender=" not in v[1]] + [
        ["ndcg@10", f"gender={g}", mean] for g, mean in means.items()]
    path.write_text(json.dumps(cell))
    report(run.finish())
    long = pd.read_parquet(tmp_path / "results.parquet").set_index("metric").value
    assert long["ndcg@10-mad:gender"] == pytest.approx((0.3 + 0.1 + 0.2) / 3)
    assert long["ndcg@10-gap:gender"] == pytest.approx(0.3)
    assert long["ndcg@10-worst:gender"] == pytest.approx(0.1)
    assert long["ndcg@10-sd:gender"] == pytest.approx(np.std([0.1, 0.4, 0.2]))
    # the mean over users is 0.3: three fifths of them are 0.1 above, a fifth 0.2, a fifth 0.1 below
    assert long["ndcg@10-weighted:gender"] == pytest.approx(0.6 * 0.1 + 0.2 * 0.2 + 0.2 * 0.1)


def test_what_a_promise_is_between_is_in_the_report(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path)
    for name, text in (("dp-sgd", "one user's whole history"), ("randomised-response", "one bit")):
        facts = {"training": {"dp": {"adjacency": text, "accountant": "pld"}}} if name == "dp-sgd" \
            else {"defense": {"adjacency": text}}
        run.add(spec("BPR"), spec(name, epsilon=1.0), NONE, facts=facts,
                privacy={"epsilon": 1.0, "delta": 1e-5})
    _, tables = boarded(run)
    rows = {row[1].text: [view.text for view in row[5:]] for row in tables["privacy"].rows}
    assert rows == {"dp-sgd": ["pld", "[1]"], "randomised-response": ["–", "[2]"]}
    assert "adjacency [1]: one user's whole history" in tables["privacy"].notes


def test_a_defense_that_quotes_nothing_has_a_row_that_says_why(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path)
    why = "early stopping read validation"
    run.add(spec("BPR"), spec("randomised-response"), NONE, facts={"defense": {
        "adjacency": "two profiles", "accountant": f"none: {why}", "no_epsilon": why}})
    _, tables = boarded(run)
    row, = tables["privacy"].rows
    assert [view.text for view in row[2:6]] == ["–", "–", "–", f"none: {why}"]


def test_an_attack_below_chance_is_no_privacy(tmp_path: Path) -> None:
    infer = {"stage": "output-query", "knowledge": "black", "goal": "infer", "realisable": True}
    run = SyntheticRun(tmp_path)
    run.add(spec("BPR"), NONE, NONE)
    run.add(spec("BPR"), NONE, spec("mia"), infer,
            privacy={"mia-auc": 0.2, "mia-auc-low": 0.1, "mia-auc-high": 0.3})
    board, tables = boarded(run)
    assert "below-chance" in [f.code for f in find(board) if f.attack == "mia"]
    assert tables["inference"].rows[0][3].flags == ("below-chance",)
