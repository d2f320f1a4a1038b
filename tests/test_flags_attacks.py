"""Flags on attacks fire where one is weaker than it should be, and stay silent otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _flag_boards import FEATURES, FGSM, NONE, PGD, attacks, board, fired, losing, pushing
from synthetic_run import PROFILES, SyntheticRun, embedding, spec


@pytest.mark.parametrize(("pgd", "fires"), [(0.1, True), (0.3, False)])
def test_pgd_weaker_than_fgsm(tmp_path: Path, pgd: float, fires: bool) -> None:
    found = board(tmp_path, attacks(FGSM, PGD), loss=losing(fgsm=0.2, pgd=pgd))
    assert bool(fired(found, "pgd-weaker-than-fgsm")) is fires


def test_pgd_is_compared_in_the_same_ball_only(tmp_path: Path) -> None:
    box = embedding("pgd", eps=0.5, steps=10, norm="linf")
    found = board(tmp_path, attacks(FGSM, box), loss=losing(fgsm=0.2, pgd=0.1))
    assert not fired(found, "pgd-weaker-than-fgsm")


def test_who_sees_test_positives_is_held_to_those_who_do(tmp_path: Path) -> None:
    """And to noise, as everybody is."""
    seeing = [embedding(n, eps=0.5, source="test") for n in ("fgsm", "pgd")]
    noise = embedding("noise", eps=0.5)
    found = board(tmp_path / "a", attacks(FGSM, PGD, seeing[0]),
                  loss=lambda m, d, a: 0.3 if "test" in a else 0.2 if "pgd" in a else 0.1)
    assert not fired(found, "pgd-weaker-than-fgsm")
    found = board(tmp_path / "b", attacks(FGSM, PGD, noise, *seeing), loss=lambda m, d, a: {
        seeing[0]["label"]: 0.3, seeing[1]["label"]: 0.25, noise["label"]: 0.28}.get(a, 0.2))
    assert [f.attack for f in fired(found, "pgd-weaker-than-fgsm")] == [seeing[1]["label"]]
    weak = {f.attack for f in fired(found, "weaker-than-noise")}
    assert weak == {FGSM["label"], PGD["label"], seeing[1]["label"]}


@pytest.mark.parametrize(("more", "fires"), [(0.1, True), (0.3, False)])
def test_more_steps_weaker(tmp_path: Path, more: float, fires: bool) -> None:
    found = board(tmp_path, attacks(PGD, embedding("pgd", eps=0.5, steps=50)),
                  loss=lambda m, d, a: more if "50" in a else 0.2 if "pgd" in a else 0.0)
    assert [f.attack for f in fired(found, "more-steps-weaker")] == (
        ["pgd(eps=0.5, steps=50)"] if fires else [])


@pytest.mark.parametrize(("larger", "fires"), [(0.1, True), (0.3, False)])
def test_larger_eps_weaker(tmp_path: Path, larger: float, fires: bool) -> None:
    found = board(tmp_path, attacks(FGSM, embedding("fgsm", eps=1.0)),
                  loss=lambda m, d, a: larger if "eps=1" in a else 0.2 if "fgsm" in a else 0.0)
    assert bool(fired(found, "larger-eps-weaker")) is fires


@pytest.mark.parametrize(("more", "fires"), [(0.1, True), (0.3, False)])
@pytest.mark.parametrize(("key", "code"), [("steps", "more-steps-weaker"),
                                           ("eps", "larger-eps-weaker")])
def test_a_push_is_judged_by_its_targets(tmp_path: Path, key: str, code: str, more: float,
                                         fires: bool) -> None:
    """What it does to accuracy by the way is not what it aims at."""
    less, other = pushing("feature-pgd", **{key: 5}), pushing("feature-pgd", **{key: 50})
    found = board(tmp_path, attacks(less, other, threat=FEATURES),
                  loss=lambda m, d, a: 0.1 if "50" in a else 0.2,
                  lift=lambda m, d, a: more if "50" in a else 0.2)
    assert [f.attack for f in fired(found, code)] == ([other["label"]] if fires else [])


def test_what_only_reads_is_held_to_no_change_of_accuracy(tmp_path: Path) -> None:
    reads = {"stage": "output-query", "knowledge": "black", "goal": "infer", "realisable": True}
    found = board(tmp_path, attacks(spec("mia", steps=5), spec("mia", steps=9), threat=reads),
                  loss=lambda m, d, a: 0.001 if "5" in a else 0.0, seed_spread=0.01)
    assert not fired(found, "noise-floor")
    assert not fired(found, "more-steps-weaker")


def cleaned(run: SyntheticRun, attack: dict[str, Any], flagged: bool = True) -> None:
    facts = {"defense": {"flagged": 3}} if flagged else {}
    for a in (NONE, attack):
        run.add(spec("BPR"), spec("pca-filter"), a, PROFILES, facts=facts)


def test_static_only(tmp_path: Path) -> None:
    static = spec("random-profiles", budget=0.01)
    adaptive = spec("hidden-profiles", adaptive=True)
    assert fired(board(tmp_path / "a", lambda r: cleaned(r, static)), "static-only")
    assert not fired(board(tmp_path / "b", lambda r: cleaned(r, adaptive)), "static-only")
    assert not fired(board(tmp_path / "c", lambda r: cleaned(r, static, False)), "static-only")
