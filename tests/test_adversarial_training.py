"""Adversarial training: both passes differ, the ball holds, neutral parameters change nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from bench.api import Context, Dataset, Defense
from bench.datasets.blocks import Blocks
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.apr_pgd import AprPgd
from bench.defenses.none import NoDefense
from bench.defenses.vat import Vat
from bench.errors import CannotActError, PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import Batch, build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.pop import Pop
from bench.perturb import row_norms
from bench.training import Loop


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


class DropoutBpr(BprRecommender):
    """bprmf with dropout on the user vectors: draws from the global generator in every pass."""

    def batch_loss(self, batch: Batch) -> Tensor:
        p = nn.functional.dropout(self.module.users(batch["users"]), 0.3, self.module.training)
        q = self.module.items(batch["items"]) - self.module.items(batch["negatives"])
        return nn.functional.softplus(-(p * q).sum(dim=1)).mean()


class DropoutBPRMF(BPRMF):
    """As above."""

    name = "dropout-bprmf"

    def build(self, data: Dataset, ctx: Context) -> BprRecommender:
        return DropoutBpr(self, data, ctx)


class Inverted(AdversarialTraining):
    """The mistake this file must catch: the "adversarial" pass sees the clean embeddings."""

    name = "inverted"

    def perturbation(self, model, batch, clean_loss, names=()):  # type: ignore[no-untyped-def]
        made = super().perturbation(model, batch, clean_loss, names)
        return {k: torch.zeros_like(d) for k, d in made.items()}


def trained(data: Dataset, defense: Defense, hyper: type[BPRMF] = BPRMF, epochs: int = 3,
            **params: object) -> dict[str, Tensor]:
    model = build(hyper(dim=8, batch_size=64, learning_rate=0.01, init_std=0.1, **params), data,
                  Context(3))
    assert isinstance(model, BprRecommender)
    with model.ctx.seeded("train"):
        loop = Loop(model, defense)
        run = defense.wrap(loop) or loop.run_epoch
        for epoch in range(1, epochs + 1):
            model.module.train()
            run(epoch)
    return model.state()


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def at_start(data: Dataset, **params: object) -> tuple[BprRecommender, Batch]:
    model = build(BPRMF(dim=8, init_std=0.3, **params), data, Context(0))
    assert isinstance(model, BprRecommender)
    return model, next(iter(model.batches(1, 64)))


@pytest.mark.parametrize("hyper", [BPRMF, DropoutBPRMF])
@pytest.mark.parametrize("neutral", [{"eps": 0.0}, {"weight": 0.0}, {"start_epoch": 3}])
def test_neutral_parameters_equal_none_bit_for_bit(data, hyper, neutral):
    plain = trained(data, NoDefense(), hyper)
    assert same(plain, trained(data, AdversarialTraining(**neutral), hyper))
    assert not same(plain, trained(data, AdversarialTraining(eps=0.3), hyper))


def test_the_adversarial_passes_leave_the_global_generator_where_it_was(data):
    model = build(DropoutBPRMF(dim=8, init_std=0.3), data, Context(0))
    assert isinstance(model, BprRecommender)
    model.module.train()
    batch = next(iter(model.batches(1, 64)))
    with model.ctx.seeded("here"):
        clean = model.loss(batch)
        before = torch.get_rng_state()
        AdversarialTraining(steps=3).loss(model, batch, clean, 1)
        assert torch.equal(before, torch.get_rng_state())


def adversarial_part(model: BprRecommender, batch: Batch, defense: AdversarialTraining) -> float:
    clean = model.loss(batch)
    both = defense.loss(model, batch, clean, 1).detach()
    return float((both - clean.detach()) / defense.weight / clean.detach())


def test_the_second_pass_is_harder_and_an_inverted_flag_is_noticed(data):
    model, batch = at_start(data)
    assert adversarial_part(model, batch, AdversarialTraining(eps=0.5)) > 1.1
    assert adversarial_part(model, batch, Inverted(eps=0.5)) == pytest.approx(1.0, abs=1e-6)


def test_more_inner_steps_are_at_least_as_hard(data):
    model, batch = at_start(data)
    one = adversarial_part(model, batch, AdversarialTraining(eps=0.5))
    many = adversarial_part(model, batch, AdversarialTraining(eps=0.5, steps=5, step=0.5))
    assert many >= one * 0.999


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_each_of_several_steps_is_that_share_of_the_radius(data, norm):
    """Two steps of a tenth of the radius, written out: both in the direction of the slope where
    they begin."""
    model, batch = at_start(data)
    weights = {"user": model.module.users.weight, "item": model.module.items.weight}
    delta = {k: torch.zeros_like(w) for k, w in weights.items()}
    for _ in range(2):
        p, q = ((weights[k].detach() + delta[k]).requires_grad_() for k in ("user", "item"))
        margin = (p[batch["users"]] * (q[batch["items"]] - q[batch["negatives"]])).sum(1)
        slopes = torch.autograd.grad(nn.functional.softplus(-margin).mean(), [p, q])
        for key, g in zip(("user", "item"), slopes, strict=True):
            way = g.sign() if norm == "linf" else g / g.norm(dim=1, keepdim=True).clamp_min(1e-30)
            delta[key] = delta[key] + 0.1 * 0.8 * way
    found = AdversarialTraining(eps=0.8, norm=norm, steps=2, step=0.1).perturbation(
        model, batch, model.loss(batch))
    for key, expected in delta.items():
        assert torch.allclose(found[key], expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_row_stays_in_its_ball_and_untouched_rows_stay(data, norm, steps):
    model, batch = at_start(data)
    defense = AdversarialTraining(eps=0.2, norm=norm, steps=steps, relative=True)
    delta = defense.perturbation(model, batch, model.loss(batch))
    for key, table in model.tables().items():
        lengths = row_norms(delta[key], norm)
        assert float(lengths.max()) == pytest.approx(0.2 * table.median_norm(norm), rel=1e-4)
        assert not delta[key].requires_grad
    absent = torch.ones(data.n_users, dtype=torch.bool)
    absent[batch["users"]] = False
    assert not delta["user"][absent].any()


def test_one_table_only(data):
    model, batch = at_start(data)
    delta = AdversarialTraining(tables="item").perturbation(model, batch, model.loss(batch))
    assert set(delta) == {"item"}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_delta_is_the_normalised_gradient_of_the_batch_and_does_not_depend_on_its_scale(
        data, reduction):
    model, batch = at_start(data, reduction=reduction)
    p = model.module.users.weight.detach().clone().requires_grad_()
    q = model.module.items.weight.detach()
    margin = (p[batch["users"]] * (q[batch["items"]] - q[batch["negatives"]])).sum(1)
    (g,) = torch.autograd.grad(nn.functional.softplus(-margin).sum(), p)
    expected = 0.5 * g / g.norm(dim=1, keepdim=True).clamp_min(1e-30)
    delta = AdversarialTraining(eps=0.5).perturbation(model, batch, model.loss(batch))
    assert torch.allclose(delta["user"], expected, atol=1e-5)


def test_both_terms_reach_the_parameters_with_delta_constant(data):
    model, batch = at_start(data)
    defense = AdversarialTraining(eps=0.4, weight=2.0)
    clean = model.loss(batch)
    delta = defense.perturbation(model, batch, clean)
    defense.loss(model, batch, clean, 1).backward()
    found = model.module.items.weight.grad
    model.module.zero_grad()
    model.loss(batch).backward()
    first = model.module.items.weight.grad.clone()
    model.module.zero_grad()
    with model.perturbed(delta):  # the same loss, by moving the weights themselves
        model.loss(batch).backward()
    assert torch.allclose(found, first + 2.0 * model.module.items.weight.grad, atol=1e-6)


def test_warm_start_is_plain_until_then(data):
    plain = trained(data, NoDefense(), epochs=2)
    assert same(plain, trained(data, AdversarialTraining(start_epoch=2), epochs=2))
    assert not same(trained(data, NoDefense(), epochs=3),
                    trained(data, AdversarialTraining(start_epoch=2), epochs=3))


def test_early_stopping_keeps_no_model_from_before_the_defense(data):
    """It once kept an earlier epoch: a row called defended that equalled `none`."""
    hyper = BPRMF(dim=8, epochs=60, learning_rate=0.05, patience=2, batch_size=64)
    fits = {}
    for name, defense in (("none", NoDefense()),
                          ("late", AdversarialTraining(start_epoch=25)),
                          ("neutral", AdversarialTraining(start_epoch=25, weight=0.0)),
                          ("never", AdversarialTraining(start_epoch=60))):
        fits[name] = build(hyper, data, Context(0)).fit(defense, lambda event: None)
    assert fits["none"].epochs < 25
    assert fits["late"].best_epoch > 25
    assert fits["neutral"].history == fits["never"].history == fits["none"].history


def test_tables_that_are_not_there_are_named(data):
    class ItemsOnly(BprRecommender):
        def tables(self):  # type: ignore[no-untyped-def]
            return {"item": super().tables()["item"]}

    model = ItemsOnly(BPRMF(dim=8, epochs=1), data, Context(0))
    with pytest.raises(PluginError, match="no user table"):
        model.fit(AdversarialTraining(tables="user"), lambda event: None)


def test_fresh_optimizer_forgets_at_the_right_epoch(data):
    kept = AdversarialTraining(start_epoch=2, eps=0.1)
    fresh = AdversarialTraining(start_epoch=2, eps=0.1, fresh_optimizer=True)
    assert same(trained(data, kept, epochs=2, optimizer="adagrad"),
                trained(data, fresh, epochs=2, optimizer="adagrad"))
    assert not same(trained(data, kept, epochs=3, optimizer="adagrad"),
                    trained(data, fresh, epochs=3, optimizer="adagrad"))


def test_served_perturbation_is_that_of_the_last_batch(data):
    model = build(BPRMF(dim=8, batch_size=64, epochs=2, init_std=0.3), data, Context(0))
    assert isinstance(model, BprRecommender)
    before = model.state()
    plain = AdversarialTraining(eps=0.1).harden(model, data, model.ctx)
    assert same(before, plain.state())
    *_, last = model.batches(2, 64)
    AdversarialTraining(eps=0.1, serve_perturbed=True).harden(model, data, model.ctx)
    moved = (model.state()["users.weight"] - before["users.weight"]).norm(dim=1)
    assert torch.allclose(moved[last["users"]], torch.full((len(last["users"]),), 0.1), atol=1e-5)
    assert int((moved > 0).sum()) == len(last["users"].unique())


def test_models_without_embeddings_are_refused_with_the_reason(data):
    reason = AdversarialTraining().unfit(Pop(), data)
    assert reason is not None
    assert "pop" in reason
    assert "embeddings" in reason
    assert AdversarialTraining().unfit(BPRMF(), data) is None


def test_models_without_the_table_asked_for_are_refused_or_found_out(data):
    reason = AdversarialTraining(tables="user").unfit(FCF(), data)
    assert reason == "fcf has no table with a vector per user"
    assert AdversarialTraining(tables="user", weight=0.0).unfit(FCF(), data) is None
    assert AdversarialTraining(tables="item").unfit(FCF(), data) is None
    assert AdversarialTraining().unfit(FCF(), data) is None
    model = build(FCF(epochs=1, dim=4), data, Context(0))
    with pytest.raises(CannotActError, match="no user table"):
        model.fit(AdversarialTraining(tables="user"), lambda event: None)


@pytest.mark.parametrize("defense", [AdversarialTraining, AprPgd, Vat])
def test_what_trains_against_nothing_does_not_say_that_it_does(defense):
    assert defense().trained_against() in ("fgsm", "pgd")
    assert defense(eps=0.0).trained_against() is None
    assert defense(weight=0.0).trained_against() is None
