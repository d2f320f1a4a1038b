"""An attack no stronger than chance is flagged, and only where chance had the same means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _flag_boards import (
    FEATURES,
    FGSM,
    NOISE,
    attacks,
    board,
    fired,
    losing,
    one_budget,
    profiles,
    pushing,
)
from synthetic_run import PROFILES, embedding, spec

from bench import _flags_controls as controls


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
    assert controls.seed_floor(found, row) == pytest.approx(expected)


@pytest.mark.parametrize(("lift", "fires"), [(0.1, True), (0.3, False)])
def test_attacks_on_features_are_held_to_noise_as_well(tmp_path: Path, lift: float,
                                                       fires: bool) -> None:
    made = pushing("feature-pgd", eps=0.1)
    found = board(tmp_path, attacks(pushing("feature-noise", eps=0.1), made, threat=FEATURES),
                  lift=lambda m, d, a: lift if "pgd" in a else 0.2 if "noise" in a else 0.0)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [made["label"]] if fires else [])


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
    assert all(e.exposure["target-hr@50"].mean == 0 for e in found.of(("toy", "BPR", "none")))
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
                            for name in (*controls.BLIND, "pollution", "substitution")}
    for name, cls in made.items():
        threat = {"stage": cls().threat_model().stage, "budget": cls().budget_text(),
                  "comparable": cls().comparable()}
        if name in ("random-profiles", "random-clients"):
            assert threat["stage"] in ("train-poison", "model-poison")
        else:
            assert threat["stage"] == "test-input"
            assert controls.changes_of(threat) == set(cls.changes)


def tokens(name: str, **params: Any) -> dict[str, Any]:
    """A probe of the vectors of tokens: parameters that all of them have, and its own."""
    ball = {"eps": 0.1, "targets": 5, "stratum": "tail", "sample": 0.4, "adaptive": True}
    return {**spec(name, **params), "params": {**ball, **params}}


TOKENS = {"stage": "test-input", "knowledge": "white", "goal": "push", "realisable": False}


@pytest.mark.parametrize(("lift", "changed", "fires"), [
    (0.1, {}, True), (0.3, {}, False), (0.1, {"steps": 3}, True),
    (0.1, {"adaptive": False}, True),  # noise looks at no model: it is the control of both
    (0.1, {"eps": 0.2}, False), (0.1, {"targets": 4}, False), (0.1, {"stratum": "head"}, False),
    (0.1, {"sample": 0.3}, False)])  # measured on other users
def test_probes_of_tokens_are_held_to_noise_of_the_same_ball(
        tmp_path: Path, lift: float, changed: dict[str, Any], fires: bool) -> None:
    made = tokens("token-embedding-pgd", **changed)
    found = board(tmp_path, attacks(tokens("token-noise"), made, threat=TOKENS),
                  lift=lambda m, d, a: 0.2 if "noise" in a else lift)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [made["label"]] if fires else [])
    assert not [f for f in fired(found, "noise-floor") if f.attack == "token-noise"]


def test_the_keys_of_a_ball_are_parameters_of_the_attacks_that_are_held_to_it() -> None:
    """And no other attack has them all, so that nothing else is compared."""
    from bench.registry import Registry

    registry = Registry()
    for control, others in (("noise", {"fgsm", "pgd", "mim"}), ("feature-noise", {"feature-pgd"}),
                            ("token-noise", {"token-embedding-fgsm", "token-embedding-pgd"})):
        keys = set(controls.CONTROLS[control])
        have = {e.name for e in registry.entries("attacks") if not e.family and not e.error
                and keys <= set(registry.get("attacks", e.name)().params())}
        assert {control, *others} <= have
        stages = {registry.get("attacks", n)().threat_model().stage for n in have}
        assert len(stages) == 1


CLIENTS = {"stage": "model-poison", "knowledge": "white", "goal": "push", "realisable": True}


@pytest.mark.parametrize(("name", "lift", "items", "fires"), [
    ("fed-rec-attack", 0.1, 60, True), ("fed-rec-attack", 0.3, 60, False),
    ("a-ra", 0.1, 60, True), ("a-hum", 0.1, 30, False)])  # fewer items: no control
def test_clients_are_held_to_random_ones_of_the_same_budget(
        tmp_path: Path, name: str, lift: float, items: int, fires: bool) -> None:
    from bench.registry import Registry

    registry = Registry()
    made = []
    for which, params in ((name, {"items": items}), ("random-clients", {"items": 60})):
        plugin = registry.make("attacks", {"name": which, "params": {"budget": 0.03, **params}})
        made.append((spec(which, **params), {**CLIENTS, "comparable": plugin.comparable(),
                                             "knowledge": plugin.threat_model().knowledge}))
    found = board(tmp_path, one_budget(*made),
                  lift=lambda m, d, a: 0.2 if a.startswith("random") else lift)
    assert [f.attack for f in fired(found, "weaker-than-noise")] == (
        [made[0][0]["label"]] if fires else [])
