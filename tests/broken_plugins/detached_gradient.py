"""Takes the gradient of a detached loss, which is nothing."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "loss-rises"
BECAUSE = "the loss goes from"


class Detached(EmbeddingAttack):
    """Takes the gradient of a detached loss, which is nothing; no paper.

    Example: attacks: [detached-gradient]
    """

    name = "detached-gradient"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        return {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}
