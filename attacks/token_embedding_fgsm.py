"""One gradient step on the vectors of a target's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context
from bench.token_attack import TokenAttack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.text.token_target import Target


class TokenEmbeddingFGSM(TokenAttack):
    """Pushes items by one step of full length: δ = ε · g/‖g‖₂ per token, g the slope of the mean
    margin log P(yes) − log P(no) over the prompts of the attacker's users.

    Goodfellow et al., ICLR 2015, in L2; on vectors of tokens as Miyato et al., ICLR 2017. A
    probe: no text has these vectors. One δ per target, for all users. White-box.

    Distance: L2 per token, ε in mean token norms.

    Args:
        eps: radius. targets, stratum: which items. sample: share of users δ is made on.

    Shapes: delta is (tokens of the item's text, width).

    Example: attacks: [{token-embedding-fgsm: {eps: [0.01, 0.1, 1.0]}}]
    """

    name = "token-embedding-fgsm"

    def delta(self, target: Target, item: int, radius: float, ctx: Context) -> Tensor:
        from bench.perturb import steepest

        _, slope = target.mean(target.still)  # (tokens, width)
        return steepest(slope, radius, "l2")
