"""Random perturbation of embeddings: the control that every gradient attack must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, EmbeddingAttack, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender


class Noise(EmbeddingAttack):
    """Random noise of the full budget on every embedding row: what chance alone does.

    Norm l2: each row moves by exactly ε in a uniformly random direction (z/‖z‖₂ with z normal).
    Norm linf: each coordinate moves by ε·U(−1, 1). A gradient attack no stronger than this at
    the same ε has found nothing. Control of He et al., "Adversarial Personalized Ranking for
    Recommendation", SIGIR 2018, https://arxiv.org/abs/1808.03908.

    Distance: l2 or linf, per embedding row. Knowledge of the model: none.

    Args:
        eps: radius, absolute or (relative: true) in median row norms of the table.
        norm, tables: of the ball; whose rows ("both", "user", "item").

    Shapes: delta[table] is (rows, width), as the table.

    Example: attacks: [{noise: {eps: [0.1, 0.5]}}]
    """

    name = "noise"
    threat: ClassVar[ThreatModel] = ThreatModel("test-param", "none", "untargeted", False)

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        import torch

        from bench.perturb import steepest

        made = {}
        for key, radius in radii.items():
            rows, stream = model.tables()[key].rows(), ctx.torch_stream("noise", key)
            if self.norm == "l2":
                drawn = steepest(torch.randn(rows.shape, generator=stream), radius, "l2")
            else:
                drawn = (torch.rand(rows.shape, generator=stream) * 2 - 1) * radius
            made[key] = drawn.to(rows)  # (rows, width)
        return made
