"""Detectors: what they may see, where they cut, what they learn from, against slow references."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from bench import stages
from bench.api import Context, Dataset, Detector, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.co_detector import CoDetector, Factors, rating_table, sppmi
from bench.defenses.degree_filter import DegreeFilter
from bench.defenses.fap_filter import edge_weights, propagate
from bench.defenses.graphrfi import GraphRfi, _Weighted
from bench.defenses.none import NoDefense
from bench.defenses.pca_filter import PcaFilter
from bench.defenses.semi_filter import NaiveBayes, SemiFilter
from bench.detection import Judged, TrainedDetector, family
from bench.detection_features import (
    degree_features,
    entropy,
    fmtd,
    judged_by_others,
    length_variance,
    parts,
    rdma,
    similarity_degree,
)
from bench.detection_metrics import auc, best_cut, report
from bench.errors import InputError, PluginError
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.neural_forest import NeuralForest
from bench.registry import Registry
from bench.training import Loop

CTX = Context(0)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(users=80, items=60, length=16).load()


def attacked(data: Dataset, name: str, budget: float = 0.1, seed: int = 0) -> Dataset:
    return family(name).from_params({"budget": budget}).poison(data, Context(seed))


class Lengths(Detector):
    """Suspects long profiles; no paper."""

    def suspicion(self, data, ctx):
        ctx.notes["seen"] = data
        count = np.bincount(data.train.users, minlength=data.n_users)
        return np.where(count > 0, count, np.nan)


class Shaped(Detector):
    """Gives what it is told to; no paper."""

    value: float = 0.0
    short: bool = False

    def suspicion(self, data, ctx):
        return np.full(data.n_users - self.short, self.value)


# -- measures ----------------------------------------------------------------------------------

def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    suspicion, fake = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.3
    suspicion[[3, 9]] = np.nan
    pairs = [0.5 * (a == b) + (a > b) for a in suspicion[fake] for b in suspicion[~fake]
             if not np.isnan(a + b)]
    assert auc(suspicion, fake) == pytest.approx(np.mean(pairs))
    assert auc(suspicion, np.zeros(40, bool)) is None


def test_the_cut_is_the_best_of_all():
    rng = np.random.default_rng(1)
    received, own = rng.normal(0, 1, 200), rng.normal(2, 1, 50)
    for cost in (0.5, 2.0, 5.0):
        gains = {t: (own >= t).mean() - cost * (received >= t).mean() for t in own}
        assert gains[best_cut(received, own, cost)] == pytest.approx(max(gains.values()))


def test_the_cut_stays_finite_and_close_when_received_users_hold_such_fakes():
    rng = np.random.default_rng(2)
    genuine, own = rng.normal(0, 1, 4000), rng.normal(4, 1, 2000)
    mixed = np.r_[genuine, rng.normal(4, 1, 200)]  # 5 % of them
    assert best_cut(mixed, own, 5.0) == pytest.approx(best_cut(genuine, own, 5.0), abs=0.4)


# -- what every detector keeps to --------------------------------------------------------------

def test_a_detector_sees_rows_and_nothing_else(blocks):
    verdict = Lengths().verdict(attacked(blocks, "random-profiles"), CTX)
    seen = verdict.notes["seen"]
    assert seen.n_fake == 0
    assert not seen.user_attributes
    assert not any("fake" in name for name in seen.user_ids)
    assert not len(seen.valid)
    assert not len(seen.test)


def test_at_most_the_largest_share_is_flagged_most_suspicious_first(blocks):
    data = attacked(blocks, "random-profiles")
    count = np.bincount(data.train.users, minlength=data.n_users)
    few = dataclasses.replace(Lengths(), max_share=0.05).flags(data)
    assert few.sum() <= int(0.05 * data.n_users)
    if few.any():
        assert count[few].min() >= count[~few].max()
    assert Lengths(max_share=0.0).clean(data, CTX) is data


def test_among_equals_chance_decides_who_is_flagged_not_place(blocks):
    """Fakes are received last: by place, none of them would ever be flagged."""
    class Alike(Shaped):
        """Suspects everybody alike; no paper."""

        def doubtful(self, suspicion):
            return np.ones(len(suspicion), bool)

    data = attacked(blocks, "random-profiles", 0.5)
    fakes = sum(Alike(max_share=0.3).flags(data, Context(seed))[80:].mean() for seed in range(20))
    assert 0.2 < fakes / 20 < 0.4


def test_wrong_suspicions_are_refused(blocks):
    with pytest.raises(PluginError, match="one suspicion per user"):
        Shaped(short=True).clean(blocks, CTX)
    with pytest.raises(PluginError, match="infinite"):
        Shaped(value=np.inf).clean(blocks, CTX)
    assert not Shaped(value=np.nan).flags(blocks).any()


def test_facts_are_counted_by_hand(blocks):
    data = attacked(blocks, "random-profiles")
    cleaned = PcaFilter(threshold=1.0).clean(data, CTX)
    facts = PcaFilter().facts(data, cleaned)
    assert isinstance(cleaned, Judged)
    assert cleaned.verdict is not None
    flagged = ~np.isin(np.arange(data.n_users), cleaned.train.users)
    fake = np.arange(data.n_users) >= data.n_genuine
    assert np.array_equal(flagged, cleaned.verdict.flagged)
    assert facts["precision"] == (flagged & fake).sum() / flagged.sum()
    assert facts["recall"] == (flagged & fake).sum() / fake.sum()
    assert facts["auc"] == auc(cleaned.verdict.suspicion, fake)
    assert facts["false_positives"] == flagged[~fake].mean()
    women = data.user_attributes["gender"] == "F"
    by = facts["false_positives_by_group"]
    assert {group.split("=")[0] for group in by} == {"gender", "age", "activity"}
    assert by["gender=F"] == flagged[~fake][women].mean()
    assert by["gender=M"] == flagged[~fake][~women].mean()
    assert facts["false_positives_gap"]["gender"] == pytest.approx(
        abs(by["gender=F"] - by["gender=M"]))


def test_groups_of_few_users_are_named_and_not_compared(blocks):
    gender = np.array(["F"] * 61 + ["M"] * 19, object)
    data = blocks.replace(user_attributes={"gender": gender})
    facts = report(data, np.arange(80) >= 61, None)
    assert facts["false_positives_by_group"]["gender=F"] == 0
    assert "gender=M" not in facts["false_positives_by_group"]
    assert facts["groups_too_small"]["gender=M"] == 19
    assert np.isnan(facts["false_positives_gap"]["gender"])


def test_the_leaderboard_can_name_the_group_that_is_hit_most(blocks):
    from bench._board_more import _worst_group

    data = attacked(blocks, "random-profiles")
    facts = PcaFilter().facts(data, PcaFilter(threshold=1.0).clean(data, CTX))
    by = facts["false_positives_by_group"]
    worst = max(by, key=by.__getitem__)
    assert by[worst] > 0
    assert _worst_group([facts]).text.startswith(f"{worst}: ")


def test_attributes_of_too_many_values_are_named_not_grouped():
    data = Blocks(users=250, items=60).load()
    data = data.replace(user_attributes={"name": np.array(data.user_ids, object)})
    assert PcaFilter().facts(data, data)["attributes_not_grouped"] == ["name"]


# -- fakes of one's own ------------------------------------------------------------------------

def test_own_fakes_are_not_those_of_an_attacker_at_the_same_seed(blocks):
    """Attacks share their streams at one seed: with ctx as it is, the detector would be trained
    on the very profiles that it is to find."""
    detector = DegreeFilter(trained_on="random-profiles", train_budget=0.5)
    grown, campaign = detector.with_own_fakes(blocks, 5, CTX)
    theirs = attacked(blocks, "random-profiles", 0.1)

    def profiles(data, users):
        return {frozenset(data.train.items[data.train.users == u].tolist()) for u in users}

    own = profiles(grown, np.flatnonzero(campaign >= 0))
    assert not own & profiles(theirs, range(theirs.n_genuine, theirs.n_users))
    common = [frozenset.intersection(*profiles(grown, np.flatnonzero(campaign == k)))
              for k in range(5)]  # the targets, and what else all of a campaign share
    assert len(set(common)) == 5


def test_own_fakes_come_last_and_change_nothing_else(blocks):
    grown, campaign = SemiFilter().with_own_fakes(attacked(blocks, "random-profiles"), 3, CTX)
    received = attacked(blocks, "random-profiles")
    rows = len(received.train)
    assert np.array_equal(grown.train.users[:rows], received.train.users)
    assert np.array_equal(grown.train.ratings[:rows], received.train.ratings)
    assert (campaign[:received.n_users] == -1).all()
    assert set(campaign[received.n_users:].tolist()) == {0, 1, 2}
    assert grown.n_fake == 0


def test_own_fakes_have_many_lengths_where_users_have():
    from bench.datasets.ml_100k import ML100K

    films = ML100K().load()
    grown, campaign = DegreeFilter().with_own_fakes(films, 5, CTX)
    length = np.bincount(grown.train.users, minlength=grown.n_users)
    means = [length[campaign == k].mean() for k in range(5)]
    assert means == sorted(means)
    assert means[-1] > 5 * means[0]


@pytest.mark.parametrize(("names", "text"), [
    ("random-profile", "no attack is called"), ("pgd", "makes no fake profiles"),
    (" , ", "needs an attack")])
def test_what_it_cannot_be_trained_on_is_refused(names, text):
    with pytest.raises(InputError, match=text):
        DegreeFilter(trained_on=names)


@pytest.mark.parametrize(("cls", "trained_on", "attack", "explicit", "seen"), [
    (SemiFilter, "random-profiles", "random-profiles", True, True),
    (SemiFilter, "random-profiles", "average-profiles", True, False),
    (SemiFilter, "random-profiles", "average-profiles", False, True),  # the same rows there
    (DegreeFilter, "random-profiles", "average-profiles", True, True),  # it reads no ratings
    (DegreeFilter, "bandwagon-profiles", "random-profiles", True, False),
    (GraphRfi, "random-profiles", "average-profiles", True, True),  # nor does this model
    (PcaFilter, None, "random-profiles", True, None)])
def test_the_report_says_that_it_met_what_it_was_trained_on(cls, trained_on, attack, explicit,
                                                            seen):
    data = Blocks(explicit=explicit).load()
    defense = cls() if trained_on is None else cls(trained_on=trained_on)
    intruder = family(attack).from_params({"budget": 0.1})
    prepared = stages.prepare(data, intruder, NoDefense(), CTX)
    facts = defense.served_facts(stages.make(BPRMF(epochs=1), prepared, CTX))
    assert facts.get("trained_on_evaluated_attack") is seen
    if trained_on is not None:
        assert defense.trained_against() == trained_on
        idle = cls(**{"trained_on": trained_on, **cls.neutral_params()})
        assert not idle.served_facts(stages.make(BPRMF(epochs=1), prepared, CTX))
        assert idle.trained_against() is None


class Oracle(TrainedDetector):
    """Knows its own fakes, and nothing of others; no paper."""

    def judge(self, data, campaign, ctx):
        return (campaign >= 0).astype(float)


def test_a_detector_that_only_knows_its_own_fakes_flags_nobody(blocks):
    data = attacked(blocks, "random-profiles")
    facts = Oracle().facts(data, Oracle().clean(data, CTX))
    assert (facts["flagged"], facts["own_auc"], facts["auc"]) == (0, 1.0, 0.5)


def test_nobody_is_judged_by_a_learner_that_saw_them():
    rng = np.random.default_rng(0)
    campaign = np.r_[np.full(60, -1), np.arange(20) % 4]
    features = rng.normal(size=(80, 2))
    fold, seen = parts(campaign, 4, CTX), []

    def learn(known, labels, part):
        seen.append((part, known))
        return lambda other: np.full(len(other), float(part))

    judged = judged_by_others(features, campaign, 4, CTX, learn)
    assert np.array_equal(judged, fold)
    assert np.array_equal(fold[60:], campaign[60:])  # a campaign is judged by the others
    for part, known in seen:
        assert not (features[fold == part][:, None] == known).all(axis=2).any()
        assert len(known) == (fold != part).sum()


# -- features ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def table(blocks: Dataset) -> np.ndarray:
    found = np.full((blocks.n_users, blocks.n_items), np.nan)
    found[blocks.train.users, blocks.train.items] = blocks.train.ratings
    return found


def test_degrees_against_lists(blocks, table):
    degree = (~np.isnan(table)).sum(axis=0)
    for user, (mud, rud, qud) in enumerate(degree_features(blocks)):
        own = sorted(degree[~np.isnan(table[user])])
        assert mud == pytest.approx(sum(own) / len(own))  # SDLib forgets the division
        assert rud == own[-1] - own[0]
        assert qud == own[int((len(own) - 1) / 4)]


def test_rating_features_against_loops(blocks, table):
    mean, count = np.nanmean(table, axis=0), (~np.isnan(table)).sum(axis=0)
    found = zip(entropy(blocks), rdma(blocks), fmtd(blocks), strict=True)
    for user, (h, deviation, difference) in enumerate(found):
        items = np.flatnonzero(~np.isnan(table[user]))
        own = table[user, items]
        share = np.unique(own, return_counts=True)[1] / len(own)
        assert h == pytest.approx(-sum(p * np.log2(p) for p in share))
        assert deviation == pytest.approx(
            sum(abs(table[user, i] - mean[i]) / count[i] for i in items) / len(items))
        top = own == (5 if (own == 5).any() else 1)
        both = top.any() and not top.all()
        assert difference == pytest.approx(
            abs(own[top].mean() - own[~top].mean()) if both else 0.0)


def test_length_variance_by_hand():
    rows = Interactions(np.repeat([0, 1, 2], [1, 2, 6]), np.arange(9))
    data = Dataset("d", tuple("abcd"), tuple("abcdefghi"), rows, rows[:0], rows[:0])
    assert length_variance(data) == pytest.approx([2 / 14, 1 / 14, 3 / 14, np.nan], nan_ok=True)


@pytest.mark.parametrize("explicit", [True, False])
def test_similarity_against_pairs(explicit):
    data = Blocks(users=30, items=24, length=14, explicit=explicit).load()
    table = np.full((30, 24), np.nan)
    table[data.train.users, data.train.items] = data.train.ratings if explicit else 1.0
    like = np.zeros((30, 30))
    for u, v in itertools.product(range(30), repeat=2):
        both = ~np.isnan(table[u]) & ~np.isnan(table[v])
        if not explicit:
            like[u, v] = both.sum() / np.sqrt((~np.isnan(table[u])).sum()
                                              * (~np.isnan(table[v])).sum())
        elif both.sum() > 1 and np.ptp(table[u, both]) and np.ptp(table[v, both]):
            like[u, v] = np.corrcoef(table[u, both], table[v, both])[0, 1]
    np.fill_diagonal(like, -np.inf)
    nearest = np.sort(like, axis=1)[:, -5:].mean(axis=1)
    assert similarity_degree(data, 5) == pytest.approx(nearest, abs=1e-9)


# -- methods -----------------------------------------------------------------------------------

def test_propagation_against_dense_matrices(blocks, table):
    mean_u, mean_i, mean = np.nanmean(table, 1), np.nanmean(table, 0), np.nanmean(table)
    weight = np.nan_to_num(1 + abs(table - mean_u[:, None]) / mean_u[:, None]
                           + abs(table - mean_i) / mean_i + abs(table - mean) / mean)
    rows = blocks.train
    assert edge_weights(blocks) == pytest.approx(weight[rows.users, rows.items])
    to_users = weight / weight.sum(axis=1, keepdims=True)
    to_items = weight.T / weight.T.sum(axis=1, keepdims=True)
    seeds = np.arange(blocks.n_users) < 4
    p = seeds.astype(float)
    for _ in range(7):
        p = to_users @ (to_items @ p)
        p[seeds] = 1
    assert propagate(blocks, seeds, 7) == pytest.approx(p)


def test_mutual_information_against_pairs():
    data = Blocks(users=30, items=24, length=14).load()
    has = np.zeros((30, 24))
    has[data.train.users, data.train.items] = 1
    count = has @ has.T
    np.fill_diagonal(count, 0)
    count[count <= 4] = 0
    total = count.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.log2(count * total.sum() / np.outer(total, total)) - np.log2(1.1)
    bits = np.where((count > 0) & (bits > 0), bits, 0)
    assert sppmi(data, 1.1, 4).toarray() == pytest.approx(bits / bits.max())
    with pytest.raises(PluginError, match="no embedding to learn"):
        CoDetector(negatives=1e9).clean(data, CTX)


@pytest.mark.parametrize("explicit", [True, False])
def test_factors_are_where_nothing_improves(explicit):
    data = Blocks(users=30, items=24, length=14, explicit=explicit).load()
    rng = np.random.default_rng(0)
    factors = Factors(*rating_table(data, CTX), sppmi(data, 1.0, 4), 3, 0.1, rng)
    before = factors.loss()
    for _ in range(5):
        factors.sweep()
        assert factors.loss() <= before + 1e-9
        before = factors.loss()
    for step in (1e-3, -1e-3):  # c was solved for last
        factors.c += step
        assert factors.loss() > before
        factors.c -= step


def test_users_are_solved_for_exactly():
    data = Blocks(users=30, items=24, length=14).load()
    rng = np.random.default_rng(0)
    factors = Factors(*rating_table(data, CTX), sppmi(data, 1.0, 4), 3, 0.1, rng)
    factors.w, factors.c = rng.normal(size=30), rng.normal(size=30)
    held = [factors.q.copy(), factors.g.copy(), factors.w.copy(), factors.c.copy()]
    factors.sweep()
    factors.q, factors.g, factors.w, factors.c = held  # p was solved for first, given these
    best = factors.loss()
    for _ in range(20):
        factors.p += (step := rng.normal(size=factors.p.shape) * 1e-3)
        assert factors.loss() > best
        factors.p -= step


def test_naive_bayes_from_labels_alone_is_scikit_learns():
    from sklearn.naive_bayes import GaussianNB

    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(0, 1, (40, 3)), rng.normal(1, 2, (20, 3))] * [1, 10, 0.1]
    y, other = np.arange(60) >= 40, rng.normal(0, 2, (30, 3)) * [1, 10, 0.1]
    log = GaussianNB(var_smoothing=1e-15).fit(x, y).predict_joint_log_proba(other)
    assert NaiveBayes(x, y, other, 0.0, 5)(other) == pytest.approx(log[:, 1] - log[:, 0])


def test_one_round_of_em_against_loops():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(0, 1, (12, 2)), np.arange(12) >= 8
    x[labels] += 2
    free, other = rng.normal(1, 2, (9, 2)), rng.normal(0, 2, (5, 2))
    fake = 1 / (1 + np.exp(-NaiveBayes(x, labels, free, 0.0, 0)(free)))
    both = np.r_[x, free]
    log = []
    for kind in (False, True):
        weight = np.r_[labels == kind, 0.3 * (fake if kind else 1 - fake)]
        mean = (weight[:, None] * both).sum(axis=0) / weight.sum()
        variance = (weight[:, None] * (both - mean)**2).sum(axis=0) / weight.sum()
        prior = weight.sum() / (12 + 0.3 * 9)
        log.append(np.log(prior) - sum(np.log(2 * np.pi * v) / 2 + (other[:, k] - m)**2 / (2 * v)
                                       for k, (m, v) in enumerate(zip(mean, variance,
                                                                      strict=True))))
    assert NaiveBayes(x, labels, free, 0.3, 1)(other) == pytest.approx(log[1] - log[0], rel=1e-6)


def test_unlabelled_users_improve_naive_bayes():
    """Few labels place the fakes badly; EM finds where most of them are."""
    rng = np.random.default_rng(3)
    x = np.r_[rng.normal(0, 1, (10, 2)), rng.normal(2, 1, (3, 2))]
    free = np.r_[rng.normal(0, 1, (400, 2)), rng.normal(2, 1, (200, 2))]
    labels, truth = np.arange(13) >= 10, np.arange(600) >= 400

    def right(weight):
        return ((NaiveBayes(x, labels, free, weight, 20)(free) > 0) == truth).mean()

    assert right(0.5) > right(0.0)
    assert NaiveBayes(x, labels, free, 0.5, 0)(free) == pytest.approx(
        NaiveBayes(x, labels, free, 0.0, 20)(free))


def test_on_implicit_data_the_features_used_are_named():
    data = attacked(Blocks(users=80, items=60, length=16, explicit=False).load(),
                    "random-profiles")
    facts = SemiFilter().facts(data, SemiFilter().clean(data, CTX))
    assert facts["features"] == ["DegSim", "LengthVar"]


# -- weighting ---------------------------------------------------------------------------------

def test_a_forest_walks_down_its_trees():
    forest = NeuralForest(4, 3, 2, CTX, "test")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(forest.routes(x).sum(dim=2), torch.ones(5, 3))
    expected = torch.zeros(5, 2)
    for tree in range(3):
        d = torch.sigmoid(x @ forest.weight[tree].T + forest.bias[tree])  # (5, 3): root, its two
        leaf = forest.leaf[tree].softmax(dim=1)
        routes = (d[:, 0] * d[:, 1], d[:, 0] * (1 - d[:, 1]),
                  (1 - d[:, 0]) * d[:, 2], (1 - d[:, 0]) * (1 - d[:, 2]))
        expected += sum(r[:, None] * leaf[k] for k, r in enumerate(routes)) / 3
    assert torch.allclose(forest(x), expected, atol=1e-6)


def weighted(data: Dataset, **params: object) -> tuple[_Weighted, TorchRecommender]:
    model = build(BPRMF(dim=8, epochs=3, batch_size=64, optimizer="sgd", learning_rate=0.5,
                        patience=0), data, CTX)
    assert isinstance(model, TorchRecommender)
    return _Weighted(GraphRfi(**params), Loop(model, NoDefense())), model


def test_the_twin_starts_from_the_model_and_gives_it_what_it_learned(blocks):
    run, model = weighted(blocks)
    users = torch.arange(blocks.n_users)
    assert torch.equal(run.twin.scores(users), model.scores(users))
    before = model.scores(users).clone()
    run.run_epoch(1)
    assert torch.equal(run.twin.scores(users), model.scores(users))
    assert not torch.equal(before, model.scores(users))


def test_users_without_weight_teach_nothing(blocks):
    run, model = weighted(blocks)
    users = torch.arange(blocks.n_users)
    run.weight[:] = 0
    before = model.scores(users).clone()
    run.run_epoch(1)
    assert torch.equal(before, model.scores(users))
    run, model = weighted(blocks)
    run.weight[:] = 0
    run.weight[7] = 1
    kept = model.tables()["user"].weight.detach().clone()
    run.run_epoch(1)
    moved = (model.tables()["user"].weight != kept).any(dim=1)
    assert moved.nonzero()[:, 0].tolist() == [7]


def test_own_fakes_lose_their_weight(blocks):
    run, _ = weighted(blocks, train_budget=0.3, steps=100)
    for epoch in (1, 2, 3):
        run.run_epoch(epoch)
    own = run.fake
    assert run.weight[own].mean() < run.weight[~own].mean() - 0.2
    notes = run.loop.notes["graphrfi"]
    assert notes["own_auc"] > 0.9
    assert notes["own_fakes"] == int(own.sum())


def test_who_loses_more_than_half_of_the_weight_it_can_lose_is_taken_for_a_fake(blocks):
    """Counted by hand, with the truth that the training does not see."""
    made = Registry().make("attacks", {"name": "random-profiles",
                                       "params": {"budget": 0.2, "length": 15}})
    poisoned = made.poison(blocks, CTX)
    run, _ = weighted(poisoned, train_budget=0.3, steps=100, strength=0.8)
    for epoch in (1, 2, 3):
        run.run_epoch(epoch)
    notes, weight = run.loop.notes["graphrfi"], run.weight[:poisoned.n_users].numpy()
    taken, fake = weight < 1 - 0.8 / 2, np.arange(poisoned.n_users) >= poisoned.n_genuine
    assert 0 < taken.sum() < poisoned.n_users
    assert notes["flagged"] == taken.sum()
    assert notes["precision"] == pytest.approx((taken & fake).sum() / taken.sum())
    assert notes["recall"] == pytest.approx((taken & fake).sum() / fake.sum())
    assert notes["false_positives"] == pytest.approx(taken[~fake].mean())
    pairs = [(f < g) + 0.5 * (f == g) for f in weight[fake] for g in weight[~fake]]
    assert notes["auc"] == pytest.approx(np.mean(pairs), abs=1e-3)
    assert notes["taken_for_fakes"] == "P(fake) above ½, a weight below 0.6"


@pytest.mark.parametrize("patience", [0, 1])
def test_no_epoch_without_weights_is_kept(blocks, patience):
    """A validation score that only falls would otherwise keep the first, where all count 1."""
    hyper = BPRMF(dim=4, epochs=3, learning_rate=1e-6, patience=patience, batch_size=64)
    model = build(hyper, blocks, CTX)
    fit = stages.train(model, GraphRfi(), lambda event: None)
    assert fit.best_epoch >= 2
    assert len(fit.history) == (fit.epochs - 1 if patience else 0)
    assert "second epoch" in GraphRfi().unfit(BPRMF(epochs=1), blocks)
    assert GraphRfi(strength=0.0).unfit(BPRMF(epochs=1), blocks) is None


def test_weighting_says_what_it_cannot_act_on(blocks):
    registry = Registry()
    for name, why in (("pop", "no vector per user"), ("SASRec", "no vector per user"),
                      ("fcf", "no vector per user"), ("text-sasrec", "no vector per user"),
                      ("FM", "one table")):
        model = registry.make("models", {"name": name, "params": {}})
        assert why in GraphRfi().unfit(model, blocks)
