"""Noise, FGSM and PGD: budgets, identity at zero, order of strength, determinism."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.api import EmbeddingAttack
from bench.attacks.fgsm import FGSM
from bench.attacks.mim import MIM
from bench.attacks.msap_published import MsapPublished
from bench.attacks.noise import Noise
from bench.attacks.pgd import PGD
from bench.context import Context
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.perturb import attack_batches, gradient, mean_loss, row_norms, still_share

ALL = [Noise, FGSM, PGD]
NORMS = ["l2", "linf"]


def train(seed: int = 0, **hyper: object) -> BprRecommender:
    plugin = BPRMF(dim=8, epochs=20, batch_size=512, learning_rate=0.03, patience=0, **hyper)
    model = build(plugin, Blocks().load(), Context(seed))
    assert isinstance(model, BprRecommender)
    model.fit(NoDefense(), lambda event: None)
    return model


@pytest.fixture(scope="module")
def model() -> BprRecommender:
    return train()


def perturb(attack: EmbeddingAttack, model: BprRecommender, seed: int = 0) -> dict[str, Tensor]:
    return attack.perturbation(model, model.data, Context(seed))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def loss(model: BprRecommender, attack: EmbeddingAttack, source: str = "train",
         seed: int = 0) -> float:
    return mean_loss(model, attack_batches(model, source), perturb(attack, model, seed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("attack", [*ALL, lambda **k: PGD(random_start=True, step=3.0, **k)])
@pytest.mark.parametrize("eps", [1e-3, 0.5, 10.0])
def test_every_row_stays_in_its_ball(model: BprRecommender, attack: type[EmbeddingAttack],
                                     norm: str, relative: bool, eps: float) -> None:
    made = perturb(attack(eps=eps, norm=norm, relative=relative), model)
    assert set(made) == {"user", "item"}
    for key, delta in made.items():
        unit = float(row_norms(model.tables()[key].rows(), norm).median()) if relative else 1.0
        lengths = row_norms(delta.double(), norm)
        assert (lengths <= eps * unit * (1 + 1e-6)).all()
        assert float(lengths.max()) > 0.8 * eps * unit  # the budget is spent, too


@pytest.mark.parametrize("attack", [FGSM, Noise])
def test_one_step_attacks_spend_the_whole_l2_budget(model: BprRecommender,
                                                    attack: type[EmbeddingAttack]) -> None:
    for delta in perturb(attack(eps=0.5), model).values():
        lengths = delta.double().norm(dim=1)
        moved = lengths[lengths > 0]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5), rtol=1e-6, atol=0)
        if attack is Noise:
            assert still_share(delta) == 0


def test_noise_is_uniform_in_direction_and_in_the_box() -> None:
    data = Blocks(users=400, items=400, length=4).load()
    model = build(BPRMF(dim=16), data, Context(0))
    sphere = torch.cat(list(Noise(eps=2.0).perturbation(model, data, Context(1)).values()))
    assert sphere.mean(dim=0).abs().max() < 4 * 2 / math.sqrt(16 * len(sphere))
    cosines = sphere[:400] @ sphere[400:].T / 4
    assert float(cosines.var()) == pytest.approx(1 / 16, rel=0.05)
    assert abs(float(cosines.diagonal().mean())) < 5 / math.sqrt(16 * 400)  # tables differ
    box = torch.cat(list(Noise(eps=2.0, norm="linf").perturbation(
        model, data, Context(1)).values())).flatten()
    share = torch.histc(box, 10, -2, 2) / len(box)
    assert (share - 0.1).abs().max() < 0.01


def test_margins_under_noise_spread_as_theory_says(model: BprRecommender) -> None:
    """User noise of length ε changes a margin by mean 0, deviation ε‖q_i − q_j‖/√d."""
    q = model.tables()["item"].rows()
    apart = q[0] - q[1]
    changes = torch.cat([perturb(Noise(eps=0.3, tables="user"), model, s)["user"] @ apart
                         for s in range(40)])
    expected = 0.3 * float(apart.norm()) / math.sqrt(8)
    assert float(changes.std()) == pytest.approx(expected, rel=0.06)
    assert abs(float(changes.mean())) < 4 * expected / math.sqrt(len(changes))


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_is_the_identity(model: BprRecommender, attack: type[EmbeddingAttack],
                                  norm: str) -> None:
    users = torch.arange(model.data.n_users)
    clean = model.scores(users)
    with model.perturbed(perturb(attack(eps=0.0, norm=norm), model)):
        assert torch.equal(model.scores(users), clean)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tables", ["both", "user", "item"])
@pytest.mark.parametrize("source", ["train", "test"])
@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_order_of_strength(model: BprRecommender, norm: str, tables: str, source: str,
                           eps: float) -> None:
    """Clean ≈ noise < FGSM ≤ PGD in one ball, by the loss that they raise."""
    kind = {"norm": norm, "tables": tables, "eps": eps}
    clean = mean_loss(model, attack_batches(model, source))
    noise = np.mean([loss(model, Noise(**kind), source, s) for s in range(5)])
    fgsm = loss(model, FGSM(**kind, source=source), source)
    pgd = loss(model, PGD(**kind, source=source), source)
    assert noise > clean - 0.1 * (fgsm - clean)
    assert fgsm - clean > 3 * abs(noise - clean)
    assert pgd >= fgsm


@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_loss_rises_with_eps(model: BprRecommender, attack: type[EmbeddingAttack]) -> None:
    losses = [loss(model, attack(eps=e)) for e in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)]
    assert losses == sorted(losses)
    assert losses[0] == mean_loss(model, attack_batches(model))


def test_more_steps_are_not_weaker(model: BprRecommender) -> None:
    losses = [loss(model, PGD(steps=t)) for t in (1, 4, 10, 40)]
    assert all(b > a - 1e-3 for a, b in itertools.pairwise(losses)), losses


def test_longer_steps_may_overshoot_but_the_loss_never_falls(model: BprRecommender) -> None:
    kind = {"eps": 3.0, "step": 2.0, "norm": "linf"}
    losses = [loss(model, PGD(steps=t, **kind)) for t in range(1, 8)]
    assert all(b >= a for a, b in itertools.pairwise(losses)), losses


@pytest.mark.parametrize("best", [1, 2, 3, 4])
def test_pgd_returns_its_best_iterate(model: BprRecommender, best: int,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are made up; iterate `best` has the highest, only the start has a higher one."""
    import bench.perturb

    true_gradient, visited = bench.perturb.gradient, []

    def gradient(model, batches, keys, delta):  # type: ignore[no-untyped-def]
        made_up = {0: 9.0, best: 5.0}.get(len(visited), 1.0)
        visited.append(delta)
        return true_gradient(model, batches, keys, delta)[0], made_up

    monkeypatch.setattr(bench.perturb, "gradient", gradient)
    monkeypatch.setattr(bench.perturb, "mean_loss", lambda *a: 5.0 if best == 4 else 1.0)
    made = perturb(PGD(steps=4), model)
    assert len(visited) == 4
    if best < 4:
        assert equal(made, visited[best])
    else:
        assert not any(equal(made, v) for v in visited)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tables", ["both", "user"])
