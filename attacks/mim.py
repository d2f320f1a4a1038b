"""Many steps along a momentum of normalised gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, EmbeddingAttack, param
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender


class MIM(EmbeddingAttack):
    """Momentum iterative method: ascent along a running mean of directions.

    mᵗ⁺¹ = decay · mᵗ + gᵗ / ‖gᵗ‖₁, δᵗ⁺¹ = Π(δᵗ + α · step(mᵗ⁺¹)) from δ⁰ = 0, per embedding row,
    with step and Π those of pgd in the declared norm and α = step · ε (Dong et al., "Boosting
    Adversarial Attacks with Momentum", CVPR 2018, Eqs. 6 and 7). A row without gradient adds
    nothing to its momentum. The momentum carries a row over plateaus and keeps signs from
    swinging; decay 0 is pgd's path. The iterate with the highest loss is returned, as in pgd.

    Distance: l2 or linf, per embedding row. White-box; a probe of stability.

    Args:
        eps, relative, norm, tables: of the ball.
        steps, step, decay: T, α as a share of ε, and how much momentum stays.
        source, pairs, draws: whose loss is raised, over how many rows and negatives; as in
            fgsm.
        copies: of noise, where randomised smoothing is attacked: the loss is then its mean.

    Shapes: delta[table] is (rows, width), as the table.

    Example: attacks: [{mim: {eps: 0.5, steps: 10, decay: 1.0}}]
    """

    name = "mim"
    steps: int = param(10, "how many steps", low=1)
    step: float = param(0.25, "length of a step as a share of eps", above=0)
    decay: float = param(1.0, "share of the momentum that stays at each step", low=0,
                         high=1)
    source: str = param("train", "rows whose loss is raised; no attacker has those of test",
                        choices=("train", "test"))
    pairs: int = param(0, "rows the gradient is taken over (first in hashed order, rounded up "
                          "to whole batches); 0: all", low=0)
    draws: int = param(1, "draws of negatives for each of these rows", low=1)
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def budget_text(self) -> str:
        return f"{super().budget_text()}, {self.steps} steps of {self.step:g} eps"

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        import torch

        from bench.perturb import attack_batches, climb, steepest

        momentum = {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}

        def direction(key: str, slope: Tensor, radius: float) -> Tensor:
            size = slope.abs().sum(dim=1, keepdim=True)  # (rows, 1)
            unit = torch.where(size > 0, slope / torch.where(size > 0, size, 1.0), 0.0)
            momentum[key] = self.decay * momentum[key] + unit  # (rows, width)
            return steepest(momentum[key], self.step * radius, self.norm)

        batches = attack_batches(model, self.source, self.pairs, self.draws)
        return climb(model, batches, radii, self.norm, self.steps, direction)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 3}
