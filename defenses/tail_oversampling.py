"""Rare items are shown more often in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.training import Loop


class TailOversampling(Defense):
    """Resampling of training rows towards rare items (Kang et al., ICLR 2020, Eq. 1).

    Each epoch draws as many positive rows as there are, with replacement, a row of item i with
    probability ∝ c_i^(−gamma), where c_i counts the item's train positives. Item i then makes up
    a share ∝ c_i^(1 − gamma) of an epoch: q = 1 − gamma in the paper; gamma .5 is square-root
    sampling, 1 gives every item the same share. Nothing is made up: a rare item's few rows come
    again, with the negatives they have in that epoch, so that a large gamma overfits them.

    The data stay as they are: what is popular, known or in a history does not change, and the
    validation and test splits are not touched. For models whose rows are single (user, item)
    pairs; `head-undersampling` works with every model. gamma 0 equals `none` bit for bit (no
    bootstrap then). Ask for recall by item popularity to see what the tail gains and the head
    loses. Adaptive attack: random-profiles on tail targets, whose injected rows are oversampled.

    Example: defenses: [{tail-oversampling: {gamma: 0.5}}]
    """

    name = "tail-oversampling"
    gamma: float = param(0.5, "exponent: rows are drawn with probability ∝ c^(−gamma); 0 draws "
                         "nothing anew", low=0, high=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.imbalance import single_items

        return single_items(model)

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.gamma:
            return None
        from bench.imbalance import redrawn

        stream = loop.model.ctx.torch_stream(self.name)

        def run_epoch(epoch: int) -> float:
            losses = [loop.step(batch, epoch) for batch in redrawn(loop, epoch, self.gamma,
                                                                   stream)]
            return sum(losses) / len(losses)

        return run_epoch

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"gamma": 0.0}
