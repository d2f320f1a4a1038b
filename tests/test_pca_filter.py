"""PCA filtering: the statistic against a dense reference, and what it finds on real data."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.pca_filter import PcaFilter, pca_scores
from bench.models.bprmf import BPRMF

CTX = Context(0)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(users=80, items=60, length=16).load()


@pytest.fixture(scope="module")
def films() -> Dataset:
    return ML100K().load()


def dense_scores(data: Dataset, components: int = 3) -> np.ndarray:
    """The definition, written out: z-scored rows, covariance of users, its eigenvectors."""
    table = np.zeros((data.n_users, data.n_items))
    table[data.train.users, data.train.items] = 1.0 if data.train.ratings is None \
        else data.train.ratings
    z = (table - table.mean(axis=1, keepdims=True)) / table.std(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(z @ z.T / data.n_items)  # ascending
    return (vectors[:, -components:]**2).sum(axis=1)


def with_random(data: Dataset, share: float, kind: str, seed: int = 0) -> Dataset:
    """Fakes made here: as long as genuine users on average, fillers uniform over the catalogue,
    rated around the overall mean (random) or the item's mean (average), five targets highest."""
    rng = np.random.default_rng(seed)
    n_fake = round(share * data.n_genuine)
    length = round(data.activity.mean())
    targets = rng.choice(data.n_items, 5, replace=False)
    items = np.stack([np.r_[targets, rng.choice(np.setdiff1d(np.arange(data.n_items), targets),
                                                length - 5, replace=False)]
                      for _ in range(n_fake)])
    ratings = None
    if data.train.ratings is not None:
        overall, spread = data.train.ratings.mean(), data.train.ratings.std()
        count = np.bincount(data.train.items, minlength=data.n_items)
        total = np.bincount(data.train.items, data.train.ratings, data.n_items)
        mean = np.where(count > 0, total / np.maximum(count, 1), overall)
        centre = np.full(items.shape, overall) if kind == "random" else mean[items]
        ratings = np.clip(np.rint(rng.normal(centre, spread)), 1, 5)
        ratings[:, :5] = 5
        ratings = ratings.ravel()
    times = None if data.train.times is None else np.zeros(items.size)
    return data.with_fakes(Interactions(np.repeat(np.arange(n_fake), length), items.ravel(),
                                        ratings=ratings, times=times), n_fake)


@pytest.mark.parametrize("explicit", [True, False])
def test_scores_are_those_of_the_definition(explicit):
    data = Blocks(users=50, items=40, explicit=explicit).load()
    assert np.allclose(pca_scores(data), dense_scores(data), atol=1e-9)
    assert np.allclose(pca_scores(data, 1), dense_scores(data, 1), atol=1e-9)


def test_scores_are_the_same_each_time_and_do_not_depend_on_the_order_of_rows(blocks):
    order = np.random.default_rng(3).permutation(len(blocks.train))
    shuffled = blocks.replace(train=blocks.train[order])
    assert np.array_equal(pca_scores(blocks), pca_scores(blocks))
    assert np.allclose(pca_scores(blocks), pca_scores(shuffled), atol=1e-9)


def test_it_is_not_told_who_is_fake(blocks):
    """The same rows, with the fakes declared and not: the same users are flagged."""
    poisoned = with_random(blocks, 0.1, "random")
    declared = PcaFilter().flags(poisoned)
    hidden = PcaFilter().flags(poisoned.replace(n_fake=0))
    assert declared.any()
    assert np.array_equal(declared, hidden)


def test_a_share_of_zero_flags_nobody(blocks):
    poisoned = with_random(blocks, 0.1, "random")
    assert PcaFilter(max_share=0.0).clean(poisoned, CTX) is poisoned


def test_no_more_than_the_largest_share_is_flagged_lowest_first(blocks):
    poisoned = with_random(blocks, 0.1, "random")
    few = PcaFilter(threshold=0.1, max_share=0.05).flags(poisoned)
    assert few.sum() == int(0.05 * poisoned.n_users)
    assert pca_scores(poisoned)[few].max() <= pca_scores(poisoned)[~few].min()


def test_users_without_rows_are_never_flagged(blocks):
    gone = blocks.replace(train=blocks.train[blocks.train.users > 9])
    scores = pca_scores(gone)
    assert np.isnan(scores[:10]).all()
    assert np.isfinite(scores[10:]).all()
    assert not PcaFilter(threshold=0.01, max_share=1.0).flags(gone)[:10].any()


def test_cleaning_drops_rows_of_flagged_users_and_renumbers_nobody(blocks):
    poisoned = with_random(blocks, 0.1, "random")
    defense = PcaFilter()
    cleaned = defense.clean(poisoned, CTX)
    flagged = defense.flags(poisoned)
    assert cleaned.user_ids == poisoned.user_ids
    assert not flagged[cleaned.train.users].any()
    assert len(cleaned.train) == int((~flagged[poisoned.train.users]).sum())


def test_facts_count_after_the_fact(blocks):
    poisoned = with_random(blocks, 0.1, "random")  # users 80 to 87 are fake
    flagged = np.zeros(poisoned.n_users, bool)
    flagged[[1, 80, 81, 82]] = True
    facts = PcaFilter().facts(poisoned, poisoned.without_users(flagged))
    assert (facts["flagged"], facts["precision"], facts["recall"]) == (4, 0.75, 3 / 8)
    assert facts["false_positives"] == 1 / 80
    by = facts["false_positives_by_group"]
    assert (by["gender=F"], by["gender=M"]) == (1 / 40, 0.0)
    assert sum(v > 0 for group, v in by.items() if group.startswith("activity=")) == 1
    clean = PcaFilter().facts(blocks, blocks)
    assert (clean["flagged"], clean["precision"], clean["recall"]) == (0, None, None)


def test_more_components_than_users_have_are_turned_away(blocks):
    model = BPRMF()
    assert "80 users" in PcaFilter(components=79).unfit(model, blocks)
    assert PcaFilter(components=79, max_share=0.0).unfit(model, blocks) is None
    assert PcaFilter().unfit(model, blocks) is None


# -- real data ---------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["random", "average"])
def test_known_ranking_of_fakes_on_ml_100k(films, kind):
    """With the number of fakes known, .98 of the lowest 5 % are fake (CATALOGUE D7)."""
    poisoned = with_random(films, 0.05, kind)
    lowest = np.argsort(pca_scores(poisoned))[:poisoned.n_fake]
    assert (lowest >= poisoned.n_genuine).mean() >= 0.9


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("kind", ["random", "average"])
def test_the_threshold_finds_them_without_knowing_how_many(films, kind, share):
    poisoned = with_random(films, share, kind)
    facts = PcaFilter().facts(poisoned, PcaFilter().clean(poisoned, CTX))
    assert facts["recall"] >= 0.95
    assert facts["precision"] >= 0.4
    assert facts["false_positives"] <= 0.015


def test_few_genuine_users_are_flagged_on_clean_data(films):
    facts = PcaFilter().facts(films, PcaFilter().clean(films, CTX))
    assert 0 < facts["false_positives"] <= 0.015
