"""Contracts of attacks: they spend what they state, and they do what they are for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.api import Attack, Context, Dataset, EmbeddingAttack, ProfileAttack, ThreatModel
from bench.coerce import parameters
from bench.errors import InputError
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from torch import Tensor

    from bench._contracts_lab import Lab
    from bench.models.base import TorchRecommender

STAGES = ("train-poison", "model-poison", "test-input", "test-param", "output-query", "none")
KNOWLEDGE = ("white", "gray", "black", "none")
GOALS = ("untargeted", "push", "nuke", "infer", "none")
SEEDS = (0, 1, 2)
# One step of FGSM may beat them, for a reason that the check holds them to.
OUTDONE = {"msap-published": "its steps have their length in l2, and do not fill its box"}
# Contracts of the other bases, by the name of the base class.
FAMILIES: dict[str, str] = {
    "ClientAttack": "bench._contracts_clients",
    "FeatureAttack": "bench._contracts_features",
    "HistoryAttack": "bench._contracts_histories",
    "PrivacyAttack": "bench._contracts_inference",
    "OptimisedProfiles": "bench._contracts_optimised",
    "TextAttack": "bench._contracts_texts",
}


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    from bench import _contracts_oracle, _contracts_seeds

    found: list[Callable[[Lab], None]] = [threat_model, *_contracts_seeds.checks(cls),
                                          *_contracts_oracle.checks(cls)]
    for base, module in FAMILIES.items():
        if any(b.__name__ == base for b in cls.__mro__):
            found += importlib.import_module(module).checks(cls)
    if issubclass(cls, ProfileAttack):
        found += [fake_users_within_budget, nothing_genuine_moves, no_duplicates,
                  poison_reaches_the_model, changes_exposure]
    if issubclass(cls, EmbeddingAttack):
        found += [rows_inside_the_ball, eps_zero_is_identity, loss_rises, as_strong_as_noise,
                  takes_more_from_lists_than_noise, as_strong_as_one_step,
                  never_beats_the_exact_radius]
    return found


def threat_model(lab: Lab) -> None:
    """The threat model uses the words that the report knows, and states the budget."""
    assert issubclass(lab.cls, Attack)
    require(isinstance(getattr(lab.cls, "threat", None), ThreatModel), "it has no threat model",
            "set threat = ThreatModel(stage, knowledge, goal, realisable)")
    threat = lab.plugin().threat_model()
    assert isinstance(threat, ThreatModel)
    for what, word, known in (("stage", threat.stage, STAGES), ("goal", threat.goal, GOALS),
                              ("knowledge", threat.knowledge, KNOWLEDGE)):
        require(word in known, f"{what} {word!r} is unknown", f"use one of {', '.join(known)}")
    require(bool(lab.plugin().budget_text().strip()), "budget_text is empty",
            "say in words what the attacker may spend")


# -- fake profiles -----------------------------------------------------------------------------

def _poisonings(lab: Lab) -> list[tuple[Any, Dataset, Dataset]]:
    """(plugin, data before, data after) at several budgets, explicit and implicit."""
    made = []
    for explicit in (True, False):
        data = lab.data(explicit)
        for changes in ({"budget": 0.05, "length": 0}, {"budget": 0.001, "length": 0},
                        {"budget": 0.2, "length": 9}):
            plugin = lab.plugin(targets=2, **changes)
            if plugin.unfit(lab.model_plugin(), data) is None:
                made.append((plugin, data, plugin.poison(data, lab.context(1))))
    if not made:
        raise Skip("it runs neither on explicit nor on implicit test data")
    return made


def _fakes(before: Dataset, after: Dataset) -> list[np.ndarray[Any, Any]]:
    """Items of each fake user."""
    fake = after.train.users >= before.n_users
    return [after.train.items[fake & (after.train.users == u)]
            for u in range(before.n_users, after.n_users)]


def fake_users_within_budget(lab: Lab) -> None:
    """As many fake users as the budget says, each no longer than stated, targets included."""
    for plugin, before, after in _poisonings(lab):
        want = max(1, round(plugin.budget * before.n_genuine))
        require(after.n_fake == want, f"{after.n_fake} fake users, the budget is {want}",
                "return one profile per entry of `lengths`")
        targets = plugin.pick(before, Context(1))
        mean = before.activity.mean()
        for items in _fakes(before, after):
            most = plugin.length or 2 * mean
            require(len(items) <= most, f"a fake user has {len(items)} items, {most:g} are "
                    "allowed with the targets", "let targets count: fillers = length − targets")
            require(not plugin.holds_targets or bool(np.isin(targets, items).all()),
                    "a fake user misses a target", "put every target into every profile")


def nothing_genuine_moves(lab: Lab) -> None:
    """Real rows stay first and untouched; fakes are in train only; no id moves."""
    from bench._contracts_lab import digest

    for _, before, after in _poisonings(lab):
        n = len(before.train)
        same = (digest(after.train[:n]) == digest(before.train)
                and digest(after.valid, after.test) == digest(before.valid, before.test)
                and after.user_ids[:before.n_users] == before.user_ids
                and after.item_ids == before.item_ids
                and bool((after.train.users[n:] >= before.n_users).all()))
        require(same, "genuine rows or ids are changed", "leave `poison` to the base class")


def no_duplicates(lab: Lab) -> None:
    """No fake user has an item twice, and ratings lie on the scale."""
    for _, before, after in _poisonings(lab):
        for items in _fakes(before, after):
            require(len(np.unique(items)) == len(items), "a fake user has an item twice",
                    "draw fillers without replacement, and not among the targets")
        ratings = after.train.ratings
        if ratings is not None and before.rating_scale is not None:
            low, high = before.rating_scale
            require(bool(((ratings >= low) & (ratings <= high)).all()),
                    "a rating is off the scale", "clip to data.rating_scale")


def _target_rank(scores: Tensor, data: Dataset, targets: np.ndarray[Any, Any]) -> float:
    """Mean share of items that a genuine user is offered before a target; lower is exposed."""
    better = [(scores > scores[:, t:t + 1]).double().mean().item()
              + 0.5 * (scores == scores[:, t:t + 1]).double().mean().item() for t in targets]
    return float(np.mean(better))


def _attacked(lab: Lab) -> list[tuple[float, float, bool]]:
    """Per seed: rank of the targets clean, and attacked; whether their scores changed."""
    from bench._contracts_lab import all_scores, biased, fit, refuse

    if "_attacked" not in lab.__dict__:
        plugin, data, found = lab.plugin(budget=0.5, targets=2, stratum="tail"), lab.data(), []
        model = lab.model_plugin()
        refuse(plugin.unfit(model, data))
        biases = model.name == "bprmf"  # a bias takes up popularity at once, for user and fake
        for seed in SEEDS:
            ctx = lab.context(seed)
            targets = plugin.pick(data, ctx)
            clean = all_scores(fit(biased() if biases else model, data, seed))
            after = all_scores(fit(biased() if biases else model, plugin.poison(data, ctx), seed))
            moved = not torch.equal(clean[:, targets], after[:, targets])
            found.append((_target_rank(clean, data, targets),
                          _target_rank(after, data, targets), moved))
        lab.__dict__["_attacked"] = found
    made: list[tuple[float, float, bool]] = lab.__dict__["_attacked"]
    return made


def poison_reaches_the_model(lab: Lab) -> None:
    """A model trained on the poisoned data scores the targets otherwise."""
    require(all(moved for _, _, moved in _attacked(lab)),
            "the targets' scores are the same with and without the fake users",
            "let profiles contain the targets and something that ties them to genuine users")


def changes_exposure(lab: Lab) -> None:
    """On average over seeds, targets are offered earlier (push) or later (nuke) than clean."""
    goal = lab.plugin().threat_model().goal
    if goal not in ("push", "nuke"):
        raise Skip(f"its goal is {goal}")
    gain = float(np.mean([clean - after for clean, after, _ in _attacked(lab)]))
    require(gain > 0 if goal == "push" else gain < 0,
            f"with half as many fake users as genuine the targets move by {gain:+.1%} of the "
            f"catalogue towards the top, and the goal is {goal}",
            "check that ratings and fillers serve the goal")


# -- perturbed vectors -------------------------------------------------------------------------

def _model(lab: Lab) -> TorchRecommender:
    from bench.models.base import TorchRecommender

    model = lab.model()
    assert isinstance(model, TorchRecommender)  # promised by "embeddings"
    return model


def _delta(lab: Lab, model: TorchRecommender, seed: int = 0, **changes: Any
           ) -> dict[str, Tensor]:
    found: dict[str, Tensor] = lab.plugin(**changes).perturbation(model, model.data,
                                                                  Context(seed))
    return found


def rows_inside_the_ball(lab: Lab) -> None:
    """Every row moves by at most the radius, in the declared norm; no other table moves."""
    model = _model(lab)
    tables = model.tables()
    for norm in ("l2", "linf"):
        for eps, relative, whose in ((0.3, False, "both"), (0.5, True, "user"),
                                     (1e-3, False, "item")):
            if not _possible(lab, norm=norm, tables=whose):
                continue
            found = _delta(lab, model, norm=norm, eps=eps, relative=relative, tables=whose)
            roles = {tables[k].role for k in found}
            require(whose == "both" or roles == {whose},
                    f"asked for {whose} tables, it moves {sorted(roles)}",
                    "return the tables in `radii`, no other")
            for key, delta in found.items():
                order = float("inf") if norm == "linf" else 2
                longest = float(np.linalg.norm(delta.double().numpy(), order, axis=1).max())
                unit = float(np.median(np.linalg.norm(tables[key].rows().double().numpy(), order,
                                                      axis=1))) if relative else 1.0
                radius = eps * unit
                require(longest <= radius * 1.05, f"a row of {key} moves {longest:.4g} in {norm}, "
                        f"the radius is {radius:.4g}",
                        "project each row into its own ball of self.norm: bench.perturb.project")


def eps_zero_is_identity(lab: Lab) -> None:
    """With eps 0 the scores are the clean ones, bit for bit, and the model comes back."""
    from bench._contracts_lab import all_scores

    model = _model(lab)
    clean = all_scores(model)
    with model.perturbed(_delta(lab, model, eps=0.0)):
        require(torch.equal(clean, all_scores(model)), "eps 0 changes scores",
                "return zeros where the radius is 0")
    with model.perturbed(_delta(lab, model, eps=0.3)):
        require(not torch.equal(clean, all_scores(model)), "eps 0.3 changes no score",
                "the perturbation is zero: is its gradient detached?")
    require(torch.equal(clean, all_scores(model)), "the model is not put back afterwards",
            "leave applying the perturbation to the base class")


def _losses(lab: Lab, other: Mapping[str, Any] | None = None, **changes: Any
            ) -> tuple[float, float, float]:
    """The model's loss: clean, under the attack, and under another attack in the same ball."""
    from bench.perturb import attack_batches, mean_loss

    model, plugin = _model(lab), lab.plugin(**changes)
    batches = attack_batches(model, getattr(plugin, "source", "train"))
    with model.evaluating():
        clean = mean_loss(model, batches)
        under = mean_loss(model, batches, plugin.perturbation(model, model.data, Context(0)))
        against = clean
        if other is not None:
            ball = {k: getattr(plugin, k) for k in ("eps", "relative", "norm", "tables")}
            rival = lab.registry.make("attacks", {**other, "params": {
                **other.get("params", {}), **ball}})
            assert isinstance(rival, EmbeddingAttack)
            against = mean_loss(model, batches, rival.perturbation(model, model.data, Context(0)))
    return clean, under, against


