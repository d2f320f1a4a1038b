"""Metric formulas, against slow obvious references: all orders of equal scores, and sklearn."""

import doctest
import importlib
import itertools
import math
import pkgutil

import numpy as np
import pytest

import bench.metrics
from bench.errors import InputError
from bench.evaluate import check_metrics, parse_metric
from bench.metrics import accuracy, beyond, groups, pointwise
from bench.metrics.names import METRICS
from bench.metrics.ranks import Ranks

MODULES = [m.name for m in pkgutil.iter_modules(bench.metrics.__path__, "bench.metrics.")]


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0
    least = {"accuracy": 8, "beyond": 8, "exposure": 2, "pointwise": 4, "names": 1, "groups": 3,
             "fair": 11}
    assert found.attempted >= least.get(name.rsplit(".")[-1], 0)


def test_every_metric_function_has_an_example():
    for metric in METRICS.values():
        if metric.user is not None:
            assert ">>>" in metric.user.__doc__


# -- plain definitions on one ordered list -------------------------------------------------------

def plain(name, order, relevant, k):
    """A metric of one user whose eligible items stand in this order, by its definition."""
    hits = [1 if i in relevant else 0 for i in order[:k]]
    n = len(relevant)
    if name == "hr":
        return float(any(hits))
    if name == "recall":
        return sum(hits) / n
    if name == "precision":
        return sum(hits) / k
    if name == "f1":
        p, r = sum(hits) / k, sum(hits) / n
        return 2 * p * r / (p + r) if p + r else 0.0
    if name == "ndcg":
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, n)))
        return sum(h / math.log2(j + 2) for j, h in enumerate(hits)) / ideal
    if name == "mrr":
        return next((1 / (j + 1) for j, h in enumerate(hits) if h), 0.0)
    if name == "map":
        return sum(h * sum(hits[:j + 1]) / (j + 1) for j, h in enumerate(hits)) / min(k, n)
    raise KeyError(name)


def orders(scores):
    """All orders of the items by descending score, each tie in every order, all equally likely."""
    blocks = [np.flatnonzero(scores == v).tolist() for v in np.unique(scores)[::-1]]
    for parts in itertools.product(*(itertools.permutations(b) for b in blocks)):
        yield [i for part in parts for i in part]


