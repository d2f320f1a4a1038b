"""Yes or no, fine-tuned: a language model that learned from likes and dislikes how to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.prompted import PromptedModel
from bench.text.tuning import Tuned

if TYPE_CHECKING:
    from bench.text.tuned_scorer import TallrecRecommender

UNTAUGHT = ("tfidf", "text-cosine", "random")
"""Retrievers that learn nothing from anybody's rows, and read a user's own when that user asks."""


class Tallrec(PromptedModel, Tuned):
    """TALLRec (Bao et al., RecSys 2023): `yes-no`, tuned on instructions made of train rows.

    An example is a row with the latest `history` liked items that its user took before it and,
    where the data has rows labelled as disliked (`threshold`), as many disliked ones; the answer
    is yes where the row is liked and no where it is disliked. `prompt: yes-no` lists likes alone.
    Data without disliked rows gives
    `negatives` items per row that the user did not take. Loss: cross-entropy of yes against no,
    −log σ(±margin), the margin being what `yes-no` scores by; the paper's code takes a second
    softmax of it, which halves its range. Unlike the paper, which fine-tunes Alpaca first, this
    begins with the model that is named. Early stopping ranks candidates for `validate_users`
    users: each costs as many prompts as there are candidates.

    Example: models: [{tallrec: {model: tiny-random, tune: full, shots: 64, candidates: 20}}]
    """

    name = "tallrec"
    own_prompt: ClassVar[str] = "likes-dislikes"
    shots: int = param(0, "train rows that are learned from (the paper: 16, 64, 256), drawn by "
                       "seed, each of another user as long as there are more; 0: all", low=0)
    negatives: int = param(1, "items sampled per row as disliked, where the data has no disliked "
                           "rows; they come on top of `shots`", low=1)

    not_separable: ClassVar[str] = ("gradients of a language model are taken user by user by "
                                    "dp-lora alone, though its loss is a mean over rows")

    def not_private(self) -> str | None:
        if self.shots:
            return ("shots picks rows among everybody's, so that one user less lets others in: "
                    "set shots to 0")
        retriever = self.retrieving()
        reads = getattr(retriever, "reads_pairs", False)
        if self.candidates and (retriever.name not in UNTAUGHT or reads):
            return (f"its candidates come from {retriever.name}, which is trained on everybody's "
                    "rows without privacy: take a retriever that learns from none ("
                    + ", ".join(UNTAUGHT) + "), or candidates: 0")
        return self.tuned_privately()

    @property
    def gives(self) -> frozenset[str]:
        given = {"text", "prompts", "histories", "dislikes"}
        return frozenset(given if self.tune == "none" else given | {"token-vectors", "gradients"})

    def unfit(self, data: Dataset) -> str | None:
        if not self.history:
            return "tallrec learns from histories: set history to 1 or more"
        return super().unfit(data)

    def build(self, data: Dataset, ctx: Context) -> TallrecRecommender:
        from bench.text.tuned_scorer import TallrecRecommender

        return TallrecRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "tune": "full", "candidates": 6, "history": 3,
                "dtype": "float32", "shots": 64, "epochs": 10, "batch_size": 16,
                "learning_rate": 0.01, "patience": 0}
