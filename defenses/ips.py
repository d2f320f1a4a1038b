"""Rows count by the inverse of how likely they were to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data import Floats
    from bench.models.base import Batch, TorchRecommender


class Ips(Defense):
    """Inverse propensity scoring, clipped (Schnabel et al., ICML 2016).

    For implicit feedback as in Saito et al. (WSDM 2020): the loss of a positive row of item i is
    multiplied by 1 / max(π_i^gamma, clip), where the propensity π_i = c_i / max c is the item's
    train positives over those of the most popular one (the estimate of Saito et al., who take
    gamma .5); for a model that predicts ratings, its rated rows, liked or not. Clipping bounds the
    weights by 1 / clip, at the price of bias; clip 0 does not clip. With `normalise`
    (self-normalised IPS) the weights of a batch's positives are divided by their mean, which
    lowers the variance and keeps the step length. Rows labelled as negatives keep
    weight 1; regularisers stay as they are. gamma 0 equals `none` bit for bit.

    Test items were chosen with the same bias, so that the plain test metrics reward what IPS
    takes away: read recall by item popularity, coverage and ARP. Adaptive attack:
    random-profiles on tail targets: an injected row of a rare item weighs up to 1 / clip.

    Example: defenses: [{ips: {gamma: 0.5, clip: 0.05}}]
    """

    name = "ips"
    gamma: float = param(0.5, "exponent of the propensity; 0: all rows count alike", low=0)
    clip: float = param(0.05, "least propensity; 0: not clipped", low=0, high=1)
    normalise: bool = param(False, "divide the weights of a batch's positives by their mean")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import itemwise

        return itemwise(model)

    def weights(self, data: Dataset, model: object = None) -> Floats:
        """1 / max(π_i^gamma, clip) of every item, (n_items,); an item nobody took counts once."""
        from bench.fairness import rated_counts

        counts = np.maximum(rated_counts(model, data), 1)
        made: Floats = 1.0 / np.maximum((counts / counts.max()) ** self.gamma, self.clip)
        return made

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.gamma:
            return clean_loss
        from bench.imbalance import by_item
        from bench.rowloss import row_terms

        terms = row_terms(model, batch)
        weights = by_item(terms, self.weights(model.data, model))  # (T,)
        if self.normalise:
            positive = terms.positive()
            weights[positive] /= weights[positive].mean()
        return terms.whole(weights)

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"gamma": 0.0}
