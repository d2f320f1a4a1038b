"""Private ALS: sensitivity of its sums, noise, what is left without noise, and what it spends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import als, dpals
from bench.accounting import gaussian_epsilon
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.defenses.pca_filter import PcaFilter
from bench.models._als import AlsRecommender
from bench.models._dpals import DpalsRecommender, _once
from bench.models.als import ALS
from bench.models.base import build
from bench.models.dpals import DPALS

OFF = {"noise_multiplier": 0.0, "row_clip": math.inf, "max_interactions": 999}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=60, items=32, explicit=True).load()


def trained(data: Dataset, plugin, seed: int = 0):  # type: ignore[no-untyped-def]
    model = build(plugin, data, Context(seed))
    assert isinstance(model, AlsRecommender)
    return model, model.fit(NoDefense(), lambda event: None)


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_without_noise_and_bounds_it_is_als(data, feedback):
    common = {"feedback": feedback, "dim": 6, "iterations": 4, "reg": 2.0}
    more = {"centre": "scale"} if feedback == "explicit" else {}
    plain, _ = trained(data, ALS(**common, **more))
    private, fit = trained(data, DPALS(**common, **OFF))
    for key, weight in plain.state().items():
        assert torch.allclose(private.state()[key], weight, rtol=1e-5, atol=1e-6), key
    assert DPALS().spent(fit) == {}


def test_a_round_is_the_papers_formula_item_by_item():
    """Every item's system written out, with noise whose draws are made again."""
    rng = np.random.default_rng(5)
    values = als.csr_matrix((rng.random((9, 4)) < 0.5) * rng.normal(size=(9, 4)))
    users, d = rng.normal(size=(9, 3)), 3
    bounds = dpals.Bounds(row=0.8, entry=2.0, most=4, noise=0.7)
    found = dpals.solve_items(values, users, 1.5, bounds, np.random.default_rng(1))
    draws = np.random.default_rng(1)
    upper, g = draws.standard_normal((4, d, d)), draws.standard_normal((4, d))
    dense = values.toarray()
    for j in range(4):
        A, b, G = np.zeros((d, d)), np.zeros(d), np.zeros((d, d))
        for u in range(9):
            p = users[u] * min(1.0, 0.8 / np.linalg.norm(users[u]))
            if dense[u, j]:
                A += np.outer(p, p)
                b += dense[u, j] * p
        for x in range(d):
            for y in range(x, d):
                G[x, y] = G[y, x] = upper[j, x, y]
        A += 0.8**2 * math.sqrt(4) * 0.7 * G
        w, q = np.linalg.eigh(A)
        A = sum(max(w[n], 0) * np.outer(q[:, n], q[:, n]) for n in range(d))
        b += 0.8 * 2.0 * math.sqrt(4) * 0.7 * g[j]
        assert np.allclose(found[j], np.linalg.solve(A + 1.5 * np.eye(d), b))


def sums(values: als.Matrix, users: np.ndarray, bounds: dpals.Bounds):  # type: ignore
    """The noiseless sums, as the server would meet them."""
    p = dpals.clip_rows(users, bounds.row)
    A = np.zeros((values.shape[1], p.shape[1], p.shape[1]))
    b = np.zeros(A.shape[:2])
    for rows, some, right in als.normal(values.T.tocsr(), p, 0.0):
        A[rows], b[rows] = some, right
    return A, b, p.T @ p


@pytest.mark.parametrize("explicit", [False, True])
def test_one_user_moves_each_sum_by_no_more_than_the_noise_is_made_for(data, explicit):
    """Brute force over all users: ‖ΔA‖ ≤ √k Γ_u², ‖Δb‖ ≤ √k Γ_u Γ_M, ‖ΔG‖ ≤ Γ_u²."""
    model = build(DPALS(feedback="explicit" if explicit else "implicit"), data, Context(0))
    assert isinstance(model, DpalsRecommender)
    bounds = dpals.Bounds(row=0.9, entry=2.0 if explicit else 1.0, most=5, noise=0.0)
    own = model.values
    twice = als.csr_matrix((np.repeat(own.data, 2), np.repeat(own.indices, 2), own.indptr * 2),
                           own.shape)  # a history in which every pair stands twice
    values = model.sampled(_once(twice, bounds.entry, explicit), bounds,
                           np.random.default_rng(0))
    assert np.diff(values.indptr).max() == 5
    users = np.random.default_rng(3).normal(size=(data.n_users, 4)) * 3
    whole = sums(values, users, bounds)
    most = [0.0, 0.0, 0.0]
    for user in range(data.n_users):
        keep = np.arange(data.n_users) != user
        without = sums(values[keep], users[keep], bounds)
        for n in range(3):
            most[n] = max(most[n], float(np.linalg.norm(whole[n] - without[n])))
    root = math.sqrt(5)
    for moved, bound in zip(most, (root * 0.9**2, root * 0.9 * bounds.entry, 0.9**2),
                            strict=True):
        assert moved <= bound * (1 + 1e-9)
        assert moved >= bound * 0.75  # the bound is used
    assert most[0] == pytest.approx(root * 0.9**2)


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_one_user_moves_what_training_noises_by_no_more_than_the_noise(data, feedback, monkeypatch):
    """From two adjacent data sets through one whole round: every sum on its way to the noise
    differs by at most what that noise is made for. Users have more items than enter the sums."""
    met: list[tuple[np.ndarray, float]] = []

    def noised(self, sums, size, rng):  # type: ignore[no-untyped-def]
        met.append((sums.copy(), size))
        return sums

    monkeypatch.setattr(dpals.Bounds, "noised", noised)
    monkeypatch.setattr(dpals.Bounds, "noised_symmetric", noised)
    plugin = DPALS(feedback=feedback, row_clip=0.02, max_interactions=3, reg=1.0, init_std=0.5,
                   iterations=1, noise_multiplier=0.0)
    used, found = np.zeros(3), []
    for absent in range(-1, 12):
        met.clear()
        trained(data.without_users(np.arange(data.n_users) == absent), plugin)
        found.append(list(met))
    assert all(len(f) == (3 if feedback == "implicit" else 2) for f in found)
    for without in found[1:]:
        for n, ((whole, size), (less, same)) in enumerate(zip(found[0], without, strict=True)):
            assert size == same
            moved = float(np.linalg.norm(whole - less))
            assert moved <= size * (1 + 1e-9)
            used[n] = max(used[n], moved / size)
    assert used[:len(found[0])].min() > 0.5  # and the bounds are used


