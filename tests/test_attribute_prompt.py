"""FaiRLLM's question: similarities by hand, their spread, and an audit whose answer is known."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import InputError
from bench.models.base import build
from bench.registry import Registry
from bench.stages import Prepared
from bench.text.sensitivity import jaccard, prag, serp, similarities, snsr, snsv

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_equal_lists_have_one_and_disjoint_ones_none(k: int) -> None:
    one, other = list(range(k)), list(range(100, 100 + k))
    for measure in (jaccard, serp, prag):
        assert measure(one, one) == pytest.approx(1.0)
        assert measure(one, other) == 0.0


def test_similarities_by_hand() -> None:
    one, other = [10, 11, 12, 13], [12, 10, 99, 98]
    assert jaccard(one, other) == pytest.approx(2 / 6)
    assert serp(one, other) == pytest.approx((4 + 2) / 10)
    # pairs of one: 10>11 yes (11 is out), 10>12 no (12 first), 10>13 yes, 12>13 yes, 11.. no
    assert prag(one, other) == pytest.approx(3 / 6)
    assert serp(list(range(20)), list(range(20)), as_released=True) == pytest.approx(.274, abs=5e-4)


def test_prag_against_the_formula_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = (rng.permutation(12)[:6].tolist() for _ in range(2))
        slow = 0
        for a in one:
            for b in one:
                far = other.index(b) if b in other else float("inf")
                if a != b and a in other and other.index(a) < far and one.index(a) < one.index(b):
                    slow += 1
        assert prag(one, other) == pytest.approx(slow / 15)


def test_spread_over_groups() -> None:
    lists = np.array([[[1, 2], [3, 4]], [[1, 9], [3, 8]]])  # two groups, two users
    similar = similarities(lists, np.array([[1, 2], [3, 4]]), "jaccard")
    assert similar.tolist() == [[1.0, 1.0], [1 / 3, 1 / 3]]
    assert snsr(similar) == pytest.approx(2 / 3)
    assert snsv(similar) == pytest.approx(1 / 3)


def audited(data: Dataset, rate: Any, **params: Any) -> tuple[dict[str, float], dict[str, Any]]:
    made = build(plugin("models", "yes-no", model="tiny-random", candidates=0), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    made.rate = lambda *a: rate(made, *a)  # type: ignore[attr-defined]
    audit = plugin("attacks", "attribute-prompt", k=5, draws=100, **params)
    found: tuple[dict[str, float], dict[str, Any]] = audit.infer(
        made, Prepared(data, data, data, None), Context(0))
    return found


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def test_a_model_that_ignores_the_statement_moves_nowhere(data: Dataset) -> None:
    values, facts = audited(data, lambda m, u, h, c, s: torch.from_numpy(c).float())
    assert values["snsr"] == values["snsv"] == values["snsr-over-floor"] == 0
    assert set(facts["similarity"].values()) == {1.0}


def test_a_model_that_turns_its_list_round_for_one_group_is_found(data: Dataset) -> None:
    def biased(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        return torch.from_numpy(c).float() * (-1 if "female" in m._about else 1)

    values, facts = audited(data, biased)
    assert facts["similarity"]["a female"] < 0.2
    assert facts["similarity"]["a boy"] == 1.0
    assert values["snsr"] > 0.8
    assert values["snsr-over-floor-low"] > 0.8
    assert values["snsr-wording"] == values["snsr-history"] == 0


def test_a_model_that_any_wording_moves_is_no_more_than_its_floor(data: Dataset) -> None:
    def fickle(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        rng = np.random.default_rng([zlib.crc32(m._about.encode()), u])
        return torch.from_numpy(rng.permutation(len(c))).float()

    values, _ = audited(data, fickle)
    assert values["snsr-over-floor-low"] < 0 < values["snsr-over-floor-high"] + 0.1


def test_the_floor_of_histories_takes_another_order_each_time(data: Dataset) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}

    def by_order(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        seen.setdefault(u, set()).add(tuple(h.tolist()))
        rng = np.random.default_rng([*h.tolist()])
        return torch.from_numpy(rng.permutation(len(c))).float()

    values, _ = audited(data, by_order)
    assert max(map(len, seen.values())) == 5  # as it is, and one order per group
    assert values["snsr-history"] > 0
    assert values["snsr-wording"] == 0


def test_the_floor_of_candidates_is_there_where_their_order_is_read(data: Dataset) -> None:
    small = data.replace(asked=np.arange(4))
    for name, more, there in (("listwise", {"bootstraps": 1}, True), ("sliding", {}, False),
                              ("pairwise", {}, True), ("yes-no", {}, False)):
        made = build(plugin("models", name, model="tiny-random", candidates=4, **more), small,
                     Context(0))
        made.fit(plugin("defenses", "none"), lambda event: None)
        values, _ = plugin("attacks", "attribute-prompt", k=3, draws=10).infer(
            made, Prepared(small, small, small, None), Context(0))
        assert ("snsr-candidates" in values) == there
    one, listed = (plugin("models", "p5", model="tiny-random", family=f)
                   for f in ("direct", "direct-list"))
    assert listed.order_unread() is None
    assert "each candidate alone" in one.order_unread()


def test_lists_of_all_candidates_say_nothing(data: Dataset) -> None:
    model = plugin("models", "yes-no", model="tiny-random", candidates=5)
    for similarity, k, why in (("jaccard", 4, ""), ("jaccard", 5, "k 5 hold all 5"),
                               ("serp", 5, ""), ("prag", 6, "k 6 hold all 5")):
        found = plugin("attacks", "attribute-prompt", k=k, similarity=similarity).unfit(model, data)
        assert why in found if why else found is None
    whole = plugin("models", "yes-no", model="tiny-random", candidates=0)
    assert plugin("attacks", "attribute-prompt", k=40).unfit(whole, data) is None


def test_the_statement_reaches_the_prompt_and_leaves_it_again(data: Dataset) -> None:
    made: Any = build(plugin("models", "yes-no", model="tiny-random"), data, Context(0))
    before = made.prefix([1])
    with made.stating("The user is a female fan.\n"):
        assert "female fan.\nA user liked" in made.language.tokenizer.decode(made.prefix([1]))
    assert made.prefix([1]) == before


@pytest.mark.parametrize("params", [{"statement": "nothing"}, {"values": ("one",)}])
def test_an_audit_that_cannot_be_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        plugin("attacks", "attribute-prompt", **params)


def test_a_model_without_prompts_cannot_be_asked(data: Dataset) -> None:
    why = plugin("attacks", "attribute-prompt").unfit(plugin("models", "pop"), data)
    assert "reads no prompt" in why
