"""Seeds itself by the clock."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "same-seed"
BECAUSE = "the same seed gives another output when run again"


class Clock(EmbeddingAttack):
    """Seeds itself by the clock; no paper.

    Example: attacks: [clock]
    """

    name = "clock"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import time

        import torch

        stream = torch.Generator().manual_seed(time.time_ns())
        return {k: r * torch.rand(model.tables()[k].rows().shape, generator=stream) / 100
                for k, r in radii.items()}
