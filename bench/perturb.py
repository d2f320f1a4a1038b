"""Balls, projections and gradients of embedding rows: what attacks and defenses share.

Rows are embedding vectors: a perturbation of a table has shape (rows, width), and every row has
its own ball. Norms are "l2" and "linf".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bench.models.base import Batch, TorchRecommender

TINY = 1e-12


def row_norms(x: Tensor, norm: str) -> Tensor:
    """The norm of each row of x (rows, width): (rows,)."""
    return x.norm(dim=1) if norm == "l2" else x.abs().amax(dim=1)


def steepest(gradient: Tensor, radius: float, norm: str) -> Tensor:
    """The step of length `radius` per row that raises the loss fastest to first order.

    L2: radius · g/‖g‖₂ per row (He et al. 2018, Eq. 8, per row as in their code). L∞:
    radius · sign(g) (Goodfellow et al. 2015). A row without gradient stays where it is.
    """
    if norm == "linf":
        return radius * gradient.sign()  # (rows, width)
    norms = gradient.norm(dim=1, keepdim=True)  # (rows, 1)
    step = radius * gradient / norms.clamp_min(1e-30)
    return torch.where(norms > 0, step, torch.zeros_like(step))


def project(delta: Tensor, radius: float, norm: str) -> Tensor:
    """Each row of delta moved to the nearest point of its ball: (rows, width)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    norms = delta.norm(dim=1, keepdim=True)  # (rows, 1)
    return delta * (radius / norms.clamp_min(TINY)).clamp_max(1.0)


def uniform_in_ball(like: Tensor, radius: float, norm: str, generator: torch.Generator) -> Tensor:
    """Rows uniform in the ball, drawn on the CPU so that numbers do not depend on the device."""
    shape = like.shape
    if norm == "linf":
        drawn = (torch.rand(shape, generator=generator) * 2 - 1) * radius
    else:
        direction = torch.randn(shape, generator=generator)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(TINY)
        share = torch.rand((shape[0], 1), generator=generator) ** (1.0 / max(shape[1], 1))
        drawn = direction * share * radius
    return drawn.to(device=like.device, dtype=like.dtype)


def gradient(model: TorchRecommender, batches: Iterable[Batch], keys: Iterable[str],
             delta: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], float]:
    """Gradient of the model's loss, summed over the batches, by the rows of each table.

    Args:
        model: in the mode wanted (attacks: evaluation mode, so that the loss is a function).
        batches: fixed batches; a mean loss is weighted by the batch's rows, so that the result
            is the mean over all rows.
        keys: the tables.
        delta: where to take it: table key -> (rows, width) added to the table; zero if absent.

    Returns:
        table key -> (rows, width), and the loss there.
    """
    tables = model.tables()
    point = {k: (torch.zeros_like(tables[k].rows()) if delta is None else delta[k]).detach()
             .clone().requires_grad_() for k in keys}
    total = {k: torch.zeros_like(v) for k, v in point.items()}
    loss_sum, rows = 0.0, 0
    for n, batch in enumerate(batches):
        size = 1 if model.sums_loss else len(batch["users"])
        with model.ctx.seeded("gradient", n):  # some losses draw (contrastive views, noise)
            loss = model.loss(batch, point)
            grads = torch.autograd.grad(loss, list(point.values()), allow_unused=True)
        for key, g in zip(point, grads, strict=True):
            if g is not None:
                total[key] += g * size
        loss_sum += float(loss.detach()) * size
        rows += size
    rows = max(rows, 1)
    return {k: v / rows for k, v in total.items()}, loss_sum / rows
