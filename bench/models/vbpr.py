"""Matrix factorisation that also reads feature vectors of items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.item_features import available
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.models._vbpr import VbprRecommender


class VBPR(TrainedModel):
    """Visual Bayesian personalised ranking (He and McAuley, AAAI 2016), for any item features.

    Scores s_ui = p_u · (q_i + Eᵀ f_i) + b_i with f_i the item's feature vector (image, text,
    attributes), E a learned projection; the form of Tang et al., "Adversarial Training Towards
    Robust Multimedia Recommender System", TKDE 2019. Loss softplus(−(s_ui − s_uj)) over (user,
    positive, sampled negative) plus L2 on the rows of the batch and on E.

    Example: models: [{vbpr: {dim: 64, features: attributes}}]
    """

    name = "vbpr"
    dim: int = param(64, "length of the user and item vectors", low=1)
    features: str = param("", "name of the item features; empty: the dataset's first, or else its "
                          "item attributes as numbers")
    init_std: float = param(0.01, "standard deviation of the initial vectors", low=0)
    bias: bool = param(False, "learn a bias per item")
    l2: float = param(0.0, "weight of ½‖·‖² of the batch's rows in the loss", low=0)
    l2_projection: float = param(0.0, "weight of ½‖E‖² in the loss", low=0)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"embeddings", "gradients", "features", "user-separable"})

    def unfit(self, data: Dataset) -> str | None:
        known = available(data)
        if not known:
            return f"vbpr reads feature vectors of items, and {data.name} has none"
        if self.features and self.features not in known:
            return (f"{data.name} has no item features {self.features!r}; it has "
                    f"{', '.join(known)}")
        return None

    def build(self, data: Dataset, ctx: Context) -> VbprRecommender:
        from bench.models._vbpr import VbprRecommender

        return VbprRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 16, "epochs": 20, "batch_size": 256, "learning_rate": 0.02}
