"""Title likelihood: how probable a language model finds a candidate's text as the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.prompted import PromptedModel

if TYPE_CHECKING:
    from bench.text.title import TitleRecommender


class TitleLikelihood(PromptedModel):
    """Score of a candidate: (1/L) Σ_l log p(w_l | prompt, w_<l) over the L tokens of its text,
    zero-shot, in nats per token.

    With `pmi`, minus the same under the prompt without any history: what the history adds, so
    that texts which are probable anyway do not win (the domain-conditional mutual information of
    Holtzman et al., "Surface Form Competition", EMNLP 2021). The prompt is computed once per
    user. GPT- and T5-type models; BERT gives no likelihood of a text and is refused.

    Example: models: [{title-likelihood: {model: tiny-random, pmi: [false, true]}}]
    """

    name = "title-likelihood"
    pmi: bool = param(False, "subtract the likelihood under the prompt without a history")
    asks: ClassVar[str] = "title"
    own_prompt: ClassVar[str] = "title-next"
    roles: ClassVar[tuple[str, ...]] = ("causal", "seq2seq")

    def build(self, data: Dataset, ctx: Context) -> TitleRecommender:
        from bench.text.title import TitleRecommender

        return TitleRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 6, "history": 3, "dtype": "float32"}
