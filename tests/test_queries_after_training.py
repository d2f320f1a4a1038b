"""What attacks on a trained model ask is counted alike: static or adaptive, on the model that they
are made on, and without what the harness asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench._contracts_lab import blocks, bprmf, fit
from bench.api import Context
from bench.models import recbole
from bench.models.base import Recommender, innermost
from bench.perturb import attack_batches
from bench.registry import Registry
from bench.stages import Prepared, under_attack
from bench.victim import Victim

REGISTRY = Registry()
N = blocks().n_genuine
SEQUENTIAL: Any = recbole.member("SASRec")(max_length=8, epochs=1, patience=0, hidden_size=8,
                                           inner_size=8)
COPY = {"sequences": 9, "length": 5, "epochs": 1, "k": 10}


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[Recommender, Recommender, Any]]:
    """By defense: the model as served, another without defense, and the defense."""
    made = {}
    for name, plugin in (("macr", bprmf()), ("popularity-rerank", bprmf()),
                         ("popularity-rerank, histories", SEQUENTIAL)):
        defense: Any = REGISTRY.make("defenses", {"name": name.split(",")[0]})
        made[name] = (fit(plugin, blocks(), defense=defense), fit(plugin, blocks()), defense)
    return made


def asked(trained: dict[str, Any], where: str, name: str, **params: Any) -> int:
    """The queries of an attack where this defense stands; the models stay as they were."""
    served, plain, defense = trained[where]
    victim = Victim(SEQUENTIAL, defense, Context(0), lambda: plain)
    attack: Any = REGISTRY.make("attacks", {"name": name, "params": params})
    with under_attack(attack, served, Prepared(blocks(), blocks(), blocks(), None),
                      Context(0, victim=victim)) as struck:
        found: int = struck.facts["queries"]
        served.scores(torch.arange(3))  # who is evaluated is not asked by the attacker
    assert struck.facts["queries"] == found
    for model in (served, innermost(served), plain):
        assert not {"scores", "loss"} & set(vars(model))
    return found


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("where", ["macr", "popularity-rerank"])
def test_slopes_of_a_loss_are_counted_by_rows(trained: Any, where: str, adaptive: bool) -> None:
    plain: Any = trained[where][1]
    rows = sum(len(b["users"]) for b in attack_batches(plain))
    assert asked(trained, where, "pgd", steps=3, draws=1, adaptive=adaptive) == 4 * rows
    assert asked(trained, where, "fgsm", draws=1, adaptive=adaptive) == rows


def test_who_looks_at_nothing_asks_nothing(trained: Any) -> None:
    """Whether the vectors still reach the lists is for the harness to ask."""
    for where in ("macr", "popularity-rerank"):
        assert asked(trained, where, "noise") == 0


def test_the_library_is_counted_by_users_scored(trained: Any) -> None:
    """The first recommendation, the clean scores, where they seem linear a look elsewhere, then
    five steps; the facts before and after are ours."""
    how = {"attack": "PGDL2", "norm": "l2", "eps": 0.3, "steps": 5}
    assert asked(trained, "macr", "torchattacks", **how) == N * (1 + 1 + 5)
    assert asked(trained, "macr", "torchattacks", adaptive=False, **how) == N * (1 + 1 + 1 + 5)
    for adaptive in (True, False):
        assert asked(trained, "popularity-rerank", "torchattacks", adaptive=adaptive,
                     **how) == N * (1 + 1 + 1 + 5)


@pytest.mark.parametrize("adaptive", [True, False])
def test_histories_are_counted_by_histories_read(trained: Any, adaptive: bool) -> None:
    where = "popularity-rerank, histories"
    assert asked(trained, where, "pollution", adaptive=adaptive, **COPY) == 9 * 5
    # gain, slope, and three tries at one place
    assert asked(trained, where, "pollution", knowledge="white", edits=1, tries=3,
                 adaptive=adaptive) == N * (1 + 1 + 3)


def test_the_agreement_of_a_copy_is_ours_to_measure(trained: Any) -> None:
    assert asked(trained, "popularity-rerank, histories", "model-extraction", **COPY) == 9 * 5
