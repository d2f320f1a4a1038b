"""User-level private fine-tuning of a language model's added weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Dataset, ModelPlugin, param
from bench.dp_steps import PrivateSteps, PrivateTraining

if TYPE_CHECKING:
    from bench.training import Loop


class DpLora(PrivateTraining):
    """User-level DP-SGD (McMahan et al., ICLR 2018) of what is tuned on a pre-trained language
    model: few added weights, as Yu et al., "Differentially Private Fine-tuning of Language
    Models", ICLR 2022, have it for examples; here for users.

    The mechanism and its accounting are those of `dp-sgd`: Poisson samples of users, each one's
    gradient over at most `max_interactions` examples (sampled dislikes count) clipped to `clip`
    over all tuned weights together, noise on each of them. The fewer weights, the less noise:
    tune: lora, ia3, prefix, prompt or adapters; full works and is slow. Gradients are taken one
    user at a time. The model's warm-up and schedule hold, over the private steps; early stopping
    is off.

    What (ε, δ) covers: the tuned weights, against adding or removing one user's whole history.
    Pre-trained weights count as public knowledge: if their corpus held these users, nothing here
    protects them. Public too are the item texts, the number of users, and whether there are
    dislikes at all. A user's own history stands in that user's own prompts and is never released.
    Refused with the reason: in-batch negatives, `shots`, retrievers that learn from everybody's
    rows. Not covered, as with `dp-sgd`: the choice of hyper-parameters, published test metrics,
    seeded noise. Epsilon .inf equals `none` bit for bit.

    Example: defenses: [{dp-lora: {epsilon: 8, delta: 1e-5, clip: 1.0, sample_rate: 0.05}}]
    """

    name = "dp-lora"
    rows_at_once: int = param(16, "rows of a user that the model reads in one pass: more is "
                              "faster and takes more memory", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.off():
            return None
        check = getattr(model, "not_private", None)
        if check is None:
            return f"{model.name} fine-tunes no language model; dp-sgd is for other models"
        why = check()
        return self.unsafe(data) if why is None else (
            f"user-level privacy of what {model.name} tunes would be claimed falsely: {why}")

    def steps(self, loop: Loop) -> PrivateSteps:
        from bench.text.private import TunedSteps

        return TunedSteps(self, loop)
