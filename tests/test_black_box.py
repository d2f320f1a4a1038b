"""A black-box attacker makes its profiles of what it sees: what others did changes no row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.api import Context, Dataset, Interactions, ProfileAttack
from bench.attacks.random_profiles import RandomProfiles
from bench.coerce import parameters
from bench.datasets.blocks import Blocks
from bench.errors import CannotActError
from bench.registry import Registry

REGISTRY = Registry()


def black(name: str) -> bool:
    cls = REGISTRY.get("attacks", name)
    return issubclass(cls, ProfileAttack) and "black" in parameters(
        cls)["knowledge"].metadata.get("choices", ())


# Probes read lists of the attacked system, and what it learned from others is in them.
NAMES = [n for n in REGISTRY.names("attacks") if black(n) and n != "probe-profiles"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=60, items=40, length=12).load()


def seen_by(attack: ProfileAttack, data: Dataset) -> np.ndarray[Any, Any]:
    return np.unique(attack._seen(data, Context(0)).train.users)


def others_changed(data: Dataset, known: np.ndarray[Any, Any]) -> Dataset:
    """Of everybody else: half of the rows, of other items and ratings, much later."""
    rows, own = data.train, np.isin(data.train.users, known)
    assert rows.ratings is not None
    assert rows.times is not None
    made = replace(rows, items=np.where(own, rows.items, data.n_items - 1 - rows.items),
                   ratings=np.where(own, rows.ratings, 6 - rows.ratings),
                   times=np.where(own, rows.times, rows.times + 1e7))
    return data.replace(train=made[own | (np.arange(len(rows)) % 2 == 0)])


def fakes(attack: ProfileAttack, data: Dataset) -> Interactions:
    poisoned = attack.poison(data, Context(0))
    return poisoned.train[poisoned.train.users >= data.n_users]


def same(a: Interactions, b: Interactions) -> bool:
    assert a.ratings is not None
    assert a.times is not None
    return (np.array_equal(a.users, b.users) and np.array_equal(a.items, b.items)
            and np.array_equal(a.ratings, b.ratings) and np.array_equal(a.times, b.times))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_no_row_of_another_user_is_in_the_profiles(data: Dataset, name: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProfileAttack, "pick", lambda self, data, ctx: np.array([5, 17]))
    cls: Any = REGISTRY.get("attacks", name)
    attack = cls.from_params(cls.test_params() | {
        "knowledge": "black", "known": 0.3, "targets": 2, "budget": 0.1})
    changed = others_changed(data, seen_by(attack, data))
    assert same(fakes(attack, data), fakes(attack, changed))
    gray = replace(attack, knowledge="gray")  # who sees everybody does depend on them
    assert not same(fakes(gray, data), fakes(gray, changed))


def test_lengths_and_times_are_those_of_the_known(data: Dataset) -> None:
    """Known users have 3 rows each, at their own times; all others have more, and later."""
    attack = RandomProfiles(knowledge="black", known=0.3, targets=1, budget=0.5)
    known, rows = seen_by(attack, data), data.train
    place = np.arange(len(rows)) - np.searchsorted(rows.users, rows.users)
    assert (np.diff(rows.users) >= 0).all()
    own = np.isin(rows.users, known)
    short = rows[~own | (place < 3)]
    own = np.isin(short.users, known)
    times = np.where(own, 50.0 + np.arange(len(short)) % 7, 1e6)
    made = fakes(attack, data.replace(train=replace(short, times=times)))
    assert set(np.bincount(made.users - data.n_users)) <= {2, 3, 4}  # 10 % spread; 10 of others
    assert made.times is not None
    assert made.times.min() >= 50
    assert made.times.max() <= 56


def test_an_attacker_who_knows_no_row_says_so_or_goes_by_its_length(data: Dataset) -> None:
    attack = RandomProfiles(knowledge="black", known=0.01, targets=1)
    nobody = data.replace(train=data.train[~np.isin(data.train.users, seen_by(attack, data))])
    with pytest.raises(CannotActError, match="nobody with a train row; raise known or set length"):
        attack.poison(nobody, Context(0))
    assert len(fakes(replace(attack, length=4), nobody)) == 4


def test_what_is_seen_of_the_seen_is_the_same(data: Dataset) -> None:
    attack = RandomProfiles(knowledge="black", known=0.3)
    seen = attack._seen(data, Context(0))
    assert len(seen.train)
    assert np.array_equal(seen.train.items, attack._seen(seen, Context(0)).train.items)
