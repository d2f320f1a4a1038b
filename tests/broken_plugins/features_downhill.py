"""Moves the features of pushed items the wrong way."""

from bench.api import Context
from bench.features import FeatureAttack

BREAKS = "serves-the-goal"
BECAUSE = "moves the targets the wrong way"


class FeaturesDownhill(FeatureAttack):
    """Descends where it should climb; no paper.

    Example: attacks: [features-downhill]
    """

    name = "features-downhill"

    def delta(self, model, table, targets, radius, data, ctx: Context):
        import torch

        from bench.feature_margin import Margin
        from bench.perturb import steepest

        at = torch.zeros(len(targets), table.rows().shape[1], requires_grad=True)
        sign = -1.0 if self.goal == "push" else 1.0
        margin = Margin(model, table, targets, data, 10, 0.1)
        (slope,) = torch.autograd.grad(sign * margin(at).sum(), at)
        return steepest(slope, radius, self.norm)

    @classmethod
    def test_params(cls):
        return {"targets": 2, "eps": 0.1}  # a slope says nothing of a long way
