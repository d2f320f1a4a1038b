"""Natural noise: each changes what it says, within its budget, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from _runs import cells, no_report

from bench._contracts_lab import digest
from bench.api import Context, Dataset, Interactions
from bench.attacks.interaction_dropout import InteractionDropout
from bench.attacks.popularity_shift import PopularityShift
from bench.attacks.random_flips import RandomFlips
from bench.attacks.sparsification import Sparsification
from bench.datasets.blocks import Blocks
from bench.errors import PluginError
from bench.models.pop import Pop
from bench.natural import NaturalNoise, differing, over_users
from bench.registry import Registry
from bench.stages import Prepared

CTX = Context(0)
FOUND = [cls for name in Registry().names("attacks")
         if issubclass(cls := Registry().get("attacks", name), NaturalNoise)]
TRAIN = [cls for cls in FOUND if cls.changes == "train"]
TEST = [cls for cls in FOUND if cls.changes == "test"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks().load()


def moved(attack: NaturalNoise, data: Dataset, seed: int = 0) -> Dataset:
    return attack.before_training(data, Context(seed)) if attack.changes == "train" \
        else attack.shifted(data, Context(seed))


# -- all of them -------------------------------------------------------------------------------

def test_four_are_found_and_say_when_they_act() -> None:
    assert {c.name for c in FOUND} == {"random-flips", "interaction-dropout", "sparsification",
                                       "popularity-shift"}
    for cls in FOUND:
        assert cls().trains is (cls.changes == "train")
        assert cls.threat.stage == ("train-poison" if cls().trains else "test-input")
        assert (cls.threat.knowledge, cls.threat.goal) == ("none", "none")


@pytest.mark.parametrize("cls", FOUND)
@pytest.mark.parametrize("explicit", [True, False])
def test_only_the_rows_in_question_differ_by_as_many_as_stated(cls, explicit: bool) -> None:
    data = Blocks(explicit=explicit).load()
    for rate in (0.05, 0.31, 0.5):
        made = moved(cls(rate=rate), data)
        gone, new = differing(getattr(data, cls.changes), getattr(made, cls.changes))
        assert 0 < max(gone, new) <= rate * len(getattr(data, cls.changes))
        assert max(gone, new) == int(rate * len(getattr(data, cls.changes)))
        for f in dataclasses.fields(Dataset):
            if f.name not in (cls.changes, "valid"):
                assert getattr(made, f.name) is getattr(data, f.name)
        if cls.changes == "train":
            assert made.valid is data.valid
            pairs = made.train.users * made.n_items + made.train.items
            assert len(np.unique(pairs)) == len(pairs)
        else:
            assert new == 0
            assert digest(made.valid[:len(data.valid)]) == digest(data.valid)
            assert differing(made.test.plus(made.valid[len(data.valid):]), data.test) == (0, 0)


@pytest.mark.parametrize("cls", FOUND)
def test_rate_zero_changes_nothing(cls, data: Dataset) -> None:
    assert cls(rate=0.0).before_training(data, CTX) is data
    with cls(rate=0.0).strike(None, Prepared(data, data, data, None), CTX) as struck:
        assert struck.data is data
        assert struck.facts == {}


@pytest.mark.parametrize("cls", FOUND)
def test_the_seed_decides(cls, data: Dataset) -> None:
    attack = cls(rate=0.3, **({"keep": "random"} if cls is Sparsification else {}))
    found = [digest(getattr(moved(attack, data, seed), cls.changes)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("cls", FOUND)
def test_a_larger_rate_goes_on_where_a_smaller_one_stopped(cls, data: Dataset) -> None:
    rows, small, large = (key(getattr(d, cls.changes), data) for d in (
        data, moved(cls(rate=0.2), data), moved(cls(rate=0.4), data)))
    assert rows - small < rows - large
    if cls is RandomFlips:
        assert small - rows < large - rows
    else:
        assert large < small < rows


def key(rows: Interactions, data: Dataset) -> frozenset[int]:
    return frozenset((rows.users * data.n_items + rows.items).tolist())


@pytest.mark.parametrize("cls", TRAIN)
def test_what_changes_train_rows_sees_no_others(cls, data: Dataset) -> None:
    other = data.replace(test=data.test[:5], valid=data.valid[:5])
    assert digest(moved(cls(), data).train) == digest(moved(cls(), other).train)


# -- the base class keeps the budget -------------------------------------------------------------

def noise(changes_: str, corrupt_):  # type: ignore[no-untyped-def]
    class Made(NaturalNoise):
        """Made by a test; no paper."""

        name = "made"
        changes = changes_

        def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
            return corrupt_(data)

    return Made(rate=0.1)


def swapped(rows: Interactions, items: np.ndarray) -> Interactions:
    return dataclasses.replace(rows, items=items)


OVERSTEPS = {
    "the budget is": ("train", lambda d: d.replace(train=d.train[60:])),
    "an item twice": ("train", lambda d: d.replace(
        train=swapped(d.train, np.r_[d.train.items[1], d.train.items[1:]]))),
    "changes user_ids": ("train", lambda d: d.replace(user_ids=d.user_ids[::-1])),
    "changes test": ("train", lambda d: d.replace(test=d.train[:1])),
    "changes n_fake": ("train", lambda d: d.replace(n_fake=1)),
    "that is no item's": ("train", lambda d: d.replace(
        train=swapped(d.train, np.r_[d.n_items, d.train.items[1:]]))),
    "corrupt() gives Interactions": ("train", lambda d: d.train),
    "lose or gain a column": ("train", lambda d: d.replace(
        train=dataclasses.replace(d.train, times=None))),
    "left out, the budget": ("test", lambda d: d.replace(test=d.test[20:])),
    "was not in the test split": ("test", lambda d: d.replace(
        test=swapped(d.test, np.r_[d.test.items[1], d.test.items[1:]]))),
    "changes train": ("test", lambda d: d.replace(train=d.train[1:])),
    "changes valid": ("test", lambda d: d.replace(valid=d.valid[1:])),
}


@pytest.mark.parametrize("words", OVERSTEPS)
def test_who_oversteps_fails(words: str, data: Dataset) -> None:
    with pytest.raises(PluginError, match="made") as caught:
        moved(noise(*OVERSTEPS[words]), data)
    assert words in str(caught.value)


def test_a_row_twice_in_the_test_split_is_counted_twice(data: Dataset) -> None:
    double = data.replace(test=data.test.plus(data.test[:3]))
    made = noise("test", lambda d: d.replace(test=d.test[3:])).shifted(double, CTX)
    assert len(made.test) == len(double.test) - 3
    with pytest.raises(PluginError, match="not in the test split"):
        noise("test", lambda d: d.replace(test=d.test.plus(d.test[:1]))).shifted(double, CTX)


# -- random-flips ------------------------------------------------------------------------------

def test_flips_keep_ratings_and_times_and_take_new_items(data: Dataset) -> None:
    made = RandomFlips(rate=0.25).before_training(data, CTX).train
    rows = data.train
    assert np.array_equal(made.users, rows.users)
    assert np.array_equal(made.ratings, rows.ratings)
    assert np.array_equal(made.times, rows.times)
    flipped = made.items != rows.items
    assert flipped.sum() == int(0.25 * len(rows))
    for u in range(data.n_users):  # 9 rows each: 2 or 3 change, to items not taken
        own = rows.users == u
        assert 2 <= flipped[own].sum() <= 3
        assert not np.isin(made.items[own & flipped], rows.items[own]).any()


def test_flipped_items_are_uniform_over_what_is_free() -> None:
    wide = Blocks(users=400, items=40, noise=0.0, blocks=4).load()
    made = RandomFlips(rate=0.5).before_training(wide, CTX).train
    new = made.items[made.items != wide.train.items]
    free = np.ones((400, 40))
    free[wide.train.users, wide.train.items] = 0
    expected = (free / free.sum(axis=1, keepdims=True)).sum(axis=0)
    expected *= len(new) / expected.sum()
    counts = np.bincount(new, minlength=40)
    assert ((counts - expected)**2 / expected).sum() < 75  # χ² of 39 degrees, 0.1 % tail: 72


def test_who_has_taken_everything_keeps_it() -> None:
    users, items = np.divmod(np.arange(12), 4)
    full = Blocks(users=4, items=8, blocks=2).load().replace(
        item_ids=tuple("abcd"), user_ids=tuple("uvw"), item_attributes={}, item_text=None,
        train=Interactions(users, items), user_attributes={})
    assert RandomFlips(rate=0.5).before_training(full, CTX).train.items.tolist() == items.tolist()


def test_every_beginning_holds_the_same_share_of_each_user() -> None:
    users = np.repeat([0, 1, 2], [3, 30, 300])
    order = over_users(Interactions(users, np.arange(333)), CTX, "x")
    assert sorted(order.tolist()) == list(range(333))
    for share in (0.1, 0.34, 0.7):
        counts = np.bincount(users[order[:int(share * 333)]], minlength=3)
        assert (abs(counts - share * np.array([3, 30, 300])) <= 1.5).all()


# -- interaction-dropout -----------------------------------------------------------------------

def test_dropout_leaves_rows_as_they_are_each_as_likely(data: Dataset) -> None:
    dropped = np.zeros(len(data.train))
    places = {k: n for n, k in enumerate((data.train.users * 48 + data.train.items).tolist())}
    for seed in range(200):
        made = InteractionDropout(rate=0.3).before_training(data, Context(seed)).train
        at = np.array([places[k] for k in (made.users * 48 + made.items).tolist()])
        assert (np.diff(at) > 0).all()  # their order stays
        assert np.array_equal(made.ratings, data.train.ratings[at])
        dropped += ~np.isin(np.arange(len(dropped)), at)
    assert abs(dropped / 200 - 0.3).max() < 0.15


# -- sparsification ----------------------------------------------------------------------------

def test_the_newest_stay_or_random_ones(data: Dataset) -> None:
    made = Sparsification(rate=0.9, most=3).before_training(data, CTX).train
    other = Sparsification(rate=0.9, most=3, keep="random").before_training(data, CTX).train
    older = 0
    for u in range(data.n_users):
        times = np.sort(data.train.times[data.train.users == u])
        assert np.array_equal(np.sort(made.times[made.users == u]), times[-3:])
        mine = np.sort(other.times[other.users == u])
        assert len(mine) == 3
        older += int((mine < times[-3]).sum())
    assert older > data.n_users  # two of three are not among the newest on average


def test_histories_are_cut_by_a_share_oldest_first_and_nobody_is_left_without() -> None:
    users = np.repeat(np.arange(5), [1, 2, 3, 10, 20])
    times = np.arange(36.0)[::-1]  # a user's first row is the newest
    few = Blocks(users=5, items=30, blocks=2, length=4).load()
    few = few.replace(train=Interactions(users, np.arange(36) % 30, ratings=np.ones(36),
                                         times=times))
    for seed in range(5):
        made = Sparsification(rate=0.5).before_training(few, Context(seed)).train
        counts = np.bincount(made.users)
        assert len(made) == 18
        assert (counts >= 1).all()
        assert (abs(counts - np.array([1, 1, 1.5, 5, 10])) <= 1.5).all()
        for u in range(5):
            assert np.array_equal(made.times[made.users == u], times[users == u][:counts[u]])
    unknown = few.replace(train=dataclasses.replace(few.train, times=np.where(
        np.arange(36) == 3, np.nan, times)))
    shorter = Sparsification(rate=0.9, most=2).before_training(unknown, CTX).train
    assert not np.isnan(shorter.times).any()  # an unknown time counts as the oldest


@pytest.mark.parametrize("cls", FOUND)
def test_a_rate_of_less_than_a_row_is_said_and_changes_nothing(cls, data: Dataset) -> None:
    attack = cls(rate=0.0001)
    assert "is not one row" in attack.unfit(Pop(), data)
    assert cls(rate=0.1).unfit(Pop(), data) is None
    assert cls(rate=0.0).unfit(Pop(), data) is None
    if attack.trains:
        assert differing(data.train, attack.before_training(data, CTX).train) == (0, 0)


def test_what_cannot_be_is_refused_with_a_reason(data: Dataset) -> None:
    timeless = data.replace(train=dataclasses.replace(data.train, times=None))
    assert "no times" in Sparsification().unfit(Pop(), timeless)
    assert Sparsification(keep="random").unfit(Pop(), timeless) is None
    reason = Sparsification(rate=0.5, most=3).unfit(Pop(), data)
    assert "cut 66.7% of the train rows of blocks, and rate allows 50.0%" in reason
    assert Sparsification(rate=0.7, most=3).unfit(Pop(), data) is None
    with pytest.raises(PluginError, match="the budget is"):
        Sparsification(rate=0.5, most=3).before_training(data, CTX)
    with pytest.raises(PluginError, match="nothing is left"):
        InteractionDropout(rate=1.0).before_training(data, CTX)
    with pytest.raises(PluginError, match="no positive test row"):
        PopularityShift(rate=1.0).shifted(data, CTX)


# -- popularity-shift --------------------------------------------------------------------------

def crowded() -> Dataset:
    """20 items with 1 to 20 train rows, and as many test rows each: 100 · popularity."""
    popularity = np.arange(1, 21)
    items = np.repeat(np.arange(20), popularity)
    test = np.repeat(np.arange(20), 100 * popularity)
    n = len(test)
    return Dataset(name="crowded", user_ids=tuple(map(str, range(n))),
                   item_ids=tuple(map(str, range(20))),
                   train=Interactions(np.arange(len(items)), items),
                   valid=Interactions.empty(), test=Interactions(np.arange(n), test))


def test_items_are_tested_equally_often() -> None:
    """With p ∝ 1/popularity, every item has the same number of rows left in expectation."""
    data = crowded()
    popular = np.bincount(data.test.items)
    for gamma, expected in ((1.0, np.full(20, 1.0)), (0.0, popular / popular.mean())):
        made = PopularityShift(rate=0.98, gamma=gamma).shifted(data, CTX)
        counts = np.bincount(made.test.items, minlength=20)
        assert counts.sum() == 420
        expected = expected * 21
        if gamma:  # few rows of the rarest are left to draw from
            assert counts[0] < 40
            counts, expected = counts[4:], expected[4:] * counts[4:].sum() / 336
        assert ((counts - expected)**2 / expected).sum() < 45  # χ² of 15 or 19 degrees


def test_the_first_draw_is_by_weight() -> None:
    """One row of two items with 1 and 3 train rows is kept: the rare one with p = 3/4."""
    data = crowded()
    two = data.replace(test=Interactions(np.array([0, 1]), np.array([0, 2])))
    kept = [int(PopularityShift(rate=0.5).shifted(two, Context(s)).test.items[0])
            for s in range(400)]
    assert abs(kept.count(0) / 400 - 0.75) < 0.07


def test_rows_left_out_are_masked_and_facts_say_how_popular_is_what_is_left(
        data: Dataset) -> None:
    from bench.metrics.plan import make_plan

    attack = PopularityShift(rate=0.5)
    with attack.strike(None, Prepared(data, data, data, None), CTX) as struck:
        made, facts = struck.data, struck.facts
    assert facts["test_rows"] == {"kept": 60, "of": 120}
    assert facts["mean_popularity"]["after"] < facts["mean_popularity"]["before"]
    plan = make_plan(made, "test")
    known = set(zip(plan.users[plan.known_owner].tolist(), plan.known_item.tolist()))
    left = key(data.test, data) - key(made.test, data)
    assert {divmod(k, data.n_items) for k in left} <= known
    assert int(plan.relevant.sum()) == 60


# -- in a run ----------------------------------------------------------------------------------

def test_a_grid_runs_them(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from bench.run import run

    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: natural\nseeds: [0]\ndatasets: [{blocks: {users: 200, items: 100}}]\n"
        "models: [EASE]\nmetrics: [ndcg@10, arp@10]\n"
        "attacks: [{random-flips: {rate: 0.6}}, interaction-dropout, sparsification,"
        " {popularity-shift: {gamma: [0, 2]}}]\n")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    with no_report(monkeypatch):
        assert run(grid, results=tmp_path / "out") == 0
    made = cells(tmp_path / "out" / "natural")
    found = {cell["attack"]["name"]: cell for cell in made
             if cell["attack"]["params"].get("gamma") != 0}
    assert {c["status"] for c in found.values()} == {"ok"}
    assert set(found) == {"none", *(c.name for c in FOUND)}
    value = {k: next(v for m, g, v in c["values"] if (m, g) == ("ndcg@10", "all"))
             for k, c in found.items()}
    assert value["random-flips"] < value["none"]
    assert value["popularity-shift"] < value["none"]
    flips = found["random-flips"]["facts"]["changed_rows"]
    assert flips["removed"] == flips["added"] == int(0.6 * flips["of"])
    assert found["popularity-shift"]["facts"]["test_rows"] == {"kept": 200, "of": 400}
    from bench._cells import load
    from bench.leaderboard import build

    board = build(load(tmp_path / "out" / "natural"), draws=20)
    (row,) = board.rows(board.datasets[0])
    assert len(board.of(row)) == 5
    assert board.worst(row) is None  # a control: no attacker, so no worst case of attacks
    assert board.worst_cases[row] == []
