"""Adversarial training on the feature vectors of items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender


class AMR(Defense):
    """Adversarial multimedia recommendation: L(θ, f) + weight · L(θ, f + δ) (Tang et al.,
    "Adversarial Training Towards Robust Multimedia Recommender System", TKDE 2019, Eq. 9).

    δ is made anew for each batch from the gradient of its loss by the feature vectors: per item
    ε · g/‖g‖₂ (l2) or ε · sign(g) (linf); it counts as a constant, and items that the batch does
    not touch stay where they are. Both terms teach all parameters. For models that read feature
    vectors of items (`vbpr`). Costs about two plain steps more. eps 0 and weight 0 equal `none`
    bit for bit.

    Adaptive attack: feature-pgd against the trained model, at equal ε in median norms.

    Example: defenses: [{amr: {eps: 0.1, weight: 1.0}}]
    """

    name = "amr"
    eps: float = param(0.1, "radius of the ball around each item's feature vector", low=0)
    weight: float = param(1.0, "weight of the loss under attack (λ)", low=0)
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    relative: bool = param(True, "eps counts in median norms of the items' feature vectors")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"features", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))} of items"
        return None

    def trained_against(self) -> str | None:
        # one step on the loss of the batch: feature-pgd climbs another sum, and was not met
        return "feature-fgsm" if self.eps and self.weight else None

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.eps or not self.weight:
            return clean_loss
        import torch

        from bench.perturb import steepest

        key, table = next((k, t) for k, t in model.tables().items() if t.role == "feature")
        names = (epoch, int(batch["users"][0]), float(clean_loss.detach()))
        radius = self.eps * (table.median_norm(self.norm) if self.relative else 1.0)
        # the same draws (dropout) in the pass for δ and the pass under δ, and in neither's clean
        with model.ctx.seeded("amr", *names):
            still = torch.zeros_like(table.rows()).requires_grad_()  # (items, width)
            (slope,) = torch.autograd.grad(model.loss(batch, {key: still}), still)
        with model.ctx.seeded("amr", *names):
            moved = model.loss(batch, {key: steepest(slope, radius, self.norm)})
        return clean_loss + self.weight * moved

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}