def _possible(lab: Lab, **changes: Any) -> bool:
    """Whether the attack has this norm and these tables."""
    tables = parameters(lab.cls)["tables"].metadata.get("choices", ())
    if changes.get("tables", "user") not in tables:
        return False
    try:
        lab.plugin(**changes)
    except InputError:
        return False
    return True


def _norms(lab: Lab) -> list[str]:
    return [n for n in ("l2", "linf") if _possible(lab, norm=n)]


def _aims_at_loss(lab: Lab) -> None:
    threat = lab.plugin().threat_model()
    if not lab.plugin().aims_at_loss or threat.knowledge == "none" or threat.goal != "untargeted":
        raise Skip("it does not aim at the loss (a control, or a targeted attack)")


def loss_rises(lab: Lab) -> None:
    """The attacked model's own loss is higher than without attack."""
    _aims_at_loss(lab)
    for norm in _norms(lab):
        clean, under, _ = _losses(lab, eps=0.1, norm=norm)
        require(under > clean, f"the loss goes from {clean:.6g} to {under:.6g} in {norm}",
                "climb the loss: is the sign right, and is the gradient there?")


def as_strong_as_noise(lab: Lab) -> None:
    """The loss is at least that under random noise in the same ball."""
    _aims_at_loss(lab)
    for norm in _norms(lab):
        _, under, noise = _losses(lab, {"name": "noise"}, eps=0.1, norm=norm)
        require(under >= noise, f"loss {under:.6g}, noise of the same size reaches {noise:.6g} "
                f"({norm})", "an attack that knows the model must beat chance")


