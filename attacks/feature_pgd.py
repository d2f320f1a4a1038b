"""Projected gradient steps on the feature vectors of target items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.data import Ints
from bench.features import FeatureAttack
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Table, TorchRecommender


class FeaturePGD(FeatureAttack):
    """Pushes (or nukes) items by moving their feature vectors along the gradient of their margin.

    Ascends Σ_u clip((s_ut(δ) − s_u^(K)) / τ, −5, 5) over genuine users who do not have the target
    t, by δ ← Π(δ + α · step(g)) per target with α = step · ε; a nuke descends. s_u^(K) is the
    score of the K-th best rival without attack, τ a share of the spread of all scores, and the
    clip keeps users who are lost or won already from leading the step; where all are, the step is
    that of the unclipped sum (CATALOGUE A5; class-targeted attacks on visual recommenders: Di Noia
    et al., "TAaMR", DSN-W 2020; features perturbed as in Tang et al., TKDE 2019). One step of
    length ε (steps: 1, step: 1) is FGSM. For a linear scorer with no clip active the optimum is
    ε · E Σ_u p_u / ‖·‖. Of all iterates the best is returned.

    Distance: l2 or linf, per target. White-box. Budget: ε of the base class.

    Args:
        eps, relative, norm: of the ball around each target's vector.
        targets, stratum, goal: which items, and whether into lists or out of them.
        steps, step: T, and α as a share of ε.
        k: length of the list that the margin is taken at.
        temperature: τ in standard deviations of the scores. At 1 the clip never acts, and the
            mean score that rises is no matter of lists: half as many targets reach one.
        copies: of noise, where randomised smoothing is attacked.

    Shapes: delta is (targets, width).

    Example: attacks: [{feature-pgd: {eps: [0.1, 0.5], steps: 10}}]
    """

    name = "feature-pgd"
    steps: int = param(10, "how many steps", low=1)
    step: float = param(0.25, "length of a step as a share of eps", above=0)
    k: int = param(10, "length of the list whose last place is the margin's zero", low=1)
    temperature: float = param(0.1, "τ in standard deviations of the scores: how near to the edge "
                               "of their list users must be to count", above=0)
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def delta(self, model: TorchRecommender, table: Table, targets: Ints, radius: float,
              data: Dataset, ctx: Context) -> Tensor:
        import torch

        from bench.feature_margin import Margin
        from bench.perturb import project, steepest

        margin = Margin(model, table, targets, data, self.k, self.temperature)
        sign = 1.0 if self.goal == "push" else -1.0
        at = torch.zeros(len(targets), table.rows().shape[1], device=ctx.device)  # (T, width)
        best = at
        highest = torch.full((len(targets),), -torch.inf, device=ctx.device)  # (T,)
        for _ in range(self.steps):
            at.requires_grad_()
            value = sign * margin(at)  # (T,)
            (slope,) = torch.autograd.grad(value.sum(), at)
            flat = (slope == 0).all(dim=1, keepdim=True)  # (T, 1): every user is lost, or won
            if bool(flat.any()):
                (whole,) = torch.autograd.grad(sign * margin(at, clipped=False).sum(), at)
                slope = torch.where(flat, whole, slope)
            at = at.detach()
            step = steepest(slope, self.step * radius, self.norm)
            at = project(at + step, radius, self.norm)
            reached = sign * margin(at).detach()  # (T,)
            better = reached >= highest
            best = torch.where(better[:, None], at, best)
            highest = torch.where(better, reached, highest)
        ctx.count(margin.queries)
        return best

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 3, "targets": 2, "eps": 0.5}
