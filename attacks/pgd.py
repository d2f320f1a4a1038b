"""Many small steps of steepest ascent, each put back into the ball."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, EmbeddingAttack, param
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender


class PGD(EmbeddingAttack):
    """Projected gradient ascent on the model's own loss, inside the declared ball.

    δᵗ⁺¹ = Π(δᵗ + α·step(gᵗ)) for every embedding row, where step is FGSM's (g/‖g‖₂, or sign g),
    α = step · ε, and Π moves a row to the nearest point of its own ball: δ·min(1, ε/‖δ‖₂) for
    l2, clipping for linf (Madry et al., "Towards Deep Learning Models Resistant to Adversarial
    Attacks", ICLR 2018). From zero this is the basic iterative method. On recommenders: Anelli
    et al., "MSAP: Multi-Step Adversarial Perturbations on Recommender Systems Embeddings",
    FLAIRS 2021, whose code steps in l2 and clips in linf, so that a row may move up to
    √width · ε; here one norm holds for both, and FGSM has the same ball.

    Of the iterates δ¹ … δᵀ the one with the highest loss (on the same rows) is returned. Its
    loss is above FGSM's as a rule; the ranking need not be worse, since a mean loss grows most
    by pairs that are wrong already.

    Distance: l2 or linf, per embedding row. White-box; a probe of stability.

    Args:
        eps: radius, absolute or (relative: true) in median row norms of the table.
        norm, tables: of the ball; whose rows ("both", "user", "item").
        steps, step: T, and α as a share of ε.
        random_start: begin uniformly in the ball instead of at zero.
        source, pairs, draws: whose loss is raised, over how many rows and negatives; as in
            fgsm. With one draw, many steps fit those very negatives.
        copies: of noise, where randomised smoothing is attacked: the loss is then its mean.

    Shapes: delta[table] is (rows, width), as the table.

    Example: attacks: [{pgd: {eps: 0.5, steps: [10, 25]}}]
    """

    name = "pgd"
    steps: int = param(10, "how many steps", low=1)
    step: float = param(0.25, "length of a step as a share of eps", above=0)
    random_start: bool = param(False, "begin uniformly in the ball instead of at zero")
    source: str = param("train", "rows whose loss is raised; no attacker has those of test",
                        choices=("train", "test"))
    pairs: int = param(0, "rows the gradient is taken over (first in hashed order, rounded up "
                          "to whole batches); 0: all", low=0)
    draws: int = param(1, "draws of negatives for each of these rows; more make it stronger, and "
                          "slower", low=1)
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def budget_text(self) -> str:
        return f"{super().budget_text()}, {self.steps} steps of {self.step:g} eps"

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        from bench.perturb import attack_batches, climb, steepest, uniform_in_ball

        begin = None
        if self.random_start:
            begin = {key: uniform_in_ball(model.tables()[key].rows(), radius, self.norm,
                                          ctx.torch_stream("pgd", key))
                     for key, radius in radii.items()}
        batches = attack_batches(model, self.source, self.pairs, self.draws)
        return climb(model, batches, radii, self.norm, self.steps,
                     lambda key, slope, radius: steepest(slope, self.step * radius, self.norm),
                     begin)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 3}
