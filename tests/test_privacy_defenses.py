"""k-anonymous profiles: groups as MDAV makes them, profiles that occur k times, what is lost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.k_anonymous_profiles import KAnonymousProfiles
from bench.microaggregation import mdav
from bench.models.bprmf import BPRMF


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=47, items=32, explicit=True).load()


def slow_mdav(x: np.ndarray, k: int) -> list[set[int]]:
    """Domingo-Ferrer and Torra's steps, one by one, on a dense array."""
    left, groups = list(range(len(x))), []

    def far(point: np.ndarray) -> int:
        return max(left, key=lambda i: (round(float(((x[i] - point)**2).sum()), 9), -i))

    def take(centre: int) -> None:
        near = sorted(left, key=lambda i: (i != centre, round(float(
            ((x[i] - x[centre])**2).sum()), 9), i))[:k]
        groups.append(set(near))
        left[:] = [i for i in left if i not in near]

    while len(left) >= 3 * k:
        first = far(x[left].mean(axis=0))
        take(first)
        take(far(x[first]))
    if len(left) >= 2 * k:
        take(far(x[left].mean(axis=0)))
    if left:
        groups.append(set(left))
    return groups


@pytest.mark.parametrize(("n", "k"), [(30, 3), (31, 5), (29, 5), (10, 5), (9, 5), (4, 5), (24, 1)])
def test_groups_are_those_of_the_algorithm(n, k):
    x = (np.random.default_rng(n).random((n, 12)) < 0.4).astype(float)
    found = mdav(csr_matrix(x), k)
    groups = [set(np.flatnonzero(found == g).tolist()) for g in range(found.max() + 1)]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, slow_mdav(x, k)))
    assert min(map(len, groups)) >= min(k, n)
    assert max(map(len, groups)) <= max(2 * k - 1, 1)


@pytest.mark.parametrize("release", ["centroid", "majority"])
@pytest.mark.parametrize("k", [2, 5, 20])
def test_every_released_profile_occurs_at_least_k_times(data, k, release):
    """Items, ratings and times together; users without a history release nothing."""
    absent = np.isin(np.arange(data.n_users), [3, 11])
    part = data.without_users(absent)
    rows = KAnonymousProfiles(k=k, release=release).clean(part, Context(0)).train
    columns = [c for c in (rows.ratings, rows.times) if c is not None]
    assert columns
    released: dict[int, tuple[object, ...]] = dict.fromkeys(np.flatnonzero(~absent).tolist(), ())
    for user in np.unique(rows.users).tolist():
        mine = rows.users == user
        order = np.argsort(rows.items[mine])
        released[user] = tuple(rows.items[mine][order].tolist()) + tuple(
            tuple(c[mine][order].tolist()) for c in columns)
    assert not set(rows.users.tolist()) & {3, 11}
    assert min(Counter(released.values()).values()) >= k
    assert len(set(released.values())) > 1


def test_a_groups_profile_is_its_centroid_rounded():
    profiles = [[0, 1, 2], [0, 1, 3], [0, 4], [9, 8], [9, 8], [9, 7, 6]]
    users = np.repeat(np.arange(6), [len(p) for p in profiles])
    items = np.array([i for p in profiles for i in p])
    train = Interactions(users, items, 3.0 + (users + items) % 3)
    data = Dataset("six", tuple("abcdef"), tuple(map(str, range(10))), train, train[:0], train[:1])
    rows = KAnonymousProfiles(k=3).clean(data, Context(0)).train
    got = [rows.items[rows.users == u].tolist() for u in range(6)]
    assert got == [[0, 1, 2]] * 3 + [[8, 9]] * 3  # lengths 8/3 and 7/3; of equals the first
    rated = {(u, i): r for u, i, r in zip(rows.users, rows.items, rows.ratings, strict=True)}
    assert rated[0, 0] == rated[2, 0] == np.mean([3 + u % 3 for u in range(3)])
    assert rated[1, 2] == 3.0 + (0 + 2) % 3  # only user 0 has it
    rows = KAnonymousProfiles(k=3, release="majority").clean(data, Context(0)).train
    assert [rows.items[rows.users == u].tolist() for u in (0, 5)] == [[0, 1], [8, 9]]


def test_information_loss_is_the_share_of_variance_inside_groups(data):
    losses = []
    for k in (2, 4, 8, 47):
        defense = KAnonymousProfiles(k=k)
        facts = defense.facts(data, defense.clean(data, Context(0)))
        rows = data.train.positives()
        x = np.zeros((data.n_users, data.n_items))
        x[rows.users, rows.items] = 1
        groups = slow_mdav(x, k)
        inside = sum(((x[sorted(g)] - x[sorted(g)].mean(axis=0))**2).sum() for g in groups)
        whole = ((x - x.mean(axis=0))**2).sum()
        assert facts["information_loss"] == pytest.approx(inside / whole)
        assert facts["released_loss"] >= facts["information_loss"] - 1e-9
        assert facts["groups"] == len(groups)
        assert facts["smallest_group"] == min(map(len, groups))
        losses.append(facts["information_loss"])
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(1.0)


def test_one_is_nobody_and_no_epsilon_is_quoted(data):
    from bench.training import FitResult

    assert KAnonymousProfiles(k=1).clean(data, Context(0)) is data
    assert KAnonymousProfiles().spent(FitResult()) == {}
    cleaned = KAnonymousProfiles(k=4).clean(data, Context(0))
    assert cleaned.valid is data.valid
    assert cleaned.test is data.test


def test_fewer_users_than_k_are_turned_away():
    data = Blocks(users=30, items=24, length=12).load()
    assert "30 users" in KAnonymousProfiles(k=31).unfit(BPRMF(), data)
    assert KAnonymousProfiles(k=30).unfit(BPRMF(), data) is None
    quiet = data.replace(train=data.train[data.train.users < 10])
    assert "10 users" in KAnonymousProfiles(k=11).unfit(BPRMF(), quiet)
