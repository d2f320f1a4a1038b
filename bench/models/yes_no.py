"""Yes or no: a language model asked of each candidate whether the user will like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset
from bench.text.prompted import PromptedModel

if TYPE_CHECKING:
    from bench.text.scorer import PointwiseRecommender


class YesNo(PromptedModel):
    """Score of a candidate: log Σ P(yes tokens) − log Σ P(no tokens) at the answer's first place,
    zero-shot.

    The prompt holds the history and the candidate; what candidates share is computed once per
    user. GPT-, T5- and BERT-type models work (BERT fills a mask). The question of TALLRec (Bao
    et al., RecSys 2023) without its tuning; the differences of logits are float32, since
    probabilities in half precision tie.

    Example: models: [{yes-no: {model: tiny-random, candidates: 20, retriever: pop}}]
    """

    name = "yes-no"

    def build(self, data: Dataset, ctx: Context) -> PointwiseRecommender:
        from bench.text.scorer import PointwiseRecommender

        return PointwiseRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 6, "history": 3, "dtype": "float32"}
