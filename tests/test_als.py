"""Alternating least squares: each half-step against a dense solution, the objective, fold-in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from bench import als
from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.none import NoDefense
from bench.errors import TrainingError
from bench.models._als import AlsRecommender
from bench.models.als import ALS
from bench.models.base import build
from bench.testing import Check, contracts

CTX = Context(0)
MODES = [{"alpha": None}, {"alpha": None, "weighted": True}, {"alpha": 3.0},
         {"alpha": 40.0, "weighted": True}]


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks().load()


def some_values(rows: int = 9, columns: int = 7) -> csr_matrix:
    """A matrix with rows of all lengths, an empty one, and observed zeros."""
    rng = np.random.default_rng(0)
    held = rng.random((rows, columns)) < np.linspace(0.2, 1, rows)[:, None]
    held[3] = False
    at, items = np.nonzero(held)
    starts = np.r_[0, np.bincount(at, minlength=rows).cumsum()]
    return csr_matrix((rng.integers(0, 4, len(at)).astype(float), items, starts),
                      shape=(rows, columns))


def dense_row(values: csr_matrix, factors: np.ndarray, row: int, reg: float,
              alpha: float | None = None, weighted: bool = False) -> np.ndarray:
    """The vector of one row as weighted ridge regression over all columns, written out."""
    items, r = (getattr(values[row], k) for k in ("indices", "data"))
    weight, target = np.full(values.shape[1], 0.0 if alpha is None else 1.0), np.zeros(
        values.shape[1])
    weight[items] = 1.0 if alpha is None else 1 + alpha * r
    target[items] = r if alpha is None else 1.0
    ridge = reg * (max(len(items), 1) if weighted else 1)
    A = factors.T @ np.diag(weight) @ factors + ridge * np.eye(factors.shape[1])
    return np.linalg.inv(A) @ factors.T @ (weight * target)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_half_steps_are_ridge_regressions(mode: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    values = some_values()
    items = np.random.default_rng(1).normal(size=(7, 3))
    expected = [dense_row(values, items, u, 0.3, **mode) for u in range(9)]
    found = als.solve_users(values, items, 0.3, **mode)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert (found[3] == 0).all()
    monkeypatch.setattr(als, "_NUMBERS", 1)  # a row at a time: blocks change nothing
    np.testing.assert_allclose(als.solve_users(values, items, 0.3, **mode), found, rtol=1e-12)
    users = found
    flipped = csr_matrix(values.T)
    np.testing.assert_allclose(als.solve_items(values, users, 0.3, **mode),
                               [dense_row(flipped, users, i, 0.3, **mode) for i in range(7)],
                               rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_objective_falls_with_every_half_step(mode: dict) -> None:
    values, reg = some_values(30, 20), 0.5
    items = als.start(20, 4, np.random.default_rng(0), 0.5)
    users, seen = als.solve_users(values, items, reg, **mode), []
    for _ in range(30):
        items = als.solve_items(values, users, reg, **mode)
        seen.append(als.objective(values, users, items, reg, **mode))
        users = als.solve_users(values, items, reg, **mode)
        seen.append(als.objective(values, users, items, reg, **mode))
    assert (np.diff(seen) <= 1e-9 * seen[0]).all()
    for user, step in ((0, 1e-3), (7, -1e-3)):  # users were last: no small move lowers it further
        moved = users.copy()
        moved[user, 0] += step
        assert als.objective(values, moved, items, reg, **mode) > seen[-1]
    again = als.fit(values, als.start(20, 4, np.random.default_rng(0), 0.5), reg, 30, **mode)
    np.testing.assert_array_equal(again[0], users)
    np.testing.assert_array_equal(again[1], items)


def test_the_objective_by_hand() -> None:
    values = csr_matrix(np.array([[2.0, 0.0], [0.0, 1.0]]))
    users, items = np.array([[1.0], [2.0]]), np.array([[0.5], [-1.0]])
    # errors 2 − 0.5 and 1 − (−2); norms 1 + 4 and 0.25 + 1
    assert als.objective(values, users, items, 0.1) == pytest.approx(1.5**2 + 3**2 + 0.1 * 6.25)
    # confidences 1 + 3·2, 1, 1, 1 + 3·1 and targets 1, 0, 0, 1; said 0.5, −1, 1, −2
    expected = 7 * 0.25 + 1 + 1 + 4 * 9 + 0.1 * 6.25
    assert als.objective(values, users, items, 0.1, alpha=3.0) == pytest.approx(expected)


def model(data: Dataset, seed: int = 0, **params: object) -> AlsRecommender:
    made = build(ALS(**params), data, Context(seed))
    assert isinstance(made, AlsRecommender)
    made.fit(NoDefense(), lambda event: None)
    return made


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_losses_of_all_users_add_up_to_the_objective(blocks: Dataset, feedback: str,
                                                         weighted: bool) -> None:
    events: list[float] = []
    made = build(ALS(dim=4, feedback=feedback, weighted=weighted, iterations=3), blocks, CTX)
    made.fit(NoDefense(), lambda event: events.append(event["loss"]))
    total = sum(float(made.batch_loss(batch).detach()) * len(batch["users"])
                for batch in made.batches(1, 7))
    assert total == pytest.approx(events[-1], rel=1e-4)
    assert len(events) == 3
    assert events == sorted(events, reverse=True)


def test_folding_a_user_in_gives_that_users_vector(blocks: Dataset) -> None:
    rows = blocks.train[blocks.train.users == 11]
    made = model(blocks)
    torch.testing.assert_close(made.fold_in(rows.items), made.module.users.weight[11].detach(),
                               rtol=1e-4, atol=1e-5)
    rated = model(blocks, feedback="explicit", reg=1.0)
    torch.testing.assert_close(rated.fold_in(rows.items, rows.ratings),
                               rated.module.users.weight[11].detach(), rtol=1e-4, atol=1e-5)


def test_seeds_and_fakes(blocks: Dataset) -> None:
    one, again, other = (model(blocks, seed).module.items.weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    fakes = Interactions(np.zeros(3, np.int64), np.arange(3), np.ones(3), np.zeros(3))
    poisoned = blocks.with_fakes(fakes, 1)
    clean, dirty = build(ALS(), blocks, CTX), build(ALS(), poisoned, CTX)
    assert isinstance(clean, AlsRecommender)
    assert isinstance(dirty, AlsRecommender)
    assert torch.equal(clean.module.items.weight, dirty.module.items.weight)


def test_explicit_reads_low_ratings_and_implicit_reads_choices_alone(blocks: Dataset) -> None:
    assert blocks.train.ratings is not None
    low = (blocks.train.ratings < 3).astype(np.int8)
    labelled = blocks.replace(threshold=3.0, train=replace(blocks.train, labels=1 - low))
    liked = labelled.replace(train=labelled.train[low == 0])
    for feedback, same in (("implicit", True), ("explicit", False)):
        a, b = (model(d, feedback=feedback).module.items.weight for d in (labelled, liked))
        assert torch.equal(a, b) is same
    swapped = blocks.replace(train=replace(blocks.train, ratings=6 - blocks.train.ratings))
    assert torch.equal(model(blocks).module.items.weight, model(swapped).module.items.weight)
    up, down = (model(d, feedback="explicit", centre="scale").scores(torch.arange(60))
                for d in (blocks, swapped))
    torch.testing.assert_close(up - 3, 3 - down, rtol=1e-3, atol=1e-3)  # mirrored at the middle


def test_it_says_why_it_cannot_learn(blocks: Dataset) -> None:
    implicit = Blocks(explicit=False).load()
    assert ALS().unfit(implicit) is None
    assert "has none" in str(ALS(feedback="explicit").unfit(implicit))
    cut = blocks.replace(threshold=3.0)
    assert "below: keep" in str(ALS(feedback="explicit").unfit(cut))
    assert "scale" in str(ALS(feedback="explicit", centre="scale").unfit(
        blocks.replace(rating_scale=None)))
    assert "ratings" in ALS(feedback="explicit").gives
    assert "ratings" not in ALS().gives


def test_defenses_of_gradient_training_are_turned_away(blocks: Dataset) -> None:
    for defense in (AdversarialTraining(), DpSgd()):
        assert "gradient" in str(defense.unfit(ALS(), blocks))
        with pytest.raises(TrainingError, match="als has none"):
            build(ALS(), blocks, CTX).fit(defense, lambda event: None)


def test_on_movielens_it_predicts_ratings_as_well_as_is_known_of_it() -> None:
    """ALS-WR on ml-100k reaches an RMSE near 0.92 on a random split (biases alone: 0.94)."""
    data = ML100K(split="ratio-random").load()
    made = model(data, feedback="explicit", weighted=True, reg=0.1, iterations=10)
    said = made.scores(torch.arange(data.n_users)).numpy()[data.test.users, data.test.items]
    assert data.test.ratings is not None
    rmse = np.sqrt(np.mean((np.clip(said, 1, 5) - data.test.ratings)**2))
    assert 0.90 < rmse < 0.935


@pytest.mark.parametrize("check", [c for c in contracts("models", ALS, params={
    "dim": 8, "iterations": 5, "reg": 1.0, "feedback": "explicit"})
    if c.name in ("gives-ratings", "gives-dislikes", "gives-known", "save-and-load")], ids=str)
def test_from_ratings_it_is_what_it_says(check: Check) -> None:
    check.run()
