"""Pairwise ranking: a language model says which of two candidates the user likes better."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.prompted import PromptedModel

if TYPE_CHECKING:
    from bench.text.pairwise import PairwiseRecommender


class Pairwise(PromptedModel):
    """Asks about pairs of candidates, each in both orders, and averages both answers.

    Pairwise ranking prompting (Qin et al., "Large Language Models are Effective Text Rankers
    with Pairwise Ranking Prompting", Findings of NAACL 2024). method all: C(C−1) prompts per
    user, score = Σ over the others of how far the candidate is preferred. method sliding: a
    bubble sort from the back of the retriever's order, `passes` times, 2C prompts each; score =
    −position. For windows of several candidates see the model sliding.

    Example: models: [{pairwise: {model: tiny-random, candidates: 10, method: [all, sliding]}}]
    """

    name = "pairwise"
    method: str = param("all", "which pairs are asked: all, or sliding: neighbours, from the back",
                        choices=("all", "sliding"))
    passes: int = param(10, "sliding: passes; as many of the first places are settled", low=1)
    votes: str = param("soft", "what an answer counts: soft, the probability of the label; hard, "
                       "1 for the likelier label, so that orders that disagree make ½",
                       choices=("soft", "hard"))
    candidates: int = param(10, "items that are re-ranked for each user; 0: the whole catalogue",
                            low=0)
    asks: ClassVar[str] = "pairwise"
    own_prompt: ClassVar[str] = "pairwise"

    def build(self, data: Dataset, ctx: Context) -> PairwiseRecommender:
        from bench.text.pairwise import PairwiseRecommender

        return PairwiseRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 4, "history": 3, "dtype": "float32"}
