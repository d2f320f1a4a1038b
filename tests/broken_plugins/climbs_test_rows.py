"""Raises the loss of the test positives, without a parameter that says so."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "depends-on-no-test-row"
BECAUSE = "asks for batches of the test rows"


class ClimbsTestRows(EmbeddingAttack):
    """Raises the loss of the test positives, and does not say so; no paper.

    Example: attacks: [climbs-test-rows]
    """

    name = "climbs-test-rows"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model, "test"), radii)
        return {k: steepest(slope[k], r, self.norm) for k, r in radii.items()}
