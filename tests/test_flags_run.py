"""Flags on the run and on privacy fire where they should and stay silent where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_run
from _flag_boards import FGSM, NONE, attacks, board, fired
from synthetic_run import EMBEDDING, EXPOSED, PROFILES, SyntheticRun, embedding, spec


@pytest.mark.parametrize(("spent", "fires"), [(8.05, False), (7.93, False), (8.2, True),
                                              (7.0, True), (float("inf"), True)])
def test_epsilon_differs(tmp_path: Path, spent: float, fires: bool) -> None:
    def make(run: SyntheticRun) -> None:
        run.add(spec("BPR"), spec("dp-sgd", epsilon=8.0), NONE)
    found = board(tmp_path, make)
    for entry in found.entries.values():
        for cell in entry.cells.values():
            cell.privacy["epsilon"] = spent  # type: ignore[index]
    assert bool(fired(found, "epsilon-differs")) is fires


@pytest.mark.parametrize("private", ["defense", "model"])
def test_no_epsilon_was_asked_for_where_noise_was(tmp_path: Path, private: str) -> None:
    """dp-sgd: {noise_multiplier: 2} has an epsilon by default, which it does not heed."""
    from bench._flags_privacy import epsilon_asked

    given = spec("dp-sgd" if private == "defense" else "dpals", epsilon=8.0, noise_multiplier=2.0)

    def make(run: SyntheticRun) -> None:
        run.add(*((spec("BPR"), given) if private == "defense" else (given, NONE)), NONE)
    found = board(tmp_path, make)
    for entry in found.entries.values():
        for cell in entry.cells.values():
            cell.privacy["epsilon"] = 1.5  # type: ignore[index]
            assert epsilon_asked(cell) is None
    assert not fired(found, "epsilon-differs")


def test_missing_seeds(tmp_path: Path) -> None:
    found = board(tmp_path / "a", attacks(FGSM, bad_seeds={1: "out of memory"}))
    flag = fired(found, "missing-seeds")[0]
    assert flag.detail == "2 of 3 seeds: out of memory"
    found = board(tmp_path / "b", attacks(FGSM), seeds=(0, 1), asked=(0, 1, 2))
    assert fired(found, "missing-seeds")[0].detail == "2 of 3 seeds"
    assert not fired(board(tmp_path / "c", attacks(FGSM)), "missing-seeds")
    assert not fired(board(tmp_path / "d", attacks(FGSM)), "one-seed")


@pytest.mark.parametrize(("lift", "fires"), [(0.0, True), (0.02, False)])
def test_exposure_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lift: float,
                        fires: bool) -> None:
    monkeypatch.setattr(synthetic_run, "EXPOSED", 0 * EXPOSED)  # without attack, in no list
    found = board(tmp_path, attacks(spec("random-profiles"), threat=PROFILES), seeds=(0,),
                  lift=lambda m, d, a: lift)
    assert bool(fired(found, "exposure-floor")) is fires


@pytest.mark.parametrize("goal", ["push", "nuke"])
def test_what_reached_lists_before_the_attack_met_no_floor(tmp_path: Path, goal: str) -> None:
    """A nuke that leaves nothing has done all that it could. The clean exposure is 0.05."""
    found = board(tmp_path, attacks(spec("random-profiles"), threat={**PROFILES, "goal": goal}),
                  seeds=(0,), lift=lambda m, d, a: -0.05)
    assert next(iter(found.of(("toy", "BPR", "none")))).exposure["target-hr@50"].mean == 0
    assert not fired(found, "exposure-floor")


def test_small_groups(tmp_path: Path) -> None:
    left = {"small_groups": {"age=70": 3}}
    found = board(tmp_path / "a", attacks(facts=left))
    assert fired(found, "small-groups")[0].detail == "age=70 (3 users)"
    assert not fired(board(tmp_path / "b", attacks(facts={"small_groups": {}})),
                     "small-groups")


@pytest.mark.parametrize(("share", "fires"), [(0.011, True), (0.009, False)])
def test_ties(tmp_path: Path, share: float, fires: bool) -> None:
    assert bool(fired(board(tmp_path, attacks(facts={"tie_share": share})), "ties")) is fires


def test_not_above_pop(tmp_path: Path) -> None:
    def make(run: SyntheticRun) -> None:
        for name in ("pop", "BPR", "bad", "random"):
            run.add(spec(name), NONE, NONE)
    found = board(tmp_path, make, base={"BPR": 0.4, "bad": 0.01, "random": 0.001})
    assert [f.row for f in fired(found, "not-above-pop")] == [("toy", "bad", "none")]


def test_failed_and_timeout_but_not_skipped(tmp_path: Path) -> None:
    def make(run: SyntheticRun) -> None:
        run.add(spec("BPR"), NONE, NONE)
        for name, status in (("fgsm", "failed"), ("pgd", "timeout"), ("noise", "skipped")):
            run.add(spec("BPR"), NONE, embedding(name), EMBEDDING, status=status, reason="why")
    assert [f.attack for f in fired(board(tmp_path, make), "failed")] == ["fgsm", "pgd"]
