"""Tables and flags of attacks with targets: the same seeds on both sides, ranks where nothing else
was measured, who was seen before, and nukes apart from pushes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench._board_tables import Builder
from bench._board_view import Table
from bench._cells import load
from bench.flags import find
from bench.leaderboard import Board, build
from tests.synthetic_run import EMBEDDING, PROFILES, SyntheticRun, spec

NONE, PCA = spec("none"), spec("pca-filter")
STATIC = spec("random-profiles", budget=0.1, adaptive=False)
KNOWING = spec("random-profiles", budget=0.1, adaptive=True)
ROW = ("toy", "BPR", "none")


def boarded(run: SyntheticRun) -> tuple[Board, dict[str, Table]]:
    board = build(load(run.finish()), draws=50)
    return board, {t.kind: t for t in Builder(board, find(board)).tables()}


def weaker(board: Board) -> list[str]:
    return [f.detail for f in find(board) if f.code == "adaptive-weaker"]


class Drifting(SyntheticRun):
    """Each further seed leaves a tenth more accuracy and lifts targets by 0.1 more, in every
    cell; `ranked`: the rank of the targets, 30 − 100 × what they gain, is all that is measured."""

    ranked = False

    def _write(self, head: dict[str, Any], facts: Any, privacy: Any) -> None:
        names = head["model"]["name"], head["defense"]["name"], head["attack"]["label"]
        super()._write(head, {"clean_targets": {"target-rank": 30.0, "target-hr@50": 0.05}, **facts}
                       if head["attack"]["name"] != "none" else facts, privacy)
        cell, seed = self.folder.read(head["key"]), head["seed"]
        assert cell is not None
        values = {(m, g): v for m, g, v in cell["values"]}
        values["ndcg@10", "all"] += 0.1 * seed
        if (exposed := ("target-hr@50", "all")) in values:
            values[exposed] += 0.1 * seed
            if self.ranked:
                del values[exposed]
                values["target-rank", "all"] = 30 - 100 * self.lift(*names)
        cell["values"] = [[m, g, v] for (m, g), v in values.items()]
        self.folder.write(cell)


@pytest.mark.parametrize(("goal", "sign"), [("push", 1), ("nuke", -1), ("untargeted", -1)])
@pytest.mark.parametrize("lost", [STATIC, KNOWING])
def test_static_and_adaptive_are_compared_over_the_same_seeds(
        tmp_path: Path, goal: str, sign: int, lost: dict[str, Any]) -> None:
    """The adaptive one does more harm by 0.02 in both seeds; one seed of either failed."""
    threat = {**PROFILES, "goal": goal}

    def more(a: str) -> float:
        return 0.02 * ("True" in a)
    run = Drifting(tmp_path, seeds=(0, 1), lift=lambda m, d, a: sign * more(a),
                   loss=lambda m, d, a: more(a))
    for failed in (0, 1):
        model = spec("BPR", epochs=failed + 1)
        run.add(model, PCA, NONE)
        for attack in (STATIC, KNOWING):
            run.add(model, PCA, attack, threat,
                    bad_seeds={failed: "timeout"} if attack is lost else {})
    board, tables = boarded(run)
    assert weaker(board) == []
    assert len(tables["adaptive"].rows) == 2
    for failed, row in enumerate(tables["adaptive"].rows):
        by_hand = []
        for attack in (STATIC, KNOWING):
            e = board.entries[("toy", f"BPR(epochs={failed + 1})", "pca-filter"), attack["label"]]
            metric = "ndcg@10" if goal == "untargeted" else "target-hr@50"
            by_hand.append(e.ok[1 - failed].values[metric, "all"]
                           - (0 if goal == "untargeted" else 0.05))
        assert [row[4].sort, row[5].sort] == pytest.approx(by_hand)
        assert row[6].sort == pytest.approx(by_hand[1] - by_hand[0])
        assert row[6].sort * sign > 0


def test_without_a_seed_in_common_nothing_is_compared(tmp_path: Path) -> None:
    run = Drifting(tmp_path, seeds=(0, 1))
    run.add(spec("BPR"), PCA, NONE)
    for seed, attack in enumerate((STATIC, KNOWING)):
        run.add(spec("BPR"), PCA, attack, PROFILES, bad_seeds={seed: "timeout"})
    board, tables = boarded(run)
    assert weaker(board) == []
    (row,) = tables["adaptive"].rows
    assert [v.text for v in row[4:]] == ["–"] * 3
    assert row[6].full == "no seed in common"


@pytest.mark.parametrize(("goal", "gain", "fires"), [("push", 0.02, False), ("push", -0.02, True),
                                                     ("nuke", 0.02, True), ("nuke", -0.02, False)])
def test_by_the_rank_of_targets_where_it_alone_was_measured(
        tmp_path: Path, goal: str, gain: float, fires: bool) -> None:
    """A push lowers it. What accuracy does meanwhile is not what these attacks aim at."""
    run = Drifting(tmp_path, seeds=(0,), loss=lambda m, d, a: 0.01 * (a != "none"),
                   lift=lambda m, d, a: 0.1 + gain * ("True" in a))
    run.ranked = True
    for defense, facts in ((NONE, {}), (PCA, {"trained_against": "random-profiles"})):
        run.add(spec("BPR"), defense, NONE, facts=facts)
        for attack in (STATIC, KNOWING):
            run.add(spec("BPR"), defense, attack, {**PROFILES, "goal": goal}, facts=facts)
        run.add(spec("BPR"), defense, spec("fgsm", eps=0.5), EMBEDDING, facts=facts)
    board, tables = boarded(run)
    (row,) = tables["adaptive"].rows
    assert row[3].text == "target-rank change"
    assert [v.sort for v in row[4:]] == pytest.approx([-10, -10 - 100 * gain, -100 * gain])
    assert weaker(board) == ([f"target-rank {20 - 100 * gain:g} against 20"] if fires else [])
    defended = next(r for r in tables["crossed"].rows if r[1].text == "pca-filter")
    assert [v.text for v in defended[3:]] == [
        "−10.0000 (seen)", f"−{10 + 100 * gain:.4f} (seen)", "99.0%"]
    assert any("the change of target-rank" in n for n in tables["crossed"].notes)
    there = next(r for r in tables["exposure"].rows if r[1].text == "pca-filter")
    assert there[3].flags == (("adaptive-weaker",) if fires else ())


def test_the_table_of_defenses_names_the_cutoff_and_gives_no_accuracy_for_a_push(
        tmp_path: Path) -> None:
    """Where the lift is not known, neither is what the attack came to."""
    run = SyntheticRun(tmp_path, lift=lambda m, d, a: 0.03, seeds=(0,))
    facts = {"trained_against": "bandwagon-profiles"}
    run.add(spec("BPR"), PCA, NONE, facts=facts)
    run.add(spec("BPR"), PCA, spec("average-profiles"), PROFILES, facts=facts)
    run.add(spec("BPR"), PCA, spec("segment-profiles"), PROFILES,
            facts={**facts, "targets": ["gone"]})
    _, tables = boarded(run)
    (row,) = tables["crossed"].rows
    assert [v.text for v in row[3:]] == ["+0.0300", "–"]
    assert any("the lift of target-hr@50" in n for n in tables["crossed"].notes)


@pytest.mark.parametrize("met", [True, False])
def test_what_a_detector_has_met_under_another_name_was_seen(tmp_path: Path, met: bool) -> None:
    """Without ratings average profiles are random ones: the mark is that of the flag."""
    run = SyntheticRun(tmp_path, seeds=(0,))
    facts = {"trained_against": "random-profiles"}
    run.add(spec("BPR"), PCA, NONE, facts=facts)
    run.add(spec("BPR"), PCA, spec("average-profiles"), PROFILES,
            facts={**facts, "defense": {"trained_on_evaluated_attack": met, "recall": 1.0}})
    board, tables = boarded(run)
    flagged = bool([f for f in find(board) if f.code == "met-before"])
    assert flagged is met
    assert tables["crossed"].rows[0][3].text.endswith("(seen)") is met
    assert ("met-before" in tables["detection"].rows[-1][2].flags) is met


def test_a_nuke_is_no_push_that_lifts_little(tmp_path: Path) -> None:
    moves = {"random-profiles": 0.01, "average-profiles": 0.02, "love-hate-profiles": -0.04,
             "indirect-nuke-profiles": 0.03}
    run = SyntheticRun(tmp_path, seeds=(0,), lift=lambda m, d, a: moves.get(a, 0.0))
    run.add(spec("BPR"), NONE, NONE)
    for name in moves:
        nukes = name.startswith(("love", "indirect"))
        run.add(spec("BPR"), NONE, spec(name), {**PROFILES, "goal": "nuke" if nukes else "push"})
    board, tables = boarded(run)
    furthest = [board.worst_exposure(ROW, "target-hr@50", goal) for goal in ("push", "nuke")]
    assert [e.attack for e in furthest if e] == ["average-profiles", "love-hate-profiles"]
    (row,) = tables["accuracy"].rows
    assert tables["accuracy"].headers[4:] == ["largest target-hr@50 lift",
                                              "largest target-hr@50 fall"]
    assert [(v.text, v.aside) for v in row[4:]] == [
        ("+0.0200", "by average-profiles"), ("−0.0400", "by love-hate-profiles")]


@pytest.mark.parametrize(("goal", "column"), [("push", "lift"), ("nuke", "fall")])
def test_no_column_for_what_nobody_aims_at(tmp_path: Path, goal: str, column: str) -> None:
    run = SyntheticRun(tmp_path, seeds=(0,))
    run.add(spec("BPR"), NONE, NONE)
    run.add(spec("BPR"), NONE, spec("random-profiles"), {**PROFILES, "goal": goal})
    _, tables = boarded(run)
    assert tables["accuracy"].headers[4:] == [f"largest target-hr@50 {column}"]
