"""FCF: what a client solves and uploads, by hand, and the centralised descent on the same sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import _federation as fed
from bench import dp
from bench._rounds import Rounds
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.federated import Federated
from bench.evaluate import evaluate
from bench.models._fcf import FcfRecommender
from bench.models.base import build
from bench.models.fcf import FCF
from bench.perturb import attack_batches, mean_loss
from bench.training import Loop

HYPER = {"dim": 5, "alpha": 3.0, "reg": 0.7}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=30, items=24).load()


def started(data: Dataset, **params: object) -> FcfRecommender:
    model = build(FCF(**{**HYPER, **params}), data, Context(0))
    assert isinstance(model, FcfRecommender)
    return model


def choices(data: Dataset) -> np.ndarray:
    r = np.zeros((data.n_users, data.n_items))
    r[data.train.users, data.train.items] = 1
    return r


def solved(q: np.ndarray, row: np.ndarray) -> np.ndarray:
    """p_u = (Qᵀ C_u Q + λI)⁻¹ Qᵀ C_u r_u, with C_u written out."""
    c = np.diag(1 + HYPER["alpha"] * row)
    return np.linalg.inv(q.T @ c @ q + HYPER["reg"] * np.eye(q.shape[1])) @ q.T @ c @ row


def terms(q: np.ndarray, row: np.ndarray) -> np.ndarray:
    """f(u, j) = c_uj (r_uj − p_u·q_j) p_u for all j: (items, d)."""
    p = solved(q, row)
    return ((1 + HYPER["alpha"] * row) * (row - q @ p))[:, None] * p[None, :]


def objective(q: np.ndarray, r: np.ndarray) -> float:
    """J at the users' best vectors."""
    total = HYPER["reg"] * (q**2).sum()
    for row in r:
        p = solved(q, row)
        total += ((1 + HYPER["alpha"] * row) * (row - q @ p) ** 2).sum()
        total += HYPER["reg"] * (p**2).sum()
    return float(total)


def items_of(model: FcfRecommender) -> np.ndarray:
    return model.module.items.weight.detach().double().numpy().copy()


def test_the_loss_is_the_objective_and_its_gradient_the_papers_sum(data):
    model, r = started(data), choices(data)
    q = items_of(model)
    loss = model.batch_loss({"users": torch.arange(30)})
    assert float(loss.detach()) == pytest.approx(objective(q, r), rel=1e-5)
    found = torch.autograd.grad(loss, model.module.items.weight)[0].double().numpy()
    expected = -2 * sum(terms(q, row) for row in r) + 2 * HYPER["reg"] * q
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)
    step = 1e-5  # users answer with their best vectors: to first order that changes nothing
    for at in ((0, 0), (7, 3), (23, 4)):
        moved = [q.copy(), q.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        slope = (objective(moved[0], r) - objective(moved[1], r)) / (2 * step)
        assert slope == pytest.approx(expected[at], rel=1e-5, abs=1e-6)


def test_a_client_uploads_its_own_terms(data):
    """−2 f(u, j), and its even part of 2 λ q_j, from its own row and Q alone."""
    model, r = started(data), choices(data)
    pool = dp.UserRows(model, 1)
    batch, counts = pool.take(torch.tensor([4, 11]), 0, 9)
    made = next(fed.vectorised(model, fed.Layout(model, pool), batch, counts, fed.Local()))
    q = items_of(model)
    for k, u in enumerate((4, 11)):
        expected = -2 * terms(q, r[u]) + 2 * HYPER["reg"] * q / 30
        assert np.allclose(made.shared["items.weight"][k].numpy(), expected, rtol=1e-3, atol=1e-5)
        assert (np.abs(expected).sum(axis=1) > 0).all()  # every row: which were taken is not seen
    assert made.own == {}


def test_a_client_uploads_the_same_whoever_else_has_rows(data):
    """To the bit: clipping an upload bounds what a user does only if others' do not move."""
    fewer = data.without_users(np.isin(np.arange(30), [0, 4, 17]))
    uploads = []
    for on in (data, fewer):
        model = started(on)
        pool = dp.UserRows(model, 1)
        batch, counts = pool.take(torch.tensor([11, 29]), 0, 9)
        made = next(fed.vectorised(model, fed.Layout(model, pool), batch, counts, fed.Local()))
        uploads.append(made.shared["items.weight"])
    assert torch.equal(*uploads)
    r = choices(fewer)
    q = items_of(model)
    expected = sum(-2 * terms(q, row) + 2 * HYPER["reg"] * q / 30 for row in r if row.any())
    found = torch.autograd.grad(model.batch_loss(next(model.batches(1, 30))),
                                model.module.items.weight)[0].double().numpy()
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_clients_are_centralised_descent_on_the_same_sums(data, optimizer):
    """Solve all users, sum up, step; in numpy, with Adam as Kingma and Ba (2015) write it."""
    rate = 0.002 if optimizer == "sgd" else 0.05
    model, r = started(data, optimizer=optimizer, learning_rate=rate), choices(data)
    q, m, v = items_of(model), 0.0, 0.0
    engine = Rounds(Federated(clients=0, clip=np.inf), Loop(model, Federated()))
    for t in range(1, 7):
        engine.run_epoch(t)
        g = -2 * sum(terms(q, row) for row in r) + 2 * HYPER["reg"] * q
        if optimizer == "sgd":
            q = q - rate * g
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            q = q - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert np.allclose(items_of(model), q, atol=2e-4)
    before = items_of(started(data))
    assert np.abs(q - before).max() > 0.05


def test_scores_are_those_of_the_solved_vectors(data):
    model, r = started(data), choices(data)
    q = items_of(model)
    found = model.scores(torch.tensor([3, 20]))
    for k, u in enumerate((3, 20)):
        assert np.allclose(found[k].numpy(), q @ solved(q, r[u]), atol=1e-5)
    nobody = np.arange(30) == 3
    bare = started(data.without_users(nobody)).scores(torch.tensor([3]))
    assert not bare.any()  # no row, no vector


def test_federated_it_learns_as_it_does_in_one_place():
    larger = Blocks(users=120, items=60, length=20).load()
    values = []
    for federated in (False, True):
        model = build(FCF(dim=8, learning_rate=0.05, epochs=15, batch_size=40, patience=0), larger,
                      Context(0))
        from bench.defenses.none import NoDefense

        defense = Federated(clients=40, secure="masks") if federated else NoDefense()
        model.fit(defense, lambda event: None)
        values.append(evaluate(model, larger, ["auc"]).values[0][2])
    assert values[0] > 0.65
    assert values[1] == pytest.approx(values[0], abs=0.05)


def test_attacks_may_take_the_loss_of_the_test_positives(data):
    model = started(data)
    train, test = (mean_loss(model, attack_batches(model, source)) for source in ("train", "test"))
    assert np.isfinite([train, test]).all()
    assert train != test


def test_data_too_wide_for_flags_is_refused(data):
    wide = data.replace(item_ids=range(1 << 27))
    assert "a flag per user and item" in (FCF().unfit(wide) or "")
