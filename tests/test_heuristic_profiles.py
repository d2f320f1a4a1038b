"""Heuristic profiles: equal budgets at every edge, and each attack's own items and ratings."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.api import Context, Dataset, Interactions, ModelPlugin, Profile, ProfileAttack
from bench.attacks.average_profiles import AverageProfiles
from bench.attacks.bandwagon_profiles import BandwagonProfiles
from bench.attacks.co_visitation_profiles import CoVisitationProfiles
from bench.attacks.indirect_nuke_profiles import IndirectNukeProfiles
from bench.attacks.love_hate_profiles import LoveHateProfiles
from bench.attacks.pop_sample_profiles import PopSampleProfiles
from bench.attacks.popular_profiles import PopularProfiles
from bench.attacks.power_user_profiles import PowerUserProfiles
from bench.attacks.probe_profiles import ProbeProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.attacks.reverse_bandwagon_profiles import ReverseBandwagonProfiles
from bench.attacks.segment_profiles import SegmentProfiles
from bench.coerce import parameters
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import CannotActError, InputError
from bench.models import recbole
from bench.models.als import ALS
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.models.rating_mf import RatingMF
from bench.profiles import by_popularity, co_liking, fake_times, influence
from bench.sampling import Sequences
from bench.victim import Lists, Victim

BOTH = [RandomProfiles, AverageProfiles, ProbeProfiles]
PUSH = [*BOTH, BandwagonProfiles, PopularProfiles, PopSampleProfiles, SegmentProfiles,
        PowerUserProfiles, CoVisitationProfiles]
LOW = [LoveHateProfiles, ReverseBandwagonProfiles]  # nukes by low ratings
ALL = [*PUSH, *LOW, IndirectNukeProfiles]
POSITIVES, RATINGS = BPRMF(), ALS(feedback="explicit", dim=8, reg=1.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=200, items=300, length=20).load()


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    return Blocks(users=40, items=40, length=12).load()


def implicit(data: Dataset) -> Dataset:
    parts = {s: replace(getattr(data, s), ratings=None) for s in ("train", "valid", "test")}
    return data.replace(rating_scale=None, **parts)


def labelled(data: Dataset, threshold: float = 3.0) -> Dataset:
    parts = {s: replace(rows, labels=(rows.ratings >= threshold).astype(np.int8))
             for s in ("train", "valid", "test") for rows in [getattr(data, s)]}
    return data.replace(threshold=threshold, **parts)


def context(seed: int = 0) -> Context:
    victim = Victim(ALS(dim=4, iterations=1), NoDefense(), Context(seed), lambda: None)  # type: ignore[arg-type, return-value]
    return Context(seed, victim=victim)


def fakes(poisoned: Dataset) -> list[Interactions]:
    return [poisoned.train[poisoned.train.users == u]
            for u in range(poisoned.n_genuine, poisoned.n_users)]


def fillers(attack: ProfileAttack, data: Dataset, seed: int = 0) -> list[Interactions]:
    targets = attack.pick(data, Context(seed))
    return [rows[~np.isin(rows.items, targets)]
            for rows in fakes(attack.poison(data, context(seed)))]


# -- budgets ------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("kind", ["explicit", "implicit", "labelled"])
def test_budgets_are_spent_exactly_at_every_edge(tiny: Dataset, kind: str,
                                                 attack: type[ProfileAttack]) -> None:
    """One and several targets of all strata, budgets of 0.5 to 10 %, profiles of the targets
    alone, of one item more, and longer than the catalogue."""
    data = {"explicit": tiny, "implicit": implicit(tiny), "labelled": labelled(tiny)}[kind]
    if attack in LOW and kind == "implicit":
        assert "implicit" in str(attack().unfit(RATINGS, data))
        return
    for n, stratum, budget, more in [
            *product((1, 2), ("head", "upper-torso", "lower-torso", "tail"), (0.1,), (0, 1, 7)),
            *product((1, 5), ("tail",), (0.005, 0.01, 0.03, 0.05), (None, 999))]:
        length = 0 if more is None else n + more
        made = attack(targets=n, stratum=stratum, budget=budget, length=length)
        targets = made.pick(data, Context(0))
        if attack is ProbeProfiles and length and length < n + 2:
            with pytest.raises(CannotActError, match="no room"):
                made.poison(data, context())
            continue
        poisoned = made.poison(data, context())
        found = fakes(poisoned)
        assert len(found) == poisoned.n_fake == max(1, round(budget * 40))
        sizes = made._lengths(data, len(found), n, Context(0))
        for rows, size in zip(found, sizes, strict=True):
            assert len(rows) <= size
            assert len(np.unique(rows.items)) == len(rows)
            assert np.isin(targets, rows.items).all() == (attack is not IndirectNukeProfiles)
            if attack not in (IndirectNukeProfiles, PowerUserProfiles):
                assert len(rows) == size
            if kind != "implicit":
                assert np.isin(rows.ratings, [1, 2, 3, 4, 5]).all()
                wanted = 1 if made.goal == "nuke" else 5
                assert (rows.ratings[np.isin(rows.items, targets)] == wanted).all()
        rise = np.bincount(poisoned.train.items[len(data.train):], minlength=40)
        assert (rise[targets] == (0 if attack is IndirectNukeProfiles else len(found))).all()


def test_all_attacks_have_fakes_of_the_same_sizes(data: Dataset) -> None:
    sizes = {attack.name: [len(rows) for rows in fakes(attack(budget=0.05).poison(
        data, context(3)))] for attack in ALL}
    assert len(set(map(tuple, sizes.values()))) == 1, sizes


@pytest.mark.parametrize("attack", ALL)
def test_a_larger_budget_begins_with_the_smaller(data: Dataset,
                                                 attack: type[ProfileAttack]) -> None:
    if attack is ProbeProfiles:
        pytest.skip("what the lists show depends on how many fakes there are")
    small, large = (fakes(attack(budget=b).poison(data, context())) for b in (0.03, 0.06))
    assert len(small) == len(large) / 2
    for one, same in zip(small, large, strict=False):
        for column in ("items", "ratings", "times"):
            np.testing.assert_array_equal(getattr(one, column), getattr(same, column))


# -- what a nuke means --------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [*LOW, RandomProfiles, AverageProfiles])
def test_a_nuke_says_where_its_low_ratings_mean_nothing(data: Dataset,
                                                        attack: type[ProfileAttack]) -> None:
    nuke = attack(goal="nuke")
    assert "reads positives alone" in str(nuke.unfit(POSITIVES, data))
    assert "reads positives alone" in str(nuke.unfit(POSITIVES, labelled(data)))
    assert "reads positives alone" in str(nuke.unfit(ALS(), labelled(data)))
    points: ModelPlugin = recbole.member("NeuMF")()
    assert "labels none" in str(nuke.unfit(points, data))
    for model, fit in ((points, labelled(data)), (RATINGS, data), (RatingMF(), data)):
        assert nuke.unfit(model, fit) is None
    assert "implicit" in str(nuke.unfit(RATINGS, implicit(data)))
    dropped = data.replace(threshold=3.0)
    assert "drops" in str(nuke.unfit(RATINGS, dropped))


def test_goals_that_an_attack_does_not_have_are_refused() -> None:
    for attack in set(PUSH) - set(BOTH):
        with pytest.raises(InputError, match="cannot nuke"):
            attack(goal="nuke")
    for attack in [*LOW, IndirectNukeProfiles]:
        assert attack().threat_model().goal == "nuke"
        with pytest.raises(InputError, match="cannot push"):
            attack(goal="push")
    assert IndirectNukeProfiles().unfit(POSITIVES, implicit(Blocks().load())) is None


def place(model: ModelPlugin, data: Dataset, targets: np.ndarray, seed: int) -> float:
    """Mean share of the catalogue that genuine users are offered before a target."""
    import torch

    fitted = build(model, data, Context(seed))
    fitted.fit(NoDefense(), lambda event: None)
    scores = fitted.scores(torch.arange(data.n_genuine))
    return float(np.mean([(scores > scores[:, t:t + 1]).double().mean().item() for t in targets]))


@pytest.mark.parametrize("attack", [RandomProfiles, AverageProfiles, *LOW])
def test_nukes_demote_where_ratings_are_read(data: Dataset, attack: type[ProfileAttack]) -> None:
    """And with the targets' ratings turned round, the same profiles promote."""
    made, falls, rises = attack(goal="nuke", budget=0.1, stratum="head", targets=3), [], []
    for seed in range(2):
        targets = made.pick(data, Context(seed))
        poisoned = made.poison(data, context(seed))
        rows = poisoned.train
        mine = (rows.users >= data.n_genuine) & np.isin(rows.items, targets)
        liked = poisoned.replace(train=replace(rows, ratings=np.where(mine, 5.0, rows.ratings)))
        clean = place(RATINGS, data, targets, seed)
        falls.append(place(RATINGS, poisoned, targets, seed) - clean)
        rises.append(place(RATINGS, liked, targets, seed) - clean)
    assert min(falls) > 0.05, falls
    assert all(fall > rise + 0.1 for fall, rise in zip(falls, rises, strict=True)), (falls, rises)


