"""The exact radius, and that no attack of ours ever beats it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.attacks.fgsm import FGSM
from bench.attacks.noise import Noise
from bench.attacks.pgd import PGD
from bench.context import Context
from bench.data import Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.oracle import leave_radius, pairwise_radius, worst_direction

K = 5


@pytest.fixture(scope="module")
def model() -> BprRecommender:
    """A bprmf trained on structured data, with a bias."""
    made = build(BPRMF(dim=8, epochs=40, batch_size=512, learning_rate=0.03, bias=True,
                       patience=0), Blocks().load(), Context(0))
    assert isinstance(made, BprRecommender)
    made.fit(NoDefense(), lambda event: None)
    return made


def random_vectors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return (torch.randn(6, 4, generator=stream, dtype=torch.float64),
            torch.randn(12, 4, generator=stream, dtype=torch.float64),
            torch.randn(12, generator=stream, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pairwise_radius_is_exact(norm: str) -> None:
    """Just inside the radius the order holds, just outside the worst direction turns it."""
    p, q, b = random_vectors(0)
    chosen = torch.tensor([0, 1, 2, 3, 4, 5])
    radius = pairwise_radius(p, q, chosen, b, norm)
    checked = 0
    for u in range(6):
        for j in range(12):
            r = radius[u, j]
            if r <= 0 or j == chosen[u]:
                continue
            for share, holds in [(1 - 1e-6, True), (1 + 1e-6, False)]:
                d = worst_direction(q, chosen[u:u + 1], torch.tensor([j]), r[None] * share, norm)
                size = d.norm() if norm == "l2" else d.abs().max()
                assert float(size) == pytest.approx(float(r) * share, rel=1e-12)
                s = (p[u] + d[0]) @ q.T + b
                assert bool(s[chosen[u]] > s[j]) is holds
            checked += 1
    assert checked > 20


def test_pairwise_radius_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0]])
    q = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    chosen = torch.tensor([0])
    l2 = pairwise_radius(p, q, chosen)[0].tolist()
    assert l2 == [0.0, pytest.approx(3 / 5), 0.0, pytest.approx(-3 / 5)]
    assert pairwise_radius(p, q, chosen, norm="linf")[0, 1] == pytest.approx(3 / 7)
    bias = torch.tensor([0.5, 0.0, 0.0, 1.0])
    assert pairwise_radius(p, q, chosen, bias)[0, 2] == math.inf
    assert pairwise_radius(p, q, torch.tensor([2]), bias)[0, 0] == -math.inf


def test_leave_radius_counts_rivals_and_exclusions() -> None:
    p, q = torch.tensor([[1.0]]), torch.tensor([[10.0], [9.0], [5.0], [20.0]])
    chosen = torch.tensor([0])
    # Radii: 1/1 over item 1, 5/5 over item 2 (one dimension), item 3 is above already.
    assert leave_radius(p, q, chosen, 1).item() == 0.0
    assert leave_radius(p, q, chosen, 2).item() == 1.0
    assert leave_radius(p, q, chosen, 4).item() == math.inf
    assert leave_radius(p, q, chosen, 9).item() == math.inf
    hidden = torch.tensor([[False, False, False, True]])
    assert leave_radius(p, q, chosen, 1, excluded=hidden).item() == 1.0


def one_row(seed: int) -> tuple[BprRecommender, Dataset]:
    """A bprmf on a dataset whose train split is a single row."""
    one = np.zeros(1, np.int64)
    data = Dataset(name="one", user_ids=("u",), item_ids=("a", "b"), train=Interactions(one, one),
                   valid=Interactions.empty(), test=Interactions(one, one + 1))
    made = build(BPRMF(dim=32, init_std=0.3), data, Context(seed))
    assert isinstance(made, BprRecommender)
    return made, data


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_user_fgsm_on_one_triple_takes_exactly_the_dual_norm(seed: int, norm: str,
                                                             dual: int) -> None:
    model, data = one_row(seed)
    model.module.double()
    q = model.module.items.weight.detach()
    before = model.scores(torch.tensor([0]))[0]
    for attack in (FGSM(eps=0.7, norm=norm, tables="user"),
                   PGD(eps=0.7, norm=norm, tables="user", steps=8)):
        delta = attack.perturbation(model, data, Context(seed))
        with model.perturbed(delta):
            after = model.scores(torch.tensor([0]))[0]
        change = float((after[0] - after[1]) - (before[0] - before[1]))
        assert change == pytest.approx(-0.7 * float((q[0] - q[1]).norm(p=dual)), rel=1e-6)


def top(scores: Tensor) -> Tensor:
    return scores.topk(K, dim=1).indices


def attacks(norm: str, eps: float) -> list[Noise | FGSM | PGD]:
    common = {"norm": norm, "eps": eps, "tables": "user"}
    return [Noise(**common), FGSM(**common), FGSM(**common, source="test"),
            PGD(**common, steps=20), PGD(**common, steps=20, random_start=True, source="test")]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_attack_wins_below_the_bound(model: BprRecommender, norm: str) -> None:
    """On a trained model: whoever leaves the top K had a bound below ε; some did leave."""
    data, m = model.data, model.module
    users = torch.arange(data.n_users)
    excluded = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    excluded[data.train.users, data.train.items] = True
    clean = top(model.scores(users).masked_fill(excluded, -math.inf))  # (U, K)
    bound = torch.stack([leave_radius(m.users.weight.detach(), m.items.weight.detach(), column, K,
                                      m.bias.detach(), norm, excluded)
                         for column in clean.T], dim=1)  # (U, K)
    assert (bound > 0).any()
    left_at_all, permitted, safe = 0, 0, 0
    for eps in bound.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist():
        for attack in attacks(norm, eps):
            delta = attack.perturbation(model, data, Context(1))
            with model.perturbed(delta):
                now = top(model.scores(users).masked_fill(excluded, -math.inf))
            left = ~(clean[:, :, None] == now[:, None, :]).any(dim=2)  # (U, K)
            assert not (left & (bound > eps * (1 + 1e-4))).any(), attack.label()
            left_at_all += int(left.sum())
            permitted += int((bound <= eps).sum())
            safe += int((bound > eps).sum())
    assert safe > 500  # the bound said something
    assert 0 < left_at_all <= permitted


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_bound_would_catch_an_overspent_budget(model: BprRecommender, norm: str) -> None:
    """Negative control: three times the stated ε, and items leave below the bound."""
    data, m = model.data, model.module
    excluded = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    excluded[data.train.users, data.train.items] = True
    users = torch.arange(data.n_users)
    clean = top(model.scores(users).masked_fill(excluded, -math.inf))
    bound = torch.stack([leave_radius(m.users.weight.detach(), m.items.weight.detach(), column, K,
                                      m.bias.detach(), norm, excluded)
                         for column in clean.T], dim=1)
    eps = float(bound.median())
    delta = PGD(norm=norm, eps=3 * eps, tables="user").perturbation(model, data, Context(1))
    with model.perturbed(delta):
        now = top(model.scores(users).masked_fill(excluded, -math.inf))
    left = ~(clean[:, :, None] == now[:, None, :]).any(dim=2)
    assert (left & (bound > eps)).any()


def test_a_large_enough_budget_breaks_everything(model: BprRecommender) -> None:
    """Hardly an item stays in place when vectors may move many times their own length."""
    data = model.data
    users = torch.arange(data.n_users)
    clean = top(model.scores(users))
    delta = PGD(eps=20.0, relative=True, source="train").perturbation(model, data, Context(0))
    with model.perturbed(delta):
        now = top(model.scores(users))
    kept = (clean[:, :, None] == now[:, None, :]).any(dim=2).double().mean()
    assert kept < 0.1
