"""Perturbations of the vectors of tokens: where they may be, how long they are, what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.base import TorchRecommender
from bench.perturb import TINY, steepest
from bench.text.trainable import TokenBatch, TokenTrained


def token_trained(model: TorchRecommender) -> TokenTrained:
    """The same model, known to show its tokens (its plugin gives "token-vectors")."""
    assert isinstance(model, TokenTrained)
    return model


def places(tokens: TokenBatch, where: str) -> Tensor:
    """Which tokens may move, bool (R, L): "all" without the padding, or "text", the texts of
    candidate items."""
    inside = tokens.mask.bool()
    return inside & tokens.text if where == "text" else inside


def unit(vectors: Tensor, able: Tensor) -> Tensor:
    """Mean L2 norm of the vectors (R, L, width) of each row's places in `able` (R, L), float32
    (R, 1, 1); 1 where a row has none. No row's unit depends on the other rows of its batch."""
    norms = vectors.detach().float().norm(dim=2) * able  # (R, L)
    count = able.sum(dim=1)  # (R,)
    mean = torch.where(count > 0, norms.sum(dim=1) / count.clamp_min(1), 1.0)
    return mean[:, None, None]


def uphill(slope: Tensor, able: Tensor, radius: float | Tensor) -> Tensor:
    """radius · g/‖g‖_F for each row of the batch, g being 0 outside `able`: float32 (R, L, w).

    Args:
        radius: of all rows, or of each (R, 1, 1).
    """
    kept = slope.float() * able[..., None]
    return steepest(kept.flatten(1), 1.0, "l2").view_as(kept) * radius


def pulled_back(delta: Tensor, radius: float | Tensor) -> Tensor:
    """Each row of delta (R, L, w) put back into the ball ‖δ‖_F ≤ radius, of all or of each."""
    norms = delta.flatten(1).norm(dim=1)[:, None, None].clamp_min(TINY)  # (R, 1, 1)
    inside: Tensor = delta * (radius / norms).clamp_max(1.0)
    return inside


def token_wise(delta: Tensor, able: Tensor, radius: float | Tensor) -> Tensor:
    """Each token's part of delta scaled to a largest coordinate of `radius`, 0 outside `able`."""
    largest = delta.abs().amax(dim=2, keepdim=True)  # (R, L, 1)
    return delta * able[..., None] * (radius / largest.clamp_min(TINY**2))


def moved_loss(trained: TokenTrained, tokens: TokenBatch, delta: Tensor) -> Tensor:
    """The training loss with delta (R, L, w) added to the tokens' vectors, the penalty of the
    weights left out: that is no matter of how often they are used."""
    vectors = trained.vectors(tokens)
    outputs = trained.outputs(tokens, vectors + delta.to(vectors.dtype))
    return trained.token_loss(outputs, tokens)


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(p‖q) + KL(q‖p) of the classes of two outputs (B, classes), mean over the batch.

    It equals Σ (p − q)(log p − log q), whose value and slopes are exactly 0 where p is q. One
    column is the log-odds of two classes; classes that both outputs rule out (−∞) count nothing.
    """
    if first.shape[1] == 1:
        first, second = (F.pad(x, (1, 0)) for x in (first, second))
    out = torch.isinf(first) & torch.isinf(second)
    a, b = (x.float().log_softmax(dim=1) for x in (first, second))
    gap = (a.masked_fill(out, 0.0) - b.masked_fill(out, 0.0))  # (B, classes)
    return ((a.exp() - b.exp()) * gap).sum(dim=1).mean()


class _Given(torch.autograd.Function):
    """A scalar whose slopes by some weights are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *both: Tensor) -> Tensor:
        ctx.save_for_backward(*both[len(both) // 2:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        slopes = ctx.saved_tensors
        return (None, *(outer[0] * g for g in slopes), *(None for _ in slopes))


def with_slopes(value: Tensor, slopes: Mapping[Tensor, Tensor]) -> Tensor:
    """`value`, a scalar, whose backward pass gives each weight this slope: what was summed up
    over several passes needs not keep their graphs."""
    made: Tensor = _Given.apply(value.detach(), *slopes, *slopes.values())  # type: ignore[no-untyped-call]
    return made
