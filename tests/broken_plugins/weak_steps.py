"""Many steps that shrink into the ball: weaker than one step."""

from bench.api import Context, Dataset, EmbeddingAttack, param

BREAKS = "as-strong-as-one-step"
BECAUSE = "steps, FGSM reaches"


class WeakSteps(EmbeddingAttack):
    """Steps, each divided by how many there are, squared; no paper.

    Example: attacks: [{weak-steps: {steps: 10}}]
    """

    name = "weak-steps"
    steps: int = param(10, "how many steps", low=1)

    def delta(self, model, radii, data: Dataset, ctx: Context):
        from bench.perturb import attack_batches, gradient, steepest

        slope, _ = gradient(model, attack_batches(model), radii)
        return {k: steepest(slope[k], r / self.steps, self.norm) for k, r in radii.items()}
