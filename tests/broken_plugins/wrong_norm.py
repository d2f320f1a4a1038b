"""Projects into the largest-coordinate box, whatever the norm."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "rows-inside-the-ball"
BECAUSE = "wrong-norm: a row of user moves"


class WrongNorm(EmbeddingAttack):
    """Projects into the largest-coordinate box, whatever the norm; no paper.

    Example: attacks: [wrong-norm]
    """

    name = "wrong-norm"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: (1e6 * slope[k]).clamp(-r, r) for k, r in radii.items()}