def takes_more_from_lists_than_noise(lab: Lab) -> None:
    """An attack on lists pushes the first item out of more lists than noise of the same size."""
    threat = lab.plugin().threat_model()
    if lab.plugin().aims_at_loss or threat.knowledge == "none" or threat.goal != "untargeted":
        raise Skip("it aims at the loss, or is a control, or has targets")
    from bench._contracts_lab import all_scores

    model, k = _model(lab), int(lab.plugin().params().get("k", 1))
    top = all_scores(model).argmax(dim=1, keepdim=True)

    def kept(delta: Mapping[str, Tensor]) -> float:
        with model.perturbed(delta):
            found = all_scores(model)
        return float(((found > found.gather(1, top)).sum(dim=1) < k).double().mean())

    for norm in _norms(lab):
        mine = lab.plugin(eps=0.5, relative=True, norm=norm)
        ball = {key: getattr(mine, key) for key in ("eps", "relative", "norm", "tables")}
        noise = lab.registry.make("attacks", {"name": "noise", "params": ball})
        assert isinstance(noise, EmbeddingAttack)
        under = kept(mine.perturbation(model, model.data, Context(0)))
        control = kept(noise.perturbation(model, model.data, Context(0)))
        require(under < control, f"{under:.1%} of the lists keep their first item among the "
                f"first {k}, under noise {control:.1%} ({norm})", "climb the margin of the rivals")


