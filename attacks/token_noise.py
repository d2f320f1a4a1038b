"""Noise on the vectors of a target's tokens: the control of gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, ThreatModel
from bench.token_attack import TokenAttack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.text.token_target import Target


class TokenNoise(TokenAttack):
    """Moves each token of the targets' texts by exactly ε in a direction drawn uniformly: what
    chance alone does with the budget of token-embedding-fgsm and -pgd. No paper; the control of
    CATALOGUE A1 on vectors of tokens.

    Distance: L2 per token, ε in mean token norms. Knowledge of the model: none.

    Args:
        eps: radius. targets, stratum: which items. sample: share of users left out of what is
            measured, as the attacks do.

    Shapes: delta is (tokens of the item's text, width).

    Example: attacks: [{token-noise: {eps: [0.01, 0.1, 1.0]}}]
    """

    name = "token-noise"
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "none", "push", False)

    def delta(self, target: Target, item: int, radius: float, ctx: Context) -> Tensor:
        import torch

        from bench.perturb import steepest

        drawn = torch.randn(target.still.shape, generator=ctx.torch_stream(self.name, item))
        return steepest(drawn.to(target.still), radius, "l2")
