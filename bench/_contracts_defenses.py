"""Contracts of defenses: neutral parameters change nothing, and promises are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.api import Context, Dataset, Defense
from bench.coerce import parameters
from bench.plugin import Plugin
from bench.testing import ContractError, Skip, require

if TYPE_CHECKING:
    from torch import Tensor

    from bench._contracts_lab import Lab


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    found: list[Callable[[Lab], None]] = [neutral_is_none, runs]
    if overrides(cls, "clean"):
        found += [not_told_who_is_fake, cleaning_keeps_everybody]
    if overrides(cls, "loss") and {"eps", "weight"} <= set(_fields(cls)):
        found += [two_passes_differ]
    if overrides(cls, "wrap") and "epsilon" in _fields(cls):
        found += [noise_differs_between_steps, one_user_is_clipped, epsilon_kept]
    return found


def overrides(cls: type[Plugin], hook: str) -> bool:
    return getattr(cls, hook) is not getattr(Defense, hook)


def _fields(cls: type[Plugin]) -> list[str]:
    return list(parameters(cls))


def neutral_is_none(lab: Lab) -> None:
    """With its neutral parameters, training gives the undefended model bit for bit."""
    from bench._contracts_lab import all_scores, no_defense

    assert issubclass(lab.cls, Defense)
    neutral = lab.cls.neutral_params()
    if neutral is None:
        raise Skip("it names no parameters with which it does nothing (neutral_params)")
    plugin = lab.cls.from_params({**lab.params, **neutral})
    require(plugin.trained_against() is None,
            f"with {neutral} it says that it was trained against {plugin.trained_against()}",
            "let trained_against be None where the parameters leave nothing to train against")
    bare, defended = lab.model(no_defense()), lab.model(plugin)
    require(torch.equal(all_scores(bare), all_scores(defended)),
            f"with {neutral} the model differs from the one without defense",
            "return the clean loss, data and model unchanged, and draw no random number then")
    users = torch.arange(5)
    scores = torch.linspace(-1, 1, 5 * lab.data().n_items).reshape(5, -1)
    require(torch.equal(plugin.rerank(scores.clone(), users, lab.data()), scores),
            f"with {neutral} rerank changes scores", "return them as they are")


def runs(lab: Lab) -> None:
    """With its test parameters it trains a model whose scores are finite."""
    from bench._contracts_lab import all_scores

    found = all_scores(lab.model(lab.plugin()))
    require(bool(torch.isfinite(found).all()), "the defended model's scores are not finite",
            "give test_params with which it trains, or lower its step")


# -- data --------------------------------------------------------------------------------------

def _anonymous(data: Dataset, told: bool) -> Dataset:
    """The poisoned data without any sign of who is fake, except `n_fake` where told."""
    ids = tuple(f"user{u}" for u in range(data.n_users))
    return data.replace(user_ids=ids, n_fake=data.n_fake if told else 0, user_attributes={})


def not_told_who_is_fake(lab: Lab) -> None:
    """The same rows stay when nothing says how many users are fake, and which."""
    from bench._contracts_lab import digest, poisoned

    data = poisoned()
    kept = [digest(lab.plugin().clean(_anonymous(data, told), Context(0)).train)
            for told in (True, False)]
    named = digest(lab.plugin().clean(data.replace(user_attributes={}), Context(0)).train)
    require(kept[0] == kept[1], "what it removes depends on n_fake",
            "a defender does not know how many users are fake: decide from the rows alone")
    require(named == kept[0], "what it removes depends on the users' ids",
            "injected users are called fake:…, which a defender does not see")


def cleaning_keeps_everybody(lab: Lab) -> None:
    """Users, items and the evaluated splits stay as they are."""
    from bench._contracts_lab import digest, poisoned

    data = poisoned()
    cleaned = lab.plugin().clean(data, Context(0))
    require(cleaned.user_ids == data.user_ids and cleaned.item_ids == data.item_ids,
            "it renumbers users or items", "use data.without_users(flagged)")
    require(digest(cleaned.test, cleaned.valid) == digest(data.test, data.valid),
            "it changes the validation or test split", "clean the train split alone")


# -- loss --------------------------------------------------------------------------------------

def two_passes_differ(lab: Lab) -> None:
    """The adversarial term is the loss at perturbed vectors, above the clean one; both teach."""
    model = lab.model()
    from bench.models.base import TorchRecommender

    assert isinstance(model, TorchRecommender)
    plugin = lab.plugin(weight=1.0)
    batch = next(iter(model.batches(0, 256)))
    clean = model.loss(batch)
    total = plugin.loss(model, batch, clean, 10**6)
    term = float(total.detach()) - float(clean.detach())
    require(abs(term - float(clean.detach())) > 1e-7 * abs(float(clean.detach())),
            f"the adversarial term equals the clean loss ({term:.6g})",
            "the adversarial pass sees the clean vectors: is its flag inverted?")
    require(term > float(clean.detach()), f"the adversarial term {term:.6g} is below the clean "
            f"loss {float(clean.detach()):.6g}", "δ must climb the loss: check its sign")
    weights = [p for p in model.module.parameters() if p.requires_grad]
    slopes = []
    for loss in (total, clean):
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        slopes.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                                 for p, g in zip(weights, found, strict=True)]))
    require(not torch.allclose(slopes[0], slopes[1]),
            "the adversarial term has no gradient by the parameters",
            "detach δ, not the loss at the perturbed vectors")


# -- privacy -----------------------------------------------------------------------------------

def _steps(lab: Lab, data: Dataset, **changes: Any) -> tuple[list[Tensor], Any]:
    """What the item table's gradient is at each step of a short private training."""
    from bench._contracts_lab import bprmf
    from bench.models.base import TorchRecommender, build
    from bench.training import Loop

    plugin = lab.plugin(**changes)
    model = build(bprmf(epochs=1, optimizer="sgd", learning_rate=1e-6), data, Context(0))
    assert isinstance(model, TorchRecommender)
    loop, seen = Loop(model, plugin), list[torch.Tensor]()
    weight = model.tables()["item"].weight

    def record(*_: Any) -> None:
        assert weight.grad is not None
        seen.append(weight.grad.detach().clone())

    loop.optimizer.register_step_pre_hook(record)
    run_epoch = plugin.wrap(loop)
    if run_epoch is None:
        raise ContractError("wrap leaves the plain loop, though privacy is asked for",
                            "return the function that runs a private epoch")
    with model.ctx.seeded("train"):
        for epoch in (1, 2):
            run_epoch(epoch)
    return seen, plugin


