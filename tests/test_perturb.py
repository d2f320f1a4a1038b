"""Balls, projections and gradients of rows against slow, obvious references."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bench.context import Context
from bench.datasets.blocks import Blocks
from bench.errors import PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.perturb import (
    attack_batches,
    gradient,
    mean_loss,
    project,
    row_norms,
    steepest,
    still_share,
    uniform_in_ball,
)


def make(**hyper: object) -> BprRecommender:
    """An untrained bprmf with vectors large enough for the loss to be curved."""
    data = Blocks(users=12, items=16, length=6).load()
    model = build(BPRMF(dim=5, init_std=0.5, bias=True, **hyper), data, Context(3))
    assert isinstance(model, BprRecommender)
    return model


@pytest.fixture(params=["mean", "sum"])
def model(request: pytest.FixtureRequest) -> BprRecommender:
    return make(reduction=request.param)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_steepest_beats_any_other_step_of_its_length(norm: str) -> None:
    stream = torch.Generator().manual_seed(0)
    g = torch.randn(20, 7, generator=stream, dtype=torch.float64)
    step = steepest(g, 0.3, norm)
    torch.testing.assert_close(row_norms(step, norm), torch.full((20,), 0.3, dtype=torch.float64))
    best = (step * g).sum(dim=1)
    for _ in range(200):
        other = project(torch.randn(20, 7, generator=stream, dtype=torch.float64), 0.3, norm)
        assert ((other * g).sum(dim=1) <= best + 1e-12).all()


def test_a_row_without_gradient_stays() -> None:
    g = torch.tensor([[0.0, 0.0], [3.0, -4.0]])
    assert steepest(g, 1.0, "l2").tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(-.8)]]
    assert steepest(g, 1.0, "linf").tolist() == [[0.0, 0.0], [1.0, -1.0]]
    assert still_share(steepest(g, 1.0, "l2")) == 0.5


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-20, 1.0, 1e20, 1e38])
def test_steps_have_their_length_where_squares_under_or_overflow(size: float) -> None:
    """A saturated loss has gradients whose squares underflow in float32."""
    step = steepest(torch.tensor([[0.75, -1.0]]) * size, 0.5, "l2")
    assert float(step.double().norm()) == pytest.approx(0.5, rel=1e-6)
    assert step[0, 0] > 0 > step[0, 1]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projection_is_the_nearest_point_of_the_ball(norm: str) -> None:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(30, 4, generator=stream, dtype=torch.float64)
    x[0] *= 1e-3  # inside
    x[1] = 0.0
    y = project(x, 0.8, norm)
    assert (row_norms(y, norm) <= 0.8 * (1 + 1e-12)).all()
    inside = row_norms(x, norm) <= 0.8
    assert inside.any()
    assert not inside.all()
    assert torch.equal(y[inside], x[inside])
    distance = (x - y).norm(dim=1)
    for _ in range(300):
        other = uniform_in_ball(x, 0.8, norm, stream)
        assert ((x - other).norm(dim=1) >= distance - 1e-12).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_uniform_in_ball_fills_the_ball_evenly(norm: str) -> None:
    """The volume within a share t of the radius is t^d: so norm^d is uniform on (0, 1)."""
    d = 6
    x = uniform_in_ball(torch.zeros(20_000, d), 2.0, norm, torch.Generator().manual_seed(2))
    share = (row_norms(x, norm) / 2.0) ** d
    assert float(share.max()) <= 1 + 1e-5
    steps = torch.linspace(0, 1, 21)
    found = torch.histc(share, 20, 0, 1) / len(x)
    assert (found - (steps[1:] - steps[:-1])).abs().max() < 0.006
    assert x.mean(dim=0).abs().max() < 0.03


def triples(model: BprRecommender) -> Iterator[tuple[int, int, int]]:
    for batch in model.batches(0, 1):
        yield int(batch["users"]), int(batch["items"]), int(batch["negatives"])


def by_hand(model: BprRecommender) -> tuple[Tensor, Tensor, float]:
    """Gradient and loss of BPR, one triple at a time, from the formula, in float64."""
    p, q = (t.rows().double() for t in (model.tables()["user"], model.tables()["item"]))
    assert model.module.bias is not None
    b = model.module.bias.detach().double()
    gp, gq, loss, n = torch.zeros_like(p), torch.zeros_like(q), 0.0, 0
    for u, i, j in triples(model):
        margin = float(p[u] @ (q[i] - q[j]) + b[i] - b[j])
        loss += math.log1p(math.exp(-margin))
        pull = 1 / (1 + math.exp(margin))  # −dloss/dmargin
        gp[u] -= pull * (q[i] - q[j])
        gq[i] -= pull * p[u]
        gq[j] += pull * p[u]
        n += 1
    return gp / n, gq / n, loss / n


def test_gradient_equals_one_triple_at_a_time(model: BprRecommender) -> None:
    expected_user, expected_item, expected_loss = by_hand(model)
    grads, loss = gradient(model, model.batches(0, 7), ["user", "item"])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    torch.testing.assert_close(grads["user"].double(), expected_user, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(grads["item"].double(), expected_item, rtol=1e-4, atol=1e-8)


def test_gradient_equals_finite_differences_at_a_perturbed_point(model: BprRecommender) -> None:
    model.module.double()
    stream = torch.Generator().manual_seed(4)
    delta = {k: torch.randn(t.rows().shape, generator=stream, dtype=torch.float64) * 0.3
             for k, t in model.tables().items()}
    batches = attack_batches(model)
    grads, _ = gradient(model, batches, delta, delta)
    for key, row, column in [("user", 0, 0), ("user", 7, 3), ("item", 2, 4), ("item", 11, 1)]:
        moved = {k: v.clone() for k, v in delta.items()}
        moved[key][row, column] += 1e-6
        up = mean_loss(model, batches, moved)
        moved[key][row, column] -= 2e-6
        slope = (up - mean_loss(model, batches, moved)) / 2e-6
        assert float(grads[key][row, column]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_gradient_and_loss_do_not_depend_on_how_rows_are_cut(model: BprRecommender) -> None:
    whole, loss = gradient(model, model.batches(0, 10_000), ["user", "item"])
    assert len(attack_batches(model)) == 1
    for size in (1, 5, 32):
        parts, other = gradient(model, model.batches(0, size), ["user", "item"])
        assert other == pytest.approx(loss, rel=1e-6)
        for key in whole:
            torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-8)


def test_summed_and_mean_losses_give_the_same_gradient() -> None:
    (a, la), (b, lb) = (gradient(m, m.batches(0, 9), ["user"])
                        for m in (make(reduction="mean"), make(reduction="sum")))
    assert la == pytest.approx(lb, rel=1e-6)
    torch.testing.assert_close(a["user"], b["user"], rtol=1e-4, atol=1e-8)


def test_loss_equals_the_loss_of_gradient(model: BprRecommender) -> None:
    batches = attack_batches(model)
    delta = {k: torch.full_like(t.rows(), 0.1) for k, t in model.tables().items()}
    assert mean_loss(model, batches, delta) == pytest.approx(
        gradient(model, batches, delta, delta)[1], rel=1e-12)
    assert mean_loss(model, batches) != mean_loss(model, batches, delta)


def test_pairs_limits_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    total = len(model.data.train)
    assert sum(len(b["users"]) for b in attack_batches(model)) == total
    first = next(iter(model.batches(0, total)))
    few = attack_batches(model, pairs=5)
    assert [len(b["users"]) for b in few] == [5]
    assert torch.equal(few[0]["items"], first["items"][:5])
    monkeypatch.setattr("bench.perturb.ATTACK_ROWS", 4)
    assert [len(b["users"]) for b in attack_batches(model, pairs=10)] == [4, 4, 4]
    assert [len(b["users"]) for b in attack_batches(model, pairs=8)] == [4, 4]


def test_draws_repeat_the_rows_with_other_negatives() -> None:
    model = make()
    n = len(model.data.train)
    batches = attack_batches(model, draws=3)
    assert [len(b["users"]) for b in batches] == [n, n, n]
    assert torch.equal(batches[0]["negatives"], attack_batches(model)[0]["negatives"])
    triples = [set(zip(*(b[c].tolist() for c in ("users", "items", "negatives")), strict=True))
               for b in batches]
    pairs = [{(u, i) for u, i, _ in t} for t in triples]
    assert pairs[0] == pairs[1] == pairs[2]
    assert len(triples[0] & triples[1]) < n / 2
    trained = [b["negatives"] for e in (1, 2) for b in model.batches(e, n)]
    assert not any(torch.equal(b["negatives"], t) for b in batches for t in trained)


def test_a_loss_without_negatives_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(model, "batches",
                        lambda epoch, size, source: iter([{"users": torch.arange(4)}]))
    assert len(attack_batches(model, draws=5)) == 1


@pytest.mark.parametrize("order", ["rows", "users"])
def test_attacks_take_every_row_once_however_epochs_are_made(order: str) -> None:
    model = make(order=order)
    pairs = sorted((int(u), int(i)) for b in attack_batches(model)
                   for u, i in zip(b["users"], b["items"], strict=True))
    train = model.data.train
    assert pairs == sorted(zip(train.users.tolist(), train.items.tolist(), strict=True))


def test_test_positives_as_source(model: BprRecommender) -> None:
    batches = attack_batches(model, "test")
    pairs = {(int(u), int(i)) for b in batches
             for u, i in zip(b["users"], b["items"], strict=True)}
    rows = model.data.truth("test")
    assert pairs == set(zip(rows.users.tolist(), rows.items.tolist(), strict=True))


def test_loss_with_delta_is_the_loss_of_changed_parameters(model: BprRecommender) -> None:
    """functional_call and an in-place change must agree: one differentiates, one scores."""
    batches = attack_batches(model)
    stream = torch.Generator().manual_seed(5)
    delta = {k: torch.randn(t.rows().shape, generator=stream) for k, t in model.tables().items()}
    aside = mean_loss(model, batches, delta)
    with model.perturbed(delta):
        assert mean_loss(model, batches) == pytest.approx(aside, rel=1e-6)


def test_perturbed_gives_the_exact_bits_back(model: BprRecommender) -> None:
    before = model.state()
    delta = {k: torch.full_like(t.rows(), 1 / 3) for k, t in model.tables().items()}
    users = torch.arange(4)
    clean = model.scores(users)
    with model.perturbed(delta):
        assert not torch.equal(model.scores(users), clean)
    with pytest.raises(RuntimeError, match="stop"), model.perturbed(delta):
        raise RuntimeError("stop")
    after = model.state()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(model.scores(users), clean)


def test_a_model_without_rows_to_attack_is_named():
    class Silent(BprRecommender):
        def batches(self, epoch, size, source="train"):  # type: ignore[no-untyped-def]
            nobody = torch.empty(0, dtype=torch.long)
            yield {"users": nobody, "items": nobody, "negatives": nobody}

    data = Blocks(users=12, items=16, length=6).load()
    with pytest.raises(PluginError, match="no batch of the train rows"):
        attack_batches(Silent(BPRMF(), data, Context(0)))
