"""Adversarial training on histories: items become mixtures that the model answers worst."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.neighbourhoods import no_places
from bench.training import mean

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.training import Loop


class SubstitutionTraining(Defense):
    """Adversarial training by relaxed one-hot encodings of the items of a history.

    After the plain step on a batch, at a share of the places the item's one-hot encoding w
    (n_items,) climbs the loss, `steps` times

        w ← w + step · g / ‖g‖₂,   w ← max(w, 0),   w ← w / Σ w,   g = ∂ℓ/∂w

    and a second step is taken with Σ_v w_v e_v read there: the worst convex mixture nearby. Yue,
    Zeng, Kou, Shang and Wang, "Defending Substitution-Based Profile Pollution Attacks on
    Sequential Recommenders", RecSys 2022; defaults of their code, which lets all places climb
    and then keeps those of a random share, where here the others stay as they are meanwhile.
    Slopes are taken without dropout. Cost: about steps + 2 times plain training, and places of a
    batch × items numbers.

    share 0 equals `none` bit for bit. For models that look up the items of a history one by one.
    Adaptive attack: substitution, which by default takes its slopes on the defended model.

    Example: defenses: [{substitution-training: {share: 0.5, steps: 3}}]
    """

    name = "substitution-training"
    share: float = param(0.5, "share of the places of a history that climb", low=0, high=1)
    steps: int = param(3, "how many steps", low=1)
    step: float = param(1.0, "length of a step of an encoding", above=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return no_places(model) if self.share else None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.share:
            return None
        rng = loop.model.ctx.stream(self.name)

        def run_epoch(epoch: int) -> float:
            losses = []
            for batch in loop.batches(epoch):
                losses.append(loop.step(batch, epoch))
                vectors = self.vectors(loop.model, batch, rng)
                with loop.model.looking_up(batch["histories"], vectors):
                    loop.step(batch, epoch)
            return mean(losses)

        return run_epoch

    def vectors(self, model: TorchRecommender, batch: Batch, rng: np.random.Generator) -> Tensor:
        """What is read in place of the batch's histories (B, L), with its graph: (B, L, d)."""
        import torch

        from bench.neighbourhoods import chosen_places

        items, table = batch["histories"], model.history_table()
        at = chosen_places(items, self.share, rng)  # (B, L)
        w = torch.nn.functional.one_hot(items[at], table.stop - table.start).to(
            table.weight.dtype)  # (P, n_items)
        with model.evaluating():
            for _ in range(self.steps):
                read = self.read(table.rows(), items, at, w).requires_grad_()  # (B, L, d)
                with model.looking_up(items, read):
                    loss = model.loss(batch)
                (slope,) = torch.autograd.grad(loss, read)
                g = slope[at] @ table.rows().T  # (P, n_items), by the chain rule
                w = climbed(w, g, self.step)
        return self.read(table.weight[table.start:table.stop], items, at, w)

    @staticmethod
    def read(rows: Tensor, items: Tensor, at: Tensor, w: Tensor) -> Tensor:
        """The rows of the items, and at the places `at` mixtures of all rows: (B, L, d)."""
        return rows[items.clamp_min(0)].masked_scatter(at[..., None], w @ rows)

    def trained_against(self) -> str | None:
        return "substitution" if self.share else None

    @classmethod
    def neutral_params(cls) -> dict[str, Any]:
        return {"share": 0.0}


def climbed(w: Tensor, slope: Tensor, step: float) -> Tensor:
    """Encodings (P, n_items) after a step along their slopes, back on the simplex; one that
    would vanish stays."""
    import torch

    moved = w + step * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
    moved = moved.clamp_min(0)
    total = moved.sum(dim=1, keepdim=True)  # (P, 1)
    return torch.where(total > 0, moved / total.clamp_min(1e-30), w)
