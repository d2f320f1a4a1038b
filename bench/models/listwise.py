"""Listwise ranking: all candidates in one prompt, the language model puts them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text.prompted import PromptedModel

if TYPE_CHECKING:
    from bench.text.listwise import ListwiseRecommender

MOST_LABELS = 52


class Listwise(PromptedModel):
    """Shows all C candidates at once, `bootstraps` times in another random order per user and
    time; score = Σ over bootstraps of C − position.

    LLMRank (Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems",
    ECIR 2024). Prompts: listwise-sequential, listwise-recency, listwise-in-context. The order is
    read from the logits of the candidates' labels at the first answer place (FIRST, Reddy et
    al., EMNLP 2024; equal logits share a position), which needs no model that follows
    instructions; or the answer is written greedily and parsed. Candidates that an answer does
    not name come after the others in random order, and are counted.

    Example: models: [{listwise: {model: tiny-random, candidates: 20, bootstraps: 3}}]
    """

    name = "listwise"
    history: int = param(50, "most items of a user's history in the prompt, the latest ones",
                         low=0, high=50)
    bootstraps: int = param(3, "random orders in which the candidates are shown", low=1)
    read: str = param("logits", "how the order is read: logits of the labels, or generate: the "
                      "answer is written and parsed", choices=("logits", "generate"))
    tokens: int = param(200, "most tokens of a written answer", low=1)
    asks: ClassVar[str] = "listwise"
    own_prompt: ClassVar[str] = "listwise-sequential"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read == "logits" and not 0 < self.candidates <= MOST_LABELS:
            raise InputError(f"{self.name}: there are labels for 1 to {MOST_LABELS} candidates, "
                             f"not for {self.candidates or 'the whole catalogue'}",
                             key="candidates", hint="fewer candidates, the model sliding, or "
                             "read: generate")

    def build(self, data: Dataset, ctx: Context) -> ListwiseRecommender:
        from bench.text.listwise import ListwiseRecommender

        return ListwiseRecommender(self, data, ctx, self.candidates or data.n_items)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 6, "history": 3, "dtype": "float32",
                "bootstraps": 2}
