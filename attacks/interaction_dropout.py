"""A share of the interactions is missing."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset
from bench.natural import NaturalNoise


class InteractionDropout(NaturalNoise):
    """Drops int(rate · rows) train rows, each as likely as any other.

    What was never logged: missing completely at random, so that active users and popular items
    lose most rows and all lose the same share in expectation. "Sparsity" in Ovaisi et al.,
    "RGRecSys: A Toolkit for Robustness Evaluation of Recommender Systems", WSDM 2022. A user may
    lose every row and is evaluated all the same. A larger rate drops the rows of a smaller one.

    Budget: rate of the train rows. Knowledge: none.

    Args:
        rate: share of train rows dropped.

    Shapes: what is left of the train rows keeps its order.

    Example: attacks: [{interaction-dropout: {rate: [0.1, 0.5]}}]
    """

    name = "interaction-dropout"

    def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
        kept = np.ones(len(data.train), bool)
        kept[ctx.stream("dropout").permutation(len(kept))[:self.budget(data.train)]] = False
        return data.replace(train=data.train[kept])
