"""The control of attacks on features: random vectors of the same length."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, ThreatModel
from bench.data import Ints
from bench.features import FeatureAttack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Table, TorchRecommender


class FeatureNoise(FeatureAttack):
    """Moves the target items' feature vectors by noise on the border of the ball (control).

    l2: ε z/‖z‖₂ with z normal; linf: uniform in the box. What an attack on features does beyond
    this is the attacker's merit (after the random control of Tang et al., "Adversarial Training
    Towards Robust Multimedia Recommender System", TKDE 2019).

    Distance: l2 or linf, per target. Knowledge: none.

    Args:
        eps, relative, norm: of the ball around each target's vector.
        targets, stratum: which items.

    Shapes: delta is (targets, width).

    Example: attacks: [{feature-noise: {eps: 0.1}}]
    """

    name = "feature-noise"
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "none", "push")

    def delta(self, model: TorchRecommender, table: Table, targets: Ints, radius: float,
              data: Dataset, ctx: Context) -> Tensor:
        import torch

        shape = (len(targets), table.rows().shape[1])
        stream = ctx.torch_stream("feature-noise")
        if self.norm == "linf":
            drawn = (torch.rand(shape, generator=stream) * 2 - 1) * radius
        else:
            drawn = torch.randn(shape, generator=stream)
            drawn = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12) * radius
        return drawn.to(table.rows())  # (targets, width)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"targets": 2}
