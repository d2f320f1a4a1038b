"""Private fine-tuning of a language model: the steps of `dp-lora`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.dp import Coordinates, UserGradients, UserRows, clip_factors
from bench.dp_steps import PrivateSteps, PrivateTraining
from bench.training import rate_scale

if TYPE_CHECKING:
    from bench.models.base import Batch, TorchRecommender
    from bench.training import Loop


def user_gradients(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
                   clip: float, at_once: int) -> UserGradients:
    """The clipped gradients of these users summed, one user after another: `bench.dp.one_by_one`
    for models without rows of users, in passes of bounded memory.

    A user's gradient is that of the sum of the user's rows' losses, and is clipped as a whole.

    Args:
        rows: sorted by user. counts: rows of each user, (users,).
        at_once: rows of one user that the model reads in one pass.
    """
    weights = dict(model.module.named_parameters())
    picked = {k: weights[k] for k in where.names}
    shared = {k: torch.zeros_like(p) for k, p in picked.items()}
    norms, total, end = [], 0.0, 0
    for size in counts.tolist():
        grads = {k: torch.zeros_like(p) for k, p in picked.items()}
        for begin in range(end, end + size, at_once):
            part = slice(begin, min(begin + at_once, end + size))
            loss = model.batch_loss({k: v[part] for k, v in rows.items()})
            loss = loss * (1 if model.sums_loss else part.stop - part.start)
            found = torch.autograd.grad(loss, list(picked.values()), allow_unused=True)
            for key, g in zip(picked, found, strict=True):
                if g is not None:
                    grads[key] += g
            total += float(loss.detach())
        end += size
        grads = where.shared_only(grads)
        norm = torch.stack([g.float().norm() for g in grads.values()]).norm()
        for key, g in grads.items():
            shared[key] += clip_factors(norm, clip) * g
        norms.append(norm)
    empty = counts.new_zeros(0, dtype=torch.float32)
    return UserGradients(shared, {}, torch.stack(norms) if norms else empty, total)


class TunedSteps(PrivateSteps):
    """Private steps on what is tuned, at the step sizes that the model's warm-up and schedule
    give to so many steps."""

    hyper: Any  # a DpLora

    def __init__(self, hyper: PrivateTraining, loop: Loop) -> None:
        super().__init__(hyper, loop)
        self.planned = self.steps_per_epoch * loop.hyper.epochs
        self.rate = hyper.learning_rate or loop.hyper.learning_rate
        self.method = self._gradients
        self.facts["gradients"] = "one user at a time"

    def more_facts(self) -> dict[str, Any]:
        return {"released": "the tuned parameters",
                "public": "the pre-trained weights, the item texts and the number of users"}

    def _gradients(self, model: TorchRecommender, where: Coordinates, rows: Batch,
                   counts: Tensor, clip: float) -> UserGradients:
        return user_gradients(model, where, rows, counts, clip, self.hyper.rows_at_once)

    def step(self, rows: UserRows, number: int) -> float | None:
        scale = rate_scale(number + 1, self.planned, getattr(self.loop.hyper, "warmup", 0.0),
                           getattr(self.loop.hyper, "schedule", "constant"))
        for group in self.loop.optimizer.param_groups:
            group["lr"] = self.rate * scale
        return super().step(rows, number)

    def apply(self, found: UserGradients | None, weights: Mapping[str, torch.nn.Parameter],
              present: Tensor) -> None:
        super().apply(found, weights, present)
        relearned = getattr(self.model, "relearned", None)
        if relearned is not None:
            relearned()
