"""A test set in which popular items are no longer everywhere."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.api import Context, Dataset, param
from bench.natural import NaturalNoise


class PopularityShift(NaturalNoise):
    """Keeps a part of the test rows, drawn with p ∝ popularity^−gamma: out of distribution.

    Rows are drawn one after the other without replacement; an item's popularity is its number of
    train positives, at least 1. With gamma 1 and few rows kept all items are tested about equally
    often, the "intervened" test set of Zheng et al., "Disentangling User Interest and Conformity
    for Recommendation with Causal Embedding", WWW 2021, and the skewed one of Bonner and Vasile,
    "Causal Embeddings for Recommendation", RecSys 2018. A model that recommends what is popular
    loses what it has; the same model is measured, nothing is trained anew.

    gamma 0 leaves out rows at random: the control, as fewer test rows alone change metrics that
    depend on their number. Users without a row left are not evaluated. Rows left out are masked,
    so that a liked popular item does not count as a mistake.

    Budget: rate of the test rows left out. Knowledge: none.

    Args:
        rate: share of the test rows left out.
        gamma: how strongly popularity counts against a row.

    Shapes: what is left of the test rows keeps its order.

    Example: attacks: [{popularity-shift: {rate: 0.5, gamma: [0, 1]}}]
    """

    name = "popularity-shift"
    changes: ClassVar[str] = "test"
    rate: float = param(0.5, "share of the test rows left out", low=0, high=1)
    gamma: float = param(1.0, "exponent of popularity; 0: rows left out at random", low=0)

    def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
        popularity = np.maximum(data.popularity[data.test.items], 1)
        # log weight + Gumbel noise: the largest are a draw without replacement by weight
        drawn = ctx.stream("popularity-shift").gumbel(size=len(data.test))
        order = np.argsort(drawn - self.gamma * np.log(popularity), kind="stable")
        kept = np.ones(len(data.test), bool)
        kept[order[:self.budget(data.test)]] = False
        return data.replace(test=data.test[kept])