def test_an_indirect_nuke_demotes_on_implicit_data(data: Dataset) -> None:
    clean, model = implicit(data), ALS(dim=8)
    made = IndirectNukeProfiles(budget=0.2, stratum="head", targets=3)
    for seed in range(2):
        targets = made.pick(clean, Context(seed))
        assert place(model, made.poison(clean, Context(seed)), targets, seed) > \
            place(model, clean, targets, seed) + 0.01


# -- each attack's own items and ratings --------------------------------------------------------

def test_popular_profiles_are_the_most_popular_items(data: Dataset) -> None:
    attack = PopularProfiles(budget=0.05, length=30)
    best = set(by_popularity(data, attack.pick(data, Context(0)))[:25].tolist())
    for rows in fillers(attack, data):
        assert set(rows.items.tolist()) == best
        assert (rows.ratings == 5).all()


def test_sampled_profiles_follow_popularity(data: Dataset) -> None:
    """With one filler each, the histogram is popularity; random profiles' is uniform."""
    found = {}
    for attack in (PopSampleProfiles, RandomProfiles):
        items = np.concatenate([rows.items for seed in range(5)
                                for rows in fillers(attack(budget=1.0, length=6), data, seed)])
        found[attack] = np.bincount(items, minlength=300)
        assert len(items) == 1000
    popular = np.cumsum(data.popularity) / data.popularity.sum()
    ks = {a: np.abs(np.cumsum(c) / c.sum() - popular).max() for a, c in found.items()}
    assert ks[PopSampleProfiles] < 0.05 < 0.1 < ks[RandomProfiles]  # 5 % of KS are above 0.043
    assert np.abs(np.cumsum(found[RandomProfiles]) / 1000 - np.arange(1, 301) / 300).max() < 0.05
    assert (found[PopSampleProfiles][data.popularity == 0] == 0).all()


