"""Says that it takes items from lists, and hardly moves."""

from typing import ClassVar

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "takes-more-from-lists-than-noise"
BECAUSE = "of the lists keep their first item"


class LazyOnLists(EmbeddingAttack):
    """Aims at lists with a hundred-thousandth of its budget; no paper.

    Example: attacks: [lazy-on-lists]
    """

    name = "lazy-on-lists"
    aims_at_loss: ClassVar[bool] = False

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: steepest(slope[k], 1e-5 * r, self.norm) for k, r in radii.items()}
