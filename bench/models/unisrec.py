"""UniSRec: a mixture of whitenings of text vectors, and a transformer over them."""

from __future__ import annotations

from bench.api import param
from bench.text.sequence_model import TextSequenceModel


class UniSRec(TextSequenceModel):
    """Item vectors Σ_k g_k(x) W_k (x − b_k) of frozen text vectors x, read by a causal
    transformer; scores are cosines over τ, learned by cross-entropy over all items.

    Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems", KDD
    2022, as it is fine-tuned; its pre-training over several domains is not done. One draw of
    noise and dropout of the experts serves history and candidates of a batch, where the authors
    draw twice; and every place of a history is predicted, where they cut it into prefixes (`rows:
    prefixes`). With `transductive` a learned ID vector is added to each item.
    With `tune` the encoder learns from the sequences too: each step encodes the texts of its
    batch's items; the vectors of the others in the softmax are those of the epoch's beginning, as
    constants (`encode: all` has no others).

    Example: models: [{unisrec: {model: tiny-random, epochs: 20, tune: [none, lora]}}]
    """

    name = "unisrec"
    dim: int = param(300, "length of item vectors and hidden states", low=1)
    experts: int = param(8, "whitenings in the mixture", low=1)  # type: ignore[misc]
    expert_dropout: float = param(0.2, "dropout of the text vectors",  # type: ignore[misc]
                                  low=0, high=0.99)
    temperature: float = param(0.07, "τ by which cosines are divided", above=0)
    transductive: bool = param(False, "add a learned vector of the item's ID to that of its text")

    @property
    def with_ids(self) -> bool:  # type: ignore[override]
        return self.transductive

    @property
    def cosine_temperature(self) -> float:  # type: ignore[override]
        return self.temperature

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "dtype": "float32", "dim": 32, "inner": 64, "layers": 1,
                "dropout": 0.1, "attention_dropout": 0.1, "max_length": 8, "experts": 3,
                "epochs": 12, "batch_size": 16, "learning_rate": 0.01, "patience": 0}