def test_sampled_profiles_draw_one_after_the_other(tiny: Dataset) -> None:
    """The first filler is drawn ∝ popularity, the second among what is left: P(a then b) =
    p_a p_b / (1 − p_a), which drawing with replacement and dropping repeats also gives."""
    from bench.profiles import popular_sample

    few = tiny.replace(train=tiny.train[:0].plus(Interactions(
        np.arange(6), np.array([0, 0, 0, 1, 1, 2]), np.ones(6), np.zeros(6))))
    drawn = [tuple(popular_sample(few, np.array([7]), Context(9), k)[:2]) for k in range(3000)]
    p = {0: 3 / 6, 1: 2 / 6, 2: 1 / 6}
    pairs = [(a, b) for a in p for b in p if a != b]
    counts = [drawn.count(pair) for pair in pairs]
    assert sum(counts) == 3000
    assert stats.chisquare(counts, [3000 * p[a] * p[b] / (1 - p[a]) for a, b in pairs]
                           ).pvalue > 0.01


def brute_co_liking(data: Dataset, targets: np.ndarray) -> np.ndarray:
    rows = data.train.positives()
    likes = [set(rows.items[rows.users == u].tolist()) for u in range(data.n_genuine)]
    count = [sum(i in own for own in likes) for i in range(data.n_items)]
    found = np.zeros(data.n_items)
    for i, t in product(range(data.n_items), targets.tolist()):
        both = sum(i in own and t in own for own in likes)
        found[i] += both / np.sqrt(max(count[i], 1) * max(count[t], 1))
    return found