def as_strong_as_one_step(lab: Lab) -> None:
    """An attack of many steps raises the loss at least as much as one step of FGSM."""
    _aims_at_loss(lab)
    if "steps" not in lab.plugin().params():
        raise Skip("it has no steps")
    if lab.cls.name in OUTDONE:
        _, under, fgsm = _losses(lab, {"name": "fgsm"}, eps=0.1, norm=_norms(lab)[0])
        require(under < fgsm, f"{lab.cls.name} is exempt since {OUTDONE[lab.cls.name]}, and "
                f"reaches {under:.6g} where FGSM reaches {fgsm:.6g}", "take it off the exemptions")
        return
    for norm in _norms(lab):
        steps = max(10, int(lab.cls().params()["steps"]))
        _, under, fgsm = _losses(lab, {"name": "fgsm"}, eps=0.1, norm=norm, steps=steps)
        require(under >= fgsm * (1 - 1e-6), f"loss {under:.6g} after {steps} steps, FGSM reaches "
                f"{fgsm:.6g} in the same ball ({norm})",
                "project into the ball, do not shrink; keep the best iterate")


def never_beats_the_exact_radius(lab: Lab) -> None:
    """On a dot-product scorer, no top item falls below the radius that mathematics allows."""
    from bench.oracle import leave_radius

    model, eps = _model(lab), 0.2
    tables = model.tables()
    if set(tables) != {"user", "item"}:
        raise Skip("the test model is no plain dot product of two tables")
    for norm in _norms(lab):
        found = _delta(lab, model, eps=eps, norm=norm, relative=False, tables="user")
        users, items = tables["user"].rows(), tables["item"].rows()
        top = (users @ items.T).argmax(dim=1)  # (users,)
        after = ((users + found["user"]) @ items.T).argmax(dim=1)
        needed = leave_radius(users, items, top, 1, norm=norm)
        beaten = (after != top) & (needed > eps * (1 + 1e-3) + 1e-6)
        require(not bool(beaten.any()), f"{int(beaten.sum())} users lose their top item within "
                f"{eps}, where at least {float(needed[beaten].min()) if beaten.any() else 0:.4g} "
                f"is needed ({norm})", "the perturbation is longer than stated")
