"""Randomised smoothing: its radii against the exact ones, and against attacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from bench._contracts_defenses import neutral_is_none, runs
from bench._contracts_lab import Lab
from bench._votes import Smoothed
from bench.api import Context, Dataset
from bench.attacks.pgd import PGD
from bench.certificates import binomial_bounds, list_radius, majority_radius
from bench.data import Interactions
from bench.datasets.blocks import Blocks
from bench.defense import Defense
from bench.defenses.randomised_smoothing import RandomisedSmoothing
from bench.errors import CannotActError
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.recbole import member
from bench.oracle import leave_radius, pairwise_radius, worst_direction
from bench.perturb import row_norms
from bench.stages import Prepared

CTX = Context(0)


# -- the formula -------------------------------------------------------------------------------

def test_with_the_exact_share_the_radius_is_that_of_the_linear_scorer() -> None:
    """One rival, one place: p = Φ(ρ/σ), and R is exactly ρ (CATALOGUE D11, A4)."""
    stream = torch.Generator().manual_seed(1)
    p, q = (torch.randn(n, 5, generator=stream, dtype=torch.float64) for n in (40, 2))
    rho = pairwise_radius(p, q, torch.zeros(40, dtype=torch.long))[:, 1].numpy()
    for sigma in (0.3, 2.0):
        spread = sigma * float((q[0] - q[1]).norm())
        margin = (p @ (q[0] - q[1])).numpy()
        told = np.abs(margin / spread) < 5  # further out p is 1 to the last digits
        exact, rho_ = norm.cdf(margin[told] / spread), np.maximum(rho[told], 0)
        assert (rho_ > 0).sum() > 5
        assert np.allclose(majority_radius(exact, sigma), rho_, atol=1e-6)
        assert np.allclose(list_radius(exact, 1 - exact, sigma), rho_, atol=1e-6)


def test_the_radius_is_where_the_worst_shift_takes_the_majority() -> None:
    """On a line: a half line that holds the share p loses half of the votes at R, not before."""
    p, sigma = np.array([0.9]), 0.7
    r = majority_radius(p, sigma)[0]
    edge = sigma * norm.ppf(0.9)  # the half line x < edge, noise around 0
    assert norm.cdf((edge - 0.999 * r) / sigma) > 0.5 > norm.cdf((edge - 1.001 * r) / sigma)
    assert majority_radius(np.array([0.3, 0.0, 0.5]), sigma).tolist() == [0, 0, 0]
    assert list_radius(np.array([0.0, 0.4]), np.array([0.0, 0.6]), sigma).tolist() == [0, 0]
    assert list_radius(np.array([0.4]), np.array([0.0]), sigma)[0] == math.inf


# -- small models whose radii are known ----------------------------------------------------------

def fixed(p: torch.Tensor, q: torch.Tensor) -> BprRecommender:
    """A bprmf with these vectors; each user has taken item 0, which is out of the way."""
    users, zero = np.arange(len(p)), np.zeros(len(p), np.int64)
    data = Dataset(name="fixed", user_ids=tuple(map(str, users)),
                   item_ids=tuple(map(str, range(len(q)))), train=Interactions(users, zero),
                   valid=Interactions.empty(), test=Interactions(users, zero + 1))
    model = build(BPRMF(dim=p.shape[1]), data, CTX)
    assert isinstance(model, BprRecommender)
    with torch.no_grad():
        model.module.users.weight.copy_(p)
        model.module.items.weight.copy_(q)
    return model


def smoothed(model: BprRecommender, **params: object) -> Smoothed:
    served = RandomisedSmoothing(**params).harden(model, model.data, CTX)
    assert isinstance(served, Smoothed)
    return served


@pytest.mark.parametrize("relative", [False, True])
def test_a_single_rival_never_gets_more_than_the_exact_radius_and_nearly_all(
        relative: bool) -> None:
    stream = torch.Generator().manual_seed(2)
    p, q = (torch.randn(n, 4, generator=stream) for n in (60, 3))
    model = fixed(p, q)
    best = 1 + (p @ q[1:].T).argmax(dim=1)  # (60,)
    exact = pairwise_radius(p, q, best).gather(1, (3 - best)[:, None])[:, 0]  # over the other
    unit = float(p.norm(dim=1).median()) if relative else 1.0
    sigma = 0.7 / unit
    served = smoothed(model, sigma=sigma, relative=relative, k=1, draws=1500)
    radius = served.radii(torch.arange(60))[0].gather(1, best[:, None])[:, 0] * unit
    assert (radius <= exact).all()
    near = (exact > 0.3) & (exact < 1.2)  # further out p is too close to 1 to be told from it
    assert near.sum() > 10
    assert (radius[near] > exact[near] - 0.3).all()
    # negative control: the share itself instead of its lower bound exceeds the exact radius
    share = served.scores(torch.arange(60)).gather(1, best[:, None])[:, 0].double().numpy()
    assert (majority_radius(share, sigma * unit) > exact.numpy()).sum() > 10


@pytest.fixture(scope="module")
def model() -> BprRecommender:
    made = build(BPRMF(dim=8, epochs=30, batch_size=512, learning_rate=0.03, patience=0),
                 Blocks().load(), CTX)
    assert isinstance(made, BprRecommender)
    made.fit(Defense(), lambda event: None)
    return made


def test_with_many_rivals_it_stays_below_the_exact_radius(model: BprRecommender) -> None:
    """K = 1, where the smallest ρ over all rivals is the exact radius."""
    users, data = torch.arange(60), model.data
    known = torch.zeros(60, data.n_items, dtype=torch.bool)
    for rows in (data.train, data.valid):
        known[rows.users, rows.items] = True
    best = model.scores(users).masked_fill(known, -torch.inf).argmax(dim=1)
    m = model.module
    exact = leave_radius(m.users.weight.detach(), m.items.weight.detach(), best, 1,
                         excluded=known)
    served = smoothed(model, sigma=0.2, relative=True, k=1, draws=400)
    unit = model.tables()["user"].median_norm("l2")
    found = served.radii(users)[0].gather(1, best[:, None])[:, 0] * unit
    assert (found <= exact).all()
    assert (found > 0).sum() > 5


# -- votes -------------------------------------------------------------------------------------

def test_scores_are_shares_of_noisy_lists(model: BprRecommender) -> None:
    """Against a slow recount with the same noise; the model is put back to the bit."""
    before = {k: v.clone() for k, v in model.state().items()}
    served = smoothed(model, sigma=0.5, draws=7, k=3)
    users, data = torch.arange(60), model.data
    found = served.scores(users)
    stream = CTX.torch_stream("smoothing", "user")
    expected = torch.zeros(60, data.n_items)
    known = data.known("test")
    p, q = before["users.weight"], before["items.weight"]
    for _ in range(7):
        scores = (p + 0.5 * torch.randn(p.shape, generator=stream)) @ q.T
        scores[known.users, known.items] = -torch.inf
        expected.scatter_add_(1, scores.topk(3, dim=1).indices, torch.full((60, 3), 1 / 7))
    assert torch.allclose(found, expected, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state().items())
    assert torch.equal(found, served.scores(users))
    other = served.scores(users, "valid")  # there, validation items are not known yet
    assert not torch.equal(found, other)


def test_an_attack_meets_the_smoothed_model(model: BprRecommender) -> None:
    """The vectors inside move, votes are counted anew, and come back afterwards."""
    data = model.data
    served = smoothed(model, sigma=0.2, draws=50, k=5)
    users = torch.arange(60)
    clean = served.scores(users)
    attack = PGD(eps=1.0, relative=True, steps=3)
    with attack.strike(served, Prepared(data, data, data, None), CTX) as struck:
        assert struck.model is served
        attacked = served.scores(users)
    assert not torch.equal(clean, attacked)
    assert torch.equal(clean, served.scores(users))


def test_no_shift_below_the_radius_removes_a_certified_item(model: BprRecommender) -> None:
    """The user's row moves by 0.97 of the radius in the worst direction over the strongest
    rival, and by pgd; the item keeps the majority, or its place among those served."""
    users, data = torch.arange(60), model.data
    served = smoothed(model, sigma=0.25, draws=400, k=5)
    major, within = served.radii(users)
    q, table = model.module.items.weight.detach(), model.tables()["user"]
    known = torch.zeros(60, data.n_items, dtype=torch.bool)
    for rows in (data.train, data.valid):
        known[rows.users, rows.items] = True
    tried = 0
    for radius in (major, within):
        chosen = torch.where(radius > 0, radius, math.inf).argmin(dim=1)  # the least certain
        r = radius.gather(1, chosen[:, None])[:, 0]
        votes = served.votes(users, "test").masked_fill(known, -1)
        rival = votes.scatter(1, chosen[:, None], -1).argmax(dim=1)
        shifts = [worst_direction(q, chosen, rival, 0.97 * r).float()]
        grad = PGD(eps=1.0, tables="user", steps=4).perturbation(model, data, CTX)["user"]
        shifts.append(grad / row_norms(grad, "l2")[:, None].clamp_min(1e-9)
                      * (0.97 * r)[:, None].float())
        for shift in shifts:
            assert shift.shape == table.rows().shape
            with model.perturbed({"user": shift}):
                served.forget()
                after = served.votes(users, "test")
                mine = after.gather(1, chosen[:, None])[:, 0]
                if radius is major:
                    holds = mine > 0.5 * 400
                else:
                    better = (after.masked_fill(known, -1) > mine[:, None]).sum(dim=1)
                    holds = better < 5
                assert holds[r > 0].all()
            served.forget()
            tried += int((r > 0).sum())
    assert tried > 100


def test_radii_are_those_of_the_bounds_item_by_item(model: BprRecommender) -> None:
    """A slow recount: for each item served its lower bound, and the K-th largest upper bound of
    all other items that the user does not have."""
    served = smoothed(model, sigma=0.4, draws=60, k=4)
    users, known = torch.arange(60), model.data.known("test")
    major, within = (r.numpy() for r in served.radii(users))
    votes = served.votes(users, "test").numpy()
    lower, upper = binomial_bounds(60, 0.001 / (2 * model.data.n_items))
    for u in range(60):
        free = np.setdiff1d(np.arange(model.data.n_items), known.items[known.users == u])
        for i in sorted(free.tolist(), key=lambda i: (-votes[u, i], i))[:4]:
            rival = np.sort(upper[votes[u, free[free != i]]])[-4]
            assert major[u, i] == majority_radius(lower[votes[u, i]], 0.4)
            assert within[u, i] == list_radius(lower[votes[u, i]], rival, 0.4)
    assert ((major > 0).sum(axis=1) <= 4).all()
    assert (within > 0).any()


# -- what it reports ------------------------------------------------------------------------------

def test_facts_fall_with_the_radius(model: BprRecommender) -> None:
    defense = RandomisedSmoothing(sigma=0.2, draws=200, k=5)
    served = defense.harden(model, model.data, CTX)
    facts = defense.served_facts(served)
    assert facts["radius_over"] == "the user's own rows"
    assert (facts["unit"], facts["sigma"], facts["draws"]) == ("absolute", 0.2, 200)
    for found in facts["certified_share"].values():
        assert list(found) == ["0", "0.05", "0.1", "0.2", "0.4"]
        values = list(found.values())
        assert values == sorted(values, reverse=True)
        assert 0 < values[0] <= 1
    both = RandomisedSmoothing(sigma=0.2, draws=5, tables="both")
    facts = both.served_facts(both.harden(model, model.data, CTX))
    assert facts["radius_over"] == "all 108 rows noised"
    assert RandomisedSmoothing(sigma=0.0).served_facts(model) == {}


def test_with_propagation_the_radius_is_over_all_rows() -> None:
    plugin = member("LightGCN")(epochs=1, embedding_size=8)
    light = build(plugin, Blocks().load(), CTX)
    light.fit(Defense(), lambda event: None)
    defense = RandomisedSmoothing(sigma=0.1, draws=5)
    facts = defense.served_facts(defense.harden(light, light.data, CTX))
    assert facts["radius_over"] == "all 60 rows noised"


def test_without_noise_the_model_itself_is_served(model: BprRecommender) -> None:
    assert RandomisedSmoothing(sigma=0.0).harden(model, model.data, CTX) is model


def test_who_cannot_is_refused_with_a_reason() -> None:
    data = Blocks().load()
    assert "no embeddings" in RandomisedSmoothing().unfit(member("EASE")(), data)
    assert RandomisedSmoothing(sigma=0.0).unfit(member("EASE")(), data) is None
    assert RandomisedSmoothing().unfit(BPRMF(), data) is None
    for learner in (FCF(), member("SASRec")(), member("FISM")()):
        assert "no table with a vector per user" in RandomisedSmoothing().unfit(learner, data)
        assert RandomisedSmoothing(tables="both").unfit(learner, data) is None
    bare = build(FCF(dim=4), data, CTX)
    with pytest.raises(CannotActError, match="no user table"):
        RandomisedSmoothing(draws=2).harden(bare, data, CTX)


@pytest.mark.parametrize("check", [neutral_is_none, runs])
def test_contracts(check) -> None:  # type: ignore[no-untyped-def]
    check(Lab("defenses", RandomisedSmoothing))
