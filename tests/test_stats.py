"""Statistics against slow, obvious references and published values."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench import stats


def test_holm_known_values() -> None:
    assert stats.holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])


def test_holm_leaves_nan_out_of_the_family() -> None:
    adjusted = stats.holm([.01, math.nan, .04])
    assert adjusted[0] == pytest.approx(.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_p_and_keeps_order(p: list[float]) -> None:
    adjusted = stats.holm(p)
    assert all(a >= b and a <= 1 for a, b in zip(adjusted, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-15).all()


def test_drop_is_of_population_means_not_a_mean_of_ratios() -> None:
    clean, attacked = np.array([1.0, 0.1]), np.array([0.5, 0.1])
    assert stats.relative_drop(clean.mean(), attacked.mean()) == pytest.approx(0.5 / 1.1)
    mean_of_ratios = ((clean - attacked) / clean).mean()
    assert stats.relative_drop(clean.mean(), attacked.mean()) != pytest.approx(mean_of_ratios)


def test_drop_has_no_value_where_clean_is_zero() -> None:
    assert math.isnan(float(stats.relative_drop(1e-7, 0.5)))
    assert float(stats.relative_drop(1e-3, 0.0)) == 1.0


def test_bootstrap_agrees_with_a_loop_over_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2, 3, 7))
    values[1, 2] = np.nan  # a seed that failed
    values[0, :, 4] = np.nan  # a user not evaluated
    boot = stats.Bootstrap(3, 7, draws=50)
    fast = boot.means(values)
    seed_draws = np.random.default_rng([0, 1]).integers(3, size=(50, 3))
    user_draws = np.random.default_rng([0, 2]).integers(7, size=(50, 7))
    for cell, draw in itertools.product(range(2), range(50)):
        drawn = [values[cell, s, u] for s in seed_draws[draw] for u in user_draws[draw]]
        kept = [v for v in drawn if not math.isnan(v)]
        expected = np.mean(kept) if kept else np.nan
        assert fast[cell, draw] == pytest.approx(expected, nan_ok=True)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for trial in range(200):
        values = rng.exponential(1.0, (1, 1, 80))
        draws = stats.Bootstrap(1, 80, draws=400, seed=trial).means(values)
        low, high = stats.interval(draws[0])
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_sees_the_spread_of_seeds() -> None:
    """Users alone say nothing about seeds: values that differ between seeds only must spread."""
    values = np.repeat(np.array([0.1, 0.2, 0.3])[:, None], 500, axis=1)[None]
    low, high = stats.interval(stats.Bootstrap(3, 500).means(values)[0])
    assert high - low > 0.1
    one = stats.Bootstrap(1, 500).means(values[:, :1])[0]
    assert np.ptp(one) < 1e-12


def test_users_are_crossed_with_seeds_not_nested() -> None:
    """The same users in ten seeds are not ten times as many users."""
    user = np.random.default_rng(2).normal(0, 1, 100)
    values = np.repeat(user[None], 10, axis=0)[None]
    low, high = stats.interval(stats.Bootstrap(10, 100).means(values)[0])
    assert (high - low) / 2 == pytest.approx(1.96 * user.std() / 10, rel=0.15)


def test_clean_and_attacked_are_resampled_together() -> None:
    clean = np.random.default_rng(3).random((3, 200))
    draws = stats.Bootstrap(3, 200).means(np.stack([clean, clean * 0.9]))
    drop = stats.relative_drop(draws[0], draws[1])
    assert np.ptp(drop) < 1e-12
    assert drop[0] == pytest.approx(0.1)


def test_bootstrap_is_deterministic_and_independent_of_what_was_asked_before() -> None:
    values = np.random.default_rng(4).random((3, 2, 50))
    boot = stats.Bootstrap(2, 50)
    first = boot.means(values)
    assert (boot.means(values[1:2]) == first[1:2]).all()  # kept weights
    assert np.allclose(stats.Bootstrap(2, 50).means(values), first, rtol=0, atol=1e-15)


def test_bootstrap_of_a_grid_is_fast() -> None:
    values = np.random.default_rng(5).random((500, 3, 943))
    start = time.perf_counter()
    draws = stats.Bootstrap(3, 943).means(values)
    assert draws.shape == (500, 2000)
    assert time.perf_counter() - start < 10


def test_user_bootstrap_of_coverage_misses_the_estimate() -> None:
    """Why coverage gets the seed spread only: resampled users cover fewer items, always."""
    rng = np.random.default_rng(6)
    lists = rng.integers(400, size=(200, 10))
    whole = len(np.unique(lists)) / 400
    draws = [len(np.unique(lists[rng.integers(200, size=200)])) / 400 for _ in range(300)]
    assert np.percentile(draws, 97.5) < whole


def test_seed_interval_is_students() -> None:
    low, high = stats.seed_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), rel=1e-4)
    assert all(map(math.isnan, stats.seed_interval([1.0])))
    assert all(map(math.isnan, stats.interval(np.array([np.nan]))))


def test_paired_t_agrees_with_scipy() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.random(150), rng.random(150)
    result = stats.compare(a[None], b[None])
    assert result.test == "paired t"
    assert result.p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert result.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))


def test_sign_flips_agree_with_full_enumeration() -> None:
    d = np.array([0.5, -0.1, 0.3, 0.2, 0.0, 0.4])
    sums = [abs(sum(s * v for s, v in zip(signs, d, strict=True)))
            for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean([s >= abs(d.sum()) - 1e-12 for s in sums])
    assert stats.sign_flips(d) == pytest.approx(expected)
    long = np.random.default_rng(8).normal(0.3, 1, 60)
    assert stats.sign_flips(long) == pytest.approx(stats.paired_t(long), abs=0.03)
    assert stats.sign_flips(np.ones(500)) == pytest.approx(1 / 10_000)


def test_mcnemar_is_used_for_binary_hits_and_exact() -> None:
    hits = np.array([[1.0] * 9 + [0.0] * 1 + [1.0] * 90])
    other = np.array([[0.0] * 9 + [1.0] * 1 + [1.0] * 90])
    result = stats.compare(hits, other, binary=True)
    assert result.test == "McNemar"
    assert result.p == pytest.approx(2 * (1 + 10) / 2**10)
    averaged = np.vstack([hits, other])
    assert stats.compare(averaged, np.vstack([other, other]), binary=True).test == "sign flips"


def test_no_difference_has_p_1_and_effect_0() -> None:
    same = np.random.default_rng(9).random((3, 200))
    result = stats.compare(same, same)
    assert (result.difference, result.p, result.effect) == (0.0, 1.0, 0.0)
    nobody = stats.compare(np.full((1, 3), np.nan), np.ones((1, 3)))
    assert nobody.users == 0
    assert math.isnan(nobody.p)


def test_only_common_users_are_compared() -> None:
    a = np.array([[1.0, 5.0, np.nan], [1.0, np.nan, 7.0]])
    b = np.array([[0.0, np.nan, 1.0], [0.0, 3.0, 1.0]])
    result = stats.compare(a, b)
    assert result.users == 2  # the middle user is never in both
    assert result.difference == pytest.approx((1.0 + 6.0) / 2)
