"""Influence of single ratings on the training risk: Hessian-vector products and their inverse.

For models that predict ratings. Everything is autograd on the model's own loss; nothing knows its
formula. The risk R is the mean squared error over rated pairs, without regularisers: at a minimum
of the training objective its gradient is not zero, which that of the objective is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from bench.models._rating_mf import RatingRecommender
from bench.models.base import Batch, TorchRecommender

Vector = list[Tensor]


def weights_of(model: TorchRecommender) -> list[Tensor]:
    """What is learned, in order."""
    return [p for p in model.module.parameters() if p.requires_grad]


def squared_errors(model: TorchRecommender, batch: Batch) -> Tensor:
    """(r − r̂)² of each row, (B,)."""
    predicted = cast(RatingRecommender, model).predict(batch["users"], batch["items"])
    return (batch["ratings"] - predicted) ** 2


def risk_gradient(model: TorchRecommender, batch: Batch) -> Vector:
    """∇R by everything that is learned."""
    weights = weights_of(model)
    found = torch.autograd.grad(squared_errors(model, batch).mean(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def hessian_product(model: TorchRecommender, batch: Batch) -> Callable[[Vector], Vector]:
    """v ↦ H v, with H the Hessian of the model's mean loss on the batch."""
    weights = weights_of(model)
    loss = model.batch_loss(batch) / (len(batch["users"]) if model.sums_loss else 1)
    first = torch.autograd.grad(loss, weights, create_graph=True)

    def product(v: Vector) -> Vector:
        dot = sum(((g * x).sum() for g, x in zip(first, v, strict=True)), loss.new_zeros(()))
        found = torch.autograd.grad(dot, weights, retain_graph=True)
        return [h.detach() for h in found]

    return product


def damped(product: Callable[[Vector], Vector], damping: float) -> Callable[[Vector], Vector]:
    """v ↦ H v + damping · v."""
    return lambda v: [h + damping * x for h, x in zip(product(v), v, strict=True)]


def norm(v: Sequence[Tensor]) -> float:
    """Of all of a vector's parts together."""
    return float(torch.stack([x.norm() for x in v]).norm())


def largest_eigenvalue(product: Callable[[Vector], Vector], like: Vector,
                       stream: torch.Generator, steps: int = 20) -> float:
    """|λ|max of a symmetric map, by power iteration from a random vector."""
    v = [torch.randn(x.shape, generator=stream).to(x.device) for x in like]
    size = 0.0
    for _ in range(steps):
        length = norm(v)
        v = product([x / length for x in v])
        size = norm(v)
    return size


def lissa(product: Callable[[Vector], Vector], v: Vector, scale: float, steps: int) -> Vector:
    """The inverse of `product` applied to v: the recursion x ← v + (I − product / scale) x, the
    result divided by scale (Agarwal et al., JMLR 2017; in influence functions Koh and Liang, ICML
    2017). It converges where the map is positive definite and scale is at least its largest
    eigenvalue."""
    x = [t.clone() for t in v]
    for _ in range(steps):
        moved = product(x)
        x = [a + b - c / scale for a, b, c in zip(v, x, moved, strict=True)]
    return [t / scale for t in x]


def rating_influence(model: TorchRecommender, users: Tensor, direction: Vector,
                     ratings: Tensor) -> Tensor:
    """What raising each rating of these users does to the risk: ∂/∂r of −∇ℓ(u, i, r) · s.

    With s = H⁻¹ ∇R this is, up to the factor 1/n, dR/dr for a rated pair (u, i, r) that is
    learned from (Koh and Liang 2017, perturbing a training input): negative where a higher rating
    lowers the risk.

    Args:
        users: (U,). ratings: what is perturbed, (U, n_items).

    Returns:
        (U, n_items).
    """
    n_items = ratings.shape[1]
    point = ratings.detach().clone().requires_grad_()
    batch = {"users": users.repeat_interleave(n_items),
             "items": torch.arange(n_items, device=users.device).repeat(len(users)),
             "ratings": point.flatten()}
    weights = weights_of(model)
    slopes = torch.autograd.grad(squared_errors(model, batch).sum(), weights, create_graph=True,
                                 allow_unused=True)
    dot = sum(((g * s).sum() for g, s in zip(slopes, direction, strict=True) if g is not None),
              point.new_zeros(()))
    found: Tensor = torch.autograd.grad(-dot, point)[0]
    return found
