"""Listwise ranking by a language model on a server, read from what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.remote_model import Remote

if TYPE_CHECKING:
    from bench.text.remote_scorer import RemoteRecommender


class RemoteListwise(Remote):
    """Shows all C candidates at once, numbered, `bootstraps` times in another random order per
    user and time, and parses the order that the model writes; score = Σ over bootstraps of
    C − position.

    `listwise` with `read: generate` (LLMRank, Hou et al., ECIR 2024), sent over HTTP: needs no
    log-probabilities, so that every chat model can be asked. Candidates that an answer does not
    name come after the others in random order, and are counted. Storing, counting and privacy as
    in `remote-yes-no`.

    Example: models: [{remote-listwise: {endpoint: "http://localhost:8000/v1", model: llama}}]
    """

    name = "remote-listwise"
    bootstraps: int = param(1, "random orders in which the candidates are shown", low=1)
    tokens: int = param(200, "most tokens of a written answer", low=1)
    asks: ClassVar[str] = "listwise"
    own_prompt: ClassVar[str] = "listwise-sequential"

    def build(self, data: Dataset, ctx: Context) -> RemoteRecommender:
        from bench.text.remote_scorer import RemoteListwiseRecommender

        return RemoteListwiseRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "stand-in", "candidates": 6, "history": 3}
