"""Profiles randomised by their users: probabilities, guarantees, and what must not be sent."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import ldp
from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.randomised_response import RandomisedResponse
from bench.errors import InputError
from bench.models.bprmf import BPRMF
from bench.registry import Registry
from bench.training import FitResult

GRID = Path(__file__).parents[1] / "bench" / "grids" / "papers" / "ldp-ml1m.yaml"


def table(rows: list[list[int]], n_items: int) -> Dataset:
    """A dataset of these profiles, with ratings, times and one validation and test row."""
    users = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    items = np.array([i for r in rows for i in r], np.int64)
    train = Interactions(users, items, 3.0 + items % 3, 100.0 + np.arange(len(items)))
    last = Interactions(np.array([0]), np.array([n_items - 1]), np.array([5.0]), np.array([1e6]))
    return Dataset("table", tuple(f"u{u}" for u in range(len(rows))),
                   tuple(f"i{i}" for i in range(n_items)), train, last, last,
                   rating_scale=(1.0, 5.0))


def shares(data: Dataset, **params: object) -> np.ndarray:
    """How often each (user, item) is sent over many seeds: (users, items)."""
    defense, found = RandomisedResponse(**params), np.zeros((data.n_users, data.n_items))
    for seed in range(REPEATS):
        rows = defense.clean(data, Context(seed)).train
        found[rows.users, rows.items] += 1
    return found / REPEATS


REPEATS = 1500
CLOSE = 4.5 * 0.5 / math.sqrt(REPEATS)  # deviations of a share that is far from 0 and 1


# -- the probabilities -------------------------------------------------------------------------

def test_every_bit_of_a_profile_is_flipped_with_the_stated_probability():
    data = table([[0, 1, 2], []], 8)
    found = shares(data, mode="profile", answer_epsilon=1.0)
    p = math.e / (math.e + 1)
    wanted = np.full((2, 8), 1 - p)
    wanted[0, :3] = p
    assert np.abs(found - wanted).max() < CLOSE


def test_published_mode_keeps_and_adds_as_the_paper_says():
    data = table([[0, 1, 2], [4]], 10)
    found = shares(data, mode="positives", answer_epsilon=1.0)
    p = math.e / (math.e + 1)
    for user, mine in enumerate(([0, 1, 2], [4])):
        others = np.setdiff1d(np.arange(10), mine)
        assert np.abs(found[user, mine] - p).max() < CLOSE
        share = len(mine) / len(others) * (1 - p)  # drawn among the others, then flipped
        assert np.abs(found[user, others] - share).max() < CLOSE
        assert found[user, others].sum() == pytest.approx(len(mine) * (1 - p), abs=2 * CLOSE)


def test_one_item_is_sampled_and_answered():
    data = table([[0, 1], [5]], 6)
    found = shares(data, mode="k-rr", answer_epsilon=1.5)
    p, q = ldp.direct(1.5, 6)
    assert p == pytest.approx(math.exp(1.5) / (math.exp(1.5) + 5))
    assert found.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert found[0, :2] == pytest.approx([(p + q) / 2] * 2, abs=CLOSE)
    assert found[1, 5] == pytest.approx(p, abs=CLOSE)
    assert np.abs(found[1, :5] - q).max() < CLOSE
    found = shares(data, mode="oue", answer_epsilon=1.5)
    q = 1 / (math.exp(1.5) + 1)
    assert found[1, 5] == pytest.approx(0.5, abs=CLOSE)
    assert np.abs(found[1, :5] - q).max() < CLOSE
    assert found[0, :2] == pytest.approx([(0.5 + q) / 2] * 2, abs=CLOSE)


# -- the guarantees ----------------------------------------------------------------------------

def bits_law(profile: tuple[int, ...], m: int, p: float, q: float) -> dict[tuple[int, ...], float]:
    """The exact distribution of answers to a 0/1 vector, over all 2^m answers."""
    return {answer: math.prod((p if b else q) if a else (1 - p if b else 1 - q)
                              for a, b in zip(answer, profile, strict=True))
            for answer in itertools.product((0, 1), repeat=m)}


def largest_ratio(laws: list[dict[object, float]]) -> float:
    return max(math.log(a[x] / b[x]) for a in laws for b in laws for x in a)


def mixed(laws: list[dict[object, float]]) -> dict[object, float]:
    return {x: sum(law[x] for law in laws) / len(laws) for x in laws[0]}


def test_a_profile_costs_as_much_as_is_quoted():
    """Exact, over all answers: the largest likelihood ratio between any two profiles."""
    m, e = 5, 0.7
    p, q = ldp.flip(e)
    profiles = list(itertools.product((0, 1), repeat=m))
    laws = [bits_law(x, m, p, q) for x in profiles]
    assert largest_ratio(laws) == pytest.approx(m * e)
    short = [law for x, law in zip(profiles, laws, strict=True) if sum(x) <= 2]
    quoted = RandomisedResponse(answer_epsilon=e, max_interactions=2).spent(FitResult())
    assert largest_ratio(short) == pytest.approx(quoted["epsilon"])  # 2 k ε
    assert quoted == {"epsilon": pytest.approx(2 * 2 * e), "delta": 0.0}
    capped = []  # k random items of a larger profile, then the flips
    for x in profiles:
        items = [i for i in range(m) if x[i]]
        kept = list(itertools.combinations(items, min(2, len(items))))
        capped.append(mixed([bits_law(tuple(int(i in s) for i in range(m)), m, p, q)
                             for s in kept]))
    assert largest_ratio(capped) <= quoted["epsilon"] + 1e-9


@pytest.mark.parametrize("mode", ["oue", "k-rr"])
def test_one_answered_item_costs_epsilon_for_the_whole_profile(mode):
    m, e = 4, 0.9
    if mode == "oue":
        law = {i: bits_law(tuple(int(i == j) for j in range(m)), m, *ldp.unary(e))
               for i in range(m)}
        nothing = bits_law((0,) * m, m, *ldp.unary(e))
    else:
        p, q = ldp.direct(e, m)
        law = {i: {j: p if i == j else q for j in range(m)} for i in range(m)}
        nothing = dict.fromkeys(range(m), 1 / m)
    laws = [nothing] + [mixed([law[i] for i in s]) for n in range(1, m + 1)
                        for s in itertools.combinations(range(m), n)]
    assert largest_ratio(laws) == pytest.approx(e)
    assert RandomisedResponse(mode=mode, answer_epsilon=e).spent(FitResult()) == {
        "epsilon": e, "delta": 0.0}


def test_the_published_mode_keeps_no_epsilon_and_quotes_none():
    """A reported item is far likelier to be true than e^ε allows, and the size shows."""
    data = table([[0]], 40)
    found = shares(data, mode="positives", answer_epsilon=1.0)
    ratio = found[0, 0] / found[0, 1:].mean()
    assert ratio == pytest.approx(math.e * 39, rel=0.25)
    defense = RandomisedResponse(mode="positives", answer_epsilon=1.0)
    assert defense.spent(FitResult()) == {}
    assert defense.facts(data, data)["profile_epsilon"] is None
    assert defense.facts(data, data)["accountant"].startswith("none")


def test_uncapped_profiles_and_looks_at_validation_quote_nothing():
    whole = RandomisedResponse(answer_epsilon=0.5, max_interactions=0)
    assert whole.spent(FitResult()) == {}
    assert whole.profile_epsilon(100) == 50.0
    assert RandomisedResponse(answer_epsilon=0.5, max_interactions=80).profile_epsilon(100) == 50.0
    assert RandomisedResponse().spent(FitResult(history=[0.1])) == {}
    assert RandomisedResponse(answer_epsilon=math.inf).spent(FitResult()) == {}


@pytest.mark.parametrize(("m", "k", "bits", "which"), [
    (5, 2, 4, "2 k ε"), (4, 2, 4, "m ε"), (3, 2, 3, "m ε"), (5, 0, 5, "m ε"), (5, 9, 5, "m ε")])
def test_the_smaller_of_the_guarantees_that_hold_is_quoted(m, k, bits, which):
    """Exact: all pairs of profiles of a small catalogue, k random items of each being sent."""
    e, (p, q) = 0.6, ldp.flip(0.6)
    defense, data = RandomisedResponse(answer_epsilon=e, max_interactions=k), table([[0, 1]], m)
    cleaned = defense.clean(data, Context(0))
    laws = []
    for x in itertools.product((0, 1), repeat=m):
        items = [i for i in range(m) if x[i]]
        kept = itertools.combinations(items, min(k or m, len(items)))
        laws.append(mixed([bits_law(tuple(int(i in s) for i in range(m)), m, p, q)
                           for s in kept]))
    quoted = defense.spent(FitResult())
    assert quoted == {"epsilon": pytest.approx(bits * e), "delta": 0.0}
    assert largest_ratio(laws) == pytest.approx(quoted["epsilon"])
    facts = defense.facts(data, cleaned)
    assert facts["profile_epsilon"] == quoted["epsilon"]
    assert facts["accountant"].startswith(f"exact: pure ε, {which}")
    assert RandomisedResponse(answer_epsilon=e, max_interactions=k) == defense  # no parameter


def test_what_is_quoted_is_the_cheaper_one_in_a_training_of_few_items():
    from bench.models.base import build
    from bench.models.pop import Pop

    data = Blocks(users=40, items=32).load()
    defense = RandomisedResponse(answer_epsilon=2.0, max_interactions=20)
    for model in (BPRMF(dim=4, epochs=1, patience=0), Pop()):  # by gradients, and by counting
        made = build(model, defense.clean(data, Context(0)), Context(0))
        assert defense.spent(made.fit(defense, lambda event: None))["epsilon"] == 64.0


def test_the_quote_reaches_a_training_without_early_stopping():
    from bench.models.base import build

    data = Blocks(users=40, items=32).load()
    defense = RandomisedResponse(answer_epsilon=2.0, max_interactions=10)
    for patience, spent in ((0, {"epsilon": 40.0, "delta": 0.0}), (2, {})):
        cleaned = defense.clean(data, Context(0))
        model = build(BPRMF(dim=4, epochs=2, patience=patience), cleaned, Context(0))
        assert defense.spent(model.fit(defense, lambda event: None)) == spent


@pytest.mark.parametrize("mode", ["profile", "oue", "k-rr"])
def test_what_is_not_quoted_is_in_no_fact_either(mode):
    data = Blocks(users=40, items=32).load()
    defense = RandomisedResponse(mode=mode, answer_epsilon=2.0, max_interactions=10)
    cleaned = defense.clean(data, Context(0))
    for history, quoted in (([0.1], False), ([], True)):
        assert bool(defense.spent(FitResult(history=history))) is quoted
        facts = defense.facts(data, cleaned)
        assert (facts["profile_epsilon"] is not None) is quoted
        assert (facts["no_epsilon"] is None) is quoted
        assert ("early stopping read validation" in facts["accountant"]) is not quoted


@pytest.mark.parametrize("mode", ["profile", "oue", "k-rr"])
def test_an_epsilon_that_floats_turn_into_never_is_not_quoted(mode):
    """From about 37 on 1/(e^ε + 1) is 0 beside 1: the likelihood ratio is infinite, not e^ε."""
    data = Blocks(users=40, items=32).load()
    for epsilon, quoted in ((30.0, True), (40.0, False), (800.0, False)):
        defense = RandomisedResponse(mode=mode, answer_epsilon=epsilon)
        cleaned = defense.clean(data, Context(0))
        assert bool(defense.spent(FitResult())) is quoted
        assert (defense.facts(data, cleaned)["profile_epsilon"] is not None) is quoted


# -- what is sent ------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["profile", "oue", "k-rr"])
def test_neither_ratings_nor_times_nor_order_are_sent(mode):
    data = table([[5, 1, 3], [2]], 8)
    other = data.replace(train=Interactions(
        data.train.users, data.train.items, data.train.ratings[::-1], data.train.times[::-1] * 7))
    other = other.replace(train=other.train[np.array([2, 0, 1, 3])])
    defense = RandomisedResponse(mode=mode, answer_epsilon=2.0)
    one, two = (defense.clean(d, Context(0)).train for d in (data, other))
    for column in ("users", "items", "ratings", "times"):
        assert (getattr(one, column) == getattr(two, column)).all()
    assert set(one.ratings) <= {5.0}
    assert len(set(one.times)) <= 1
    with pytest.raises(ValueError):  # known("test") must still be able to join the splits
        one.plus(Interactions(one.users, one.items))
    assert len(defense.clean(data, Context(0)).known("test")) == len(one) + 1


@pytest.mark.parametrize("mode", ["profile", "positives", "oue", "k-rr"])
def test_a_users_answer_depends_on_nobody_else_and_other_splits_stay_clean(mode):
    data = Blocks(users=30, items=24).load()
    defense = RandomisedResponse(mode=mode, answer_epsilon=1.0)
    absent = np.arange(data.n_users) == 4
    one = defense.clean(data, Context(0))
    two = defense.clean(data.without_users(absent), Context(0))
    sent = [Counter(zip(x.train.users.tolist(), x.train.items.tolist(), strict=True))
            for x in (one, two)]
    assert {k: v for k, v in sent[0].items() if k[0] != 4} == {
        k: v for k, v in sent[1].items() if k[0] != 4}
    assert one.valid is data.valid
    assert one.test is data.test
    assert max(sent[0].values()) == 1


def test_added_rows_take_rating_and_time_of_their_user():
    data = table([[0, 1, 2, 3], [4, 5]], 12)
    rows = RandomisedResponse(mode="positives", answer_epsilon=0.1).clean(data, Context(1)).train
    for user in (0, 1):
        mine = data.train[data.train.users == user]
        got = rows[rows.users == user]
        assert set(got.ratings) <= set(mine.ratings)
        assert set(got.times) <= set(mine.times)


# -- unbiasing ---------------------------------------------------------------------------------

@pytest.mark.parametrize("rates", [ldp.flip(1.0), ldp.unary(1.0), ldp.direct(1.0, 5)])
def test_estimates_have_the_truth_as_their_mean(rates):
    p, q = rates
    for bit in (0, 1):
        share = p if bit else q
        mean = share * ldp.unbiased(np.array([1.0]), p, q) + (1 - share) * ldp.unbiased(
            np.array([0.0]), p, q)
        assert mean[0] == pytest.approx(bit)
    if q == pytest.approx(1 - p):  # Warner's form, as the literature writes it
        assert ldp.unbiased(np.array([1.0]), p, q)[0] == pytest.approx((1 - (1 - p)) / (2 * p - 1))
    assert ldp.counts(np.array([30]), 100, p, q)[0] == pytest.approx(
        ldp.unbiased(np.r_[np.ones(30), np.zeros(70)], p, q).sum())


@pytest.mark.parametrize("mode", ["profile", "oue", "k-rr"])
def test_thinned_rows_count_items_without_bias(mode):
    """Items' shares of the rows are those of what users have, not mixed with what is made up."""
    rng = np.random.default_rng(0)
    rows = [sorted({*rng.choice(4, 2).tolist(), int(rng.integers(4, 40))}) for _ in range(600)]
    data = table(rows, 40)
    how = {"mode": mode, "answer_epsilon": 3.5 if mode == "k-rr" else 2.0, "max_interactions": 0}
    raw, thin = (np.mean([np.bincount(RandomisedResponse(unbias=unbias, **how).clean(
        data, Context(seed)).train.items, minlength=40) for seed in range(8)], axis=0)
        for unbias in (False, True))
    truth = np.zeros(40)
    for mine in rows:
        truth[mine] += 1 if mode == "profile" else 1 / len(mine)
    raw, thin, truth = raw / raw.sum(), thin / thin.sum(), truth / truth.sum()
    assert truth[:4].sum() > 0.6
    assert abs(float(raw[:4].sum() - truth[:4].sum())) > 0.2
    assert thin[:4] == pytest.approx(truth[:4], rel=0.15 if mode == "profile" else 0.35)
    with pytest.raises(InputError, match="no known flip"):
        RandomisedResponse(mode="positives", unbias=True)


