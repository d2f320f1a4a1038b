"""Splits and filters against slow references and against the properties they promise."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import filtering
from bench.data import Interactions
from bench.errors import InputError
from bench.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    check_ratios,
    hold_out_newest,
    leave_last_out,
    ratio_at_random,
    ratio_by_time,
    split_rows,
    time_cut,
)

RATIOS = st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.0, 0.3), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98),
                          (1 / 3, 1 / 3, 1 / 3)])


@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    """A few users, items and times, so that ties, duplicates and small users are common."""
    rows = draw(st.lists(st.tuples(*(st.integers(0, top) for top in (4, 7, 4, 5))),
                         min_size=1, max_size=40))
    users, items, ratings, times = np.array(rows, np.int64).T
    return Interactions(users, items, ratings.astype(float), times.astype(float))


def rows_of(users: list[int], times: list[float]) -> Interactions:
    return Interactions(np.array(users), np.arange(len(users)), times=np.array(times, float))


def slow_parts(rows: Interactions, sizes: dict[int, tuple[int, int]]) -> list[int]:
    """Per user, the newest rows one at a time; `sizes` has (valid, test) for each user."""
    parts = [TRAIN] * len(rows)
    for user, (valid, test) in sizes.items():
        own = [n for n in range(len(rows)) if rows.users[n] == user]
        own.sort(key=lambda n: (rows.times[n], n))
        for n in own[len(own) - valid - test:len(own) - test]:
            parts[n] = VALID
        for n in own[len(own) - test:]:
            parts[n] = TEST
    return parts


# -- the rules ---------------------------------------------------------------------------------

def test_leave_one_out_takes_the_newest_for_test_and_the_one_before_for_validation():
    rows = rows_of([0, 0, 0, 0, 1, 1], [40, 10, 30, 20, 1, 2])
    assert leave_last_out(rows).tolist() == [TEST, TRAIN, VALID, TRAIN, TRAIN, TRAIN]


def test_rows_of_one_time_keep_the_order_of_the_file():
    assert leave_last_out(rows_of([0] * 4, [7] * 4)).tolist() == [TRAIN, TRAIN, VALID, TEST]


def test_a_share_is_rounded_down_but_never_to_nothing():
    parts = ratio_by_time(rows_of([0] * 19 + [1] * 3, list(range(22))), (0.8, 0.1, 0.1))
    assert Counter(parts[:19].tolist()) == {TRAIN: 17, VALID: 1, TEST: 1}
    assert parts[19:].tolist() == [TRAIN, VALID, TEST]


def test_a_share_is_not_a_row_short_through_binary_fractions():
    parts = ratio_by_time(rows_of([0] * 100, list(range(100))), (0.42, 0.29, 0.29))
    assert Counter(parts.tolist()) == {TRAIN: 42, VALID: 29, TEST: 29}


def test_users_with_fewer_rows_than_parts_keep_all_in_train():
    rows = rows_of([0, 0], [1, 2])
    assert ratio_by_time(rows, (0.8, 0.1, 0.1)).tolist() == [TRAIN, TRAIN]
    assert ratio_by_time(rows, (0.5, 0.0, 0.5)).tolist() == [TRAIN, TEST]


def test_a_time_cut_leaves_nothing_before_it_in_a_later_part():
    rows = rows_of([0, 1, 0, 1, 2, 2, 2, 0, 0, 0], [5, 1, 2, 8, 8, 3, 4, 9, 8, 7])
    parts = time_cut(rows, (0.5, 0.2, 0.3))
    newest = [rows.times[parts == part].max() for part in (TRAIN, VALID)]
    oldest = [rows.times[parts == part].min() for part in (VALID, TEST)]
    assert newest[0] < oldest[0]
    assert newest[1] < oldest[1]
    assert sorted(rows.times[parts == TEST]) == [8, 8, 8, 9]  # the tie at 8 goes to one side


def test_a_random_split_follows_its_own_seed_alone():
    rows = rows_of(sorted([0, 1, 2] * 30), [0.0] * 90)
    first = ratio_at_random(rows, (0.8, 0.1, 0.1), seed=3)
    np.random.seed(99)
    assert (ratio_at_random(rows, (0.8, 0.1, 0.1), seed=3) == first).all()
    assert (ratio_at_random(rows, (0.8, 0.1, 0.1), seed=4) != first).any()
    for part, size in ((TRAIN, 24), (VALID, 3), (TEST, 3)):
        assert np.bincount(rows.users[first == part]).tolist() == [size] * 3


def test_rows_held_out_for_validation_are_the_newest_or_drawn_where_there_are_no_times():
    rows = rows_of([0, 0, 0, 1], [3, 1, 2, 9])
    assert hold_out_newest(rows, 2, seed=0).tolist() == [VALID, TRAIN, VALID, TRAIN]
    untimed = Interactions(np.zeros(50, np.int64), np.arange(50))
    drawn = hold_out_newest(untimed, 5, seed=0)
    assert (drawn == VALID).sum() == 5
    assert (drawn != hold_out_newest(untimed, 5, seed=1)).any()


@pytest.mark.parametrize("ratios", [
    (0.8, 0.2), (0.5, 0.5, 0.5), (-0.1, 0.5, 0.6), (0.0, 0.5, 0.5), (float("nan"), 0.5, 0.5),
    (float("inf"), 0.0, 0.0), (0.1, 0.1, 0.1, 0.7), ()])
def test_ratios_that_are_no_shares_are_refused(ratios: tuple[float, ...]):
    with pytest.raises(InputError, match=r"\[ratios\].*0\.8, 0\.1, 0\.1"):
        check_ratios(ratios)


@pytest.mark.parametrize("how", ["ratio-time", "leave-one-out", "leave-last-out", "time-cut"])
def test_a_split_by_time_needs_times(how: str):
    with pytest.raises(InputError, match=r"no times.*ratio-random"):
        split_rows(Interactions(np.zeros(5, np.int64), np.arange(5)), how)


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown split 'leave-two'.*leave-one-out"):
        split_rows(rows_of([0], [0]), "leave-two")


# -- properties --------------------------------------------------------------------------------

@given(interactions(), st.sampled_from(SPLITS), RATIOS, st.integers(1, 3), st.integers(0, 9))
def test_every_row_is_in_one_part_and_nobody_loses_the_train_rows(rows, how, ratios, last, seed):
    parts = split_rows(rows, how, ratios=ratios, last=last, seed=seed)
    assert parts.shape == (len(rows),)
    assert set(parts.tolist()) <= {TRAIN, VALID, TEST}
    assert (parts == split_rows(rows, how, ratios=ratios, last=last, seed=seed)).all()
    if how not in ("time-cut", "cold-items"):
        assert set(rows.users[parts == TRAIN]) == set(rows.users)
        assert set(rows.users[parts == VALID]) <= set(rows.users[parts == TEST]) or ratios[2] == 0


@given(interactions(), RATIOS)
def test_within_a_user_parts_follow_time(rows, ratios):
    for parts in (leave_last_out(rows, 2, 1), ratio_by_time(rows, ratios)):
        for user in set(rows.users.tolist()):
            own = np.flatnonzero(rows.users == user)
            in_time = parts[own[np.argsort(rows.times[own], kind="stable")]]
            assert (np.diff(in_time) >= 0).all()


@given(interactions(), st.integers(1, 3), st.integers(0, 3))
def test_leave_last_out_agrees_with_the_slow_reference(rows, test, valid):
    counts = Counter(rows.users.tolist())
    sizes = {u: (valid, test) if n > test + valid else (0, 0) for u, n in counts.items()}
    assert leave_last_out(rows, test, valid).tolist() == slow_parts(rows, sizes)


# -- filters -----------------------------------------------------------------------------------

@given(interactions(), st.sampled_from(["last", "first", "best"]))
def test_one_row_per_pair_agrees_with_the_slow_reference(rows, keep):
    mask = filtering.one_per_pair(rows, keep)
    chosen: dict[tuple[int, int], int] = {}
    for n in range(len(rows)):
        pair = (int(rows.users[n]), int(rows.items[n]))
        sign = (rows.ratings[n],) if keep == "best" else ()
        key = (*sign, rows.times[n], n)
        old = chosen.get(pair)
        old_key = None if old is None else (
            *((rows.ratings[old],) if keep == "best" else ()), rows.times[old], old)
        if old_key is None or (key < old_key if keep == "first" else key > old_key):
            chosen[pair] = n
    assert sorted(chosen.values()) == np.flatnonzero(mask).tolist()


@given(interactions(), st.integers(1, 4))
def test_the_k_core_is_idempotent_and_the_largest(rows, k):
    mask = filtering.k_core(rows, k)
    kept = rows[mask]
    if len(kept):
        assert min(Counter(kept.users.tolist()).values()) >= k
        assert min(Counter(kept.items.tolist()).values()) >= k
        assert filtering.k_core(kept, k).all()
    alive = set(range(len(rows)))  # slow: one row at a time
    while True:
        users = Counter(int(rows.users[n]) for n in alive)
        items = Counter(int(rows.items[n]) for n in alive)
        weak = {n for n in alive if users[rows.users[n]] < k or items[rows.items[n]] < k}
        if not weak:
            break
        alive.remove(min(weak))
    assert sorted(alive) == np.flatnonzero(mask).tolist()


def test_a_pair_in_two_parts_stays_in_the_first_or_the_last():
    rows = Interactions(np.array([0, 0, 0, 1]), np.array([5, 6, 5, 5]))
    parts = np.array([TRAIN, TRAIN, TEST, TEST], np.int8)
    first = filtering.one_part_per_pair(rows, parts, "first")
    last = filtering.one_part_per_pair(rows, parts, "last")
    assert first.tolist() == [True, True, False, True]
    assert last.tolist() == [False, True, True, True]


def test_a_repeated_pair_is_found_with_both_rows():
    rows = Interactions(np.array([0, 1, 0, 1]), np.array([5, 6, 5, 6]))
    assert filtering.repeated_pair(rows) == (0, 2)
    assert filtering.repeated_pair(rows[:2]) is None


def test_outliers_and_likes():
    rows = Interactions(np.array([0, 0, 0, 1]), np.arange(4))
    assert filtering.users_with_at_most(rows, 2).tolist() == [False] * 3 + [True]
    assert filtering.liked(np.array([3.5, 4.0, 5.0]), 4.0).tolist() == [0, 1, 1]


def test_filters_take_no_rows():
    none = Interactions.empty()
    assert filtering.one_per_pair(none).shape == (0,)
    assert filtering.k_core(none, 3).shape == (0,)
    assert filtering.one_part_per_pair(none, np.zeros(0, np.int8), "first").shape == (0,)
    assert filtering.repeated_pair(none) is None
    assert time_cut(Interactions(none.users, none.items, times=np.zeros(0)), (0.8, 0.1, 0.1)
                    ).shape == (0,)
