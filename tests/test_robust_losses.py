"""Robust losses and adversarial trainings by user: each formula against a slow, obvious one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import influence as calculus
from bench import rowloss
from bench.api import Context, Dataset, Defense
from bench.data import Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.apr_pgd import AprPgd
from bench.defenses.apt import Apt
from bench.defenses.focal import Focal
from bench.defenses.none import NoDefense
from bench.defenses.reweighted_loss import ReweightedLoss
from bench.defenses.truncated_loss import TruncatedLoss
from bench.defenses.vat import Vat
from bench.erm import ErmTraining
from bench.models.base import Batch, TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.rating_mf import RatingMF
from bench.models.recbole import member
from bench.perturb import row_norms
from bench.training import FitResult, Loop


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def made(data: Dataset, name: str = "bprmf", **params: object) -> TorchRecommender:
    if name == "bprmf":
        plugin = BPRMF(**{"dim": 8, "init_std": 0.3, "epochs": 3, "batch_size": 64, **params})
    else:
        plugin = member(name)(**{**member(name).test_params(), **params})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    return model


def one_batch(model: TorchRecommender, size: int = 64) -> Batch:
    return next(iter(model.batches(1, size)))


def fitted(data: Dataset, defense: Defense, name: str = "bprmf",
           **params: object) -> tuple[dict[str, Tensor], FitResult]:
    model = made(data, name, **params)
    result = model.fit(defense, lambda event: None)
    return model.state(), result


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


MODELS = [("bprmf", {"l2": 0.05}), ("bprmf", {"reduction": "sum", "learning_rate": 1e-3}),
          ("NeuMF", {"dropout_prob": 0.2}), ("SASRec", {}), ("LightGCN", {})]  # windows, a graph


@pytest.mark.parametrize(("name", "params"), MODELS)
@pytest.mark.parametrize(("neutral", "acting"), [
    (TruncatedLoss(rate=0.0), TruncatedLoss(ramp=1)),
    (ReweightedLoss(beta=0.0), ReweightedLoss()), (Focal(gamma=0.0), Focal()),
    (Vat(eps=0.0), Vat(eps=0.2)), (AprPgd(weight=0.0), AprPgd(eps=0.2))],
    ids=["truncated", "reweighted", "focal", "vat", "apr-pgd"])
def test_neutral_parameters_equal_none_bit_for_bit(data, name, params, neutral, acting):
    params = {**params, "epochs": 2}
    plain = fitted(data, NoDefense(), name, **params)[0]
    assert same(plain, fitted(data, neutral, name, **params)[0])
    assert not same(plain, fitted(data, acting, name, **params)[0])


# -- truncated (CATALOGUE D8) --------------------------------------------------------------------

def test_the_share_rises_in_a_line_and_is_capped():
    defense = TruncatedLoss(rate=0.2, ramp=10)
    assert [defense.share(step) for step in (0, 5, 10, 99)] == pytest.approx([0, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("of", ["rows", "positives"])
def test_the_largest_losses_of_positives_are_left_out(data, of):
    model = made(data, "NeuMF")
    batch = one_batch(model)
    defense = TruncatedLoss(rate=0.3, ramp=1, of=of)
    with model.evaluating():
        terms = rowloss.row_terms(model, batch)
        loop = Loop(model, defense)
        defense.wrap(loop)
        first = loop.defense.loss(model, batch, model.loss(batch), 1)
        second = loop.defense.loss(model, batch, model.loss(batch), 1)
    assert first.item() == model.loss(batch).item()  # T = 0: nothing is dropped
    losses, labels = terms.losses.tolist(), batch["labels"].tolist()
    count = math.ceil(0.3 * (len(losses) if of == "rows" else sum(labels)) - 1e-6)
    order = sorted((n for n in range(len(losses)) if labels[n] == 1), key=lambda n: -losses[n])
    kept = [losses[n] for n in range(len(losses)) if n not in order[:count]]
    assert second.item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)
    assert loop.notes["truncated_loss"]["share"] == pytest.approx(0.3)


def test_a_sum_stays_a_sum_and_penalties_are_kept(data):
    model = made(data, reduction="sum", l2=0.1)
    batch, defense = one_batch(model), TruncatedLoss(rate=0.5, ramp=1)
    losses, penalties = model.row_parts(batch)
    loop = Loop(model, defense)
    defense.wrap(loop)
    loop.defense.loss(model, batch, model.loss(batch), 1)
    found = loop.defense.loss(model, batch, model.loss(batch), 1)
    right = losses.sort().values[:32].sum() + penalties.sum()
    assert found.item() == pytest.approx(right.item(), rel=1e-5)


def test_dropped_rows_teach_nothing(data):
    model = made(data, reduction="sum")
    batch, defense = one_batch(model), TruncatedLoss(rate=0.5, ramp=1)
    terms = rowloss.row_terms(model, batch)
    stays = defense.kept(terms, 0.5)
    whole = terms.whole(stays.float())
    slope, = torch.autograd.grad(whole, terms.losses)
    assert torch.equal(slope, stays.float())


# -- reweighted and focal ------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["bprmf", "NeuMF"])
def test_reweighted_loss_by_its_formula(data, name):
    model = made(data, name)
    batch = one_batch(model)
    with model.evaluating():
        found = ReweightedLoss(beta=0.5).loss(model, batch, model.loss(batch), 1)
        with torch.no_grad():
            scores = model.scores(batch["users"]).double()
        own = scores.gather(1, batch["items"][:, None])[:, 0]
        if name == "NeuMF":  # scores by ŷ: weights ŷ^β and (1 − ŷ)^β
            right = torch.where(batch["labels"] > 0.5, own, 1 - own)
        else:  # weights σ(margin)^β
            right = torch.sigmoid(own - scores.gather(1, batch["negatives"][:, None])[:, 0])
        assert found.item() == pytest.approx((-right.log() * right**0.5).mean().item(), rel=1e-4)
        terms = rowloss.row_terms(model, batch)
    slope, = torch.autograd.grad(
        terms.whole((-0.5 * terms.losses.detach()).exp()), terms.losses)
    assert torch.allclose(slope * len(terms.losses), (-terms.losses).exp() ** 0.5)  # constant


def test_weights_of_the_reweighted_loss_are_constants_in_its_slope(data):
    model = made(data)
    batch = one_batch(model)
    losses = model.row_parts(batch)[0]  # (B,)
    found = ReweightedLoss(beta=0.5).loss(model, batch, model.loss(batch), 1)
    weights = (-losses).exp().detach() ** 0.5
    tables = (model.module.users.weight, model.module.items.weight)
    for one, other in zip(torch.autograd.grad(found, tables),
                          torch.autograd.grad((weights * losses).mean(), tables), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
        assert one.any()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_and_its_slope_by_the_formula(data, gamma):
    model = made(data)
    batch = one_batch(model)
    found = Focal(gamma=gamma).loss(model, batch, model.loss(batch), 1)
    margin = ((m := model.module).users(batch["users"]) * (
        m.items(batch["items"]) - m.items(batch["negatives"]))).sum(dim=1)
    p = torch.sigmoid(margin)
    right = (-(1 - p) ** gamma * p.log()).mean()
    assert found.item() == pytest.approx(right.item(), rel=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, m.parameters()),
                            torch.autograd.grad(right, m.parameters()), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_where_a_loss_is_no_log_probability_it_is_said(data):
    for defense in (ReweightedLoss(), Focal()):
        for learner in (member("MultiVAE")(), FCF()):
            assert "whole histories" in str(defense.unfit(learner, data))
        assert "squared error" in str(defense.unfit(RatingMF(), data))
        assert defense.unfit(member("LightGCN")(), data) is None
    assert TruncatedLoss().unfit(member("MultiVAE")(), data) is None


# -- vat (CATALOGUE D4) --------------------------------------------------------------------------

def terms_of(losses: list[float], users: list[int]) -> rowloss.Terms:
    n = torch.arange(len(losses))
    return rowloss.Terms(torch.tensor(losses), torch.zeros(()), n, torch.tensor(users), n, None,
                         False)


@pytest.mark.parametrize("loss", [0.1, 0.7, 1e-6, 123.456])
def test_where_all_users_are_fitted_alike_every_radius_is_eps_exactly(loss):
    for count in (7, 11, 37):  # the float32 mean of 11 or 37 equal losses is not always that loss
        shares = Vat().shares(terms_of([loss] * count, list(range(count))), count + 2)
        assert torch.equal(shares, torch.ones(count + 2))


def test_radii_follow_the_formula_and_the_well_fitted_get_more():
    losses, users = [0.2, 0.3, 1.0, 0.1], [0, 0, 1, 2]  # user 0 twice: summed
    shares = Vat(user_weight=1.5).shares(terms_of(losses, users), 4)
    mean = (0.5 + 1.0 + 0.1) / 3
    for user, own in ((0, 0.5), (1, 1.0), (2, 0.1)):
        right = 1.5 / (1 + math.exp(-(mean / own - 1)))
        assert shares[user].item() == pytest.approx(right, rel=1e-5)
    assert shares[3] == 1
    assert shares[2] > shares[0] > shares[1]


@pytest.mark.parametrize("steps", [1, 3])
def test_every_row_of_vat_stays_in_its_own_ball(data, steps):
    model = made(data)
    batch, defense = one_batch(model), Vat(eps=0.2, steps=steps)
    shares = defense.shares(rowloss.row_terms(model, batch), data.n_users)
    delta = defense.perturbation(model, batch, model.loss(batch))
    norms = row_norms(delta["user"], "l2")
    there = torch.unique(batch["users"])
    assert (norms <= 0.2 * shares * (1 + 1e-5)).all()
    if steps == 1:
        assert torch.allclose(norms[there], 0.2 * shares[there], rtol=1e-4)
    of = {i: [] for i in range(data.n_items)}
    for key in ("items", "negatives"):
        for item, user in zip(batch[key].tolist(), batch["users"].tolist(), strict=True):
            of[item].append(shares[user].item())
    for item, mine in of.items():
        if mine:
            bound = 0.2 * sum(mine) / len(mine)
            assert row_norms(delta["item"], "l2")[item] <= bound * (1 + 1e-5)
            assert steps > 1 or row_norms(delta["item"], "l2")[item] == pytest.approx(bound, 1e-4)


def test_vat_of_equally_fitted_users_is_adversarial_training(data):
    model = made(data)
    batch = one_batch(model)

    class Plain(Vat):
        """As if all users were fitted alike."""

        name = "plain"

        def shares(self, terms, n_users):  # type: ignore[no-untyped-def]
            return torch.ones(n_users)

    found = Plain(eps=0.3).perturbation(model, batch, model.loss(batch))
    right = AdversarialTraining(eps=0.3).perturbation(model, batch, model.loss(batch))
    assert all(torch.allclose(found[k], right[k], rtol=1e-6) for k in right)


def test_apr_pgd_is_adversarial_training_with_three_steps_of_half_the_radius(data):
    mine = fitted(data, AprPgd(eps=0.2))[0]
    assert same(mine, fitted(data, AdversarialTraining(eps=0.2, steps=3, step=0.5))[0])
    assert not same(mine, fitted(data, AdversarialTraining(eps=0.2))[0])


# -- apt (CATALOGUE D5) --------------------------------------------------------------------------

def rating_model(data: Dataset, **params: object) -> TorchRecommender:
    plugin = RatingMF(**{"dim": 8, "epochs": 16, "batch_size": 256, "learning_rate": 0.01,
                         "patience": 0, "centre": "scale", **params})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    return model


def risk(model: TorchRecommender) -> float:
    with torch.no_grad():
        return float(calculus.squared_errors(model, next(iter(model.batches(0, 10**6)))).mean())


def test_hessian_products_and_lissa_agree_with_the_dense_inverse():
    model = rating_model(Blocks(users=6, items=5, length=4, blocks=2).load(), dim=1, l2=0.3)
    batch = next(iter(model.batches(0, 10**6)))
    weights = calculus.weights_of(model)
    sizes = [w.numel() for w in weights]
    product = calculus.hessian_product(model, batch)

    def split(flat: Tensor) -> list[Tensor]:
        return [x.reshape(w.shape) for x, w in zip(flat.split(sizes), weights, strict=True)]

    def join(parts: list[Tensor]) -> Tensor:
        return torch.cat([x.flatten() for x in parts])

    dense = torch.stack([join(product(split(e))) for e in torch.eye(sum(sizes))])
    assert torch.allclose(dense, dense.T, atol=1e-5)
    step = 1e-3  # a column by finite differences of the gradient
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            weights[0].view(-1)[0] += sign * step
        slopes.append(join(list(torch.autograd.grad(model.loss(batch), weights))))
        with torch.no_grad():
            weights[0].view(-1)[0] -= sign * step
    assert torch.allclose(dense[0], (slopes[0] - slopes[1]) / (2 * step), atol=1e-3)
    values = torch.linalg.eigvalsh(dense)
    largest = calculus.largest_eigenvalue(product, split(dense[0]),
                                          torch.Generator().manual_seed(0), 200)
    assert largest == pytest.approx(values.abs().max().item(), rel=1e-2)
    damping = 1.2 * largest  # untrained: the Hessian has negative eigenvalues
    v = split(torch.linspace(-1, 1, sum(sizes)))
    found = calculus.lissa(calculus.damped(product, damping), v, 2.3 * largest, 300)
    right = torch.linalg.solve(dense + damping * torch.eye(len(dense)), join(v))
    assert torch.allclose(join(found), right, rtol=1e-3, atol=1e-3)


def test_influence_of_a_rating_is_what_training_again_gives():
    """n · dR/dr at the trained parameters, by Newton's steps from r + h and from r − h."""
    data = Blocks(users=8, items=6, length=4, blocks=2).load()
    model = rating_model(data, dim=1, l2=0.5)
    model.module.double()
    batch = {k: v.double() if v.is_floating_point() else v
             for k, v in next(iter(model.batches(0, 10**6))).items()}
    weights = calculus.weights_of(model)
    count = len(batch["users"])

    def descend(ratings: Tensor) -> None:
        inside = {**batch, "ratings": ratings}
        optimiser = torch.optim.LBFGS(weights, max_iter=500, tolerance_grad=1e-12,
                                      tolerance_change=1e-15, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = model.loss(inside)
            loss.backward()
            return loss

        for _ in range(3):
            optimiser.step(closure)

    def state() -> list[Tensor]:
        return [w.detach().clone() for w in weights]

    descend(batch["ratings"])
    kept = state()
    product = calculus.hessian_product(model, batch)
    dense = torch.stack([torch.cat([x.flatten() for x in product([
        e.reshape(w.shape) for e, w in zip(row.split([w.numel() for w in weights]), weights,
                                           strict=True)])])
        for row in torch.eye(sum(w.numel() for w in weights), dtype=torch.float64)])
    slope = torch.cat([g.flatten() for g in calculus.risk_gradient(model, batch)])
    solved = torch.linalg.pinv(dense, rtol=1e-9) @ slope  # unrated: no slope either
    direction = [x.reshape(w.shape) for x, w in zip(
        solved.split([w.numel() for w in weights]), weights, strict=True)]
    users = batch["users"][:1]
    found = calculus.rating_influence(model, users, direction, torch.zeros(
        1, data.n_items, dtype=torch.float64))[0, batch["items"][0]].item()
    risks = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, k in zip(weights, kept, strict=True):
                w.copy_(k)
        ratings = batch["ratings"].clone()
        ratings[0] += sign * 1e-3
        descend(ratings)
        risks.append(calculus.squared_errors(model, batch).mean().item())  # on the old ratings
    assert found == pytest.approx(count * (risks[0] - risks[1]) / 2e-3, rel=1e-2)


def test_influence_is_taken_at_the_users_with_the_smallest_rating_vectors(monkeypatch):
    """By Σ r², not by count, sum or mean; a user without ratings is none of them."""
    rated = {0: [1, 1, 1, 1, 1, 1], 1: [2], 2: [2, 1], 4: [5], 5: [3, 1, 1]}  # 6, 4, 5, 25, 11
    rows = [(u, i, r) for u, ratings in rated.items() for i, r in enumerate(ratings)]
    users, items, ratings = (np.array(column) for column in zip(*rows, strict=True))
    data = Blocks(users=6, items=8, length=6).load()
    model = rating_model(data.replace(train=Interactions(
        users, items, ratings.astype(float), np.arange(len(rows), dtype=float))), dim=2)
    plain, asked = calculus.rating_influence, []

    def listening(model, users, direction, ratings):
        asked.append((users.tolist(), direction, ratings))
        return plain(model, users, direction, ratings)

    monkeypatch.setattr(calculus, "rating_influence", listening)
    for references, wanted in ((1, [1]), (3, [1, 2, 0]), (50, [1, 2, 0, 5, 4])):
        loop = Loop(model, Apt(references=references, damping=2.0, iterations=40))
        found = ErmTraining(loop.defense, loop).influence()
        whose, direction, point = asked.pop()
        assert whose == wanted
        assert not point.any()  # as if unrated
        by_hand = [plain(model, torch.tensor([u]), direction, torch.zeros(1, 8)) for u in wanted]
        assert np.allclose(found, torch.cat(by_hand).sum(dim=0), atol=1e-6)
        assert found.any()


def test_odds_follow_the_influence_and_leave_out_what_does_harm():
    odds = Apt(sharpness=2.0).odds(np.array([-3.0, 1.0, -1.0, 0.0, -2.0]))
    assert odds[1] == odds[3] == 0
    assert odds.sum() == pytest.approx(1)
    assert odds[0] / odds[2] == pytest.approx(math.exp(2))  # −1 against 0
    assert odds[4] / odds[2] == pytest.approx(math.exp(1))
    assert not Apt().odds(np.ones(3)).any()


def test_erm_users_keep_their_budget_and_nobody_else_sees_them():
    data = Blocks(users=40, items=32).load()
    model = rating_model(data)
    loop = Loop(model, Apt(users=5, items=4, start_epoch=0))
    training = ErmTraining(loop.defense, loop)
    rows = training._erm_users()
    assert len(rows) == 20
    assert all(len(np.unique(rows.items[rows.users == u])) == 4 for u in range(5))
    low, high = data.rating_scale
    assert rows.ratings.min() >= low
    assert rows.ratings.max() <= high
    assert rows.ratings.mean() > data.train.ratings.mean()
    training.run_epoch(1)
    assert model.module.users.weight.shape[0] == data.n_users
    assert torch.equal(model.module.users.weight,
                       training.inner.model.module.users.weight[:data.n_users])
    assert loop.samples == len(data.train) + 20


def test_erm_users_rate_by_so_much_more_than_the_mean(monkeypatch):
    """raise_by is a share of the highest rating: .25 of 5."""
    from bench.profiles import RatingModel

    monkeypatch.setattr(RatingModel, "to_scale", lambda self, ratings: ratings)
    found = []
    for raise_by in (0.0, 0.25):
        loop = Loop(rating_model(Blocks(users=40, items=32, explicit=True).load()),
                    Apt(users=5, items=4, start_epoch=0, raise_by=raise_by))
        found.append(ErmTraining(loop.defense, loop)._erm_users())
    assert (found[0].items == found[1].items).all()
    assert np.allclose(found[1].ratings - found[0].ratings, 0.25 * 5)


def test_training_risk_falls_faster_than_with_random_users():
    data = Blocks(users=60).load()
    settings = {"users": 20, "items": 4, "start_epoch": 6, "every": 2}
    found = {}
    for choose in ("influence", "random"):
        model = rating_model(data)
        model.fit(Apt(**settings, choose=choose), lambda event: None)
        found[choose] = risk(model)
    assert found["influence"] < found["random"] - 0.005


def test_apt_without_users_or_epochs_is_none_and_before_it_starts_training_is_plain():
    data = Blocks(users=40, items=32).load()

    def trained(defense: Defense, epochs: int = 3) -> dict[str, Tensor]:
        model = rating_model(data, epochs=epochs)
        model.fit(defense, lambda event: None)
        return model.state()

    plain = trained(NoDefense())
    assert same(plain, trained(Apt(users=0)))
    assert same(plain, trained(Apt(start_epoch=3)))
    assert not same(plain, trained(Apt(users=4, start_epoch=2)))
    assert same(trained(Apt(users=4, start_epoch=1)), trained(Apt(users=4, start_epoch=1)))
    model = rating_model(data)
    loop = Loop(model, Apt(users=4, start_epoch=2))
    run = loop.defense.wrap(loop)
    for epoch in (1, 2):
        run(epoch)
    assert all(torch.allclose(v, trained(NoDefense(), 2)[k]) for k, v in model.state().items())
    assert "predicts" in str(Apt().unfit(BPRMF(), data))