def test_co_liking_by_brute_force(tiny: Dataset) -> None:
    targets = np.array([4, 9])
    for data in (tiny, labelled(tiny)):
        np.testing.assert_allclose(co_liking(data, targets), brute_co_liking(data, targets))
    poisoned = RandomProfiles(budget=0.5).poison(tiny, Context(0))  # fakes tell nothing
    np.testing.assert_allclose(co_liking(poisoned, targets), co_liking(tiny, targets))


def test_segments(tiny: Dataset) -> None:
    attack = SegmentProfiles(budget=0.1, length=12, targets=2, selected=0.25, stratum="head")
    targets = attack.pick(tiny, Context(0))
    alike = brute_co_liking(tiny, targets)
    order = [i for i in sorted(range(40), key=lambda i: (-alike[i], -tiny.popularity[i], i))
             if i not in targets]
    for rows in fillers(attack, tiny):
        liked = rows.ratings == 5
        assert rows.items[liked].tolist() == order[:3]
        assert (rows.ratings[~liked] == 1).all()
        assert len(rows) == 10
    for rows in fillers(attack, implicit(tiny)):  # no low rating can be given: all is segment
        assert set(rows.items.tolist()) == set(order[:10])
    genre = replace(attack, by="genre")
    names = [column[0] for column in tiny.item_attributes["genre"]]
    same = [i for i in by_popularity(tiny, targets) if names[i] in {names[t] for t in targets}]
    for rows in fillers(genre, tiny):
        assert rows.items[rows.ratings == 5].tolist() == same[:3]
    assert "has no categorical item attribute 'director'; it has genre" in str(
        replace(attack, by="director").unfit(POSITIVES, tiny))
    assert genre.unfit(POSITIVES, tiny) is None


def test_love_and_hate(data: Dataset) -> None:
    attack = LoveHateProfiles(budget=0.5, length=40)
    rows = fillers(attack, data)
    assert all((r.ratings == 5).all() for r in rows)
    targets = attack.pick(data, Context(0))
    counts = np.delete(np.bincount(np.concatenate([r.items for r in rows]), minlength=300), targets)
    assert stats.chisquare(counts).pvalue > 0.01


def test_reverse_bandwagon_takes_widely_rated_items_of_low_mean(data: Dataset) -> None:
    attack = ReverseBandwagonProfiles(budget=0.1, length=40, stratum="tail")
    targets = attack.pick(data, Context(0))
    train = data.train
    count = [int((train.items == i).sum()) for i in range(300)]
    wide = sorted(range(300), key=lambda i: (-count[i], i))[:60]
    mean = {i: train.ratings[train.items == i].mean() for i in wide}
    worst = sorted((i for i in wide if i not in targets), key=lambda i: (mean[i], wide.index(i)))
    assert mean[worst[0]] < train.ratings.mean() - 0.3
    for rows in fillers(attack, data):
        hated = np.isin(rows.items, worst[:4])
        assert hated.sum() == 4
        assert (rows.ratings[hated] == 1).all()
        assert rows.ratings[~hated].mean() > 3


