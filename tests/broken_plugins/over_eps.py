"""Moves every row twice as far as it may."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "rows-inside-the-ball"
BECAUSE = "over-eps: a row of user moves"


class OverEps(EmbeddingAttack):
    """Moves every row twice as far as it may; no paper.

    Example: attacks: [over-eps]
    """

    name = "over-eps"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: steepest(slope[k], 2 * r, self.norm) for k, r in radii.items()}
