"""The many-step attack of the literature as its code does it: steps in l2, a box as the limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, EmbeddingAttack, param
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender


class MsapPublished(EmbeddingAttack):
    """Multi-step adversarial perturbation as published, whose ball is not the one of its FGSM.

    δᵗ⁺¹ = clip(δᵗ + α · gᵗ/‖gᵗ‖₂, −ε, ε), α = step · ε, from δ⁰ uniform in ±`start` (Anelli et al.,
    "MSAP: Multi-Step Adversarial Perturbations on Recommender Systems Embeddings", FLAIRS 2021,
    after their code). The step has length α in l2, the limit is a box: a row may move up to
    √width · ε, where the FGSM that it was compared with is held to ε in l2. The published gap
    between the two mixes two balls. Here the ball is declared as what it is, linf of ε, and the
    facts say how far rows went in l2. The same ball on both sides: `pgd` with norm l2.

    Distance: linf, per embedding row. White-box; a probe of stability.

    Args:
        eps, relative, tables: of the box, linf.
        steps, step: T and α as a share of ε.
        start: half the width of the uniform start; theirs is .05 whatever ε is.
        source, pairs, draws: whose loss is raised, over how many rows and negatives; as in
            fgsm.
        copies: of noise, where randomised smoothing is attacked: the loss is then its mean.

    Shapes: delta[table] is (rows, width), as the table.

    Example: attacks: [{msap-published: {eps: 0.5, steps: 25}}]
    """

    name = "msap-published"
    norm: str = param("linf", "norm of the ball: a box", choices=("linf",))
    steps: int = param(25, "how many steps", low=1)
    step: float = param(0.25, "length in l2 of a step as a share of eps", above=0)
    start: float = param(0.05, "half the width of the uniform start", low=0)
    source: str = param("train", "rows whose loss is raised; no attacker has those of test",
                        choices=("train", "test"))
    pairs: int = param(0, "rows the gradient is taken over (first in hashed order, rounded up "
                          "to whole batches); 0: all", low=0)
    draws: int = param(1, "draws of negatives for each of these rows", low=1)
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def budget_text(self) -> str:
        return (f"{super().budget_text()}, {self.steps} l2 steps of {self.step:g} eps (up to "
                "√width eps in l2)")

    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        import torch

        from bench.perturb import attack_batches, climb, row_norms, steepest

        begin = {}
        for key, radius in radii.items():
            shape = model.tables()[key].rows().shape
            drawn = torch.rand(shape, generator=ctx.torch_stream("msap", key)) * 2 - 1
            start = (drawn * self.start).clamp(-radius, radius)  # (rows, width)
            begin[key] = start.to(model.tables()[key].weight)
        batches = attack_batches(model, self.source, self.pairs, self.draws)
        made = climb(model, batches, radii, self.norm, self.steps,
                     lambda key, slope, radius: steepest(slope, self.step * radius, "l2"), begin)
        ctx.notes["moved_l2"] = {k: float(row_norms(d, "l2").max()) for k, d in made.items()}
        return made

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 10}
