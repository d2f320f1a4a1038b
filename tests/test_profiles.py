"""Fake profiles: exact budgets, what they are made of, and that they reach the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from bench.api import Profile, ProfileAttack, pick_targets
from bench.attacks.average_profiles import AverageProfiles
from bench.attacks.bandwagon_profiles import BandwagonProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.context import Context
from bench.data import Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.profiles import RatingModel, by_popularity, fake_times
from bench.sampling import Rows

ATTACKS = [RandomProfiles, AverageProfiles, BandwagonProfiles]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=200, items=300, length=20).load()


@pytest.fixture(scope="module")
def implicit() -> Dataset:
    return Blocks(users=200, items=300, length=20, explicit=False).load()


def fakes(poisoned: Dataset) -> Interactions:
    return poisoned.train[poisoned.train.users >= poisoned.n_genuine]


def same_rows(a: Interactions, b: Interactions) -> bool:
    for column in ("users", "items", "ratings", "times", "labels"):
        mine, theirs = getattr(a, column), getattr(b, column)
        if (mine is None) != (theirs is None):
            return False
        if mine is not None and not np.array_equal(mine, theirs):
            return False
    return True


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(("budget", "n_fake"), [(0.001, 1), (0.01, 2), (0.1, 20), (1.0, 200)])
@pytest.mark.parametrize("length", [0, 5, 12])
def test_the_budget_is_spent_exactly(data: Dataset, implicit: Dataset, explicit: bool,
                                     attack: type[ProfileAttack], budget: float, n_fake: int,
                                     length: int) -> None:
    clean = data if explicit else implicit
    made = attack(budget=budget, length=length, targets=4)
    targets = made.pick(clean, Context(1))
    poisoned = made.poison(clean, Context(1))
    assert poisoned.n_fake == n_fake
    assert poisoned.n_users == 200 + n_fake
    rows = fakes(poisoned)
    per_fake = np.bincount(rows.users - 200, minlength=n_fake)
    if length:
        assert (per_fake == length).all()
    else:  # mean genuine length is 17 train rows
        assert (per_fake >= 5).all()
        assert n_fake < 20 or per_fake.mean() == pytest.approx(17, abs=1.2)
    pairs = rows.users * 300 + rows.items
    assert len(np.unique(pairs)) == len(pairs)
    for k in range(n_fake):
        assert np.isin(targets, rows.items[rows.users == 200 + k]).all()
    assert (poisoned.train.ratings is None) is not explicit
    if explicit:
        assert rows.ratings is not None
        assert np.isin(rows.ratings, [1, 2, 3, 4, 5]).all()
        assert (rows.ratings[np.isin(rows.items, targets)] == 5).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_real_rows_come_first_untouched_and_ids_stay(data: Dataset,
                                                     attack: type[ProfileAttack]) -> None:
    before = {s: getattr(data, s)[np.arange(len(getattr(data, s)))]
              for s in ("train", "valid", "test")}
    poisoned = attack(budget=0.1).poison(data, Context(0))
    assert same_rows(poisoned.train[:len(data.train)], before["train"])
    assert (poisoned.train.users[len(data.train):] >= data.n_users).all()
    for split in ("valid", "test"):
        assert same_rows(getattr(poisoned, split), before[split])
        assert same_rows(getattr(data, split), before[split])
    assert poisoned.item_ids == data.item_ids
    assert poisoned.user_ids[:data.n_users] == data.user_ids
    assert len(set(poisoned.user_ids)) == poisoned.n_users
    assert same_rows(poisoned.genuine().train, before["train"])
    assert len(poisoned.activity) == data.n_users
    assert (poisoned.popularity == data.popularity).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_target_popularity_rises_by_exactly_the_fakes(data: Dataset,
                                                      attack: type[ProfileAttack]) -> None:
    made = attack(budget=0.07, targets=6)
    targets = made.pick(data, Context(2))
    poisoned = made.poison(data, Context(2))
    rise = (np.bincount(poisoned.train.items, minlength=300)
            - np.bincount(data.train.items, minlength=300))
    assert (rise[targets] == poisoned.n_fake).all()
    assert poisoned.n_fake == 14
    if attack is BandwagonProfiles:  # so do those of the very most popular others
        assert (rise[by_popularity(data, targets)[:1]] == 14).all()
    else:
        assert (np.delete(rise, targets) < 14).all()


def test_attacks_at_one_seed_have_the_same_targets_lengths_and_times(data: Dataset) -> None:
    made = [a(budget=0.1).poison(data, Context(3)) for a in ATTACKS]
    rows = [fakes(p) for p in made]
    assert len({a().pick(data, Context(3)).tobytes() for a in ATTACKS}) == 1
    for other in rows[1:]:
        assert (np.bincount(other.users) == np.bincount(rows[0].users)).all()
        assert (other.times == rows[0].times).all()
    assert (rows[0].items == rows[1].items).all()  # random and average differ in ratings alone
    assert (rows[0].ratings != rows[1].ratings).any()
    assert (rows[0].items != rows[2].items).any()


def test_average_is_random_where_there_are_no_ratings(implicit: Dataset) -> None:
    a, b = (x(budget=0.1).poison(implicit, Context(4)) for x in (RandomProfiles, AverageProfiles))
    assert same_rows(a.train, b.train)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_larger_budget_begins_with_the_smaller(data: Dataset,
                                                 attack: type[ProfileAttack]) -> None:
    small, large = (fakes(attack(budget=b).poison(data, Context(0))) for b in (0.05, 0.1))
    assert len(small) < len(large)
    assert same_rows(large[:len(small)], small)


@pytest.mark.parametrize("attack", ATTACKS)
def test_same_seed_same_fakes_other_seed_other_fakes(data: Dataset,
                                                     attack: type[ProfileAttack]) -> None:
    one, again, other = (attack(budget=0.1).poison(data, Context(s)) for s in (1, 1, 2))
    assert same_rows(one.train, again.train)
    assert not same_rows(one.train, other.train)


def test_only_train_is_seen(data: Dataset) -> None:
    """Another test split must not change the fakes."""
    other = data.replace(valid=data.test, test=data.valid)
    for attack in ATTACKS:
        assert same_rows(attack(budget=0.1).poison(data, Context(0)).train,
                         attack(budget=0.1).poison(other, Context(0)).train)


def fillers(attack: ProfileAttack, data: Dataset, seed: int) -> Interactions:
    rows = fakes(attack.poison(data, Context(seed)))
    return rows[~np.isin(rows.items, attack.pick(data, Context(seed)))]


def test_random_fillers_are_uniform_over_the_catalogue(data: Dataset) -> None:
    attack = RandomProfiles(budget=1.0, length=40)
    targets = attack.pick(data, Context(5))
    items = fillers(attack, data, 5).items
    counts = np.delete(np.bincount(items, minlength=300), targets)
    assert counts.sum() == 200 * 35
    assert stats.chisquare(counts).pvalue > 0.01
    assert stats.kstest(items + np.random.default_rng(0).random(len(items)),
                        stats.uniform(0, 300).cdf).statistic < 0.03
    by_count = data.popularity / data.popularity.sum()  # and unlike what genuine users take
    assert np.abs(np.cumsum(np.bincount(items, minlength=300)) / len(items)
                  - np.cumsum(by_count)).max() > 0.1


def test_bandwagon_takes_a_tenth_of_the_most_popular(data: Dataset) -> None:
    attack = BandwagonProfiles(budget=0.1, length=40)
    targets = attack.pick(data, Context(5))
    best = by_popularity(data, targets)
    assert (np.diff(data.popularity[best]) <= 0).all()
    rows = fillers(attack, data, 5)
    popular = np.isin(rows.items, best[:4])
    assert (np.bincount(rows.users[popular] - 200) == 4).all()
    assert rows.ratings is not None
    assert (rows.ratings[popular] == 5).all()
    assert rows.ratings[~popular].mean() == pytest.approx(data.train.ratings.mean(), abs=0.15)
    assert len(fillers(BandwagonProfiles(budget=0.1, length=5), data, 5)) == 0  # targets only
    none = fakes(BandwagonProfiles(budget=0.1, selected=0).poison(data, Context(5)))
    assert (none.items == fakes(RandomProfiles(budget=0.1).poison(data, Context(5))).items).all()


def test_random_ratings_follow_the_overall_distribution(data: Dataset) -> None:
    rows = fillers(RandomProfiles(budget=1.0, length=40), data, 6)
    mean, sd = data.train.ratings.mean(), data.train.ratings.std(ddof=1)
    expected = np.diff(stats.norm(mean, sd).cdf([-np.inf, 1.5, 2.5, 3.5, 4.5, np.inf]))
    found = np.bincount(rows.ratings.astype(int), minlength=6)[1:]
    assert stats.chisquare(found, expected * len(rows)).pvalue > 0.01


def test_average_ratings_follow_each_item() -> None:
    """Items with opposite tastes keep them in average profiles, not in random ones."""
    data = Blocks(users=100, items=40, length=20).load()
    even = data.train.items % 2 == 0
    ratings = np.where(even, 4.0, 2.0) + np.random.default_rng(0).integers(0, 2, len(even))
    data = data.replace(train=replace(data.train, ratings=ratings))
    gaps = {}
    for attack in (AverageProfiles, RandomProfiles):
        rows = fillers(attack(budget=1.0), data, 0)
        gaps[attack.name] = (rows.ratings[rows.items % 2 == 0].mean()
                             - rows.ratings[rows.items % 2 == 1].mean())
    assert gaps["average-profiles"] == pytest.approx(2, abs=0.15)
    assert abs(gaps["random-profiles"]) < 0.15


def tiny(ratings: list[float], items: list[int], scale: tuple[float, float] | None,
         n_items: int = 4) -> Dataset:
    rows = Interactions(np.arange(len(items)), np.array(items), np.array(ratings))
    return Dataset(name="tiny", user_ids=tuple(f"u{k}" for k in range(len(items))),
                   item_ids=tuple(f"i{k}" for k in range(n_items)), train=rows, valid=rows[:0],
                   test=rows[:1], rating_scale=scale)


def test_rating_model_by_hand() -> None:
    model = RatingModel(tiny([1, 3, 5, 4], [0, 0, 0, 1], (1.0, 5.0)))
    assert model.item_mean.tolist() == [3, 4, 3.25, 3.25]
    overall = np.std([1, 3, 5, 4], ddof=1)
    assert model.item_sd.tolist() == pytest.approx([2, overall, overall, overall])
    assert (model.low, model.high, model.step) == (1, 5, 1)
    assert model.to_scale(np.array([-3, 1.4, 2.6, 9])).tolist() == [1, 1, 3, 5]


def test_the_rating_step_is_that_of_the_data() -> None:
    halves = RatingModel(tiny([0.5, 3, 4.5, 5], [0, 0, 1, 1], None))
    assert (halves.step, halves.low, halves.high) == (0.5, 0.5, 5)
    assert halves.to_scale(np.array([0.1, 2.7, 2.8, 6])).tolist() == [0.5, 2.5, 3, 5]
    free = RatingModel(tiny([-9.71, 3.3], [0, 1], (-10.0, 10.0)))
    assert free.step == 0
    assert free.to_scale(np.array([1.234, 11])).tolist() == [1.234, 10]


def test_a_threshold_labels_fakes_but_budgets_count_all_rows(data: Dataset) -> None:
    liked = (data.train.ratings >= 4).astype(np.int8)
    cut = data.replace(threshold=4.0, train=replace(data.train, labels=liked))
    poisoned = RandomProfiles(budget=0.1, length=17).poison(cut, Context(0))
    rows = fakes(poisoned)
    assert len(rows) == 20 * 17
    assert rows.labels is not None
    assert (rows.labels == (rows.ratings >= 4)).all()
    assert 0 < rows.labels.sum() < len(rows)
    targets = RandomProfiles().pick(cut, Context(0))
    assert (rows.labels[np.isin(rows.items, targets)] == 1).all()


def test_fake_times_look_genuine(data: Dataset) -> None:
    """Within the genuine range, spread like genuine rows, targets not at one end."""
    attack = RandomProfiles(budget=1.0)
    poisoned = attack.poison(data, Context(0))
    rows, genuine = fakes(poisoned), data.train.times
    assert rows.times.min() >= genuine.min()
    assert rows.times.max() <= genuine.max()
    assert stats.ks_2samp(rows.times, genuine).statistic < 0.12
    targets = np.isin(rows.items, attack.pick(data, Context(0)))
    assert stats.ks_2samp(rows.times[targets], rows.times[~targets]).statistic < 0.06


def test_long_profiles_do_not_run_past_the_end() -> None:
    data = Blocks(users=50, items=200, length=10).load()
    rows = fakes(RandomProfiles(budget=0.5, length=150).poison(data, Context(0)))
    assert rows.times.max() <= data.train.times.max()
    assert rows.times.min() >= data.train.times.min()
    at_the_end = (rows.times > np.quantile(data.train.times, 0.9)).mean()
    assert at_the_end < 0.25
    some = data.train.times.copy()
    some[::3] = np.nan  # unknown for a third of the rows
    holes = data.replace(train=replace(data.train, times=some))
    assert np.isfinite(fakes(RandomProfiles().poison(holes, Context(0))).times).all()
    gone = data.replace(train=replace(data.train, times=np.full(len(data.train), np.nan)))
    assert np.isnan(fakes(RandomProfiles().poison(gone, Context(0))).times).all()


@pytest.mark.parametrize(("count", "begins"), [(5, [0, 1000, 2000]), (8, [0, 1000, 1997])])
def test_fakes_live_when_genuine_users_do(count: int, begins: list[int]) -> None:
    """Thirty users in three eras, a row a second: a fake has the start and the gaps of one of them,
    and of the last era, where it has more rows, an earlier start."""
    users = np.repeat(np.arange(30), 5)
    times = 1000.0 * (users % 3) + np.tile(np.arange(5), 30)
    rows = Interactions(users, np.tile(np.arange(5), 30), times=times)
    eras = Dataset(name="eras", user_ids=tuple(f"u{k}" for k in range(30)),
                   item_ids=tuple(f"i{k}" for k in range(5)), train=rows, valid=rows[:0],
                   test=rows[:1])
    made = fake_times(eras, np.full(600, count), Context(0).stream("t"))
    assert made is not None
    own = np.sort(made.reshape(600, count), axis=1)
    assert (own == own[:, :1] + np.arange(count)).all()
    found, often = np.unique(own[:, 0], return_counts=True)
    assert found.tolist() == begins
    assert stats.chisquare(often).pvalue > 0.01


def test_targets_come_from_their_stratum(data: Dataset) -> None:
    order = np.sort(data.popularity)
    for stratum, low, high in [("head", 285, 299), ("upper-torso", 225, 284),
                               ("lower-torso", 150, 224), ("tail", 0, 149)]:
        for seed in range(5):
            picked = pick_targets(data, 5, stratum, Context(seed))
            assert len(set(picked.tolist())) == 5
            assert (data.popularity[picked] >= order[low]).all()
            assert (data.popularity[picked] <= order[high]).all()
    with pytest.raises(PluginError, match="15 items"):
        pick_targets(data, 16, "head", Context(0))
    assert RandomProfiles(targets=15, stratum="head").unfit(MODEL, data) is None
    reason = RandomProfiles(targets=16, stratum="head").unfit(MODEL, data)
    assert reason is not None
    assert "15 items" in reason


# -- the base class refuses what breaks the contract -------------------------------------------

class Broken(RandomProfiles):
    """Breaks one rule, named by `how`."""

    how: str = ""

    def profiles(self, data, targets, lengths, ctx):  # type: ignore[no-untyped-def]
        if self.how == "greedy in place":
            lengths += 1
            assert len(data.test) == 0
        made = super().profiles(data, targets, lengths, ctx)
        items, ratings = made[0].items.copy(), made[0].ratings.copy()
        if self.how == "too many fakes":
            made.append(made[0])
        elif self.how == "too few fakes":
            made.pop()
        elif self.how == "item twice":
            items[-1] = items[-2]
        elif self.how == "target missing":
            items[0] = np.setdiff1d(np.arange(data.n_items), items)[0]
        elif self.how == "too long":
            items = np.append(items, np.setdiff1d(np.arange(data.n_items), items)[0])
            ratings = np.append(ratings, 3.0)
        elif self.how == "beyond the catalogue":
            items[-1] = data.n_items
        elif self.how == "negative item":
            items[-1] = -1
        elif self.how == "fractional item":
            items = items + 0.5
        elif self.how == "two-dimensional":
            items = items[:, None]
        elif self.how == "rating above":
            ratings[0] = 5.01
        elif self.how == "rating below":
            ratings[-1] = 0.0
        elif self.how == "rating nan":
            ratings[-1] = np.nan
        elif self.how == "rating inf":
            ratings[-1] = np.inf
        elif self.how == "ratings short":
            ratings = ratings[:-1]
        elif self.how == "ratings missing":
            ratings = None
        if self.how == "nothing":
            return None
        if self.how == "plain tuples":
            return [(p.items, p.ratings) for p in made]
        if self.how.endswith("fakes"):
            return made
        return [Profile(items, ratings), *made[1:]]


@pytest.mark.parametrize(("how", "message"), [
    ("too many fakes", "20 fake users are the budget, 21 came"),
    ("nothing", "gives NoneType where a list"), ("plain tuples", "gives tuple where a list"),
    ("too few fakes", "20 fake users are the budget, 19 came"),
    ("item twice", "an item twice"), ("target missing", "misses a target"),
    ("too long", "13 items, the budget is 12"), ("greedy in place", "the budget is 12"),
    ("beyond the catalogue", "not in the catalogue"), ("negative item", "not in the catalogue"),
    ("fractional item", "item indices"), ("two-dimensional", "item indices"),
    ("rating above", "outside 1 to 5"), ("rating below", "outside 1 to 5"),
    ("rating nan", "outside"), ("rating inf", "outside"),
    ("ratings short", "one rating per item"), ("ratings missing", "one rating per item")])
@pytest.mark.parametrize("scale", [(1.0, 5.0), None])
def test_every_violation_is_refused(data: Dataset, how: str, message: str,
                                    scale: tuple[float, float] | None) -> None:
    clean = data.replace(rating_scale=scale)
    assert Broken(budget=0.1, length=12).poison(clean, Context(0)).n_fake == 20
    with pytest.raises(PluginError, match=message):
        Broken(budget=0.1, length=12, how=how).poison(clean, Context(0))


def test_a_length_that_cannot_hold_the_targets_is_refused(data: Dataset) -> None:
    with pytest.raises(PluginError, match="cannot hold 5 targets"):
        RandomProfiles(length=4).poison(data, Context(0))
    assert "cannot hold 5 targets" in (RandomProfiles(length=4).unfit(MODEL, data) or "")
    assert RandomProfiles(length=5).unfit(MODEL, data) is None


# -- the poison reaches the model --------------------------------------------------------------

MODEL = BPRMF(dim=8, epochs=30, batch_size=256, learning_rate=0.02, patience=0, bias=True)


def exposure(data: Dataset, targets: np.ndarray, seed: int) -> float:
    """Share of (genuine user, target not in train) with the target in the top 10."""
    model = build(MODEL, data, Context(seed))
    assert isinstance(model, BprRecommender)
    model.fit(NoDefense(), lambda event: None)
    scores = model.scores(torch.arange(data.n_genuine)).numpy()
    hits = []
    for u in range(data.n_genuine):
        seen = np.isin(np.arange(data.n_items), data.train.items[data.train.users == u])
        hits += [(scores[u][~seen] > scores[u][t]).sum() < 10 for t in targets if not seen[t]]
    return float(np.mean(hits))


@pytest.mark.parametrize("attack", [RandomProfiles, BandwagonProfiles])
def test_poison_raises_the_targets(attack: type[ProfileAttack]) -> None:
    """Against the clean model, and against the same fakes without their target rows.

    Average profiles are those of random ones to a model that reads no ratings. The model has an
    item bias. Without one, random profiles do not push: nobody resembles them,
    and the targets are drawn towards the fakes and away from genuine users.
    """
    clean = Blocks(users=100, items=60, length=12).load()
    made = attack(budget=0.2, targets=3)
    lifts, over_placebo = [], []
    for seed in range(4):
        targets = made.pick(clean, Context(seed))
        poisoned = made.poison(clean, Context(seed))
        rows = poisoned.train
        placebo = poisoned.replace(train=rows[(rows.users < 100) | ~np.isin(rows.items, targets)])
        after = exposure(poisoned, targets, seed)
        lifts.append(after - exposure(clean, targets, seed))
        over_placebo.append(after - exposure(placebo, targets, seed))
    assert sum(x > 0 for x in lifts) >= 3, lifts
    assert sum(x > 0 for x in over_placebo) >= 3, over_placebo
    assert np.mean(lifts) > 0.02


def test_clean_and_poisoned_share_initial_rows_negatives_and_order(data: Dataset) -> None:
    poisoned = RandomProfiles(budget=0.1).poison(data, Context(7))
    a, b = (build(MODEL, d, Context(7)) for d in (data, poisoned))
    assert isinstance(a, BprRecommender)
    assert isinstance(b, BprRecommender)
    assert torch.equal(a.module.users.weight, b.module.users.weight[:data.n_users])
    assert torch.equal(a.module.items.weight, b.module.items.weight)
    assert b.module.users.weight[data.n_users:].std() > 0
    clean, dirty = Rows(data, Context(7)), Rows(poisoned, Context(7))
    for epoch in (1, 2):
        assert torch.equal(
            clean.negatives(clean.users, clean.items, epoch, 3),
            dirty.negatives(clean.users, clean.items, epoch, 3))
        order = dirty.order(epoch)
        assert torch.equal(order[order < len(clean)], clean.order(epoch))
        assert not torch.equal(order[:len(clean)], clean.order(epoch))  # fakes are mixed in
    assert not torch.equal(clean.order(1), clean.order(2))
