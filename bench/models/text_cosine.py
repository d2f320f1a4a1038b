"""Frozen encoder: an item is the vector of its text, a user the mean of the items taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.text.pretrain import Pretrained

if TYPE_CHECKING:
    from bench.text.vectors import VectorRecommender


class TextCosine(Pretrained):
    """Score: cosine of the item's vector and the user's, who is the mean of the unit vectors of
    the items taken, weighted by decay^(how long ago), the last one 1.

    Nothing is trained, unless the encoder is pre-trained on the items' texts first (`pretrain`).
    Vectors are the encoder's last hidden states, pooled; with `whiten` they
    are centred and whitened first (Su et al., "Whitening Sentence Representations", 2021).

    Example: models: [{text-cosine: {model: tiny-random, decay: 0.9}}]
    """

    name = "text-cosine"
    pool: str = param("mean", "how hidden states become a vector",
                      choices=("mean", "first", "last"))
    decay: float = param(0.9, "weight of an item against the next newer one", above=0, high=1)
    whiten: int = param(0, "whiten to so many dimensions, or as many as there are; 0: do not",
                        low=0)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"text", "histories"})

    def build(self, data: Dataset, ctx: Context) -> VectorRecommender:
        from bench.text.vectors import VectorRecommender

        return VectorRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "dtype": "float32"}
