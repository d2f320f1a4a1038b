"""Title likelihood from a language model on a server that repeats prompts with their
log-probabilities (echo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.text.remote_model import Remote

if TYPE_CHECKING:
    from bench.text.remote_scorer import RemoteRecommender


class RemoteTitleLikelihood(Remote):
    """Score of a candidate: (1/L) Σ_l log p(w_l | prompt, w_<l) over the L tokens of its text, in
    nats per token, zero-shot; with `pmi`, minus the same under the prompt without a history.

    `title-likelihood` (Holtzman et al., "Surface Form Competition", EMNLP 2021, for pmi), sent
    over HTTP to /v1/completions with echo and logprobs, as vLLM has them; a server without them
    is refused with that reason. A chat gives no probability of what it did not write. Storing,
    counting and privacy as in `remote-yes-no`.

    Example: models: [{remote-title-likelihood: {endpoint: "http://localhost:8000/v1", model: m}}]
    """

    name = "remote-title-likelihood"
    api: str = param("completions", "only completions gives likelihoods",
                     choices=("completions",))
    pmi: bool = param(False, "subtract the likelihood under the prompt without a history")
    asks: ClassVar[str] = "title"
    own_prompt: ClassVar[str] = "title-next"

    def build(self, data: Dataset, ctx: Context) -> RemoteRecommender:
        from bench.text.remote_scorer import RemoteTitleRecommender

        return RemoteTitleRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "stand-in", "candidates": 6, "history": 3}