def ranks_of(scores, relevant):
    better = np.array([(scores > scores[i]).sum() for i in relevant], np.int64)
    tied = np.array([(scores == scores[i]).sum() for i in relevant], np.int64)
    return Ranks.make(np.zeros(len(relevant), np.int64), better, tied, np.array([len(scores)]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["hr", "recall", "precision", "f1", "ndcg", "mrr", "map"])
def test_ties_are_the_mean_over_all_orders(name, seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(2, 7))
    scores = rng.integers(0, int(rng.integers(1, 5)), m).astype(float)
    relevant = rng.choice(m, size=int(rng.integers(1, m + 1)), replace=False).tolist()
    every = list(orders(scores))
    for k in (1, 2, 3, m, m + 3):
        want = np.mean([plain(name, order, relevant, k) for order in every])
        got = METRICS[name].user(ranks_of(scores, relevant), k)
        assert got == pytest.approx([want], abs=1e-12), (k, scores, relevant)


@pytest.mark.parametrize("seed", range(10))
def test_auc_counts_pairs_ties_half(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, 9).astype(float)
    relevant = rng.choice(9, size=int(rng.integers(1, 9)), replace=False)
    others = np.setdiff1d(np.arange(9), relevant)
    want = np.mean([(scores[p] > scores[n]) + 0.5 * (scores[p] == scores[n])
                    for p in relevant for n in others])
    assert accuracy.auc(ranks_of(scores, relevant), 9) == pytest.approx([want], abs=1e-12)


def test_auc_without_others_is_undefined():
    assert np.isnan(accuracy.auc(ranks_of(np.ones(2), [0, 1]), 2)).all()


def test_users_do_not_mix():
    """Many users at once give what each gives alone, whatever the order of their rows."""
    rng = np.random.default_rng(5)
    alone, rows = [], []
    for user in range(20):
        scores = rng.integers(0, 6, 15).astype(float)
        relevant = rng.choice(15, size=int(rng.integers(1, 6)), replace=False)
        r = ranks_of(scores, relevant)
        alone.append(r)
        rows += [(user, g, t) for g, t in zip(r.better, r.tied, strict=True)]
    rows = np.array(rows)[rng.permutation(len(rows))]
    together = Ranks.make(rows[:, 0], rows[:, 1], rows[:, 2], np.full(20, 15))
    for name, metric in METRICS.items():
        if metric.user is not None:
            want = [metric.user(r, 4)[0] for r in alone]
            assert metric.user(together, 4) == pytest.approx(want, abs=1e-12), name


def test_ideal_of_ndcg_comes_from_the_test_set():
    five, second = Ranks.of([[2, 50, 51, 52, 53]], eligible=60), Ranks.of([[2]], eligible=60)
    assert accuracy.ndcg(five, 10)[0] == pytest.approx(0.2140, abs=5e-5)
    assert accuracy.ndcg(second, 10)[0] == pytest.approx(0.6309, abs=5e-5)


def test_perfect_ranking_is_one():
    ranks = Ranks.of([[1, 2, 3], [1]], eligible=30)
    for name in ("hr", "ndcg", "mrr", "map", "recall", "auc"):
        assert METRICS[name].user(ranks, 10) == pytest.approx([1, 1], abs=1e-12), name


def test_long_ties_stay_exact():
    """Constant scores on a large catalogue: the first hit of r in t stands at (t+1)/(r+1) on
    average, and recall@K is K/t."""
    t, r = 5000, 7
    ranks = Ranks.make(np.zeros(r, np.int64), np.zeros(r, np.int64), np.full(r, t), np.array([t]))
    assert accuracy.recall(ranks, 10) == pytest.approx([10 / t])
    miss = math.comb(t - r, 10) / math.comb(t, 10)
    assert accuracy.hr(ranks, 10)[0] == pytest.approx(1 - miss, rel=1e-9)
    first = [math.comb(t - f, r - 1) / math.comb(t, r) for f in range(1, t - r + 2)]
    want = sum(p / f for f, p in enumerate(first, 1))
    assert accuracy.mrr(ranks, t)[0] == pytest.approx(want, rel=1e-9)


# -- beyond accuracy ------------------------------------------------------------------------------

def test_gini_against_mean_differences():
    c = np.random.default_rng(0).poisson(3, 40).astype(float)
    want = np.abs(c[:, None] - c[None, :]).sum() / (2 * len(c) ** 2 * c.mean())
    assert beyond.gini(c) == pytest.approx(want)
    assert np.isnan(beyond.gini(np.zeros(4)))


def test_head_is_a_fifth_of_the_catalogue():
    tail = beyond.long_tail(np.arange(23))
    assert np.flatnonzero(tail == 0).tolist() == [19, 20, 21, 22]


# -- pointwise -------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(8))
def test_pointwise_as_sklearn(seed):
    from sklearn import metrics as sk

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(labels * 0.5), 1)  # with ties
    assert pointwise.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
    assert pointwise.pr_auc(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores))
    said = (scores >= 0).astype(int)
    got = pointwise.at_half(labels, pointwise.probabilities(scores, "logit"))
    assert got["point-accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
    assert got["point-precision"] == pytest.approx(sk.precision_score(labels, said))
    assert got["point-recall"] == pytest.approx(sk.recall_score(labels, said))
    assert got["point-f1"] == pytest.approx(sk.f1_score(labels, said))


def test_pointwise_without_a_meaning_of_half():
    names = {"point-auc", "point-f1"}
    values, why = pointwise.measure(names, np.array([0, 1]), np.array([1.0, 2.0]), "other")
    assert values["point-auc"] == 1.0
    assert np.isnan(values["point-f1"])
    assert "neither probabilities nor logits" in why["point-f1"]
    values, why = pointwise.measure(names, np.array([1, 1]), np.array([1.0, 2.0]), "logit")
    assert np.isnan(values["point-auc"])
    assert "both classes" in why["point-auc"]
    assert values["point-f1"] == 1.0


def test_logistic_does_not_overflow():
    p = pointwise.probabilities(np.array([-1e5, 0.0, 1e5]), "logit")
    assert p.tolist() == [0.0, 0.5, 1.0]


# -- names -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "says"), [
    ("ndgc@10", "did you mean 'ndcg'"), ("hr", "write hr@10"), ("auc@10", "has no list length"),
    ("hr@0", "from 1 on"), ("hr@", "from 1 on"), ("hr@-5", "from 1 on"), ("hr@ten", "from 1 on"),
    ("", "there is no metric"), ("hr@10@20", "from 1 on"), ("hr@1.5", "from 1 on"),
    ("HR@10", "did you mean 'hr'"), ("target-rank@5", "has no list length")])
def test_bad_metric_names(text, says):
    with pytest.raises(InputError, match=says):
        parse_metric(text)


def test_good_metric_names():
    assert (parse_metric("map").k, parse_metric("map@5").k, parse_metric("auc").k) == (None, 5,
                                                                                       None)
    assert [str(m) for m in check_metrics(["hr@10", "mrr", "target-hr@50"])] == [
        "hr@10", "mrr", "target-hr@50"]
    with pytest.raises(InputError, match="stands twice"):
        check_metrics(["hr@10", "hr@010"])


# -- comparisons of groups -------------------------------------------------------------------------

def test_gap_and_worst():
    assert groups.gap([0.5]) != groups.gap([0.5])  # NaN: one group has no gap
    assert groups.gap([0.5, float("nan"), 0.2]) == pytest.approx(0.3)
    assert (groups.worst([0.5, 0.2]), groups.worst([0.5, 0.2], better="low")) == (0.2, 0.5)


def test_small_groups_enter_no_comparison():
    rows = [("hr@10", "sex=F", 0.4), ("hr@10", "sex=M", 0.6), ("hr@10", "sex=X", 0.0)]
    assert groups.compared(rows, {"small_groups": {"sex=X": 3}}, "hr@10", "sex") == {
        "sex=F": 0.4, "sex=M": 0.6}
