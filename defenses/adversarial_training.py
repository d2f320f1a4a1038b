"""Adversarial training of embeddings: descend on the loss and on the loss under attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.adversarial import AdversarialDefense
from bench.api import Context, Dataset, param

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.training import Loop


class AdversarialTraining(AdversarialDefense):
    """Adversarial personalised ranking: L(θ) + weight · L(θ + δ) (He et al., SIGIR 2018, Eq. 9).

    δ is made anew for each batch from the gradient of that batch's loss: per embedding row
    ε · g/‖g‖₂ (norm l2) or ε · sign(g) (linf), or with `steps` above 1 by projected ascent inside
    the same ball. δ counts as a constant; both terms are differentiated by θ. The paper writes
    one norm over all parameters, its code one per row; it is per row here. Rows that the batch
    does not touch stay where they are. Works for every model with a differentiable loss and
    embedding tables; costs two to three plain steps, plus about two more per inner step beyond
    the first.

    Dropout stays on in every pass, as the loss under attack is the loss that is trained. The
    passes made for δ and under δ share one draw of their own, so that δ attacks the very network
    it is evaluated on, and the global generators are put back afterwards: the clean pass draws
    what it would draw without this defense. eps 0, weight 0 or start_epoch ≥ epochs equal `none`
    bit for bit.

    Early stopping keeps none of the plain epochs that `start_epoch` puts first: validation
    begins with the adversarial ones.

    An absolute eps means less and less as training makes rows longer; compare models by
    `relative: true`. Adaptive attack: pgd with more steps than the training used.

    Example: defenses: [{adversarial-training: {eps: 0.5, weight: 1.0, start_epoch: 20}}]
    """

    name = "adversarial-training"
    fresh_optimizer: bool = param(False, "forget the optimiser's state (moments, accumulator) "
                                  "when the adversarial epochs begin")
    serve_perturbed: bool = param(False, "score with the last batch's δ still in the tables, as "
                                  "the published AMF code does by mistake; for reproduction only")

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        super().wrap(loop)
        if not self.fresh_optimizer or not self.active(loop):
            return None
        from bench.training import make_optimizer

        def run_epoch(epoch: int) -> float:
            if epoch == self.start_epoch + 1:
                loop.optimizer = make_optimizer(loop.model, loop.hyper)
            return loop.run_epoch(epoch)

        return run_epoch

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        """The trained model; with `serve_perturbed`, δ of the last batch of the last epoch is
        added to its tables, taken at the trained parameters."""
        if not self.serve_perturbed or not self.eps or not self.weight:
            return model
        import torch

        from bench.models.base import TorchRecommender

        assert isinstance(model, TorchRecommender)  # `unfit` turned the others away
        *_, batch = model.batches(model.hyper.epochs, model.hyper.batch_size)
        with model.evaluating(), ctx.seeded("adversarial", "last batch"):
            delta = self.perturbation(model, batch, model.loss(batch))
        tables = model.tables()
        with torch.no_grad():
            for key, d in delta.items():
                tables[key].weight[tables[key].start:tables[key].stop] += d
        model.forget()
        return model

    def unseen(self) -> None:
        return None  # what `harden` changes are the vectors themselves
