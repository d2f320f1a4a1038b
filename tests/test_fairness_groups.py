"""Rates, odds, differential fairness, distances of places and items' due, by their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from _fair_data import GROUPS, Fixed, K, M, N, chances, dataset, measured
from scipy.stats import wasserstein_distance

from bench.evaluate import evaluate
from bench.grid import Groups
from bench.metrics import _items, fair, fair_items
from bench.metrics.beyond import gini, long_tail
from bench.metrics.groups import deviation, weighted_gap

ITEMS = Groups(users=("gender",), items=("kind",))


def truth_of(data):
    found = np.zeros((N, M), bool)
    found[data.test.users, data.test.items] = True
    return found


@pytest.mark.parametrize("distinct", [3, 10**6])
@pytest.mark.parametrize("third", [0, 8])
def test_between_users_by_definition(distinct, third):
    data = dataset(third=third)
    table = np.random.default_rng(1).integers(0, distinct, (N, M)).astype(np.float32)
    values, _ = measured(table, data, f"fpr@{K}", f"equalised-odds@{K}", f"tpr@{K}",
                         f"differential-fairness@{K}", "wasserstein", f"aclt@{K}", block=17)
    p, rank = chances(table, data)
    gender, truth = data.user_attributes["gender"], truth_of(data)

    def rates(positive):  # of users of each group, over relevant or over all other eligible items
        return {g: np.mean([p[u, i] for u in np.flatnonzero(gender == g) for i in range(M)
                            if not np.isnan(p[u, i]) and truth[u, i] == positive])
                for g in set(gender)}

    true, false = rates(True), rates(False)
    for g, rate in false.items():
        assert values[f"fpr@{K}", f"gender={g}"] == pytest.approx(rate)
    gaps = abs(true["F"] - true["M"]), abs(false["F"] - false["M"])
    assert values[f"fpr@{K}-gap:gender", "all"] == pytest.approx(gaps[1])
    assert values[f"equalised-odds@{K}:gender", "all"] == pytest.approx(max(gaps))
    assert values[f"fpr@{K}", "all"] == pytest.approx(p[~truth & ~np.isnan(p)].mean())

    shown = np.nansum(p[gender != "X"], axis=0) > 0
    theta = [(np.nan_to_num(p[gender == g]).sum(axis=0) + 1 / M) / ((gender == g).sum() + 1)
             for g in ("F", "M")]  # X is too small
    assert values[f"differential-fairness@{K}:gender", "all"] == \
        pytest.approx(np.abs(np.log(theta[0] / theta[1]))[shown].mean(), abs=1e-8)

    free = (~np.isnan(rank)).sum(axis=1)
    each = []
    for i in range(M):
        one, two = ((rank[gender == g, i] - 0.5) / free[gender == g] for g in ("F", "M"))
        one, two = one[~np.isnan(one)], two[~np.isnan(two)]
        if min(len(one), len(two)) >= 20:
            each.append(wasserstein_distance(one, two))
    assert values["wasserstein:gender", "all"] == pytest.approx(np.mean(each), abs=1 / fair.BINS)

    tail = long_tail(data.popularity) == 1
    assert values[f"aclt@{K}", "all"] == pytest.approx(np.nansum(p[:, tail]) / N)


def test_places_as_they_are_cut_are_exactly_as_far_apart():
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 4, (3, 5, 10)) + 1
    middles = (np.arange(10) + 0.5) / 10
    expected = np.mean([max(wasserstein_distance(middles, middles, bins[g, i], bins[h, i])
                            for g, h in itertools.combinations(range(3), 2)) for i in range(5)])
    assert fair.wasserstein(bins) == pytest.approx(expected)
    assert math.isnan(fair.wasserstein(bins, least=1000))


def test_lists_shorter_than_k_are_as_long_as_they_are():
    """aclt counts, where aplt is a share; a false positive is an item that was listed."""
    data = dataset()
    table = np.random.default_rng(1).random((N, M)).astype(np.float32)
    values, found = measured(table, data, "aclt@15", "aplt@15", "fpr@15")
    free = (~np.isnan(chances(table, data)[0])).sum(axis=1)
    assert free.max() < 15
    assert found.users["aclt@15"] == pytest.approx(found.users["aplt@15"] * free)
    assert values["fpr@15", "all"] == 1.0  # everything is listed


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_between_items_by_definition(distinct, monkeypatch):
    """Items of several kinds are a part of each; those of none count in the catalogue alone."""
    monkeypatch.setattr(_items, "SMALLEST", 3)
    kinds = np.array([("a",)] * 6 + [("a", "b")] * 3 + [("b",)] * 3 + [("c",)] * 2 + [()], object)
    data = dataset().replace(item_attributes={"kind": kinds})
    table = np.random.default_rng(1).integers(0, distinct, (N, M)).astype(np.float32)
    names = (f"exposure-dp@{K}", f"exposure-eo@{K}", f"gini@{K}")
    found = evaluate(Fixed(data, table), data, names, groups=ITEMS)
    values = {(m, g): v for m, g, v in found.values}
    shown, truth = np.nansum(chances(table, data)[0], axis=0), truth_of(data).sum(axis=0)
    part = {g: np.array([(g in k) / max(len(k), 1) for k in kinds]) for g in "abc"}
    dues = {}
    for name, claim in ((names[0], np.ones(M)), (names[1], truth)):
        for g, weight in part.items():
            dues[name, g] = ((weight * shown).sum() / shown.sum()) / ((weight * claim).sum()
                                                                     / claim.sum())
            assert values[name, f"kind={g}"] == pytest.approx(dues[name, g])
        a, b = dues[name, "a"], dues[name, "b"]  # c has two items, fewer than three
        assert values[f"{name}:kind", "all"] == pytest.approx(min(a, b) / max(a, b))
    for g, weight in part.items():
        assert values[names[2], f"kind={g}"] == pytest.approx(gini(shown[weight > 0]))
    assert values[names[2], "all"] == pytest.approx(gini(shown))


def test_what_is_alike_and_what_is_not():
    everybody = np.tile(np.arange(M, dtype=np.float32), (N, 1))
    data = dataset()
    data = data.replace(train=data.train[:1], valid=data.valid[:0])
    values, _ = measured(everybody, data, "wasserstein", f"differential-fairness@{K}", mask="none")
    assert values["wasserstein:gender", "all"] == 0
    # the smoothing leaves a little of the groups' sizes, 40 and 30; what nobody is shown is out
    assert values[f"differential-fairness@{K}:gender", "all"] == \
        pytest.approx(math.log((40 + 1 / M) * 31 / (30 + 1 / M) / 41), abs=1e-6)
    everybody[40:] = everybody[40:, ::-1]
    values, _ = measured(everybody, data, "wasserstein", mask="none")
    apart = np.mean([abs(2 * i - (M - 1)) / M for i in range(M)])
    assert values["wasserstein:gender", "all"] == pytest.approx(apart, abs=1 / fair.BINS)


def test_groups_that_are_too_small_or_absent_give_a_reason():
    data = dataset().replace(item_attributes={"kind": np.array(["a"] * 9 + ["b"] * 6, object)})
    table = np.random.default_rng(1).random((N, M)).astype(np.float32)
    names = ["exposure-dp@4", "exposure-eo@4", "equalised-odds@4", "differential-fairness@4",
             "wasserstein"]
    found = evaluate(Fixed(data, table), data, names, groups=ITEMS)
    values = {(m, g): v for m, g, v in found.values}
    for name in names[:2]:  # 15 items
        assert math.isnan(values[f"{name}:kind", "all"])
        assert "20 items" in found.facts["undefined"][f"{name}:kind"]
        assert values[name, "kind=a"] > 0
    alone = evaluate(Fixed(data, table), data, names)
    assert set(alone.facts["undefined"]) == set(names)
    assert not alone.values
    lonely = data.replace(user_attributes={"gender": np.array(["F"] * 60 + ["M"] * 10, object)})
    few = evaluate(Fixed(lonely, table), lonely, names[2:], groups=GROUPS)
    for name in names[2:]:
        assert math.isnan({m: v for m, _, v in few.values}[f"{name}:gender"])
        assert "fewer than two groups" in few.facts["undefined"][f"{name}:gender"]


def test_no_claim_is_no_due():
    shown, inside = np.array([1.0, 3.0]), np.array([1.0, 0.0])
    assert math.isnan(fair_items.due(shown, np.array([0.0, 5.0]), inside))
    assert math.isnan(fair_items.due(0 * shown, np.ones(2), inside))
    assert fair_items.due(shown, np.ones(2), inside) == 0.5
    assert fair_items.evenness(np.array([0.0, 1.0, math.nan])) == 0.0
    assert math.isnan(fair_items.evenness(np.array([0.0, 0.0])))
    assert math.isnan(fair_items.evenness(np.array([1.0, math.nan])))


def test_deviation_and_weighted_gap_user_by_user():
    means, sizes = np.array([0.1, 0.5, 0.2]), np.array([20, 30, 50])
    assert deviation(means) == pytest.approx(np.std(means))
    users = np.repeat(means, sizes)
    assert weighted_gap(means, sizes) == pytest.approx(np.abs(users - users.mean()).mean())
    assert weighted_gap([0.1, 0.3], [40, 40]) == pytest.approx(2 * 0.5 * 0.5 * 0.2)
    assert weighted_gap([0.1, 0.3, math.nan], [40, 40, 9]) == pytest.approx(0.1)
    assert math.isnan(weighted_gap([0.1, 0.3], [40, math.nan]))
    assert math.isnan(weighted_gap([0.1], [40]))
    assert math.isnan(deviation([0.1, math.nan]))
