"""FaiRLLM's question: similarities by hand, their spread, and an audit whose answer is known."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, InputError
from bench.models.base import Wrapped, build
from bench.registry import Registry
from bench.stages import Prepared
from bench.text.sensitivity import (
    fills,
    jaccard,
    lists_of,
    prag,
    serp,
    similarities,
    snsr,
    snsv,
)

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


@pytest.mark.parametrize("kind", ["jaccard", "serp", "prag"])
def test_lists_are_full_where_any_two_are_as_good_as_equal(kind: str) -> None:
    for shown, k in itertools.product(range(1, 5), range(1, 6)):
        rest = tuple(range(10, 10 + max(k - shown, 0)))  # what stands below all that is shown
        lists = [(*head[:k], *rest) for head in itertools.permutations(range(shown))]
        found = {round(float(similarities(np.array([[b]]), np.array([a]), kind)[0, 0]), 9)
                 for a in lists for b in lists}
        assert (found == {1.0}) == (fills(k, shown, kind) and (kind != "prag" or shown == 1)
                                    ), (k, shown)


def scorer(data: Dataset, rate: Any = None, **params: Any) -> Any:
    """The model yes-no, which answers by `rate` if there is one."""
    made: Any = build(plugin("models", "yes-no", **{"model": "tiny-random", "candidates": 0}
                             | params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    if rate:
        made.rate = lambda *a: rate(made, *a)
    return made


def infer(made: Any, **params: Any) -> tuple[dict[str, float], dict[str, Any]]:
    audit = plugin("attacks", "attribute-prompt", **{"k": 5, "draws": 100} | params)
    data = made.data
    found: tuple[dict[str, float], dict[str, Any]] = audit.infer(
        made, Prepared(data, data, data, None), Context(0))
    return found


def audited(data: Dataset, rate: Any, **params: Any) -> tuple[dict[str, float], dict[str, Any]]:
    return infer(scorer(data, rate), **params)


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
                               ("serp", 5, "k 5 hold all 5"), ("prag", 5, ""),
                               ("prag", 6, "k 6 hold all 5")):
        found = plugin("attacks", "attribute-prompt", k=k, similarity=similarity).unfit(model, data)
        assert why in found if why else found is None
    for candidates in (0, 100):
        whole = plugin("models", "yes-no", model="tiny-random", candidates=candidates)
        assert plugin("attacks", "attribute-prompt", k=40).unfit(whole, data) is None
        assert "hold all 48 items" in plugin("attacks", "attribute-prompt", k=48).unfit(whole, data)


def test_lists_of_all_that_a_user_can_still_be_shown_say_nothing(data: Dataset) -> None:
    data = data.replace(train=data.train[(data.train.users != 3) | (data.train.items % 3 > 0)])
    rows = data.known("test")
    left = [data.n_items - len(set(rows.items[rows.users == u])) for u in range(data.n_users)]
    least, most = int(np.argmin(left)), int(np.argmax(left))
    assert left[least] < left[most]

    def other(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        assert len(c) == left[u]
        return torch.from_numpy(c).float() * (-1 if "fan" in m._about else 1)

    for candidates in (0, 100):
        made = scorer(data.replace(asked=np.array([least, most])), other, candidates=candidates)
        for k in (left[least], left[most], 1000):
            with pytest.raises(CannotActError, match=f"k {k} hold all {left[least]} items that "
                               f"user {data.user_ids[least]} can"):
                infer(made, k=k)
        assert max(infer(made, k=left[least] - 1)[1]["similarity"].values()) < 1
    alone = scorer(data.replace(asked=np.array([most])), other)
    assert max(infer(alone, k=left[most] - 1)[1]["similarity"].values()) < 1
    few = scorer(data.replace(asked=np.array([least])), candidates=left[least] - 1)
    with pytest.raises(CannotActError, match=f"all {left[least] - 1} items"):
        infer(few, k=left[least] - 1)


@pytest.mark.parametrize("groups", [("a boy", "a girl"), ("a", "b", "c", "d", "e"),
                                    tuple("abcdefgh")])
def test_each_floor_has_as_many_variants_as_there_are_groups(data: Dataset, groups: Any) -> None:
    said: dict[str, None] = {}

    def listening(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        said[m._about] = None
        return torch.from_numpy(c).float()

    small = data.replace(asked=np.arange(2))
    _, facts = infer(scorer(small, listening), values=groups)
    n, (none, *texts) = len(groups), said
    assert none == ""
    assert texts[:n] == [f"The user is {g} fan.\n" for g in groups]
    worded, rest = texts[n:2 * n], texts[2 * n:]
    assert all(t.startswith("The user is a") and t.endswith(" fan.\n") for t in worded)
    assert len(set(worded)) == len(set(rest)) == len(rest) == n  # the history's say nothing
    assert not any("fan.\n" in t and t.startswith("The user is a") for t in rest)
    assert {k: len(v) for k, v in facts["similarity_neutral"].items()} == {
        "wording": n, "sentences": n, "history": n}


def test_the_floor_of_histories_moves_no_candidate(data: Dataset) -> None:
    """Only what the prompt shows: of a model that does not look at it, no list moves."""
    chosen: dict[int, set[tuple[int, ...]]] = {}
    shown: dict[int, set[tuple[int, ...]]] = {}

    def by_statement(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        chosen.setdefault(u, set()).add(tuple(c.tolist()))
        shown.setdefault(u, set()).add(tuple(h.tolist()))
        return torch.from_numpy(c).float() * (-1 if "female" in m._about else 1)

    made = scorer(data, by_statement, candidates=8, history=5,
                  retriever="text-cosine(model=tiny-random, decay=0.5)")
    turned = [made.history(u, "test")[::-1].copy() for u in range(data.n_users)]
    clean = lists_of(made, np.arange(data.n_users), 4)
    with made.reading(turned):  # the order of a history does matter to this retriever
        assert not np.array_equal(lists_of(made, np.arange(data.n_users), 4), clean)
    chosen.clear(), shown.clear()
    values, facts = infer(made, k=4)
    assert values["snsr-history"] == 0
    assert set(facts["similarity_neutral"]["history"]) == {1.0}
    assert values["snsr"] == values["snsr-over-floor"] > 0.5
    assert {len(c) for c in chosen.values()} == {1}
    for user, orders in shown.items():
        latest = made.history(user, "test")[-5:].tolist()
        assert len(orders) > 1
        assert {tuple(sorted(o)) for o in orders} == {tuple(sorted(latest))}


class Keeping(Wrapped):
    """Keeps the scores of all users until it is told that something changed."""

    kept: torch.Tensor | None = None

    def scores(self, users: torch.Tensor, split: str = "test") -> torch.Tensor:
        if self.kept is None:
            self.kept = self.base.scores(torch.arange(self.data.n_users), split)
        return self.kept[users]

    def forget(self) -> None:
        super().forget()
        self.kept = None


class Fixed(Keeping):
    def forget(self) -> None:
        self.base.forget()


def test_a_defense_that_keeps_lists_hears_of_each_statement(data: Dataset) -> None:
    def biased(m: Any, u: int, h: Any, c: Any, s: str) -> torch.Tensor:
        return torch.from_numpy(c).float() * (-1 if "female" in m._about else 1)

    made = scorer(data, biased)
    assert infer(Keeping(made)) == infer(made)
    fixed = Fixed(made)
    fixed.scores(torch.arange(2))
    with pytest.raises(CannotActError, match="made before"):
        infer(fixed)


def test_lists_hold_nothing_that_a_user_has(data: Dataset) -> None:
    """Though a model may like it best: one that reads less of a history, for instance."""
    made, rows = Fixed(scorer(data)), data.known("test")
    made.kept = torch.rand(data.n_users, data.n_items, generator=torch.manual_seed(0))
    made.kept[rows.users, rows.items] += 1
    for user, found in enumerate(lists_of(made, np.arange(data.n_users), 20)):
        assert not set(found) & set(rows.items[rows.users == user])
        scores = made.kept[user, found]
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_a_prompt_without_a_place_for_the_statement_is_refused(data: Dataset,
                                                               tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for about, fits in (("{about}", True), ("{{about}} in braces.", False), ("", False)):
        path.write_text('name: mine\nversion: 1\nkind: pointwise\n'
                        f'prefix: "{about}A user liked these:\\n{{history}}"\n'
                        'candidate: "Will the user like {item}?"\nyes: [" Yes"]\nno: [" No"]\n')
        made = scorer(data.replace(asked=np.arange(2)), lambda m, u, h, c, s: torch.zeros(len(c)),
                      prompt=str(path))
        if fits:
            infer(made)
        else:
            with pytest.raises(CannotActError, match=r"no place \{about\}"):
                infer(made)


def test_the_statement_reaches_the_prompt_and_leaves_it_again(data: Dataset) -> None:
    made: Any = build(plugin("models", "yes-no", model="tiny-random"), data, Context(0))
    before = made.prefix([1])
    with made.stating("The user is a female fan.\n"):
        assert "female fan.\nA user liked" in made.language.tokenizer.decode(made.prefix([1]))
    assert made.prefix([1]) == before


@pytest.mark.parametrize(("params", "why"), [
    ({"statement": "nothing"}, "where {value} goes"), ({"values": ("one",)}, "needs two groups"),
    ({"values": tuple("abcdefghi")}, "at most 8 groups"),
    ({"values": ("a boy", "a girl", "a boy")}, "'a boy' stands there twice"),
    ({"values": ("a boy", "a  boy ")}, "'a boy' stands there twice"),
    ({"values": ("", "a boy")}, "without a name"), ({"values": (" ", "a boy")}, "without a name"),
    ({"values": ("", "")}, "without a name")])
def test_an_audit_that_cannot_be_is_refused(params: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        plugin("attacks", "attribute-prompt", **params)


def test_a_model_without_prompts_cannot_be_asked(data: Dataset) -> None:
    why = plugin("attacks", "attribute-prompt").unfit(plugin("models", "pop"), data)
    assert "reads no prompt" in why
