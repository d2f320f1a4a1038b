"""Projected gradient steps on the vectors of a target's tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.api import Context, param
from bench.token_attack import TokenAttack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.text.token_target import Target


class TokenEmbeddingPGD(TokenAttack):
    """Pushes items by steps δ ← Π(δ + α · g/‖g‖₂) per token, α = step · ε, from δ = 0; g is the
    slope of the mean margin log P(yes) − log P(no) over the prompts of the attacker's users.

    Madry et al., ICLR 2018, in L2, on vectors of tokens. Of the iterates the one with the highest
    mean margin of these users is returned. One step of length 1 is token-embedding-fgsm. A probe:
    no text has these vectors. One δ per target, for all users. White-box.

    Distance: L2 per token, ε in mean token norms.

    Args:
        eps: radius. targets, stratum: which items. sample: share of users δ is made on.
        steps, step: how many, and α as a share of ε.

    Shapes: delta is (tokens of the item's text, width).

    Example: attacks: [{token-embedding-pgd: {eps: [0.01, 0.1, 1.0], steps: 10}}]
    """

    name = "token-embedding-pgd"
    steps: int = param(10, "how many steps", low=1)
    step: float = param(0.25, "length of a step as a share of eps", above=0)

    def delta(self, target: Target, item: int, radius: float, ctx: Context) -> Tensor:
        from bench.perturb import project, steepest

        at, best, highest = target.still, target.still, -math.inf  # (tokens, width)
        for n in range(self.steps):
            margin, slope = target.mean(at)
            if n and margin > highest:  # the start is no iterate
                best, highest = at, margin
            at = project(at + steepest(slope, self.step * radius, "l2"), radius, "l2")
        return at if self.steps == 1 or target.mean(at)[0] >= highest else best
