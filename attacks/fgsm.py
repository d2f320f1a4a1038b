"""One step of steepest ascent on the model's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, EmbeddingAttack, param
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender


class FGSM(EmbeddingAttack):
    """Fast gradient method: every embedding row takes one steepest step of the full radius.

    With g the gradient of the model's own training loss by the row, over fixed rows of the
    data: norm l2 moves the row by ε·g/‖g‖₂ (He et al., "Adversarial Personalized Ranking for
    Recommendation", SIGIR 2018, Eq. 8, normalised per row as in their code); norm linf by
    ε·sign(g) (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015).
    Rows without gradient stay. The gradient is that of all rows chosen, not of one mini-batch,
    so ε means the same whatever the batch size or the loss's reduction.

    Distance: l2 or linf, per embedding row. White-box; a probe of stability.

    Args:
        eps: radius, absolute or (relative: true) in median row norms of the table.
        norm, tables: of the ball; whose rows ("both", "user", "item").
        source: whose loss is raised. "train" knows what the model was trained on; "test" raises
            the loss of the test positives themselves, which no attacker has. On few test rows
            it wants several draws, or it fits their negatives instead of the ranking.
        pairs, draws: how many rows the loss is taken over (0: all), and how often each, with
            negatives drawn anew.
        copies: of noise, where randomised smoothing is attacked: the loss is then its mean.

    Shapes: delta[table] is (rows, width), as the table.

    Example: attacks: [{fgsm: {eps: [0.1, 0.5], norm: l2}}]
    """

    name = "fgsm"
    source: str = param("train", "rows whose loss is raised; no attacker has those of test",
                        choices=("train", "test"))
    pairs: int = param(0, "rows the gradient is taken over (first in hashed order, rounded up "
                          "to whole batches); 0: all", low=0)
    draws: int = param(1, "draws of negatives for each of these rows; more make it stronger, and "
                          "slower", low=1)
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        from bench.perturb import attack_batches, gradient, steepest

        batches = attack_batches(model, self.source, self.pairs, self.draws)
        slope, _ = gradient(model, batches, radii)
        return {key: steepest(slope[key], radius, self.norm) for key, radius in radii.items()}
