"""What injected users say of themselves: nothing about them may tell a defense that reads
attributes who they are."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import Context, Dataset
from bench.attacks.fed_rec_attack import FedRecAttack
from bench.attacks.random_profiles import RandomProfiles
from bench.data import Interactions
from bench.datasets.blocks import Blocks
from bench.fairness import labels_of, sides
from bench.imbalance import labels
from bench.metrics.groups import user_groups


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Each user has a name that nobody else has, in each kind of column."""
    made = Blocks(users=60, items=40).load()
    tags = np.empty(60, object)
    tags[:] = [(f"t{u}", "all") for u in range(60)]
    return made.replace(user_attributes={
        "half": np.array(["F" if u % 3 else "M" for u in range(60)], object),
        "code": np.array([f"c{u}" for u in range(60)], object),
        "number": np.arange(60.0), "tags": tags})


def poisoned(data: Dataset, seed: int = 0, **params: object) -> Dataset:
    made: Dataset = RandomProfiles(budget=0.5, targets=2, **params).before_training(
        data, Context(seed))
    return made


def donors(made: Dataset) -> list[int]:
    """The genuine user whom each injected one describes; fails where it is nobody."""
    said = made.fake_attributes
    found = [int(n) for n in said["number"]]
    assert list(said["code"]) == [f"c{u}" for u in found]
    assert list(said["tags"]) == [(f"t{u}", "all") for u in found]
    assert list(said["half"]) == ["F" if u % 3 else "M" for u in found]
    return found


def test_each_fake_says_what_one_genuine_user_says(data: Dataset) -> None:
    made = poisoned(data)
    assert made.n_fake == 30
    assert len(donors(made)) == 30
    assert donors(poisoned(data)) == donors(made)
    assert donors(poisoned(data, seed=1)) != donors(made)
    assert made.user_attributes is data.user_attributes  # of genuine users, as they were


def test_all_genuine_users_are_copied_equally_often(data: Dataset) -> None:
    count = np.bincount(np.concatenate([donors(poisoned(data, seed=s)) for s in range(60)]),
                        minlength=60)
    assert abs(count.mean() - 30) < 1e-9
    assert np.abs(count - 30).max() < 5 * 30 ** 0.5


def test_a_black_box_attacker_copies_whom_he_sees(data: Dataset) -> None:
    plugin = RandomProfiles(budget=0.5, targets=2, knowledge="black", known=0.1)
    seen = plugin._seen(data, Context(3))
    known = set(np.flatnonzero(seen.activity > 0).tolist())
    assert len(known) == 6
    assert set(donors(plugin.before_training(data, Context(3)))) <= known


def test_malicious_clients_sign_up_as_well(data: Dataset) -> None:
    made = FedRecAttack(budget=0.2).before_training(data, Context(0))
    assert len(donors(made)) == made.n_fake == 12


def test_defenders_find_injected_users_on_both_sides(data: Dataset) -> None:
    """And exactly where they would, were they genuine."""
    made = poisoned(data)
    own = np.array(donors(made))
    side, (group, names) = sides(made, "half", "F"), labels_of(made, "half")
    assert np.array_equal(side[60:], side[own])
    assert set(side[60:].tolist()) == {0, 1}
    assert np.array_equal(group[60:], group[own])
    called, place = labels(made, "users", "half")
    assert called == names == ["F", "M"]  # and no group of those who said nothing
    assert np.array_equal(place[60:], place[own])
    told = made.replace(user_attributes=made.all_attributes, fake_attributes={}, n_fake=0)
    assert np.array_equal(sides(told, "half", "F"), side)
    assert np.array_equal(labels_of(told, "half")[0], group)
    assert np.array_equal(labels(told, "users", "half")[1], place)


def test_evaluation_groups_genuine_users_alone(data: Dataset) -> None:
    made, before = user_groups(poisoned(data), "half"), user_groups(data, "half")
    assert made.members.keys() == before.members.keys()
    assert all(np.array_equal(made.members[k], before.members[k]) for k in made.members)
    assert not poisoned(data).genuine().fake_attributes


def test_who_says_nothing_is_missing_in_every_kind_of_column(data: Dataset) -> None:
    """A second injection, too, keeps who said what."""
    rows = Interactions.empty(data.train)
    silent = data.with_fakes(rows, 2)
    assert not silent.fake_attributes
    found = silent.all_attributes
    assert [len(c) for c in found.values()] == [62] * 4
    assert list(found["half"][60:]) == ["", ""]
    assert list(found["tags"][60:]) == [(), ()]
    assert np.isnan(found["number"][60:]).all()
    assert (sides(silent, "half", "F")[60:] == -1).all()
    said = {k: c[:1] for k, c in data.user_attributes.items()}
    both = silent.with_fakes(rows, 1, said).with_fakes(rows, 1)
    assert list(both.all_attributes["half"][60:]) == ["", "", "M", ""]
    assert list(both.all_attributes["tags"][60:]) == [(), (), ("t0", "all"), ()]
    assert both.all_attributes["number"][62] == 0.0
    assert np.isnan(both.all_attributes["number"][[60, 61, 63]]).all()


def test_models_with_features_of_users_read_them(data: Dataset) -> None:
    from bench.models.base import build
    from bench.models.recbole import member

    made = poisoned(data.replace(user_attributes={"half": data.user_attributes["half"]}))
    model = build(member("FM")(epochs=1), made, Context(0))
    read = model.dataset.user_feat["user:half"][1:].tolist()  # type: ignore[attr-defined]
    number = {"F": read[1], "M": read[0]}
    assert read == [number[str(h)] for h in made.all_attributes["half"]]
    assert set(read[60:]) == set(number.values())