def test_the_sum_over_all_users_is_noised_by_its_own_bound():
    """From choices: (α Π(A + noise) + Π(PᵀP + Γ_u² σ G) + λI)⁻¹ (1 + α)(b + noise)."""
    rng = np.random.default_rng(5)
    values = als.csr_matrix((rng.random((9, 4)) < 0.5).astype(float))
    users = rng.normal(size=(9, 3))
    bounds = dpals.Bounds(row=0.6, entry=1.0, most=4, noise=0.5)
    found = dpals.solve_items(values, users, 1.5, bounds, np.random.default_rng(1), alpha=2.0)
    draws = np.random.default_rng(1)
    upper, g, more = (draws.standard_normal(shape) for shape in ((4, 3, 3), (4, 3), (3, 3)))
    A, b, G = sums(values, users, bounds)

    def symmetric(x):  # type: ignore[no-untyped-def]
        return np.triu(x) + np.triu(x, 1).T

    everywhere = dpals.psd(G + 0.6**2 * 0.5 * symmetric(more))
    for j in range(4):
        own = dpals.psd(A[j] + 0.6**2 * 2 * 0.5 * symmetric(upper[j]))
        right = 3 * (b[j] + 0.6 * 2 * 0.5 * g[j])
        assert np.allclose(found[j], np.linalg.solve(2 * own + everywhere + 1.5 * np.eye(3),
                                                     right))


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
@pytest.mark.parametrize("sampling", ["uniform", "tail"])
def test_training_meets_only_what_the_noise_is_made_for(data, feedback, sampling, monkeypatch):
    """Pairs once, entries clipped, at most k of a user, and the plugin's own bounds and noise."""
    met = []

    def iterations(values, sampled, items, reg, count, bounds, rng, *, alpha):  # type: ignore
        met.append((values, sampled, bounds))
        yield np.zeros((data.n_users, 8)), items

    monkeypatch.setattr(dpals, "iterations", iterations)
    rows = data.train
    loud = replace(rows, ratings=np.where(rows.items % 2 == 0, 9.0, rows.ratings))
    twice = data.replace(train=loud.plus(rows))
    _, fit = trained(twice, DPALS(feedback=feedback, sampling=sampling, max_interactions=3,
                                  row_clip=0.7))
    (values, sampled, bounds), = met
    pairs = np.unique(rows.users * data.n_items + rows.items)
    assert values.nnz <= len(pairs)
    assert np.diff(sampled.indptr).max() == 3
    entry = 2.0 if feedback == "explicit" else 1.0
    assert np.abs(sampled.data).max() <= entry
    assert (bounds.row, bounds.entry, bounds.most) == (0.7, entry, 3)
    assert bounds.noise == fit.notes["dp"]["noise_multiplier"] > 0


def test_counts_for_the_rarest_items_are_noised_by_what_one_user_moves(data):
    """k items of a user move the counts by √k, and the noise is σ times that."""
    model = build(DPALS(sampling="tail"), data, Context(0))
    assert isinstance(model, DpalsRecommender)
    bounds = dpals.Bounds(1.0, 1.0, 4, 0.8)
    found = model.sampled(model.values, bounds, np.random.default_rng(2))
    uniform = build(DPALS(), data, Context(0))
    counts = np.asarray(uniform.sampled(  # type: ignore[attr-defined]
        model.values, bounds, np.random.default_rng(9)).sum(axis=0)).ravel()
    noised = counts + 0.8 * 2.0 * np.random.default_rng(2).standard_normal(data.n_items)
    for user in range(data.n_users):
        own = model.values[user].indices
        rarest = own[np.argsort(noised[own], kind="stable")[:4]]
        assert set(found[user].indices.tolist()) == set(rarest.tolist())


