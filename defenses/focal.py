"""Rows count by how badly the model still explains them: what is easy counts less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender


class Focal(Defense):
    """Focal loss (Lin et al., ICCV 2017, Eq. 4): −(1 − p)^gamma · log p for each row.

    p is the model's probability of what is right, exp(−ℓ) with the row's cross-entropy ℓ: ŷ of a
    positive, 1 − ŷ of a negative; for comparisons σ(margin) (BPR) or p(target) (softmax). The
    factor is differentiated with the rest, as in the paper. Easy rows, mostly sampled negatives
    that nobody wants and popular positives, stop to dominate the gradient. gamma 2 is the paper's
    choice. Regularisers stay as they are. gamma 0 equals `none` bit for bit.

    It is the opposite of reweighted-loss, which trusts what fits: noise and injected rows, hard to
    fit, gain weight here. Not for squared errors and whole histories, whose exp(−ℓ) is no
    probability of a row. Adaptive attack: any poisoning that the model finds hard, such as
    random-profiles on tail targets.

    Example: defenses: [{focal: {gamma: 2}}]
    """

    name = "focal"
    gamma: float = param(2.0, "exponent of 1 − p; 0: every row counts alike", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import likely

        return likely(model)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.gamma:
            return clean_loss
        import torch

        from bench.rowloss import row_terms

        terms = row_terms(model, batch)
        wrong = -torch.expm1(-terms.losses)  # 1 − p, (T,)
        # a root of 0 has no slope: exactly certain rows count nothing, and teach nothing
        wrong = wrong.clamp_min(torch.finfo(wrong.dtype).tiny)
        return terms.whole(wrong ** self.gamma)

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"gamma": 0.0}
