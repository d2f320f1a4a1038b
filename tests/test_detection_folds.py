"""What each learning detector learns from and whom it judges, written out user by user."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses import semi_filter
from bench.defenses.fap_filter import FapFilter, propagate
from bench.defenses.graphrfi import GraphRfi, _Weighted
from bench.defenses.none import NoDefense
from bench.defenses.semi_filter import SemiFilter
from bench.detection_features import degree_features, length_variance, parts, similarity_degree
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.rowloss import row_terms
from bench.training import Loop

CTX = Context(0)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(users=40, items=40, length=14).load()


def test_the_lower_quartile_of_profiles_of_every_length():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(12), np.arange(1, 13))
    items = np.concatenate([rng.choice(20, n, replace=False) for n in range(1, 13)])
    rows = Interactions(users, items)
    data = Dataset("d", tuple(map(str, range(12))), tuple(map(str, range(20))), rows, rows[:0],
                   rows[:0])
    degree = np.bincount(items, minlength=20)
    for user, features in enumerate(degree_features(data)):
        own = sorted(degree[items[users == user]])
        assert features.tolist() == [pytest.approx(np.mean(own)), own[-1] - own[0],
                                     own[int((len(own) - 1) / 4)]]


def test_own_fakes_are_judged_by_seeds_of_other_campaigns(blocks):
    detector = FapFilter(folds=3, train_budget=0.3)
    data, campaign = detector.with_own_fakes(blocks, 3, CTX)
    fake, fold = campaign >= 0, parts(campaign, 3, CTX)
    by = np.stack([propagate(data, fake & (fold != k), 5) for k in range(3)])  # (3, users)
    found = detector.judge(data, campaign, CTX)
    for user in range(data.n_users):
        assert found[user] == pytest.approx(by[fold[user], user] if fake[user]
                                            else by[:, user].mean())
    assert found[fake].max() < 1  # which is what a seed would have


def test_naive_bayes_judges_nobody_by_the_own_label(blocks, monkeypatch):
    learned = []

    class Spy(semi_filter.NaiveBayes):
        def __init__(self, features, labels, free, weight, rounds):
            learned.append((features, labels, free))
            super().__init__(features, labels, free, weight, rounds)

        def __call__(self, features):
            if len(learned[-1]) == 3 and features is not learned[-1][2]:
                learned[-1] += (features,)
            return super().__call__(features)

    monkeypatch.setattr(semi_filter, "NaiveBayes", Spy)
    implicit = blocks.replace(train=Interactions(blocks.train.users, blocks.train.items),
                              valid=blocks.valid[:0], test=blocks.test[:0], threshold=None,
                              rating_scale=None)
    detector = SemiFilter(folds=2, train_budget=0.3, assumed=0.5, neighbours=5)
    data, campaign = detector.with_own_fakes(implicit, 2, CTX)
    fake, fold = campaign >= 0, parts(campaign, 2, CTX)
    table = np.column_stack([similarity_degree(data, 5), length_variance(data)])
    trusted = CTX.stream("semi-filter", "assumed").random(len(fake)) < 0.5
    detector.judge(data, campaign, CTX)
    for part, (features, labels, free, judged) in enumerate(learned):
        taught = (fold != part) & (fake | trusted)
        assert np.array_equal(features, table[taught])
        assert np.array_equal(labels, fake[taught])
        assert np.array_equal(free, table[~taught & ~fake])  # no fake whose label is held back
        assert np.array_equal(judged, table[fold == part])
    assert len(learned) == 2


def test_the_residual_is_a_users_mean_loss_however_many_rows(blocks):
    rows = blocks.train[(blocks.train.users > 2) | (np.arange(len(blocks.train)) % 3 == 0)]
    data = blocks.replace(train=rows)  # some users have a third of the others' rows
    model = build(BPRMF(dim=4, epochs=3, batch_size=64, optimizer="sgd", learning_rate=1e-12,
                        patience=0), data, CTX)
    assert isinstance(model, TorchRecommender)
    run = _Weighted(GraphRfi(train_budget=0.3), Loop(model, NoDefense()))
    seen = []
    run.judge = seen.append  # type: ignore[method-assign]
    run.run_epoch(1)
    losses: dict[int, list[float]] = {}
    for batch in run.twin.batches(1, 64):
        terms = row_terms(run.twin, batch)
        for user, loss in zip(terms.users.tolist(), terms.losses.tolist(), strict=True):
            losses.setdefault(user, []).append(loss)
    assert len({len(own) for own in losses.values()}) > 1
    for user, own in losses.items():
        assert float(seen[0][user]) == pytest.approx(np.mean(own), rel=1e-4)
    assert torch.isfinite(seen[0]).all()
