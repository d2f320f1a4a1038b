"""Uses a hundred-thousandth of its budget."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "as-strong-as-noise"
BECAUSE = "noise of the same size reaches"


class Feeble(EmbeddingAttack):
    """Uses a hundred-thousandth of its budget; no paper.

    Example: attacks: [feeble]
    """

    name = "feeble"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: steepest(slope[k], 1e-5 * r, self.norm) for k, r in radii.items()}