def noise_differs_between_steps(lab: Lab) -> None:
    """Under strong noise, no two steps move the shared parameters the same way."""
    seen, _ = _steps(lab, lab.data(), epsilon=0.05)
    require(len(seen) > 2, f"only {len(seen)} steps in two epochs", "take several steps an epoch")
    flat = torch.stack([s.flatten() for s in seen]).double()
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    like = flat @ flat.T
    like.fill_diagonal_(0)
    require(float(like.abs().max()) < 0.5, "the noise repeats itself: two steps have a cosine of "
            f"{float(like.abs().max()):.3f}", "make the noise stream once and keep it: asking "
            "ctx for the same names again starts it over")


def one_user_is_clipped(lab: Lab) -> None:
    """Without noise, leaving one user out moves a step by at most clip / expected users."""
    if not {"noise_multiplier", "clip", "sample_rate"} <= set(_fields(lab.cls)):
        raise Skip("it has no noise_multiplier, clip and sample_rate to test with")
    clip, rate, data = 0.01, 1.0, lab.data()
    flagged = np.zeros(data.n_users, bool)
    flagged[3] = True
    changes = {"noise_multiplier": 0.0, "clip": clip, "sample_rate": rate}
    with_user, _ = _steps(lab, data, **changes)
    without, _ = _steps(lab, data.without_users(flagged), **changes)
    moved = float((with_user[0] - without[0]).norm())
    bound = clip / (rate * data.n_users)
    require(moved > 0, "leaving a user out changes nothing", "let every drawn user count")
    require(moved <= bound * 1.001, f"one user moves a step by {moved:.3g}, the bound is "
            f"{bound:.3g}", "clip each user's whole gradient, not each row's or the batch's")


def epsilon_kept(lab: Lab) -> None:
    """The privacy spent is at most what was asked for, and is reported with delta."""
    from bench._contracts_lab import bprmf
    from bench.models.base import build

    plugin = lab.plugin(epsilon=4.0)
    model = build(bprmf(epochs=2), lab.data(), Context(0))
    spent = plugin.spent(model.fit(plugin, lambda event: None))
    require("epsilon" in spent and "delta" in spent, f"spent gives {sorted(spent)}",
            "return epsilon and delta")
    require(spent["epsilon"] <= 4.0 * 1.01, f"epsilon 4 was asked for, {spent['epsilon']:.4g} was "
            "spent", "let the noise follow from the steps that are really taken")
