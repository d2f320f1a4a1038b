"""Popularity is added to the scores in training, so that the model need not learn it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender


class LogitAdjustment(Defense):
    """Logit adjustment: trains on s + tau · log π, serves s (Menon et al., ICLR 2021, Eq. 10).

    π_i is the item's share of the train positives. The adjusted scores fit the skewed data, so
    that s itself is what is left when popularity is taken out (for tau 1: what would be right
    were all items equally frequent); subtracting tau · log π at test from a model trained plainly
    aims at the same. By the model's loss:

    - softmax over the catalogue: the paper's loss, Σ over items included;
    - labelled pairs: σ(s + tau · log π_i) for positives and negatives alike;
    - pairs (BPR): the margin gains tau · log(π_i / π_j): a popular positive against a rare
      negative counts as nearly won, a rare one against a popular one must be won by more.

    With uniformly sampled negatives the last two do not know that a popular item is as rarely a
    negative as any other; popularity-negatives mends the same skew from the other side. An item
    that nobody took counts as taken once. tau 0 equals `none` bit for bit. Not for squared errors,
    whole histories, and models whose loss takes probabilities. Adaptive attack: random-profiles
    on tail targets, which the adjustment lifts before the attack does.

    Example: defenses: [{logit-adjustment: {tau: 1.0}}]
    """

    name = "logit-adjustment"
    tau: float = param(1.0, "weight of log π_i in the scores of training; 0: none", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import shiftable

        return shiftable(model)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.tau:
            return clean_loss
        import torch

        from bench.imbalance import shares
        from bench.rowloss import row_terms

        prior = torch.as_tensor(self.tau * np.log(shares(model.data)), dtype=clean_loss.dtype,
                                device=clean_loss.device)  # (n_items,)
        return row_terms(model, batch, prior).whole()

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"tau": 0.0}
