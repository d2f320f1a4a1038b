"""Feature vectors of items under attack: an image retouched, a description reworded, as the
model's encoder sees it. The author makes a perturbation of the target items' vectors, this class
the ball."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, final

from bench.attack import STRATA, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import CannotActError, PluginError
from bench.inside import InsideAttack, check_radius
from bench.plugin import param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import ModelPlugin
    from bench.models.base import Recommender, Table, TorchRecommender
    from bench.stages import Prepared


class FeatureAttack(InsideAttack):
    """At test time: moves the feature vectors of the target items, and of no others.

    Authors write `delta`; this class picks the targets, turns ε into a radius, and refuses a
    target outside the ball of the declared norm. Who sells an item may change its picture or its
    text; that any vector in the ball can be reached by doing so is assumed, not shown. Which
    defenses an adaptive attack sees when they serve: as for attacks on learned vectors.
    """

    eps: float = param(0.1, "radius of the ball around a target's feature vector", low=0)
    relative: bool = param(True, "eps counts in median norms of the items' feature vectors")
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    goal: str = param("push", "push the targets into lists, or nuke them out of lists",
                      choices=("push", "nuke"))
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "white", "push")

    @abstractmethod
    def delta(self, model: TorchRecommender, table: Table, targets: Ints, radius: float,
              data: Dataset, ctx: Context) -> Tensor:
        """A perturbation of the targets' vectors, (targets, width), each row in its ball.

        Args:
            model: trained, in evaluation mode, or what stands for it as it is served.
            table: the feature vectors of all items.
            targets: item indices.
            radius: in the declared norm.
            data: genuine data, as evaluation masks. It holds no test row, as the model holds
                none, unless the attack is a declared oracle (`oracle_by`).
        """

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"features", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))} of items"
        return too_many(self.targets, self.stratum, data)

    def threat_model(self) -> ThreatModel:
        return dataclasses.replace(self.threat, goal=self.goal)

    def comparable(self) -> str:
        unit = " median norms" if self.relative else ""
        return (f"{self.goal}, features, {self.norm} ball of {self.eps:g}{unit}, {self.targets} "
                f"targets ({self.stratum})")

    def budget_text(self) -> str:
        return self.comparable() + self.static_text()

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return pick_targets(data, self.targets, self.stratum, ctx)

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.models.base import TorchRecommender, innermost
        from bench.served import follows

        bare, source = innermost(model), self.stand_in(self.made_on(model, ctx), ctx)
        if not isinstance(bare, TorchRecommender) or not isinstance(source, TorchRecommender):
            raise CannotActError(f"{self.name} perturbs feature vectors, and the model as it is "
                                 "served has none")
        if not follows(model, ctx):
            raise CannotActError(f"{self.name}: what the defense serves was made before, and no "
                                 "longer follows from the vectors")
        targets = self.aims(prepared.genuine, ctx)
        key, radius = _features(bare)[0], self.radius(bare)
        change = self.perturbation(source, targets, radius, prepared.genuine, ctx)
        with bare.perturbed({key: change}):
            model.forget()
            yield Struck(model, prepared.genuine, targets, {"radius": radius})
        model.forget()

    def radius(self, model: TorchRecommender) -> float:
        """The radius in the units of the vectors."""
        table = _features(model)[1]
        unit = table.median_norm(self.norm) if self.relative else 1.0
        return check_radius(self, self.eps, self.eps * unit, "the feature table")

    @final
    def perturbation(self, model: TorchRecommender, targets: Ints, radius: float,
                     data: Dataset, ctx: Context) -> Tensor:
        """The checked perturbation of the whole table: zero but for the targets."""
        import torch

        from bench.blind import blind, shown
        from bench.perturb import row_norms

        _, table = _features(model)
        whole = torch.zeros_like(table.rows())  # (items, width)
        if self.eps == 0:
            return whole
        with model.evaluating(), blind(self, model):
            made = self.delta(model, table, targets.copy(), radius, shown(self, data),
                              ctx).detach()
        if made.shape != (len(targets), whole.shape[1]):
            raise PluginError(f"{self.name}: {len(targets)} targets have vectors of width "
                              f"{whole.shape[1]}, its perturbation is {tuple(made.shape)}")
        if not torch.isfinite(made).all():
            raise PluginError(f"{self.name}: its perturbation is not finite")
        longest = float(row_norms(made.double(), self.norm).max())
        if longest > radius * (1 + 1e-6):
            raise PluginError(f"{self.name}: a target moves {longest:.6g} in {self.norm}, the "
                              f"budget is {radius:.6g}")
        whole[torch.from_numpy(targets).to(whole.device)] = made.to(whole)
        return whole


def _features(model: TorchRecommender) -> tuple[str, Table]:
    """The table of feature vectors, with its key."""
    for key, table in model.tables().items():
        if table.role == "feature":
            return key, table
    raise CannotActError("the model has no table of feature vectors")
