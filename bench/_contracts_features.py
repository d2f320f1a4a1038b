"""Contracts of attacks on feature vectors: the ball, the targets alone, and the goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.api import Context
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from torch import Tensor

    from bench._contracts_lab import Lab
    from bench.models.base import TorchRecommender

LIST = 10  # places of the list that targets come nearer to


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [targets_inside_the_ball, only_targets_move, eps_zero_changes_nothing, serves_the_goal]


def _made(lab: Lab, **changes: Any) -> tuple[TorchRecommender, Any, Tensor, float]:
    """The trained model, the target items, the perturbation (items, width), its radius."""
    model: Any = lab.model()
    plugin = lab.plugin(**changes)
    targets = plugin.aims(model.data, Context(1))
    radius = plugin.radius(model)
    made = plugin.perturbation(model, targets, radius, model.data, Context(1))
    return model, targets, made, radius


def targets_inside_the_ball(lab: Lab) -> None:
    """Every target moves by at most the radius, in the declared norm."""
    for norm in ("l2", "linf"):
        for eps, relative in ((0.3, True), (0.5, False)):
            model, _, delta, _ = _made(lab, norm=norm, eps=eps, relative=relative)
            order = float("inf") if norm == "linf" else 2
            table = next(t for t in model.tables().values() if t.role == "feature")
            unit = float(np.median(np.linalg.norm(table.rows().double().numpy(), order, axis=1)))
            most = eps * (unit if relative else 1.0)
            longest = float(np.linalg.norm(delta.double().numpy(), order, axis=1).max())
            require(longest <= most * 1.05, f"a target moves {longest:.4g} in {norm}, the radius "
                    f"is {most:.4g}", "project into the ball of self.norm")


def only_targets_move(lab: Lab) -> None:
    """The vectors of all other items stay as they are."""
    _, targets, delta, _ = _made(lab)
    others = np.setdiff1d(np.arange(len(delta)), targets)
    require(not bool(delta[torch.from_numpy(others)].any()), "an item that is no target moves",
            "leave the rest to the base class")
    require(bool(delta.any()), "no vector moves", "is the gradient detached?")


def eps_zero_changes_nothing(lab: Lab) -> None:
    """With eps 0 the scores are the clean ones, bit for bit."""
    from bench._contracts_lab import all_scores

    model, _, delta, _ = _made(lab, eps=0.0)
    clean = all_scores(model)
    with model.perturbed({"feature": delta}):
        require(torch.equal(clean, all_scores(model)), "eps 0 changes scores",
                "return zeros where the radius is 0")


def serves_the_goal(lab: Lab) -> None:
    """Targets come nearer to the lists of users without them (push), or farther (nuke), than under
    noise: by σ((s_ut − s_u^(K)) / τ), which counts lists, softly; scores alone do not."""
    from bench._contracts_lab import all_scores

    if lab.plugin().threat_model().knowledge == "none":
        raise Skip("it is a control")
    noise: Any = lab.registry.make("attacks", {"name": "feature-noise", "params": {
        key: getattr(lab.plugin(), key) for key in ("eps", "relative", "norm", "targets",
                                                    "stratum")}})
    for goal, sign in (("push", 1.0), ("nuke", -1.0)):
        model, targets, delta, radius = _made(lab, goal=goal)
        control = noise.perturbation(model, targets, radius, model.data, Context(1))
        known, found = model.data.known("test"), []
        without = torch.ones(model.data.n_genuine, len(targets), dtype=torch.bool)
        for n, target in enumerate(targets):
            without[known.users[known.items == target], n] = False
        clean = all_scores(model).double()
        last = clean.topk(min(LIST, clean.shape[1]), dim=1).values[:, -1:]  # (n, 1)
        for moved in (delta, control, torch.zeros_like(delta)):
            with model.perturbed({"feature": moved}):
                ahead = (all_scores(model).double() - last)[:, targets] / (0.1 * clean.std())
                found.append(sign * float(torch.sigmoid(ahead)[without].mean()))
        require(found[0] > found[2], f"a {goal} moves the targets the wrong way",
                "is the sign of the goal right?")
        require(found[0] > found[1], f"a {goal} moves the targets less than noise does",
                "an attack that knows the model must beat chance")
