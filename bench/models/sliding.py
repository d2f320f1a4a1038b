"""Sliding windows: a language model re-orders a few candidates at a time, from the back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text.prompted import PromptedModel

if TYPE_CHECKING:
    from bench.text.listwise import SlidingRecommender


class Sliding(PromptedModel):
    """Re-orders windows of `window` candidates, from the back of the retriever's order to its
    front, each `step` places further; score: −position after `passes` passes.

    RankGPT's sliding window (Sun et al., "Is ChatGPT Good at Search?", EMNLP 2023). A candidate
    from the back can reach the front, since window − step of each window go on to the next. How
    an order is read, and what becomes of candidates that an answer does not name: see listwise.

    Example: models: [{sliding: {model: tiny-random, window: 4, step: 2, retriever: pop}}]
    """

    name = "sliding"
    window: int = param(4, "candidates in one prompt", low=2, high=52)
    step: int = param(2, "places by which the window moves", low=1)
    passes: int = param(1, "times that the window goes from the back to the front", low=1)
    read: str = param("logits", "how the order is read: logits of the labels, or generate: the "
                      "answer is written and parsed", choices=("logits", "generate"))
    tokens: int = param(50, "most tokens of a written answer", low=1)
    asks: ClassVar[str] = "listwise"
    own_prompt: ClassVar[str] = "listwise-sequential"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step >= self.window:
            raise InputError(f"{self.name}: windows of {self.window} that move by {self.step} "
                             "places do not overlap, so that nothing comes to the front",
                             key="step", hint=f"step: at most {self.window - 1}")

    def build(self, data: Dataset, ctx: Context) -> SlidingRecommender:
        from bench.text.listwise import SlidingRecommender

        return SlidingRecommender(self, data, ctx, self.window)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "tiny-random", "candidates": 6, "history": 3, "dtype": "float32"}
