"""Fairness metrics of an evaluation, against their definitions written out user by user."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from _fair_data import Fixed, K, M, N, chances, dataset, measured
from scipy.stats import ks_2samp, spearmanr

from bench.evaluate import evaluate
from bench.fairness import unfairness as differentiable
from bench.metrics import fair, fair_items
from bench.metrics.beyond import long_tail
from bench.metrics.groups import mad


@pytest.mark.parametrize("distinct", [3, 10**6])
@pytest.mark.parametrize("third", [0, 8])
def test_everything_by_its_definition(distinct, third):
    data = dataset(third=third)
    table = np.random.default_rng(1).integers(0, distinct, (N, M)).astype(np.float32)
    values, found = measured(table, data, f"parity@{K}", f"tpr@{K}", f"popreo@{K}",
                             f"poprsp@{K}", "pru", "pri", "ks", block=17)
    p, rank = chances(table, data)
    gender = data.user_attributes["gender"]
    big = ["F", "M"]  # the third group is too small
    shares = [np.nan_to_num(p[gender == g]).mean(axis=0) for g in big]
    assert values[f"parity@{K}:gender", "all"] == \
        pytest.approx(np.abs(shares[0] - shares[1]).mean(), abs=1e-9)

    truth = np.zeros((N, M), bool)
    truth[data.test.users, data.test.items] = True
    rates = {g: p[gender == g][truth[gender == g]].sum() / truth[gender == g].sum()
             for g in set(gender)}
    for g, rate in rates.items():
        assert values[f"tpr@{K}", f"gender={g}"] == pytest.approx(rate)
    assert values[f"tpr@{K}-gap:gender", "all"] == pytest.approx(abs(rates["F"] - rates["M"]))
    assert values[f"tpr@{K}", "all"] == pytest.approx(p[truth].sum() / truth.sum())

    tail = long_tail(data.popularity)
    reo = [p[:, tail == c][truth[:, tail == c]].mean() for c in (0, 1)]
    rsp = [np.nansum(p[:, tail == c]) / (~np.isnan(p[:, tail == c])).sum() for c in (0, 1)]
    assert values[f"popreo@{K}", "all"] == pytest.approx(np.std(reo) / np.mean(reo))
    assert values[f"poprsp@{K}", "all"] == pytest.approx(np.std(rsp) / np.mean(rsp))

    each = [spearmanr(data.popularity[truth[u]], rank[u, truth[u]]).statistic for u in range(N)
            if truth[u].sum() >= 3 and len(set(data.popularity[truth[u]])) > 1
            and len(set(rank[u, truth[u]])) > 1]
    assert values["pru", "all"] == pytest.approx(-np.mean(each))
    some = truth.any(axis=0)
    mean_rank = [rank[truth[:, i], i].mean() for i in np.flatnonzero(some)]
    assert values["pri", "all"] == \
        pytest.approx(-spearmanr(data.popularity[some], mean_rank).statistic)

    free = (~np.isnan(rank)).sum(axis=1)
    place = np.clip(np.floor((rank - 0.5) / free[:, None] * fair.BINS), 0, fair.BINS - 1)
    each = []
    for i in range(M):
        one, two = (place[gender == g, i] for g in big)
        one, two = one[~np.isnan(one)], two[~np.isnan(two)]
        if min(len(one), len(two)) >= 20:
            each.append(ks_2samp(one, two).statistic)
    assert values["ks:gender", "all"] == pytest.approx(np.mean(each))
    assert found.facts["small_groups"] == ({"gender=X": 8} if third else {})


def test_old_numbers_do_not_move_when_new_metrics_are_asked_for():
    data = dataset()
    table = np.random.default_rng(1).integers(0, 9, (N, M)).astype(np.float32)
    old = ["ndcg@4", "hr@4", "coverage@4", "gini@4", "arp@4", "auc"]
    alone, _ = measured(table, data, *old)
    beside, _ = measured(table, data, *old, "parity@4", "ks", "tpr@4", "popreo@4", "rmse")
    assert all(beside[key] == value for key, value in alone.items())


def test_the_same_for_all_users_is_parity_and_opposite_lists_are_none():
    data = dataset()
    data = data.replace(train=data.train[:1], valid=data.valid[:0])
    order = np.tile(np.arange(M, dtype=np.float32), (N, 1))
    values, _ = measured(order, data, f"parity@{K}", "ks", mask="none")
    assert values[f"parity@{K}:gender", "all"] == 0
    assert values["ks:gender", "all"] == 0
    order[40:] = order[40:, ::-1]
    values, _ = measured(order, data, f"parity@{K}", "ks", mask="none")
    assert values[f"parity@{K}:gender", "all"] == pytest.approx(2 * K / M)
    assert values["ks:gender", "all"] == pytest.approx((M - 1) / M)  # all but the middle item


def test_predicted_ratings():
    data = dataset()
    rng = np.random.default_rng(3)
    table = rng.uniform(1, 5, (N, M))
    values, found = measured(table, data, "rmse", "mae", *fair.EXPLICIT, kind="rating")
    rows = data.test
    y, side = table[rows.users, rows.items], (rows.users < 40).astype(np.int64)
    assert values["rmse", "all"] == pytest.approx(np.sqrt(np.mean((y - rows.ratings)**2)))
    assert values["mae", "all"] == pytest.approx(np.mean(np.abs(y - rows.ratings)))
    assert "undefined" not in found.facts
    for name, kind in fair.EXPLICIT.items():
        theirs = differentiable(torch.tensor(y), torch.tensor(rows.ratings),
                                torch.tensor(rows.items), torch.tensor(side), kind)
        assert values[f"{name}:gender", "all"] == pytest.approx(float(theirs))


def test_an_item_that_one_group_did_not_rate_counts_nowhere():
    r = np.array([3.0, 3.0, 3.0, 3.0])
    items, side = np.array([0, 0, 1, 2]), np.array([1, 0, 1, -1])
    near, far = r + np.array([1, 0, 0, 0]), r + np.array([1, 0, 99, -99])
    for kind in ("value", "absolute", "over"):
        assert fair.unfairness(near, r, items, side, kind) == 1.0
        assert fair.unfairness(far, r, items, side, kind) == 1.0
    assert np.isnan(fair.unfairness(r[2:], r[2:], items[2:], side[2:], "value"))
    assert np.isnan(fair.unfairness(r[:1], r[:1], items[:1], side[:1], "non-parity"))


def test_what_cannot_be_measured_says_why():
    data = dataset()
    table = np.random.default_rng(1).random((N, M))
    values, found = measured(table, data, "rmse", "value-unfairness")
    assert np.isnan(values["rmse", "all"])
    assert "no ratings" in found.facts["undefined"]["value-unfairness"]
    alone = evaluate(Fixed(data, table, "rating"), data, ["parity@4", "under-unfairness"])
    assert set(alone.facts["undefined"]) == {"parity@4", "under-unfairness"}
    lonely = data.replace(user_attributes={"gender": np.array(["F"] * 60 + ["M"] * 10, object)})
    values, found = measured(table, lonely, "parity@4", "ks", "tpr@4", "non-parity",
                             kind="rating")
    for name in ("parity@4:gender", "ks:gender", "tpr@4-gap:gender", "non-parity:gender"):
        assert np.isnan(values[name, "all"])
    assert "fewer than two groups" in found.facts["undefined"]["parity@4:gender"]


def test_mean_difference_over_pairs_of_groups():
    rng = np.random.default_rng(0)
    values = rng.random(5)
    expected = np.mean([abs(a - b) for a, b in itertools.combinations(values, 2)])
    assert mad(values) == pytest.approx(expected)
    assert mad([0.2, 0.5, float("nan")]) == pytest.approx(0.3)
    assert np.isnan(mad([0.2]))


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, (2, 12)).astype(float)
        assert fair_items.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(fair_items.spearman(np.ones(3), np.arange(3.0)))
