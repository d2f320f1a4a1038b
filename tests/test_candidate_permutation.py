"""Candidates in another order: the floor that attacks on texts stand beside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.evaluate import evaluate
from bench.models.base import Wrapped, build
from bench.registry import Registry
from bench.stages import Prepared, under_attack
from bench.text_attack import MEASURED
from bench.text_shown import offering

REGISTRY = Registry()
LISTWISE: dict[str, Any] = {"model": "tiny-random", "candidates": 5, "history": 2, "bootstraps": 1}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


def control(**params: Any) -> Any:
    return plugin("attacks", "candidate-permutation", **({"orders": 3, "targets": 2} | params))


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made.replace(asked=np.arange(12))


@pytest.fixture(scope="module")
def model(data: Dataset) -> Any:
    made = build(plugin("models", "listwise", **LISTWISE), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


def rating(data: Dataset, rate: Any) -> Any:
    """A model that rates the candidates, as they are handed to it, by `rate`."""
    made = build(plugin("models", "listwise", **LISTWISE), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    made.rate = lambda user, history, candidates, split: rate(candidates)
    return made


@contextlib.contextmanager
def struck(made: Any, model: Any, data: Dataset, seed: int = 0) -> Iterator[Any]:
    with under_attack(made, model, Prepared(data, data, data, None), Context(seed)) as s:
        yield s


def found(model: Any, s: Any) -> dict[str, float]:
    values = evaluate(model, s.data, MEASURED, targets=s.targets).values
    return {m: v for m, g, v in values if g == "all"}


@pytest.mark.parametrize("params", [{}, {"targets": 3, "stratum": "tail", "sample": 0.6}])
@pytest.mark.parametrize("name", ["prompt-injection", "keyword-insertion"])
def test_targets_users_and_offer_are_those_of_attacks_on_texts(
        name: str, params: dict[str, Any], model: Any, data: Dataset) -> None:
    params = {"targets": 2, **params}
    for seed in (0, 1):
        with struck(plugin("attacks", name, edits=0, **params), model, data, seed) as s, \
                struck(control(**params), model, data, seed) as mine:
            assert mine.targets.tolist() == mine.offer.tolist() == s.targets.tolist()
            assert s.offer.tolist() == s.targets.tolist()
            assert mine.data.asked.tolist() == s.data.asked.tolist()
            assert mine.facts["clean_targets"] == s.facts["clean_targets"]
            assert mine.facts["queries"] == 0  # nobody attacks


def test_defaults_are_those_of_attacks_on_texts() -> None:
    text, mine = plugin("attacks", "prompt-injection"), plugin("attacks", "candidate-permutation")
    for name in ("targets", "stratum", "sample"):
        assert getattr(mine, name) == getattr(text, name)


def test_the_spread_over_orders_is_that_of_as_many_evaluations(model: Any, data: Dataset) -> None:
    made, ctx = control(orders=4), Context(0)
    seeds = [ctx.number("candidate-permutation", n) for n in range(4)]
    with struck(made, model, data) as s:
        each = []
        for seed in seeds:
            with model.shuffled(seed), offering(model, s.targets):
                each.append(found(model, s))
        ranks = [v["target-rank"] for v in each]
        mean = sum(ranks) / 4
        sd = (sum((r - mean) ** 2 for r in ranks) / 3) ** 0.5
        assert sd > 0
        told = s.facts["over_orders"]
        assert told["target-rank"] == pytest.approx({"mean": mean, "sd": sd})
        assert told["target-hr@5"]["mean"] == pytest.approx(np.mean([v["target-hr@5"]
                                                                     for v in each]))
        with offering(model, s.offer):  # what is recommended is one of them
            assert found(model, s) == each[0]
    assert set(told) == set(MEASURED)


def test_who_goes_by_items_has_no_spread_and_who_goes_by_places_moves(data: Dataset) -> None:
    """By places in the order handed over: sorted by index, the target with the lowest is first;
    in an order drawn it is anywhere among the five, in the middle on average."""
    with struck(control(orders=40, targets=1), rating(data, lambda c: torch.from_numpy(
            -(c % 7)).float()), data) as s:
        assert s.facts["over_orders"]["target-rank"]["sd"] == 0
        assert s.facts["over_orders"]["target-rank"]["mean"] == pytest.approx(
            s.facts["clean_targets"]["target-rank"])
    by_place = rating(data, lambda c: -torch.arange(len(c)).float())
    with struck(control(orders=40, targets=1), by_place, data) as s:
        told, users = s.facts["over_orders"]["target-rank"], s.data.asked
        place = {}
        with offering(by_place, s.targets):
            for u in users.tolist():
                base = by_place.retriever.scores(torch.tensor([u]), "test")[0].numpy()
                chosen = by_place.chosen(base, u, "test").tolist()
                if int(s.targets[0]) in chosen:
                    place[u] = chosen.index(int(s.targets[0])) + 1
        assert s.facts["clean_targets"]["target-rank"] == pytest.approx(np.mean([*place.values()]))
        # the mean of n places from 1 to 5: 3, with variance 2 / n
        assert told["mean"] == pytest.approx(3, abs=4 * (2 / len(place) / 40) ** 0.5)
        assert told["sd"] == pytest.approx((2 / len(place)) ** 0.5, rel=0.5)


class _Keeping(Wrapped):
    """Keeps what the model scored until it is told to forget."""

    def __init__(self, base: Any) -> None:
        super().__init__(base)
        self.known: dict[Any, Any] = {}

    def scores(self, users: Any, split: str = "test") -> Any:
        key = (tuple(users.tolist()), split)
        if key not in self.known:
            self.known[key] = self.base.scores(users, split)
        return self.known[key]

    def forget(self) -> None:
        self.known.clear()
        super().forget()


@pytest.mark.parametrize("targets", [0, 2])
def test_a_wrapper_that_keeps_scores_changes_nothing(targets: int, model: Any, data: Dataset
                                                     ) -> None:
    def scored(served: Any) -> tuple[Any, Any, Any]:
        plain = evaluate(served, data, ["ndcg@10"]).users["ndcg@10"]
        with struck(control(targets=targets), served, data) as s:
            inside = evaluate(served, data, ["ndcg@10"]).users["ndcg@10"]
        after = evaluate(served, data, ["ndcg@10"]).users["ndcg@10"]
        assert inside.tolist() != plain.tolist() == after.tolist()
        return inside.tolist(), plain.tolist(), s.facts

    assert scored(_Keeping(model)) == scored(model)


def test_without_targets_everybody_is_measured_and_nobody_is_offered_anything(
        model: Any, data: Dataset) -> None:
    plain = model.scores(torch.arange(12))
    with struck(control(targets=0), model, data) as s:
        assert s.targets is None
        assert s.offer is None
        assert s.data is data
        orders = dict(s.facts)
    assert set(orders) == {"users", "orders", "rank_variance", "chance", "first_moves", "queries"}
    assert orders["users"] == 12
    with struck(control(), model, data) as s:
        assert orders.items() <= s.facts.items()  # and targets are offered only where they count
    assert torch.equal(model.scores(torch.arange(12)), plain)


def test_targets_that_leave_nothing_to_compete_with_are_refused(data: Dataset) -> None:
    listwise = plugin("models", "listwise", **LISTWISE)
    assert "5 targets among 5 candidates" in control(targets=5).unfit(listwise, data)
    assert "targets: 0" in control(targets=5).unfit(listwise, data)
    assert control(targets=0).unfit(listwise, data) is None
    assert control(targets=4).unfit(listwise, data) is None
    wide = plugin("models", "listwise", **{**LISTWISE, "candidates": 50})
    assert "items of stratum 'head'" in control(targets=40, stratum="head").unfit(wide, data)
    alone = data.replace(asked=np.array([3]))
    assert "1 of" in control().unfit(listwise, alone)
    assert control(targets=0).unfit(listwise, alone) is None
