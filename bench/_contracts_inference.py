"""Contracts of attacks on privacy: measured with intervals, above chance where there is something
to find, at chance where there is nothing, and nothing of the model changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.models.base import Recommender


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [reports_what_it_measured, finds_nothing_in_a_random_model, leaves_the_model_alone]


def inferred(lab: Lab, seed: int, random: bool = False
             ) -> tuple[dict[str, float], dict[str, Any], Recommender]:
    """What the attack measures on a model trained as its cell would train it, or on one that
    gives random scores."""
    from bench._contracts_lab import fit, no_defense
    from bench.stages import prepare, under_attack

    plugin, ctx = lab.plugin(), lab.context(seed)
    model_plugin: Any = lab.model_plugin()
    if random:
        model_plugin = lab.registry.make("models", {"name": "random"})
        if plugin.unfit(model_plugin, lab.data()) is not None:
            raise Skip("it does not act on a model of random scores")
        ctx = dataclasses.replace(ctx, victim=dataclasses.replace(ctx.victim, model=model_plugin))
    prepared = prepare(lab.data(), plugin if plugin.trains else None, no_defense(), ctx)
    model = fit(model_plugin, prepared.train, seed)
    before = {k: v.clone() for k, v in model.state().items()}
    with under_attack(plugin, model, prepared, ctx) as struck:
        found, facts = dict(struck.privacy), dict(struck.facts)
    facts["unchanged"] = all(torch.equal(v, model.state()[k]) for k, v in before.items())
    return found, facts, model


def reports_what_it_measured(lab: Lab) -> None:
    """Numbers with intervals that contain them; AUCs and rates between 0 and 1."""
    found, _, _ = inferred(lab, 0)
    audits = bool(getattr(lab.cls, "audits", False))
    require(bool(found), "it measures nothing", "return what was measured by name")
    for name, value in found.items():
        require(isinstance(value, float), f"{name} is {value!r}", "give numbers")
        if f"{name}-low" in found:
            low, high = found[f"{name}-low"], found[f"{name}-high"]
            same = audits and low == high  # no list moved for anybody
            require(low <= value + 1e-9 and value <= high + 1e-9 and (low < high or same),
                    f"{name} is {value:.4g}, its interval [{low:.4g}, {high:.4g}]",
                    "let the interval be of what is reported")
    if audits:
        floors = [n for n in found if n.endswith("-over-floor") and f"{n}-low" in found]
        require(bool(floors), "nothing stands beside a floor",
                "report the excess over what a neutral change does, with -low and -high")
        return
    main = [n for n in found if n.endswith("-auc") or n == "mia-auc"]
    require(bool(main) and all(0 <= found[n] <= 1 and f"{n}-low" in found for n in main),
            "there is no AUC with an interval", "report an AUC, with -low and -high")


def finds_nothing_in_a_random_model(lab: Lab) -> None:
    """Where scores are random, the AUC's interval contains chance, in most of three seeds."""
    name, misses = "", 0
    for seed in (0, 1, 2):
        found, _, _ = inferred(lab, seed, random=True)
        name = next(n for n in found if n.endswith("-auc"))
        misses += not found[f"{name}-low"] <= 0.5 <= found[f"{name}-high"]
    require(misses <= 1, f"{name} differs from chance on a model of random scores",
            "the candidates themselves give it away: match members and non-members")


def leaves_the_model_alone(lab: Lab) -> None:
    """The model is the same before and after."""
    _, facts, _ = inferred(lab, 0)
    require(facts["unchanged"], "the attack changes the model", "only read it")
