"""Adversarial training of embeddings: descend on the loss and on the loss under attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bench.api import Context, Dataset, Defense, ModelPlugin, param
from bench.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, Recommender, Table, TorchRecommender
    from bench.training import Loop


class AdversarialTraining(Defense):
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
    eps: float = param(0.5, "radius of the ball around each embedding row", low=0)
    weight: float = param(1.0, "weight of the loss under attack (λ, or α)", low=0)
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    relative: bool = param(False, "eps counts in median row norms of the table, as they are at "
                           "each step")
    steps: int = param(1, "ascent steps for δ: 1 is FGSM, more are PGD from δ = 0", low=1)
    step: float = param(0.5, "length of one of several ascent steps, as a share of eps", above=0)
    tables: str = param("both", "whose vectors are perturbed", choices=("both", "user", "item"))
    start_epoch: int = param(0, "epochs of plain training first (warm start)", low=0)
    fresh_optimizer: bool = param(False, "forget the optimiser's state (moments, accumulator) "
                                  "when the adversarial epochs begin")

    serve_perturbed: bool = param(False, "score with the last batch's δ still in the tables, as "
                                  "the published AMF code does by mistake; for reproduction only")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"embeddings", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        return None

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.eps or not self.weight or epoch <= self.start_epoch:
            return clean_loss
        # a draw of its own per batch: the users it holds and its loss tell it from the others
        names = (epoch, int(batch["users"][0]), float(clean_loss.detach()))
        delta = self.perturbation(model, batch, clean_loss, names)
        with model.ctx.seeded("adversarial", *names):
            return clean_loss + self.weight * model.loss(batch, delta)

    def perturbation(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
                     names: tuple[object, ...] = ()) -> dict[str, Tensor]:
        """δ for this batch: table key -> (rows, width), every row inside its ball, detached."""
        import torch

        from bench.perturb import project, steepest

        tables = {k: t for k, t in model.tables().items() if self.tables in ("both", t.role)}
        if not tables:
            raise PluginError(f"{self.name}: the model has no {self.tables} table to perturb")
        radii = {k: self.eps * (t.median_norm(self.norm) if self.relative else 1.0)
                 for k, t in tables.items()}
        grads = self._clean_gradients(tables, clean_loss)
        if self.steps == 1:
            return {k: steepest(g, radii[k], self.norm) for k, g in grads.items()}
        delta = {k: torch.zeros_like(g) for k, g in grads.items()}  # (rows, width) each
        for n in range(self.steps):
            if n:
                point = {k: d.requires_grad_() for k, d in delta.items()}
                with model.ctx.seeded("adversarial", *names):
                    found = torch.autograd.grad(model.loss(batch, point), list(point.values()),
                                                allow_unused=True)
                grads = {k: torch.zeros_like(d) if g is None else g
                         for (k, d), g in zip(point.items(), found, strict=True)}
            delta = {k: project(d.detach() + steepest(grads[k], self.step * radii[k], self.norm),
                                radii[k], self.norm) for k, d in delta.items()}
        return delta

    @staticmethod
    def _clean_gradients(tables: Mapping[str, Table], clean_loss: Tensor) -> dict[str, Tensor]:
        """The gradient at δ = 0 is that of the clean loss by the tables' own rows: the graph is
        there already, so it costs one backward pass and no forward pass."""
        import torch

        found = torch.autograd.grad(clean_loss, [t.weight for t in tables.values()],
                                    retain_graph=True, allow_unused=True)
        return {k: torch.zeros_like(t.rows()) if g is None else g[t.start:t.stop]
                for (k, t), g in zip(tables.items(), found, strict=True)}

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.eps or not self.weight or self.start_epoch >= loop.hyper.epochs:
            return None
        loop.kept_from = self.start_epoch + 1
        if not self.fresh_optimizer:
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

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"eps": 0.1}
