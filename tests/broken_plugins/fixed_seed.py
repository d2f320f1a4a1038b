"""Asks for a stream and then uses a fixed seed."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "other-seed"
BECAUSE = "give the same output, though it asks for random numbers"


class FixedSeed(EmbeddingAttack):
    """Asks for a stream and then uses a fixed seed; no paper.

    Example: attacks: [fixed-seed]
    """

    name = "fixed-seed"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        ctx.torch_stream("fixed-seed")
        stream = torch.Generator().manual_seed(0)
        return {k: r * torch.rand(model.tables()[k].rows().shape, generator=stream) / 100
                for k, r in radii.items()}