def brute_influence(data: Dataset, by: str, neighbours: int) -> list[int]:
    x = np.zeros((data.n_genuine, data.n_items))
    for u, i, r in zip(data.train.users, data.train.items,
                       np.ones(len(data.train)) if data.train.ratings is None
                       else data.train.ratings, strict=True):
        x[u, i] = r
    if data.train.ratings is not None:
        for u in range(len(x)):
            x[u][x[u] > 0] -= x[u][x[u] > 0].mean()
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    alike = (x @ x.T) / np.where(norm > 0, norm, 1) / np.where(norm > 0, norm, 1).T
    np.fill_diagonal(alike, 0)
    if by == "number":
        found = data.activity.astype(float)
    elif by == "similarity":
        found = alike.sum(axis=0)
    else:
        found = np.zeros(len(x))
        for u in range(len(x)):
            near = sorted((v for v in range(len(x)) if v != u), key=lambda v: (-alike[u, v], v))
            found[[v for v in near[:neighbours] if alike[u, v] > 0]] += 1
    return sorted(range(len(x)), key=lambda u: (-round(found[u], 9), u))


@pytest.mark.parametrize("by", ["number", "in-degree", "similarity"])
def test_power_users_by_brute_force(tiny: Dataset, by: str) -> None:
    uneven = tiny.replace(train=tiny.train[np.random.default_rng(0).random(len(tiny.train)) < 0.7])
    for data in (uneven, implicit(uneven)):
        expected = brute_influence(data, by, 5)
        assert influence(data, by, 5)[:15].tolist() == expected[:15]
    gone = uneven.without_users(np.arange(40) == 3)  # who has no row is nobody to copy
    assert 3 not in influence(gone, by, 5)


def test_power_user_profiles_are_copies(data: Dataset) -> None:
    attack = PowerUserProfiles(budget=0.1, length=15, models=8, stratum="tail")
    power = influence(data, "number", 50)[:8].tolist()
    owners = []
    for rows in fillers(attack, data):
        for u in power:
            own = data.train[data.train.users == u]
            rated = dict(zip(own.items.tolist(), own.ratings.tolist(), strict=True))
            if all(rated.get(i) == r for i, r in zip(rows.items.tolist(), rows.ratings.tolist(),
                                                     strict=True)):
                owners.append(u)
                break
    assert len(owners) == 20  # every fake is one of them
    assert set(owners[:8]) == set(power)  # all are copied before one is copied again
    assert owners[8:16] == owners[:8]
    longer = fillers(replace(attack, length=40), data)
    assert all(len(rows) == 35 for rows in longer)  # filled up from the next power user
    assert all(np.isin(rows.items, data.train.items[np.isin(data.train.users, power)]).all()
               for rows in longer)


