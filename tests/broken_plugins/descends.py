"""Goes down the loss instead of up."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "loss-rises"
BECAUSE = "the loss goes from"


class Descends(EmbeddingAttack):
    """Goes down the loss instead of up; no paper.

    Example: attacks: [descends]
    """

    name = "descends"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: steepest(-slope[k], r, self.norm) for k, r in radii.items()}
