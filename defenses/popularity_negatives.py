"""Negatives are drawn by popularity instead of uniformly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.training import mean

if TYPE_CHECKING:
    from bench.training import Loop


class PopularityNegatives(Defense):
    """Negative items with probability ∝ c_i^gamma (Mikolov et al., NIPS 2013).

    For recommendation see Caselles-Dupré et al. (RecSys 2018). c_i counts the train positives of
    item i. A user's own items are never drawn. Uniform negatives are mostly items that nobody
    wants, so that being popular is enough to beat them; drawn by popularity, popular items are
    pushed down as often as they are pulled up, and the model must tell why this user took this
    one. gamma .75 is the usual exponent, 1 makes a negative as popular as a positive on average.
    gamma 0 keeps the model's own uniform negatives and equals `none` bit for bit.

    For models that sample negatives (pairs, or labelled pairs); a softmax over the catalogue has
    none. An item without positives is never a negative. Adaptive attack: push attacks that rate
    popular fillers do not change the negatives much; unpopular targets, which are hardly ever
    negatives, do.

    Example: defenses: [{popularity-negatives: {gamma: 0.75}}]
    """

    name = "popularity-negatives"
    gamma: float = param(0.75, "exponent of an item's count; 0: uniform, as without", low=0, high=2)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.imbalance import sampled

        return sampled(model)

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.gamma:
            return None
        from bench.imbalance import PopularNegatives

        draw = PopularNegatives(loop, self.gamma)

        def run_epoch(epoch: int) -> float:
            losses = [loop.step(draw.replace(batch, epoch), epoch)
                      for batch in loop.batches(epoch)]
            return mean(losses)

        return run_epoch

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"gamma": 0.0}
