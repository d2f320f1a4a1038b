"""Rows count by how well the model already explains them: what does not fit counts less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender


class ReweightedLoss(Defense):
    """R-CE, the reweighted loss of adaptive denoising training (Wang et al., WSDM 2021).

    A row's loss is multiplied by ŷ^beta for a positive and by (1 − ŷ)^beta for a negative, ŷ
    being the model's probability of a positive, held constant in the weight. Both are
    exp(−ℓ)^beta with the row's cross-entropy ℓ, and in this form the weight is defined for
    comparisons too: σ(margin)^beta for BPR, p(target)^beta for a softmax over the catalogue.
    Weights are not normalised, so that the steps become shorter (as in the authors' code).
    Regularisers stay as they are. The authors take beta .05 to .5. beta 0 equals `none` bit for
    bit.

    Nothing is left out for good, unlike in truncated-loss; still, rare items and unusual users
    have large losses without being noise: ask for recall by item popularity ("groups: {items:
    [popularity]}") beside the mean. Not for squared errors and whole histories, whose exp(−ℓ) is
    no probability of a row. Adaptive attack: fake profiles that are easy to fit keep full weight.

    Example: defenses: [{reweighted-loss: {beta: 0.25}}]
    """

    name = "reweighted-loss"
    beta: float = param(0.25, "exponent of the weight; 0: every row counts alike", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import likely

        return likely(model)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.beta:
            return clean_loss
        from bench.rowloss import row_terms

        terms = row_terms(model, batch)
        return terms.whole((-self.beta * terms.losses.detach()).exp())

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"beta": 0.0}