def test_what_a_user_sends_does_not_depend_on_the_others(data):
    flagged = np.arange(data.n_users) == 7
    bounds = dpals.Bounds(1.0, 1.0, 5, 0.0)
    found = []
    for one in (data, data.without_users(flagged)):
        model = build(DPALS(), one, Context(0))
        assert isinstance(model, DpalsRecommender)
        found.append(model.sampled(model.values, bounds, np.random.default_rng(0)).toarray())
    assert (found[0][~flagged] == found[1][~flagged]).all()
    assert found[0][7].sum() == 5
    assert not found[1][7].any()


def test_the_rarest_items_are_taken_where_asked_for(data):
    made = []
    for sampling in ("uniform", "tail"):
        model = build(DPALS(sampling=sampling), data, Context(0))
        assert isinstance(model, DpalsRecommender)
        bounds = dpals.Bounds(1.0, 1.0, 4, 1e-9)
        taken = model.sampled(model.values, bounds, np.random.default_rng(0))
        made.append((data.popularity * np.asarray(taken.sum(axis=0)).ravel()).sum())
    assert made[1] < 0.95 * made[0]


def test_noise_is_symmetric_of_the_stated_size_and_on_every_item():
    bounds = dpals.Bounds(1.0, 1.0, 4, 0.5)
    big = np.broadcast_to(np.eye(3) * 100, (4000, 3, 3))  # far from the projection
    noise = bounds.noised_symmetric(big, 2.0, np.random.default_rng(0)) - big
    assert np.allclose(noise, noise.transpose(0, 2, 1))
    assert np.std(noise, axis=0) == pytest.approx(np.full((3, 3), 1.0), rel=0.05)
    assert abs(np.corrcoef(noise[:, 0, 1], noise[:, 0, 2])[0, 1]) < 0.06
    empty = als.csr_matrix((6, 5))
    users = np.random.default_rng(1).normal(size=(6, 3))
    found = dpals.solve_items(empty, users, 1.0, bounds, np.random.default_rng(2))
    assert (np.linalg.norm(found, axis=1) > 0).all()


def test_the_projection_is_the_nearest_without_negative_eigenvalues():
    rng = np.random.default_rng(0)
    some = rng.normal(size=(3, 4, 4))
    some = some + some.transpose(0, 2, 1)
    made = dpals.psd(some)
    assert np.linalg.eigvalsh(made).min() > -1e-9
    for matrix, near in zip(some, made, strict=True):
        best = np.linalg.norm(matrix - near)
        for _ in range(200):  # no other is nearer
            root = np.linalg.cholesky(near + 1e-6 * np.eye(4)) + rng.normal(size=(4, 4)) * 0.1
            assert np.linalg.norm(matrix - root @ root.T) >= best - 1e-5


@pytest.mark.parametrize(("feedback", "sampling", "count"), [
    ("explicit", "uniform", 2 * 3), ("implicit", "uniform", 3 * 3), ("implicit", "tail", 10)])
def test_spent_is_what_was_asked_for_all_its_gaussians(data, feedback, sampling, count):
    plugin = DPALS(feedback=feedback, sampling=sampling, iterations=3, epsilon=2.0, delta=1e-4)
    _, fit = trained(data, plugin)
    spent = plugin.spent(fit)
    assert spent["epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert spent["delta"] == 1e-4
    sigma = fit.notes["dp"]["noise_multiplier"]
    assert fit.notes["dp"]["gaussians"] == count
    assert gaussian_epsilon(sigma / math.sqrt(count), 1e-4) == pytest.approx(2.0, rel=1e-6)


def test_beside_a_defense_that_read_everybody_nothing_is_quoted(data):
    model = build(DPALS(), data, Context(0))
    fit = model.fit(PcaFilter(), lambda event: None)
    assert DPALS().spent(fit) == {}
    assert "pca-filter" in fit.notes["dp"]["void"]


def test_much_noise_leaves_chance_and_little_leaves_als():
    from bench.evaluate import evaluate

    data = Blocks(users=400, items=60, length=20).load()

    def auc(plugin, seed=0):  # type: ignore[no-untyped-def]
        return evaluate(trained(data, plugin, seed)[0], data, ["auc"]).values[0][2]

    common = {"dim": 8, "reg": 1.0, "init_std": 0.5, "iterations": 3}
    loud = [auc(DPALS(noise_multiplier=1e4, **common), seed) for seed in range(3)]
    assert np.mean(loud) == pytest.approx(0.5, abs=0.08)
    quiet = auc(DPALS(noise_multiplier=1e-3, **common))
    assert quiet == pytest.approx(auc(ALS(**common)), abs=0.05)
    assert quiet > 0.65