@pytest.mark.parametrize("source", ["train", "test"])
def test_one_full_step_from_zero_is_fgsm(model: BprRecommender, norm: str, tables: str,
                                         source: str) -> None:
    kind = {"norm": norm, "tables": tables, "source": source, "eps": 0.3}
    one, fgsm = perturb(PGD(steps=1, step=1.0, **kind), model), perturb(FGSM(**kind), model)
    assert one.keys() == fgsm.keys()
    for key in one:
        torch.testing.assert_close(one[key], fgsm[key], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attack", ALL)
def test_only_the_tables_named_move(model: BprRecommender, attack: type[EmbeddingAttack]) -> None:
    assert set(perturb(attack(tables="user"), model)) == {"user"}
    assert set(perturb(attack(tables="item"), model)) == {"item"}
    before = model.tables()["item"].rows().clone()
    with model.perturbed(perturb(attack(tables="user"), model)):
        assert torch.equal(model.tables()["item"].rows(), before)


@pytest.mark.parametrize("norm", NORMS)
def test_relative_eps_counts_in_median_row_norms(model: BprRecommender, norm: str) -> None:
    for key, table in model.tables().items():
        rows = table.rows()
        each = rows.norm(dim=1) if norm == "l2" else rows.abs().max(dim=1).values
        middle = float(each.sort().values[(len(each) - 1) // 2])
        moved = perturb(FGSM(eps=0.2, relative=True, norm=norm, tables=key), model)[key]
        assert float(row_norms(moved, norm).max()) == pytest.approx(0.2 * middle, rel=1e-6)


@pytest.mark.parametrize("attack", [*ALL, lambda: PGD(random_start=True)])
def test_nothing_is_left_behind(model: BprRecommender, attack: type[EmbeddingAttack]) -> None:
    """Neither parameters, gradients, mode nor the global generators change."""
    state, training = model.state(), model.module.training
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    perturb(attack(), model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    after = model.state()
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert model.module.training is training
    grads = [p.grad for p in model.module.parameters()]
    perturb(attack(), model)
    assert all(p.grad is g for p, g in zip(model.module.parameters(), grads, strict=True))


def test_same_seed_same_result_other_seed_other_where_random(model: BprRecommender) -> None:
    for attack in (Noise(), Noise(norm="linf"), PGD(random_start=True)):
        assert equal(perturb(attack, model, 1), perturb(attack, model, 1)), attack.label()
        assert not equal(perturb(attack, model, 1), perturb(attack, model, 2)), attack.label()
    for attack in (FGSM(), PGD()):
        assert equal(perturb(attack, model, 1), perturb(attack, model, 2)), attack.label()


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_do_not_depend_on_the_batch_size(model: BprRecommender, norm: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perturb(FGSM(norm=norm), model)
    monkeypatch.setattr("bench.perturb.ATTACK_ROWS", 64)
    cut = perturb(FGSM(norm=norm), model)
    for key in whole:
        if norm == "l2":
            torch.testing.assert_close(cut[key], whole[key], rtol=1e-3, atol=1e-5)
        else:  # a coordinate of next to no gradient may change its sign
            assert (cut[key] == whole[key]).double().mean() > 0.999


def test_summed_and_mean_losses_are_attacked_alike() -> None:
    """ε must not depend on how a batch's losses are put together."""
    model = train()
    mean = perturb(FGSM(), model)
    loss_before = loss(model, PGD())
    object.__setattr__(model.hyper, "reduction", "sum")
    model.sums_loss = True
    for key, delta in perturb(FGSM(), model).items():
        torch.testing.assert_close(delta, mean[key], rtol=1e-3, atol=1e-5)
    assert loss(model, PGD()) == pytest.approx(loss_before, rel=1e-4)


def test_fewer_pairs_are_another_weaker_attack(model: BprRecommender) -> None:
    few = perturb(FGSM(pairs=20), model)
    assert still_share(few["user"]) > 0.5  # users outside the pairs have no gradient
    batches = attack_batches(model)
    assert (mean_loss(model, batches) < mean_loss(model, batches, few)
            < loss(model, FGSM()))


@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_more_draws_raise_the_loss_on_negatives_never_seen(model: BprRecommender,
                                                           attack: type[EmbeddingAttack]) -> None:
    fresh = [batch for e in range(500, 510) for batch in model.batches(e, 8192)]
    one, many = (mean_loss(model, fresh, perturb(attack(draws=d), model)) for d in (1, 8))
    assert many > one > mean_loss(model, fresh)


def test_the_oracle_source_hurts_test_scores_more(model: BprRecommender) -> None:
    assert loss(model, PGD(source="test"), "test") > loss(model, PGD(), "test")
    assert "test positives" in PGD(source="test").budget_text()
    assert "test positives" not in PGD().budget_text()


def test_models_without_vectors_are_skipped_with_a_reason(model: BprRecommender) -> None:
    reason = FGSM().unfit(Pop(), model.data)
    assert reason is not None
    assert "pop" in reason
    assert FGSM().unfit(BPRMF(), model.data) is None


class Overspender(FGSM):
    """Breaks the budget on one row in a way the parameter says."""

    how: str = "long"

    def delta(self, model, radii, data, ctx):  # type: ignore[no-untyped-def]
        made = super().delta(model, radii, data, ctx)
        if self.how == "long":
            made["user"][3] *= 1.00001
        elif self.how == "nan":
            made["user"][3, 0] = math.nan
        elif self.how == "shape":
            made["user"] = made["user"][:-1]
        elif self.how == "missing":
            del made["item"]
        return made


@pytest.mark.parametrize(("how", "message"), [
    ("long", "the budget is"), ("nan", "not finite"), ("shape", "has shape"),
    ("missing", "were asked for")])
@pytest.mark.parametrize("norm", NORMS)
def test_the_base_class_refuses_a_broken_budget(model: BprRecommender, how: str, message: str,
                                                norm: str) -> None:
    with pytest.raises(PluginError, match=message):
        perturb(Overspender(how=how, norm=norm), model)


# -- momentum, and the attack as published -----------------------------------------------------

def test_momentum_zero_is_the_path_of_pgd(model: BprRecommender) -> None:
    one = perturb(MIM(eps=0.3, steps=4, decay=0.0), model)
    other = perturb(PGD(eps=0.3, steps=4), model)
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)
    far = perturb(MIM(eps=0.3, steps=4, decay=1.0), model)
    assert not any(torch.allclose(far[k], other[k], atol=1e-4) for k in far)


def test_momentum_is_the_sum_of_directions_by_hand(model: BprRecommender) -> None:
    """Two steps with linf signs: m = g₁/‖g₁‖₁ + g₂/‖g₂‖₁, by hand."""
    batches = attack_batches(model)
    with model.evaluating():
        first, _ = gradient(model, batches, ["user"])
        unit = first["user"] / first["user"].abs().sum(dim=1, keepdim=True).clamp_min(1e-30)
        d1 = 0.1 * unit.sign()
        second, _ = gradient(model, batches, ["user"], {"user": d1})
        m = unit + second["user"] / second["user"].abs().sum(dim=1, keepdim=True).clamp_min(1e-30)
        by_hand = d1 + 0.1 * m.sign()
        assert mean_loss(model, batches, {"user": by_hand}) > mean_loss(model, batches,
                                                                       {"user": d1})
    made = perturb(MIM(eps=0.4, steps=2, norm="linf", tables="user"), model)
    assert torch.allclose(made["user"], by_hand, atol=1e-7)


def test_as_published_goes_further_than_the_ball_it_was_compared_with(model: BprRecommender
                                                                      ) -> None:
    """Steps in l2, box as the limit: rows leave the l2 ball of eps that FGSM is held to."""
    published = perturb(MsapPublished(eps=0.3, steps=25), model)
    same_ball = perturb(PGD(eps=0.3, steps=25), model)
    width = published["user"].shape[1]
    for key, delta in published.items():
        lengths = delta.norm(dim=1)
        assert float(delta.abs().max()) <= 0.3 * (1 + 1e-6)
        assert float(lengths.max()) > 0.3 * 1.5
        assert float(lengths.max()) <= 0.3 * width**0.5 * (1 + 1e-6)
        assert float(same_ball[key].norm(dim=1).max()) <= 0.3 * (1 + 1e-6)