class Shown:
    """Lists that show items 0, 1, 2, … with falling scores, and note what was asked."""

    def __init__(self, n_items: int, high: float = 5.0) -> None:
        self.asked: list[tuple[list[Profile], int]] = []
        self.n_items, self.high = n_items, high

    def lists(self, profiles: list[Profile], k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((list(profiles), k))
        scores = np.tile(self.high - np.arange(self.n_items) / self.n_items, (len(profiles), 1))
        for row, profile in enumerate(profiles):
            scores[row, profile.items] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return best, np.take_along_axis(scores, best, axis=1)


@pytest.mark.parametrize("goal", ["push", "nuke"])
def test_probes_take_what_they_are_shown(data: Dataset, goal: str) -> None:
    attack, shown = ProbeProfiles(rounds=2, seeds=3, goal=goal), Shown(300)
    targets, lengths = np.array([0, 4]), np.array([12, 6, 2])
    made = attack.profiles(data, targets, lengths, Context(0, victim=shown))
    assert [len(p.items) for p in made] == [12, 6, 2]
    assert len(shown.asked) == 2
    first, second = (asked for asked, _ in shown.asked)
    assert [len(p.items) for p in first] == [3, 3, 0]
    assert [len(p.items) for p in second] == [7, 4, 0]  # 7 of the 10 and half of 1, rounded up
    for profile in [*first, *second]:
        assert not np.isin(targets, profile.items).any()  # the targets come last
    for profile, seeds in zip(made, first, strict=True):
        rest = [i for i in range(300) if i not in targets and i not in seeds.items]
        assert set(profile.items.tolist()) == {
            *targets.tolist(), *seeds.items.tolist(),
            *rest[:len(profile.items) - 2 - len(seeds.items)]}
        assert (profile.ratings[:2] == (5 if goal == "push" else 1)).all()
        assert (profile.ratings[2 + len(seeds.items):] == 5).all()  # the scores, on the scale
    far = Shown(300, high=500.0)  # scores that are no ratings: the spread of known ratings
    made = attack.profiles(data, targets, np.array([60]), Context(0, victim=far))
    new = made[0].ratings[5:32]
    assert new.mean() == pytest.approx(data.train.ratings.mean(), abs=0.3)
    assert new.std() == pytest.approx(data.train.ratings.std(), abs=0.3)
    assert (np.diff(new) <= 0).all()


def test_probes_read_lists_of_the_retrained_system_and_count_them(tiny: Dataset) -> None:
    attack, ctx = ProbeProfiles(budget=0.1, rounds=2, known=0.2, length=12), context()
    attack.poison(tiny, ctx)
    assert ctx.notes["queries"] == 2 * 4
    assert attack.threat_model().knowledge == "black"
    told = attack._told(tiny, ctx)
    assert isinstance(told.victim, Lists)
    assert parameters(ProbeProfiles)["knowledge"].metadata["choices"] == ("black",)


@pytest.mark.parametrize("length", [2, 3, 7, 8])
def test_probes_that_would_read_no_list_are_refused(tiny: Dataset, length: int) -> None:
    """2 targets and 5 seeds fill 7 items: nothing would be asked. A length that is drawn has fewer
    seeds instead."""
    attack = ProbeProfiles(length=length, targets=2, rounds=1, known=0.5)
    if length < 8:
        assert "no list is read; set length to 8 at least" in (attack.unfit(RATINGS, tiny) or "")
    else:
        assert attack.unfit(RATINGS, tiny) is None
        ctx = context()
        attack.poison(tiny, ctx)
        assert ctx.notes["queries"] == 1
    drawn, ctx = replace(attack, length=0, seeds=99), context()
    assert drawn.unfit(RATINGS, tiny) is None
    drawn.poison(tiny, ctx)
    assert ctx.notes["queries"] == 1
    short, own = tiny.train, np.arange(len(tiny.train))
    first = own - np.searchsorted(short.users, short.users) < 1  # a row each: no room for a list
    with pytest.raises(CannotActError, match="no room"):
        drawn.poison(tiny.replace(train=short[first]), context())


def test_co_visits_alternate_in_time_and_the_order_reaches_the_model(data: Dataset) -> None:
    attack = CoVisitationProfiles(budget=0.1, length=10, anchors=12)
    same = np.repeat(data.train.times[:1], len(data.train))
    for clean in (data, data.replace(train=replace(data.train, times=same))):  # all times tie
        targets = attack.pick(clean, Context(0))
        poisoned = attack.poison(clean, Context(0))
        history, length = Sequences(poisoned, Context(0), 10).histories(
            np.arange(200, 220), "valid")  # type: ignore[arg-type]
        assert (length == 10).all()
        assert np.isin(history.numpy(), targets).tolist() == [[False, True] * 5] * 20
        popular = by_popularity(clean, targets)[:12]
        assert np.isin(history.numpy()[:, ::2], popular).all()
        assert len({tuple(h) for h in history.numpy().tolist()}) == 20
        for rows in fakes(poisoned):
            assert (np.diff(rows.times) >= 0).all()
            assert (rows.ratings == 5).all()
    long = fakes(CoVisitationProfiles(budget=0.1, length=23).poison(data, Context(0)))
    for rows in long:  # longer stretches, each with a target at its end
        ends = np.flatnonzero(np.isin(rows.items, targets))
        assert np.diff(np.r_[-1, ends]).tolist() == [5, 5, 5, 4, 4]
    assert "reads no order" in str(attack.unfit(POSITIVES, data))
    assert attack.unfit(recbole.member("SASRec")(), data) is None


def test_only_ordered_profiles_are_in_order(data: Dataset) -> None:
    counts = np.array([9, 9, 9])
    plain = fake_times(data, counts, Context(0).stream("t"))
    mixed = fake_times(data, counts, Context(0).stream("t"), [False, True, False])
    np.testing.assert_array_equal(plain[:9], mixed[:9])
    np.testing.assert_array_equal(plain[18:], mixed[18:])
    np.testing.assert_array_equal(np.sort(plain[9:18]), mixed[9:18])
    assert (np.diff(plain[:9]) < 0).any()


def test_an_indirect_nuke_pushes_the_competitors(tiny: Dataset) -> None:
    attack = IndirectNukeProfiles(budget=0.2, length=10, targets=2, competitors=8, stratum="head")
    targets = attack.pick(tiny, Context(0))
    alike = brute_co_liking(tiny, targets)
    rivals = [i for i in sorted(range(40), key=lambda i: (-alike[i], -tiny.popularity[i], i))
              if i not in targets][:8]
    audience = np.unique(tiny.train.users[np.isin(tiny.train.items, targets)])
    for rows in fakes(attack.poison(tiny, Context(0))):
        assert not np.isin(targets, rows.items).any()
        new, rest = rows[:5], rows[5:]
        assert np.isin(new.items, rivals).all()
        assert (new.ratings == 5).all()
        copied, pairs = set(zip(rest.items, rest.ratings)), [
            {(i, r) for i, r in zip(own.items, own.ratings) if i not in [*targets, *new.items]}
            for own in (tiny.train[tiny.train.users == u] for u in audience)]
        assert any(copied <= own or own <= copied for own in pairs)  # as much of one as there is
        assert copied <= set().union(*pairs)
    nobody = tiny.replace(train=tiny.train[~np.isin(tiny.train.items, targets)])
    assert len(fakes(attack.poison(nobody, Context(0)))) == 8


@pytest.mark.parametrize("rated", [True, False])
@pytest.mark.parametrize("length", [10, 30, 38])
def test_an_indirect_nuke_fills_its_profiles(tiny: Dataset, length: int, rated: bool) -> None:
    """One user's rows, the next users' where those end, and the rest of the catalogue: as long as
    the budget says, where 38 of the 40 items are no target."""
    base = tiny if rated else implicit(tiny)
    attack = IndirectNukeProfiles(budget=0.2, length=length, targets=2, competitors=8,
                                  selected=0.1, stratum="head")
    targets, liked = attack.pick(base, Context(0)), max(1, round(0.1 * length))
    audience = np.unique(base.train.users[np.isin(base.train.items, targets)])
    own = {u: base.train[base.train.users == u] for u in audience}
    assert max(len(rows) for rows in own.values()) < 30
    short = 0
    for rows in fakes(attack.poison(base, Context(0))):
        assert len(rows) == len(set(rows.items)) == length
        assert not np.isin(targets, rows.items).any()
        copied, whole = set(rows.items[liked:].tolist()), [
            set(r.items.tolist()) - set(targets) - set(rows.items[:liked]) for r in own.values()]
        short += not any(w <= copied or copied <= w for w in whole)  # first the whole of one user
        if rated:
            said = {(i, r) for mine in own.values() for i, r in zip(mine.items, mine.ratings)}
            known = {i for i, _ in said}
            assert all((i, r) in said for i, r in zip(rows.items[liked:], rows.ratings[liked:])
                       if i in known)
    assert not short
    alone = ~np.isin(base.train.items, targets) | (base.train.users == audience[0])
    few = base.replace(train=base.train[alone])  # one user took the targets: no other follows
    for made in attack.profiles(few, targets, np.full(3, length), Context(0)):
        assert len(set(made.items)) == len(made.items) == length
        assert not np.isin(targets, made.items).any()
        assert (made.ratings is not None and len(made.ratings) == length) if rated else \
            made.ratings is None
