"""Perturbed vectors of a trained model: the author makes a perturbation, this class the ball."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, final

from bench.attack import Struck, ThreatModel
from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, PluginError
from bench.inside import InsideAttack, check_radius
from bench.plugin import param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import ModelPlugin
    from bench.models.base import Recommender, TorchRecommender
    from bench.stages import Prepared


class EmbeddingAttack(InsideAttack):
    """After training: perturbs learned vectors. A probe of stability, not a realisable attack.

    Authors write `delta`; this class turns the stated ε into a radius per table, calls it, and
    refuses any row outside the ball of the declared norm. ε = 0 is the identity.

    An adaptive attack is made on what is served, as far as that has slopes (`InsideAttack` says
    how): what wraps the trained model under randomised-smoothing and macr is differentiated with
    it; popularity-rerank, calibrated-rerank and user-fairness choose lists without slopes, there
    the attack is made on the model inside and counts as not adaptive. `adaptive: false` is the
    static attack: made on the undefended model of the same seed, then added to the defended one.
    """

    eps: float = param(0.5, "radius of the ball around each embedding row", low=0)
    relative: bool = param(False, "eps counts in median row norms of the table attacked")
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    tables: str = param("both", "whose vectors are perturbed", choices=("both", "user", "item"))
    oracle_by: ClassVar[str | None] = "source"
    aims_at_loss: ClassVar[bool] = True  # or at what stands in the lists
    threat: ClassVar[ThreatModel] = ThreatModel("test-param", "white", "untargeted", False)

    @abstractmethod
    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        """A perturbation per table.

        Args:
            model: trained, in evaluation mode, or what stands for it as it is served
                (`bench.served`); `model.tables()` lists its tables.
            radii: table key -> radius in the declared norm, for the tables under attack.
            data: genuine data, as evaluation masks; what the model was trained on, after a
                defense cleaned it, is `model.data`. Neither holds a test row unless the attack
                is a declared oracle (`oracle_by`).
            ctx: for randomness, by name.

        Returns:
            table key -> tensor of the table's shape (rows, width), each row in its ball.
        """

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"embeddings", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        return None

    def budget_text(self) -> str:
        unit = " median row norms" if self.relative else ""
        oracle = ", sees test positives" if self.sees_test else ""
        return (f"{self.norm} row norm at most {self.eps:g}{unit}, {self.tables} vectors"
                f"{self.static_text()}{oracle}")

    def comparable(self) -> str:
        unit = " median row norms" if self.relative else ""
        return f"{self.norm} ball of {self.eps:g}{unit}, {self.tables} vectors"

    def radii(self, model: TorchRecommender) -> dict[str, float]:
        """The radius of each table under attack, in the declared norm."""
        found = {}
        for key, table in model.tables().items():
            if table.role in (("user", "item") if self.tables == "both" else (self.tables,)):
                unit = table.median_norm(self.norm) if self.relative else 1.0
                found[key] = check_radius(self, self.eps, self.eps * unit, key)
        if not found:
            raise CannotActError(f"the model has no {self.tables} table to perturb")
        return found

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.models.base import TorchRecommender, innermost
        from bench.served import follows

        bare, source = innermost(model), self.stand_in(self.made_on(model, ctx), ctx)
        if not isinstance(bare, TorchRecommender) or not isinstance(source, TorchRecommender):
            raise CannotActError(f"{self.name} perturbs learned vectors, and the model as it is "
                                 f"served ({type(bare).__name__}) has none")
        if not follows(model, ctx):
            raise CannotActError(f"{self.name}: what the defense serves was made before, and no "
                                 "longer follows from the vectors")
        radii = self.radii(bare)  # before the perturbation, which changes the median row norm
        delta = self.perturbation(source, prepared.genuine, ctx, radii)
        with bare.perturbed(delta):
            model.forget()  # a wrapper may have kept what it made of the clean vectors
            yield Struck(model, prepared.genuine, prepared.targets, {"radii": radii})
        model.forget()

    @final
    def perturbation(self, model: TorchRecommender, data: Dataset, ctx: Context,
                     radii: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """The checked perturbation: every row inside its ball.

        Args:
            data: genuine data. radii: of the balls, where they are not those of this model's own
                tables.
        """
        import torch

        from bench.blind import blind, shown
        from bench.perturb import row_norms

        radii = self.radii(model) if radii is None else radii
        tables = {k: t for k, t in model.tables().items() if k in radii}
        if set(tables) != set(radii):
            raise PluginError(f"{self.name}: the model it is made on has no table "
                              f"{', '.join(sorted(set(radii) - set(tables)))}")
        if self.eps == 0:
            return {k: torch.zeros_like(t.rows()) for k, t in tables.items()}
        with model.evaluating(), blind(self, model):
            made = self.delta(model, radii, shown(self, data), ctx)
        if set(made) != set(radii):
            raise PluginError(f"{self.name}: perturbs {sorted(made)}, and {sorted(radii)} were "
                              "asked for")
        for key, delta in made.items():
            if delta.shape != tables[key].rows().shape:
                raise PluginError(f"{self.name}: {key} has shape {tuple(tables[key].rows().shape)}"
                                  f", its perturbation {tuple(delta.shape)}")
            if not torch.isfinite(delta).all():
                raise PluginError(f"{self.name}: the perturbation of {key} is not finite")
            longest = float(row_norms(delta.double(), self.norm).max()) if delta.numel() else 0.0
            if longest > radii[key] * (1 + 1e-6):
                raise PluginError(f"{self.name}: a row of {key} moves {longest:.6g} in {self.norm}"
                                  f", the budget is {radii[key]:.6g}")
        return {k: d.detach() for k, d in made.items()}
