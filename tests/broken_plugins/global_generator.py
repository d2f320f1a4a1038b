"""Draws from torch's global generator."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "same-seed"
BECAUSE = "the same seed gives another output when run again"


class GlobalGenerator(EmbeddingAttack):
    """Draws from torch's global generator; no paper.

    Example: attacks: [global-generator]
    """

    name = "global-generator"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        return {k: r * torch.rand(model.tables()[k].rows().shape) / 100
                for k, r in radii.items()}
