"""Fills the box where the ball is l2."""

from bench.api import Context
from bench.features import FeatureAttack

BREAKS = "targets-inside-the-ball"
BECAUSE = "the budget is"


class FeaturesWrongNorm(FeatureAttack):
    """Moves every coordinate by the radius, whatever the norm; no paper.

    Example: attacks: [features-wrong-norm]
    """

    name = "features-wrong-norm"

    def delta(self, model, table, targets, radius, data, ctx: Context):
        import torch

        return torch.full((len(targets), table.rows().shape[1]), radius)
