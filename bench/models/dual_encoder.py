"""A language model that reads histories and items into one space, tuned on who took what."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.prompted import LanguageModel
from bench.text.tuning import Tuned

if TYPE_CHECKING:
    from bench.text.pairs import DualRecommender


class DualEncoder(LanguageModel, Tuned):
    """Two towers that share one language model: score cos(u, v)/τ of the history's text, newest
    item first, and the item's.

    Loss: softmax over the items of the batch, with the logQ correction s − log q, q being an
    item's share of the examples (Yi et al., "Sampling-bias-corrected neural modeling", RecSys
    2019), which the score at serving leaves out; rows with the same item are no negatives of each
    other. With `negatives` the softmax is over a history's item and so many that its user did not
    take, drawn uniformly: a loss of each row alone, as privacy per user needs it (`dp-lora`).
    Examples are the liked train rows with what their users took before. Nothing is candidates
    only: the whole catalogue is scored, items encoded once per text. Bottleneck towers, hard
    negatives and a queue of former batches are not offered.

    Example: models: [{dual-encoder: {model: tiny-random, tune: full, learning_rate: 0.003}}]
    """

    name = "dual-encoder"
    pool: str = param("mean", "how hidden states become a vector; last for GPT-types",
                      choices=("mean", "first", "last"))
    history: int = param(10, "most items of a history that are read, the latest ones", low=1)
    temperature: float = param(0.05, "τ, what cosines are divided by", above=0)
    log_q: bool = param(True, "subtract log of an item's share of the examples in training, "
                        "where negatives come from the batch")
    negatives: int = param(0, "items sampled per row that its user did not take; 0: the items of "
                           "the batch's other rows", low=0)
    user_prefix: str = param("", 'what stands before a history, as "query: " of E5')
    item_prefix: str = param("", 'what stands before an item, as "passage: " of E5')
    learning_rate: float = param(2e-5, "step size", above=0)

    not_separable: ClassVar[str] = ("gradients of a language model are taken user by user by "
                                    "dp-lora alone")

    def not_private(self) -> str | None:
        if not self.negatives:
            return ("each row of a batch is told apart from the items of other users' rows: set "
                    "negatives to 1 or more")
        return self.tuned_privately()

    @property
    def gives(self) -> frozenset[str]:
        given = {"text", "histories"}
        return frozenset(given if self.tune == "none" else given | {"token-vectors", "gradients"})

    def build(self, data: Dataset, ctx: Context) -> DualRecommender:
        from bench.text.pairs import DualRecommender

        return DualRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "tune": "full", "history": 3, "dtype": "float32",
                "epochs": 10, "batch_size": 160, "learning_rate": 0.005, "patience": 0}
