"""The exact radius of dot-product scorers: what no attack on user vectors can beat.

A test instrument. With s_ui = p_u·q_i + b_i, moving p_u by δ changes the margin of item i over
item j by δ·(q_i − q_j), at most ‖δ‖ · ‖q_i − q_j‖* in the dual norm (l2: l2; linf: l1). So i
stays above j for every ‖δ‖ < ρ_ij = (s_ui − s_uj) / ‖q_i − q_j‖*, and there is a δ of that length
with which it does not. Item i leaves the top K only when K rivals are above it at once, so the
K-th smallest max(0, ρ_ij) is a lower bound on the radius where that can happen. An attack that
succeeds below it is miscounting its budget.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DUAL = {"l2": 2.0, "linf": 1.0}
"""Norm of the ball -> p of the dual norm."""


def pairwise_radius(user_vectors: Tensor, item_vectors: Tensor, chosen: Tensor,
                    bias: Tensor | None = None, norm: str = "l2") -> Tensor:
    """ρ_ij of each row's chosen item over every item j, in float64.

    Args:
        user_vectors: (B, d).
        item_vectors: (m, d).
        chosen: (B,), item i of each row.
        bias: (m,), added to the scores, or None.
        norm: of the ball around the user vector, "l2" or "linf".

    Returns:
        (B, m); negative where j is above i already. Against an item with the same vector it is
        ±inf by the sign of the margin, and 0 without margin (so also for i itself).
    """
    p, q = user_vectors.double(), item_vectors.double()
    scores = p @ q.T  # (B, m)
    if bias is not None:
        scores = scores + bias.double()
    margin = scores.gather(1, chosen[:, None]) - scores  # (B, m)
    apart = torch.cdist(q[chosen], q, p=DUAL[norm],
                        compute_mode="donot_use_mm_for_euclid_dist")  # (B, m)
    same = torch.where(margin == 0, 0.0, torch.copysign(torch.full_like(margin, math.inf), margin))
    return torch.where(apart > 0, margin / apart, same)


def leave_radius(user_vectors: Tensor, item_vectors: Tensor, chosen: Tensor, k: int,
                 bias: Tensor | None = None, norm: str = "l2",
                 excluded: Tensor | None = None) -> Tensor:
    """A radius of the user vector below which the chosen item cannot leave the top k.

    Args:
        user_vectors, item_vectors, chosen, bias, norm: as in `pairwise_radius`.
        k: length of the list.
        excluded: bool (B, m), items that are never recommended (train items), or None.

    Returns:
        (B,): the K-th smallest max(0, ρ_ij) over rivals j; inf with fewer than k rivals. It is
        the exact radius for k = 1 and a lower bound for larger k.
    """
    radius = pairwise_radius(user_vectors, item_vectors, chosen, bias, norm).clamp_min(0.0)
    rival = torch.ones_like(radius, dtype=torch.bool).scatter_(1, chosen[:, None], False)
    if excluded is not None:
        rival &= ~excluded
    radius = torch.where(rival, radius, math.inf)  # (B, m)
    if k > radius.shape[1]:
        return radius.new_full((len(radius),), math.inf)
    smallest: Tensor = radius.kthvalue(k, dim=1).values
    return smallest


def worst_direction(item_vectors: Tensor, chosen: Tensor, rivals: Tensor, radius: Tensor,
                    norm: str = "l2") -> Tensor:
    """The δ of length `radius` (B,) that lowers the chosen item's margin over a rival (B,) most.

    l2: −radius·(q_i − q_j)/‖q_i − q_j‖₂; linf: −radius·sign(q_i − q_j). Shape (B, d), float64.
    """
    apart = (item_vectors[chosen] - item_vectors[rivals]).double()  # (B, d)
    if norm == "linf":
        return -radius[:, None].double() * apart.sign()
    unit: Tensor = apart / apart.norm(dim=1, keepdim=True)
    return -radius[:, None].double() * unit
