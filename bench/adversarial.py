"""What adversarial trainings of embeddings share: δ climbs the loss, and both losses teach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench.api import Defense, ModelPlugin, param
from bench.data import Dataset
from bench.defense import no_tables
from bench.errors import CannotActError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, Table, TorchRecommender
    from bench.training import Loop


class AdversarialDefense(Defense):
    """Base of defenses that descend on L(θ) + weight · L(θ + δ), δ being a constant in a ball.

    Subclasses say how δ is made by their parameters, or by `radii`.
    """

    eps: float = param(0.5, "radius of the ball around each embedding row", low=0)
    weight: float = param(1.0, "weight of the loss under attack (λ, or α)", low=0)
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    relative: bool = param(False, "eps counts in median row norms of the table, as they are at "
                           "each step")
    steps: int = param(1, "ascent steps for δ: 1 is FGSM, more are PGD from δ = 0", low=1)
    step: float = param(0.5, "length of one of several ascent steps, as a share of eps", above=0)
    tables: str = param("both", "whose vectors are perturbed", choices=("both", "user", "item"))
    start_epoch: int = param(0, "epochs of plain training first (warm start)", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"embeddings", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        return no_tables(model, self.tables) if self.active_at_all() else None

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.active_at_all() or epoch <= self.start_epoch:
            return clean_loss
        # a draw of its own per batch: the users it holds and its loss tell it from the others
        names = (epoch, int(batch["users"][0]), float(clean_loss.detach()))
        delta = self.perturbation(model, batch, clean_loss, names)
        with model.ctx.seeded("adversarial", *names):
            return clean_loss + self.weight * model.loss(batch, delta)

    def radii(self, model: TorchRecommender, batch: Batch, tables: Mapping[str, Table],
              names: tuple[object, ...]) -> dict[str, Any]:
        """The radius of the ball of each table: a number, or one per row, (rows, 1)."""
        return {k: self.eps * (t.median_norm(self.norm) if self.relative else 1.0)
                for k, t in tables.items()}

    def perturbation(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
                     names: tuple[object, ...] = ()) -> dict[str, Tensor]:
        """δ for this batch: table key -> (rows, width), every row inside its ball, detached."""
        import torch

        from bench.perturb import project, steepest

        roles = ("user", "item") if self.tables == "both" else (self.tables,)
        tables = {k: t for k, t in model.tables().items() if t.role in roles}
        if not tables:
            raise CannotActError(f"{self.name}: the model has no {self.tables} table to perturb")
        radii = self.radii(model, batch, tables, names)
        grads = self._clean_gradients(tables, clean_loss)
        if self.steps == 1:
            return {k: steepest(g, radii[k], self.norm) for k, g in grads.items()}
        delta = {k: torch.zeros_like(g) for k, g in grads.items()}  # (rows, width) each
        for n in range(self.steps):
            if n:
                point = {k: d.requires_grad_() for k, d in delta.items()}
                with model.ctx.seeded("adversarial", *names):
                    found = torch.autograd.grad(model.loss(batch, point), list(point.values()),
                                                allow_unused=True)
                grads = {k: torch.zeros_like(d) if g is None else g
                         for (k, d), g in zip(point.items(), found, strict=True)}
            delta = {k: project(d.detach() + steepest(grads[k], self.step * radii[k], self.norm),
                                radii[k], self.norm) for k, d in delta.items()}
        return delta

    @staticmethod
    def _clean_gradients(tables: Mapping[str, Table], clean_loss: Tensor) -> dict[str, Tensor]:
        """The gradient at δ = 0 is that of the clean loss by the tables' own rows: the graph is
        there already, so it costs one backward pass and no forward pass."""
        import torch

        found = torch.autograd.grad(clean_loss, [t.weight for t in tables.values()],
                                    retain_graph=True, allow_unused=True)
        return {k: torch.zeros_like(t.rows()) if g is None else g[t.start:t.stop]
                for (k, t), g in zip(tables.items(), found, strict=True)}

    def active_at_all(self) -> bool:
        """Whether its parameters leave anything to it."""
        return bool(self.eps and self.weight)

    def active(self, loop: Loop) -> bool:
        """Whether any epoch of this training is adversarial."""
        return self.active_at_all() and self.start_epoch < loop.hyper.epochs

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Keeps the plain loop; early stopping keeps none of the plain epochs."""
        if self.active(loop):
            loop.kept_from = self.start_epoch + 1
        return None

    def trained_against(self) -> str | None:
        if not self.active_at_all():
            return None
        return "fgsm" if self.steps == 1 else "pgd"

    @classmethod
    def neutral_params(cls) -> dict[str, Any] | None:
        return {"weight": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"eps": 0.1}