# -- neutral, refused, published ---------------------------------------------------------------

def test_infinite_epsilon_changes_no_positive():
    data = Blocks(users=20, items=24).load()
    assert RandomisedResponse(mode="positives", answer_epsilon=math.inf).clean(
        data, Context(0)) is data
    whole = RandomisedResponse(answer_epsilon=math.inf, max_interactions=0).clean(data, Context(0))
    pairs = [set(zip(x.users.tolist(), x.items.tolist(), strict=True))
             for x in (whole.train, data.train.positives())]
    assert pairs[0] == pairs[1]


def test_models_that_learn_from_order_are_refused():
    from bench.models.recbole import member

    data = Blocks(users=20, items=24).load()
    assert "order of a history" in (RandomisedResponse().unfit(member("SASRec")(), data) or "")
    assert RandomisedResponse(mode="positives").unfit(member("SASRec")(), data) is None
    single = data.replace(item_ids=data.item_ids[:1])
    assert "one item" in (RandomisedResponse(mode="k-rr").unfit(member("EASE")(), single) or "")


def test_the_grid_of_the_published_table_loads():
    from bench.grid import load_grid

    grid = load_grid(GRID)
    assert [d.params()["answer_epsilon"] for d in grid.defenses if d.name != "none"] == [
        5, 3, 2, 1, 0.1]
    assert {d.params()["mode"] for d in grid.defenses if d.name != "none"} == {"positives"}
    assert [m.name for m in grid.models] == ["MultiVAE"]


@pytest.mark.parametrize("mode", ["profile", "oue", "k-rr"])
def test_who_learns_from_ratings_is_refused_where_none_are_sent(mode: str) -> None:
    model: Any = Registry().make("models", {"name": "rating-mf", "params": {}})
    data = Blocks().load()
    assert "ratings, which are not sent" in str(RandomisedResponse(mode=mode).unfit(model, data))
    assert RandomisedResponse(mode="positives").unfit(model, data) is None
