"""Profile attacks on data that hardly is any: they act, or say why they cannot."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from bench.api import Context, Dataset, Interactions, ProfileAttack
from bench.attacks.aush_profiles import AushProfiles
from bench.attacks.leg_up_profiles import LegUpProfiles
from bench.attacks.model_extraction import ModelExtraction
from bench.attacks.pollution import Pollution
from bench.coerce import parameters
from bench.defenses.none import NoDefense
from bench.errors import CannotActError
from bench.models.bprmf import BPRMF
from bench.registry import Registry
from bench.victim import Victim

REGISTRY = Registry()
SIZE: dict[str, Any] = {"epochs": 1, "patience": 0}
FACTORS = BPRMF(dim=4, **SIZE)
MODELS: list[Any] = [FACTORS, *(REGISTRY.make("models", {"name": name, "params": SIZE | more})
                                for name, more in (("rating-mf", {"dim": 4}),
                                                   ("SASRec", {"max_length": 4})))]
PROFILES = [n for n in REGISTRY.names("attacks")
            if issubclass(REGISTRY.get("attacks", n), ProfileAttack)]
GRID = np.array([(u, (3 * u + k) % 12) for u in range(10) for k in range(5)])


def of(name: str, rows: Any, users: int, items: int, ratings: Any = None,
       scale: tuple[float, float] | None = None) -> Dataset:
    pairs = np.array(rows)
    given = None if ratings is None else np.broadcast_to(
        np.asarray(ratings, np.float64), len(pairs)).copy()
    train = Interactions(pairs[:, 0], pairs[:, 1], given, times=np.arange(len(pairs), dtype=float))
    return Dataset(name=name, user_ids=tuple(f"u{k}" for k in range(users)),
                   item_ids=tuple(f"i{k}" for k in range(items)), train=train, valid=train[:0],
                   test=train[:1], rating_scale=scale)


FREE = of("free", GRID, 10, 12, 1 + np.random.default_rng(0).random(50))
CONSTANT = of("constant", GRID, 10, 12, 4.0)
EDGES = [of("one-item", [(0, 0), (1, 0), (2, 0)], 4, 1, [3, 4, 5]),
         of("one-user", [(0, 0), (0, 1), (0, 2)], 1, 6, [3, 4, 5]),
         of("two-rows", [(0, 0), (0, 1)], 3, 5, [4, 2]), CONSTANT,
         of("constant-on-a-scale", GRID, 10, 12, 4.0, (1.0, 5.0)),
         of("binary", GRID, 10, 12, 1 + GRID[:, 1] % 2), FREE,
         of("no-ratings", GRID, 10, 12), of("no-ratings-one-item", [(0, 0), (1, 0)], 3, 1)]


@pytest.mark.parametrize("data", EDGES, ids=lambda d: d.name)
@pytest.mark.parametrize("name", PROFILES)
def test_they_act_or_say_why_not(name: str, data: Dataset) -> None:
    cls: Any = REGISTRY.get("attacks", name)
    known = parameters(cls)["knowledge"].metadata["choices"]
    for knowledge in {"gray", "black"} & set(known):
        attack = cls.from_params(cls.test_params() | {
            "targets": 1, "stratum": "tail", "budget": 0.3, "knowledge": knowledge, "known": 0.4})
        for model in MODELS:
            if model.unfit(data) is None and attack.unfit(model, data) is None:
                victim = Victim(model, NoDefense(), Context(0), lambda: pytest.fail("unasked"))
                with contextlib.suppress(CannotActError):
                    assert attack.poison(data, Context(0, victim=victim)).n_fake
                break


def test_leg_up_has_nothing_to_choose_where_all_ratings_are_one() -> None:
    model, gray = MODELS[1], LegUpProfiles(targets=1, stratum="tail")
    assert "every rating known of constant is 4" in (gray.unfit(model, CONSTANT) or "")
    assert gray.unfit(model, FREE) is None
    # a black-box attacker may know one rating only
    ratings = np.where(GRID[:, 0] == 0, 2.0, 4.0)
    some = of("some", GRID, 10, 12, ratings)
    attack = LegUpProfiles(targets=1, stratum="tail", knowledge="black", known=0.1)
    who = np.unique(attack._seen(some, Context(0)).train.users)
    assert who.tolist() != [0]
    assert attack.unfit(model, some) is None
    with pytest.raises(CannotActError, match="every rating known of some is 4"):
        attack.poison(some, Context(0))


def test_aush_copies_ratings_that_are_no_float32() -> None:
    attack = AushProfiles(targets=1, stratum="tail", budget=0.3, steps=1, hidden=4)
    poisoned = attack.poison(FREE, Context(0))
    assert poisoned.train.ratings is not None
    assert poisoned.train.ratings.min() >= FREE.train.ratings.min()  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [10, 11, 12, 400])
def test_made_up_histories_leave_a_list_to_show(length: int) -> None:
    sequential = MODELS[2]
    for attack in (Pollution(length=length), ModelExtraction(length=length)):
        reason = attack.unfit(sequential, FREE)
        if length <= 10:
            assert reason is None
        else:
            assert f"of {length} items leave no list of free's 12" in str(reason)
            assert "at most" in str(reason)
    assert Pollution(length=length, knowledge="white").unfit(sequential, FREE) is None
