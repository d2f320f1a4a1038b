"""An attack on features whose gradient is lost on the way."""

from bench.api import Context
from bench.features import FeatureAttack

BREAKS = "only-targets-move"
BECAUSE = "no vector moves"


class FeaturesDetached(FeatureAttack):
    """Its perturbation is zero; no paper.

    Example: attacks: [features-detached]
    """

    name = "features-detached"

    def delta(self, model, table, targets, radius, data, ctx: Context):
        import torch

        return torch.zeros(len(targets), table.rows().shape[1])
