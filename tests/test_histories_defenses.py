"""Training on mixtures of items: neighbourhoods, Dirichlet weights, climbing encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import recbole_toy
import torch

from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.neighbourhood_sampling import Mixed, NeighbourhoodSampling
from bench.defenses.none import NoDefense
from bench.defenses.substitution_training import SubstitutionTraining, climbed
from bench.errors import CannotActError
from bench.models import recbole
from bench.models.base import build
from bench.neighbourhoods import (
    NOT_BY_PLACE,
    Neighbourhoods,
    chosen_places,
    neighbourhoods,
)
from bench.training import Loop

SIZES: dict[str, dict[str, Any]] = {"SASRec": {"hidden_size": 16, "inner_size": 32},
                                    "GRU4Rec": {"embedding_size": 16, "hidden_size": 32}}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks().load()


def made(data: Dataset, name: str = "SASRec", **changes: Any) -> Any:
    given = {"max_length": 6, "patience": 0, "batch_size": 16, "learning_rate": 0.01,
             "epochs": 2, **SIZES.get(name, {}), **changes}
    return build(recbole.member(name)(**given), data, Context(0))


def fitted(data: Dataset, defense: Any, name: str = "SASRec", **changes: Any) -> Any:
    model = made(data, name, **changes)
    model.fit(defense, lambda event: None)
    return model


# -- neighbourhoods ----------------------------------------------------------------------------

def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_neighbourhoods_by_hand() -> None:
    rows = np.random.default_rng(3).normal(size=(20, 3))
    found = neighbourhoods(rows, 0.7, 2, 25, 1.5, 0.5, np.random.default_rng(0))
    first = {}
    for i in range(20):
        others = sorted((j for j in range(20) if j != i), key=lambda j: -cosine(rows[i], rows[j]))
        near = [j for j in others if cosine(rows[i], rows[j]) >= 0.7]
        first[i] = set(near if len(near) >= 2 else others[:2])
    for i in range(20):
        second = set().union(*(first[j] for j in first[i])) - first[i] - {i}
        of = {int(v): c for v, c in zip(found.items[i], found.counts[i], strict=True) if c}
        assert of == {**dict.fromkeys(first[i], 1.5), **dict.fromkeys(second, 0.75)}
        assert (found.items[i][found.counts[i] == 0] == i).all()
    assert any(len(first[i]) > 2 for i in range(20))  # both rules were at work
    assert any(len(first[i]) == 2 for i in range(20))


def test_crowded_neighbourhoods_are_cut_at_random() -> None:
    rows = np.random.default_rng(3).normal(size=(40, 2))
    drawn = [neighbourhoods(rows, 0.2, 2, 5, 1.0, 0.5, np.random.default_rng(k)) for k in (0, 1)]
    for found in drawn:
        assert ((found.counts == 1.0).sum(axis=1) == 5).all()
        assert ((found.counts == 0.5).sum(axis=1) <= 5).all()
    assert not np.array_equal(drawn[0].items, drawn[1].items)


def test_more_neighbours_than_there_are_items_cost_no_more() -> None:
    rows, few = np.random.default_rng(0).normal(size=(9, 4)), []
    for most in (8, 10**9):
        few.append(neighbourhoods(rows, 0.2, 3, most, 1.0, 0.5, np.random.default_rng(1)))
    assert few[1].items.shape == (9, 9)
    assert (few[0].items == few[1].items).all()
    assert (few[0].counts == few[1].counts).all()


def test_mixtures_have_the_moments_of_their_dirichlet_distribution() -> None:
    counts = np.array([[1.0, 1.0, 0.5, 0.0]])
    near = Neighbourhoods(np.array([[5, 6, 7, 0]]), counts)
    drawn = near.mixtures(np.zeros(20_000, np.int64), np.random.default_rng(0))
    assert np.allclose(drawn.sum(axis=1), 1)
    assert (drawn >= 0).all()
    assert (drawn[:, 3] == 0).all()
    mean, total = counts[0] / 2.5, 2.5
    assert np.allclose(drawn.mean(axis=0), mean, atol=0.01)
    assert np.allclose(drawn.var(axis=0), mean * (1 - mean) / (total + 1), atol=0.01)


def test_tiny_alphas_still_give_mixtures() -> None:
    near = Neighbourhoods(np.array([[1, 2]]), np.array([[1e-6, 1e-6]]))
    drawn = near.mixtures(np.zeros(500, np.int64), np.random.default_rng(0))
    assert np.allclose(drawn.sum(axis=1), 1)


def test_places_are_a_share_of_the_items_and_at_least_one() -> None:
    items = torch.full((5, 9), -1)
    for row, length in enumerate((9, 4, 3, 1, 0)):
        items[row, :length] = torch.arange(length)
    at = chosen_places(items, 0.5, np.random.default_rng(0))
    assert at.sum(dim=1).tolist() == [4, 2, 1, 1, 0]
    assert not (at & (items < 0)).any()
    often = sum(chosen_places(items[:1], 0.5, np.random.default_rng(k)) for k in range(600))
    assert np.abs(np.asarray(often) / 600 - 4 / 9).max() < 0.08  # every place alike


# -- neighbourhood sampling --------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_what_is_read_lies_in_the_convex_hull_of_neighbours(data: Dataset, name: str) -> None:
    from scipy.optimize import nnls

    model = made(data, name)
    mixed = Mixed(NeighbourhoodSampling(share=0.5, most=3), Loop(model, NoDefense()))
    batch = next(iter(model.batches(1, 8)))
    vectors, items = mixed.vectors(batch, 1).detach(), batch["histories"]
    rows = model.history_table().rows()
    moved = (vectors != rows[items.clamp_min(0)]).any(dim=2) & (items >= 0)
    assert moved.sum(dim=1).tolist() == [max(1, int(n) // 2) for n in batch["lengths"]]
    for row, place in torch.nonzero(moved).tolist():
        item = int(items[row, place])
        near = mixed.near.items[item][mixed.near.counts[item] > 0]
        assert item not in near
        corners = torch.cat([rows[torch.as_tensor(near)].T, torch.ones(1, len(near))])
        wanted = torch.cat([vectors[row, place], torch.ones(1)])
        _, rest = nnls(corners.double().numpy(), wanted.double().numpy())
        assert rest < 1e-5  # a sum of neighbours with weights ≥ 0 that sum to one


def test_the_mixture_is_what_the_model_learns_from(data: Dataset) -> None:
    """Loss and gradient of a step are those of the module fed with the mixture by hand."""
    model = made(data)
    mixed = Mixed(NeighbourhoodSampling(), Loop(model, NoDefense()))
    batch = next(iter(model.batches(1, 8)))
    with model.evaluating():
        vectors = mixed.vectors(batch, 1)
        with model.looking_up(batch["histories"], vectors):
            loss = model.loss(batch)
        m, there = model.module, batch["histories"] >= 0
        looked = torch.where(there[..., None], vectors, m.item_embedding.weight[0])
        place = torch.arange(looked.shape[1])
        read = m.LayerNorm(looked + m.position_embedding(place)[None])
        mask = m.get_attention_mask(torch.where(there, batch["histories"] + 1, 0))
        out = m.trm_encoder(read, mask, output_all_encoded_layers=True)[-1]
        at = batch["targets"] >= 0
        scores = out[at] @ m.item_embedding.weight.T
        by_hand = torch.nn.functional.cross_entropy(scores, batch["targets"][at] + 1)
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert float(loss.detach()) != pytest.approx(float(model.loss(batch).detach()), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, m.item_embedding.weight, retain_graph=True)
    (other,) = torch.autograd.grad(by_hand, m.item_embedding.weight)
    assert torch.allclose(slope[1:], other[1:], atol=1e-6)


def test_draws_do_not_start_over_and_neighbourhoods_follow_the_vectors(data: Dataset) -> None:
    model = made(data)
    mixed = Mixed(NeighbourhoodSampling(rebuild=3), Loop(model, NoDefense()))
    batch, kept = next(iter(model.batches(1, 8))), []
    for epoch in (1, 2, 3, 4, 5):
        first, second = (mixed.vectors(batch, epoch) for _ in range(2))
        assert not torch.equal(first, second)
        kept.append(mixed.near)
    assert kept[0] is kept[1] is kept[2]
    assert kept[3] is not kept[2]
    assert kept[4] is kept[3]


@pytest.mark.parametrize("defense", [NeighbourhoodSampling, SubstitutionTraining])
@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_share_zero_is_none_and_more_is_not(data: Dataset, defense: Any, name: str) -> None:
    plain = fitted(data, NoDefense(), name)
    for share, same in ((0.0, True), (0.5, False)):
        state = fitted(data, defense(share=share), name).state()
        assert all(torch.equal(v, state[k]) for k, v in plain.state().items()) is same


def test_windows_and_prefixes_and_other_models(data: Dataset) -> None:
    for name, more in (("SASRec", {"rows": "prefixes"}), ("STAMP", {})):
        assert fitted(data, NeighbourhoodSampling(), name, epochs=1, **more)
    with pytest.raises(CannotActError, match="place by place"):
        fitted(data, NeighbourhoodSampling(), "SRGNN", epochs=1)
    assert "histories" in str(NeighbourhoodSampling().unfit(recbole.member("BPR")(), data))
    assert NeighbourhoodSampling(share=0.0).unfit(recbole.member("BPR")(), data) is None


SEQUENTIAL = [n for n, k in recbole.facts().items()
              if {"histories", "embeddings", "gradients"} <= set(k["gives"])]
QUICK = ("FPMC", "SRGNN", "BERT4Rec", "SASRec", "GRU4Rec")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow)
                                  for n in SEQUENTIAL])
def test_it_is_known_before_training_whose_places_cannot_be_replaced(name: str) -> None:
    """`unfit` says so exactly where the training would find it out."""
    plugin = recbole_toy.plugin(name, epochs=1, patience=0)
    model = build(plugin, recbole_toy.data(), recbole_toy.CTX)
    try:
        model.fit(SubstitutionTraining(steps=1), lambda event: None)
        found = None
    except CannotActError as error:
        found = str(error)
    for defense in (SubstitutionTraining(), NeighbourhoodSampling()):
        said = defense.unfit(plugin, recbole_toy.data())
        assert (said is None) == (found is None)
        assert str(found).startswith(str(said))
    assert set(SEQUENTIAL) >= NOT_BY_PLACE
    assert SubstitutionTraining(share=0.0).unfit(plugin, recbole_toy.data()) is None
    assert SubstitutionTraining(share=0.0).trained_against() is None
    assert SubstitutionTraining().trained_against() == "substitution"


# -- substitution training ---------------------------------------------------------------------

def test_a_step_of_encodings_by_hand() -> None:
    w = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    slope = torch.tensor([[0.0, 3.0, 4.0], [-5.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    found = climbed(w, slope, 2.0)
    expected = [[1 / 3.8, 1.2 / 3.8, 1.6 / 3.8], [0.0, 0.375, 0.625], [0.0, 1.0, 0.0]]
    assert torch.allclose(found, torch.tensor(expected))  # the last would vanish, and stays


def test_encodings_climb_the_loss_within_the_convex_hull(data: Dataset) -> None:
    model = fitted(data, NoDefense(), epochs=8)
    batch, table = next(iter(model.batches(1, 32))), model.history_table()
    losses = []
    for steps in (1, 3):
        vectors = SubstitutionTraining(share=1.0, steps=steps, step=0.3).vectors(
            model, batch, np.random.default_rng(0))
        with torch.no_grad(), model.evaluating():
            losses.append(float(model.loss(batch)))
            with model.looking_up(batch["histories"], vectors):
                losses.append(float(model.loss(batch)))
    assert losses[0] == losses[2]
    assert losses[0] < losses[1] < losses[3]
    low, high = table.rows().amin(dim=0), table.rows().amax(dim=0)
    assert bool(((vectors >= low - 1e-6) & (vectors <= high + 1e-6)).all())
    assert vectors.requires_grad


def test_slopes_of_encodings_are_finite_differences(data: Dataset) -> None:
    """∂ℓ/∂w is the slope of what is read times the rows; here for one place and item."""
    model = made(data)
    batch, table = next(iter(model.batches(1, 8))), model.history_table()
    items, rows = batch["histories"], table.rows()
    read = rows[items.clamp_min(0)].clone().requires_grad_()
    with model.evaluating():
        with model.looking_up(items, read):
            loss = model.loss(batch)
        (slope,) = torch.autograd.grad(loss, read)
        way, found = rows[11] / rows[11].norm(), []
        for step in (1e-3, -1e-3):
            moved = read.detach().clone()
            moved[0, 0] += step * way
            with torch.no_grad(), model.looking_up(items, moved):
                found.append(float(model.loss(batch).double()))
    assert abs(float(slope[0, 0] @ way)) > 0.01
    assert (found[0] - found[1]) / 2e-3 == pytest.approx(float(slope[0, 0] @ way), rel=5e-2)


def test_the_second_step_learns_from_what_was_climbed(data: Dataset,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each batch a plain step, then one whose loss is that of the mixtures, with their slope."""
    model = made(data, learning_rate=1e-9)
    loop, defense = Loop(model, NoDefense()), SubstitutionTraining(share=1.0, steps=3, step=0.5)
    climb, met, seen = SubstitutionTraining.vectors, [], []
    monkeypatch.setattr(SubstitutionTraining, "vectors", lambda *given: (
        met.append(climb(*given)), met[-1])[1])

    def step(batch: Any, epoch: int) -> float:
        with model.evaluating():
            seen.append((float(model.loss(batch).detach()), batch))
        return seen[-1][0]

    monkeypatch.setattr(loop, "step", step)
    run = defense.wrap(loop)
    assert run is not None
    run(1)
    assert len(seen) == 2 * len(met) > 2
    for (plain, batch), (mixed, same), vectors in zip(seen[::2], seen[1::2], met, strict=True):
        assert same is batch
        with model.evaluating(), model.looking_up(batch["histories"], vectors):
            assert mixed == pytest.approx(float(model.loss(batch).detach()), rel=1e-6)
        assert mixed > plain
