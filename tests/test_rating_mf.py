"""Matrix factorisation of ratings: its loss by hand, its rows, and what it learns on real data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.none import NoDefense
from bench.models.base import TorchRecommender, build
from bench.models.rating_mf import RatingMF

CTX = Context(0)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks().load()


def labelled(data: Dataset, threshold: float = 4.0) -> Dataset:
    """The data with rows below the threshold kept as disliked."""
    parts = {}
    for split in ("train", "valid", "test"):
        rows: Interactions = getattr(data, split)
        parts[split] = dataclasses.replace(
            rows, labels=(rows.ratings >= threshold).astype(np.int8))
    return data.replace(threshold=threshold, **parts)


def model(data: Dataset, **params: object) -> TorchRecommender:
    made = build(RatingMF(**params), data, CTX)
    assert isinstance(made, TorchRecommender)
    return made


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_squared_error_with_the_norms_of_each_rows_parameters(blocks, reduction):
    made = model(blocks, dim=3, l2=0.1, reduction=reduction)
    m = made.module
    with torch.no_grad():
        m.user_bias.normal_(generator=torch.Generator().manual_seed(1))
        m.item_bias.normal_(generator=torch.Generator().manual_seed(2))
    batch = next(iter(made.batches(1, 7)))
    losses = []
    for u, i, r in zip(batch["users"].tolist(), batch["items"].tolist(),
                       batch["ratings"].tolist()):
        p, q = m.users.weight[u].detach().numpy(), m.items.weight[i].detach().numpy()
        b_u, b_i = float(m.user_bias[u].detach()), float(m.item_bias[i].detach())
        error = r - (blocks.train.ratings.mean() + b_u + b_i + p @ q)
        losses.append(error**2 + 0.1 * (p @ p + q @ q + b_u**2 + b_i**2))
    expected = np.mean(losses) if reduction == "mean" else np.sum(losses)
    assert float(made.batch_loss(batch).detach()) == pytest.approx(expected, rel=1e-5)
    assert made.sums_loss == (reduction == "sum")


def test_scores_are_the_predictions_of_the_pairs(blocks):
    made = model(blocks)
    made.fit(NoDefense(), lambda event: None)
    users, items = torch.tensor([3, 7]), torch.tensor([5, 0])
    with torch.no_grad():
        assert torch.allclose(made.scores(users)[[0, 1], items], made.predict(users, items))


def test_rows_below_the_threshold_teach(blocks):
    data = labelled(blocks)
    assert RatingMF().unfit(data) is None
    made = model(data)
    batch = next(iter(made.batches(1, 10**6)))
    low = data.train.ratings < 4
    assert low.sum() > 50
    pairs = set(zip(batch["users"].tolist(), batch["items"].tolist(), batch["ratings"].tolist()))
    assert pairs == set(zip(data.train.users.tolist(), data.train.items.tolist(),
                            data.train.ratings.tolist()))
    assert len(batch["users"]) == len(data.train)
    plain = model(blocks)  # the same rows without labels: the same loss
    assert torch.equal(made.batch_loss(batch), plain.batch_loss(batch))


def test_a_fakes_low_ratings_teach_where_the_data_keeps_such_rows(blocks):
    fakes = Interactions(np.zeros(3, np.int64), np.arange(3), np.array([1.0, 5.0, 2.0]),
                         np.zeros(3))
    for data in (blocks, labelled(blocks)):
        made = model(data.with_fakes(fakes, 1))
        batch = next(iter(made.batches(1, 10**6)))
        mine = batch["users"] == data.n_users
        assert sorted(batch["ratings"][mine].tolist()) == [1.0, 2.0, 5.0]
        assert float(made.module.centre) == pytest.approx(
            np.r_[data.train.ratings, 1, 5, 2].mean())


def test_order_of_real_rows_does_not_change_when_fakes_are_added(blocks):
    fakes = Interactions(np.zeros(2, np.int64), np.arange(2), np.array([1.0, 5.0]), np.zeros(2))
    clean, poisoned = model(blocks), model(blocks.with_fakes(fakes, 1))
    first, second = (next(iter(m.batches(3, 10**6))) for m in (clean, poisoned))
    real = second["users"] < blocks.n_users
    for key in ("users", "items", "ratings"):
        assert torch.equal(first[key], second[key][real])


def test_it_says_why_it_cannot_learn(blocks):
    assert "has none" in RatingMF().unfit(Blocks(explicit=False).load())
    dropped = labelled(blocks)
    keep = dropped.train.labels == 1
    dropped = dropped.replace(train=dataclasses.replace(dropped.train[keep], labels=None))
    assert "below: keep" in RatingMF().unfit(dropped)
    same = blocks.replace(train=dataclasses.replace(
        blocks.train, ratings=np.full(len(blocks.train), 3.0)))
    assert "every rating" in RatingMF().unfit(same)
    assert "scale" in RatingMF(centre="scale").unfit(blocks.replace(rating_scale=None))


def test_the_mean_of_all_users_is_no_matter_of_one_user(blocks):
    assert "user-separable" not in RatingMF().gives
    assert "user-separable" in RatingMF(centre="scale").gives
    assert "centre: scale" in DpSgd().unfit(RatingMF(), blocks)
    private = RatingMF(centre="scale", epochs=2, dim=4)
    assert DpSgd().unfit(private, blocks) is None
    assert float(build(private, blocks, CTX).module.centre) == 3.0


def test_on_movielens_it_predicts_ratings_better_than_biases_alone():
    """Ridge biases (Koren et al.) are what any factor model has to beat."""
    data = ML100K(split="ratio-random", threshold=4.0).load()
    assert data.has_labels
    rows = data.train.plus(data.valid)
    mu = rows.ratings.mean()
    b_u, b_i = np.zeros(data.n_users), np.zeros(data.n_items)
    for _ in range(15):
        for bias, own, other in ((b_i, rows.items, b_u[rows.users]),
                                 (b_u, rows.users, b_i[rows.items])):
            n = np.bincount(own, minlength=len(bias))
            bias[:] = np.bincount(own, rows.ratings - mu - other, len(bias)) / (n + 5)
    test = data.test
    biases = np.sqrt(np.mean((test.ratings - mu - b_u[test.users] - b_i[test.items])**2))
    made = model(data, dim=16, epochs=10, batch_size=1024, learning_rate=0.01, l2=0.1,
                 patience=0)
    made.fit(NoDefense(), lambda event: None)
    with torch.no_grad():
        said = made.predict(torch.as_tensor(test.users), torch.as_tensor(test.items)).numpy()
    rmse = np.sqrt(np.mean((test.ratings - said)**2))
    assert 0.85 < rmse < biases < 0.97, (rmse, biases)
