"""Every flag fires where it should and stays silent where it should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import EMBEDDING, PROFILES, SyntheticRun, embedding, spec

from bench import flags
from bench._cells import load
from bench.flags import Flag, find
from bench.leaderboard import Board, build

NONE = spec("none")
Make = Callable[[SyntheticRun], None]


def board(path: Path, make: Make, **run: Any) -> Board:
    made = SyntheticRun(path, users=30, **run)
    make(made)
    return build(load(made.finish()), draws=20)


def fired(found: Board, code: str) -> list[Flag]:
    return [f for f in find(found) if f.code == code]


def attacks(*made: dict[str, Any], **cell: Any) -> Make:
    def add(run: SyntheticRun) -> None:
        for attack in (NONE, *made):
            run.add(spec("BPR"), NONE, attack, **cell)
    return add


NOISE, FGSM = embedding("noise", eps=0.5), embedding("fgsm", eps=0.5)
PGD = embedding("pgd", eps=0.5, steps=10)


def losing(**losses: float) -> Callable[[str, str, str], float]:
    return lambda m, d, a: losses.get(a.split("(")[0], 0.0)


def test_every_flag_is_explained_and_has_a_letter_of_its_own() -> None:
    assert len(set(flags.MARKS.values())) == len(flags.EXPLAINED)
    assert set(flags.MARKS) == set(flags.EXPLAINED)
    assert len(flags.CHECKS) == len(flags.EXPLAINED)


@pytest.mark.parametrize(("fgsm", "fires"), [(0.01, True), (0.05, True), (0.2, False)])
def test_weaker_than_noise(tmp_path: Path, fgsm: float, fires: bool) -> None:
    found = board(tmp_path, attacks(NOISE, FGSM), loss=losing(noise=0.05, fgsm=fgsm))
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        ["fgsm(eps=0.5)"] if fires else [])


def test_noise_of_another_size_or_norm_is_no_control(tmp_path: Path) -> None:
    other = embedding("noise", eps=1.0)
    linf = embedding("noise", eps=0.5, norm="linf")
    found = board(tmp_path, attacks(other, linf, FGSM), loss=losing(noise=0.3, fgsm=0.1))
    assert not fired(found, "weaker-than-noise")


@pytest.mark.parametrize(("pgd", "fires"), [(0.1, True), (0.3, False)])
def test_pgd_weaker_than_fgsm(tmp_path: Path, pgd: float, fires: bool) -> None:
    found = board(tmp_path, attacks(FGSM, PGD), loss=losing(fgsm=0.2, pgd=pgd))
    assert bool(fired(found, "pgd-weaker-than-fgsm")) is fires


def test_pgd_is_compared_in_the_same_ball_only(tmp_path: Path) -> None:
    box = embedding("pgd", eps=0.5, steps=10, norm="linf")
    found = board(tmp_path, attacks(FGSM, box), loss=losing(fgsm=0.2, pgd=0.1))
    assert not fired(found, "pgd-weaker-than-fgsm")


@pytest.mark.parametrize(("loss", "fires"), [(0.001, True), (0.3, False)])
def test_noise_floor(tmp_path: Path, loss: float, fires: bool) -> None:
    attack = spec("random-profiles", budget=0.01)
    found = board(tmp_path, attacks(attack, threat=PROFILES), loss=lambda m, d, a: loss
                  if "random" in a else 0.0, seed_spread=0.01)
    assert bool(fired(found, "noise-floor")) is fires


def test_noise_floor_needs_two_seeds(tmp_path: Path) -> None:
    found = board(tmp_path, attacks(FGSM), seeds=(0,), loss=losing(fgsm=0.0))
    assert not fired(found, "noise-floor")
    assert fired(found, "one-seed")


def test_seed_floor_is_the_spread_of_clean_seeds(tmp_path: Path) -> None:
    found = board(tmp_path, attacks(FGSM), seed_spread=0.01)
    row = ("toy", "BPR", "none")
    clean = found.clean(row)
    assert clean is not None
    a, b, c = clean.seed_values("ndcg@10")
    mean = (a + b + c) / 3
    expected = (((a - mean)**2 + (b - mean)**2 + (c - mean)**2) / 2) ** 0.5
    assert flags.seed_floor(found, row) == pytest.approx(expected)


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


FEATURES = {**EMBEDDING, "stage": "test-input", "goal": "push"}
PUSH = {"eps": 0.1, "relative": True, "norm": "l2", "targets": 5, "stratum": "tail",
        "goal": "push"}


def pushing(name: str, **params: Any) -> dict[str, Any]:
    """An attack on features: parameters that all of them have, and its own."""
    made = spec(name, **params)
    return {**made, "params": {**PUSH, **params}}


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


@pytest.mark.parametrize(("lift", "fires"), [(0.1, True), (0.3, False)])
def test_attacks_on_features_are_held_to_noise_as_well(tmp_path: Path, lift: float,
                                                       fires: bool) -> None:
    made = pushing("feature-pgd", eps=0.1)
    found = board(tmp_path, attacks(pushing("feature-noise", eps=0.1), made, threat=FEATURES),
                  lift=lambda m, d, a: lift if "pgd" in a else 0.2 if "noise" in a else 0.0)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [made["label"]] if fires else [])


def one_budget(*made: tuple[dict[str, Any], dict[str, Any]]) -> Make:
    """Attacks, each with a threat model of its own."""
    def add(run: SyntheticRun) -> None:
        run.add(spec("BPR"), NONE, NONE)
        for attack, threat in made:
            run.add(spec("BPR"), NONE, attack, threat)
    return add


def profiles(name: str, goal: str = "push", comparable: str = "1 %, 20 items", **params: Any
             ) -> tuple[dict[str, Any], dict[str, Any]]:
    return (spec(name, **{"adaptive": False, **params}),
            {**PROFILES, "goal": goal, "comparable": comparable})


@pytest.mark.parametrize(("goal", "lift", "fires"), [
    ("push", 0.01, True), ("push", 0.02, True), ("push", 0.03, False),
    ("nuke", 0.03, True), ("nuke", 0.01, False)])
def test_profiles_are_held_to_random_ones(tmp_path: Path, goal: str, lift: float,
                                          fires: bool) -> None:
    made = profiles("bandwagon-profiles", goal)
    found = board(tmp_path, one_budget(profiles("random-profiles", goal), made),
                  lift=lambda m, d, a: lift if "band" in a else 0.02)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [made[0]["label"]] if fires else [])
    assert all("random-profiles" in f.detail for f in fired(found, "weaker-than-noise"))


def test_profiles_of_another_budget_or_of_one_who_knows_more_are_no_control(
        tmp_path: Path) -> None:
    lift = lambda m, d, a: 0.01 if "band" in a else 0.02  # noqa: E731
    made = profiles("bandwagon-profiles")
    for n, other in enumerate((profiles("random-profiles", comparable="3 %, 20 items"),
                               profiles("random-profiles", adaptive=True))):
        found = board(tmp_path / str(n), one_budget(other, made), lift=lift)
        assert not fired(found, "weaker-than-noise")
    knowing = profiles("bandwagon-profiles", adaptive=True)  # knows more, and does less
    found = board(tmp_path / "c", one_budget(profiles("random-profiles"), knowing), lift=lift)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == [knowing[0]["label"]]


def test_where_neither_reaches_a_list_nothing_is_said_of_either(tmp_path: Path) -> None:
    """The clean exposure of the targets is 0.05."""
    found = board(tmp_path, one_budget(profiles("random-profiles"), profiles("popular-profiles")),
                  seeds=(0,), lift=lambda m, d, a: -0.05)
    assert fired(found, "exposure-floor")
    assert not fired(found, "weaker-than-noise")


def edits(name: str, changes: str, knowledge: str = "white", comparable: str = "untargeted, 2 "
          "edits of a history", **params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return (spec(name, **{"adaptive": True, **params}),
            {"stage": "test-input", "knowledge": knowledge, "goal": "untargeted",
             "realisable": True, "comparable": comparable, "changes": changes})


APPENDED = edits("append-items", "append", "none")
REPLACED = edits("replace-last", "substitute", "none")
RANDOM = edits("random-substitution", "substitute")


@pytest.mark.parametrize(("control", "attack", "loss", "fires"), [
    (APPENDED, edits("pollution", "append"), 0.1, True),
    (APPENDED, edits("pollution", "append"), 0.3, False),
    (APPENDED, edits("mine", "insert, delete"), 0.1, True),  # to append is to insert at the end
    (APPENDED, edits("substitution", "substitute"), 0.1, False),  # cannot do what it did
    (REPLACED, edits("substitution", "substitute"), 0.1, True),
    (REPLACED, edits("pollution", "append"), 0.1, False),
    (REPLACED, edits("substitution", "substitute", adaptive=False), 0.1, True),
    (RANDOM, edits("substitution", "substitute"), 0.1, True),
    (RANDOM, edits("substitution", "substitute"), 0.3, False),
    (RANDOM, edits("substitution", "substitute", adaptive=False), 0.1, False),  # knows less
    (RANDOM, edits("substitution", "substitute", comparable="other"), 0.1, False),
    (APPENDED, RANDOM, 0.1, False), (REPLACED, RANDOM, 0.1, False)])  # controls both
def test_edits_of_histories_are_held_to_blind_ones(
        tmp_path: Path, control: tuple[Any, Any], attack: tuple[Any, Any], loss: float,
        fires: bool) -> None:
    name = control[0]["name"]
    found = board(tmp_path, one_budget(control, attack),
                  loss=lambda m, d, a: 0.2 if a.startswith(name) else loss)
    for entry in found.entries.values():
        for cell in entry.cells.values():
            threat: Any = cell.threat  # the made-up run has a budget of its own
            threat["budget"] = f"{threat.get('comparable')} ({threat.get('changes')})"
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [attack[0]["label"]] if fires else [])


def test_budgets_in_the_flags_are_those_that_attacks_print() -> None:
    from bench.registry import Registry

    made: dict[str, Any] = {name: Registry().get("attacks", name)
                            for name in (*flags.BLIND, "pollution", "substitution")}
    for name, cls in made.items():
        threat = {"stage": cls().threat_model().stage, "budget": cls().budget_text(),
                  "comparable": cls().comparable()}
        if name == "random-profiles":
            assert threat["stage"] == "train-poison"
        else:
            assert threat["stage"] == "test-input"
            assert flags.changes_of(threat) == set(cls.changes)


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


def test_missing_seeds(tmp_path: Path) -> None:
    found = board(tmp_path / "a", attacks(FGSM, bad_seeds={1: "out of memory"}))
    flag = fired(found, "missing-seeds")[0]
    assert flag.detail == "2 of 3 seeds: out of memory"
    found = board(tmp_path / "b", attacks(FGSM), seeds=(0, 1), asked=(0, 1, 2))
    assert fired(found, "missing-seeds")[0].detail == "2 of 3 seeds"
    assert not fired(board(tmp_path / "c", attacks(FGSM)), "missing-seeds")
    assert not fired(board(tmp_path / "d", attacks(FGSM)), "one-seed")


@pytest.mark.parametrize(("lift", "fires"), [(-0.05, True), (0.02, False)])
def test_exposure_floor(tmp_path: Path, lift: float, fires: bool) -> None:
    # the clean exposure of the targets is 0.05; lifting by −0.05 leaves nothing
    found = board(tmp_path, attacks(spec("random-profiles"), threat=PROFILES), seeds=(0,),
                  lift=lambda m, d, a: lift)
    assert bool(fired(found, "exposure-floor")) is fires


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


def test_a_healthy_run_has_no_flags(tmp_path: Path) -> None:
    found = board(tmp_path, attacks(NOISE, FGSM, PGD), loss=losing(noise=.1, fgsm=.3, pgd=.4))
    assert find(found) == []
