"""Items count by their effective number of train rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data import Floats
    from bench.models.base import Batch, TorchRecommender


class ClassBalanced(Defense):
    """Class-balanced loss (Cui et al., CVPR 2019), with items as the classes.

    The loss of a positive row of item i is multiplied by w_i ∝ (1 − beta) / (1 − beta^c_i), the
    inverse of the effective number of its c_i train positives, scaled as in the paper so that the
    weights sum to the number of items (of those with a positive). beta 0 weighs all rows alike;
    beta → 1 approaches 1 / c_i. As most rows are of popular items, the weights of an average
    batch lie below 1 and the steps are shorter. Rows labelled as negatives keep weight 1;
    regularisers stay as they are. beta 0 equals `none` bit for bit.

    Ask for recall by item popularity to see what the tail gains and the head loses. Adaptive
    attack: random-profiles on tail targets: the rows of rare items, injected ones among them,
    weigh most.

    Example: defenses: [{class-balanced: {beta: 0.999}}]
    """

    name = "class-balanced"
    beta: float = param(0.999, "how fast further rows of an item add less; 0: all rows count "
                        "alike", low=0, high=0.999999)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import itemwise

        return itemwise(model)

    def weights(self, data: Dataset) -> Floats:
        """w_i of every item, (n_items,); 1 for items without a positive."""
        from bench.imbalance import item_counts

        counts = item_counts(data)
        there = counts > 0
        made = np.ones(data.n_items)
        made[there] = (1 - self.beta) / (1 - self.beta ** counts[there])
        made[there] *= there.sum() / made[there].sum()
        return made

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.beta:
            return clean_loss
        from bench.imbalance import by_item
        from bench.rowloss import row_terms

        terms = row_terms(model, batch)
        return terms.whole(by_item(terms, self.weights(model.data)))

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"beta": 0.0}
