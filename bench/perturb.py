"""Balls, projections and gradients of embedding rows: what attacks and defenses share.

Rows are embedding vectors: a perturbation of a table has shape (rows, width), and every row has
its own ball. Norms are "l2" and "linf".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.errors import PluginError

if TYPE_CHECKING:
    from bench.models.base import Batch, TorchRecommender

TINY = 1e-12
ATTACK_ROWS = 8192  # rows per batch of an attack: few large steps, nothing is learned from order


def row_norms(x: Tensor, norm: str) -> Tensor:
    """The norm of each row of x (rows, width): (rows,)."""
    return x.norm(dim=1) if norm == "l2" else x.abs().amax(dim=1)


def steepest(gradient: Tensor, radius: float, norm: str) -> Tensor:
    """The step of length `radius` per row that raises the loss fastest to first order.

    L2: radius · g/‖g‖₂ per row (He et al. 2018, Eq. 8, per row as in their code). L∞:
    radius · sign(g) (Goodfellow et al. 2015). A row without gradient stays where it is.
    """
    if norm == "linf":
        return gradient.sign() * radius  # (rows, width)
    # Where the loss is saturated, g is so small that its squares underflow: scale it first.
    largest = gradient.abs().amax(dim=1, keepdim=True)  # (rows, 1)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)  # (rows, width)
    step: Tensor = scaled * (radius / scaled.norm(dim=1, keepdim=True).clamp_min(TINY))
    return step


def project(delta: Tensor, radius: float, norm: str) -> Tensor:
    """Each row of delta moved to the nearest point of its ball: (rows, width)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    norms = delta.norm(dim=1, keepdim=True)  # (rows, 1)
    inside: Tensor = delta * (radius / norms.clamp_min(TINY)).clamp_max(1.0)
    return inside


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


def still_share(delta: Tensor) -> float:
    """The share of rows that a perturbation (rows, width) leaves exactly where they were."""
    return float((delta == 0).all(dim=1).double().mean()) if len(delta) else 0.0


def attack_batches(model: TorchRecommender, source: str = "train", pairs: int = 0,
                   draws: int = 1) -> list[Batch]:
    """The fixed rows an attack takes its loss over, in few large batches.

    The rows and negatives are those of the epochs 0, −1, …, which no training uses.

    Args:
        model: the model attacked.
        source: "train" (as in adversarial training), or "test" (its test positives: an oracle).
        pairs: how many rows, the first in hashed order, rounded up to batches of equal size;
            0 takes all.
        draws: how often each row stands with negatives drawn anew (with `pairs`, every draw
            takes other rows). An attack on one draw fits
            those very negatives and hurts the ranking less. A loss without sampled negatives
            takes each row once.

    Raises:
        PluginError: there is no such row, so that the gradient would be zero in silence.
    """
    count = -(-pairs // ATTACK_ROWS) if pairs else None
    size = -(-pairs // count) if count else ATTACK_ROWS
    made = list(islice(model.batches(0, size, source), count))
    if made and {"negatives", "labels"} & set(made[0]):
        for draw in range(1, draws):
            made += islice(model.batches(-draw, size, source), count)
    if not any(len(batch["users"]) for batch in made):
        raise PluginError(f"the model makes no batch of the {source} rows, so there is no loss "
                          "to raise")
    return made


def gradient(model: TorchRecommender, batches: Iterable[Batch], keys: Iterable[str],
             delta: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], float]:
    """Gradient of the model's mean loss over all rows of the batches, by the rows of each table.

    Args:
        model: in the mode wanted (attacks: evaluation mode, so that the loss is a function).
        batches: fixed batches. Each counts by its rows, so that how rows are cut into batches
            does not matter.
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
    for loss, weight, size in _losses(model, batches, point):
        grads = torch.autograd.grad(loss, list(point.values()), allow_unused=True)
        for key, g in zip(point, grads, strict=True):
            if g is not None:
                total[key] += g * weight
        loss_sum += float(loss.detach()) * weight
        rows += size
    rows = max(rows, 1)
    return {k: v / rows for k, v in total.items()}, loss_sum / rows


@torch.no_grad()
def mean_loss(model: TorchRecommender, batches: Iterable[Batch],
              delta: Mapping[str, Tensor] | None = None) -> float:
    """The loss that `gradient` differentiates, without its gradient."""
    loss_sum, rows = 0.0, 0
    for loss, weight, size in _losses(model, batches, delta):
        loss_sum += float(loss) * weight
        rows += size
    return loss_sum / max(rows, 1)


def climb(model: TorchRecommender, batches: Iterable[Batch], radii: Mapping[str, float],
          norm: str, steps: int, direction: Callable[[str, Tensor, float], Tensor],
          begin: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Steps of ascent on the mean loss, each put back into the ball; the best iterate.

    Args:
        batches: fixed batches of the loss.
        radii: table key -> radius of the ball of each row, in `norm`.
        direction: (table key, slope (rows, width), radius) -> the step (rows, width).
        begin: where to start, inside the balls; zero if not given.

    Returns:
        Of the iterates after the start, the one with the highest loss on the same batches.
    """
    batches = list(batches)
    at = dict(begin) if begin is not None else {
        key: torch.zeros_like(model.tables()[key].rows()) for key in radii}
    best, highest = at, -math.inf
    for t in range(steps):
        slope, loss = gradient(model, batches, radii, at)
        if t > 0 and loss > highest:  # the start is no iterate
            best, highest = at, loss
        at = {key: project(at[key] + direction(key, slope[key], radius), radius, norm)
              for key, radius in radii.items()}
    last_wins = steps == 1 or mean_loss(model, batches, at) >= highest
    return at if last_wins else best


def _losses(model: TorchRecommender, batches: Iterable[Batch],
            delta: Mapping[str, Tensor] | None) -> Iterator[tuple[Tensor, int, int]]:
    """Per batch: its loss, the factor that makes it a sum over rows, and its number of rows."""
    for n, batch in enumerate(batches):
        size = len(batch["users"])
        with model.ctx.seeded("gradient", n):  # some losses draw (contrastive views, noise)
            loss = model.loss(batch, delta)
        yield loss, (1 if model.sums_loss else size), size
