"""Yes or no, asked of a language model on a server: vLLM, Ollama, or a vendor's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset
from bench.text.remote_model import Remote

if TYPE_CHECKING:
    from bench.text.remote_scorer import RemoteRecommender


class RemoteYesNo(Remote):
    """Score of a candidate: log Σ P(yes) − log Σ P(no) over the first tokens of the answer that
    the server gives log-probabilities of, zero-shot.

    The question of `yes-no` (TALLRec, Bao et al., RecSys 2023, without its tuning), sent over
    HTTP. A side that is not among the `top` tokens gets the least log-probability given; where
    neither is, the score is 0 and counted (answers_undecided). Answers are stored by endpoint,
    model, revision, parameters and prompt in $BENCH_ANSWERS, or answers.sqlite in the cache
    folder, and asked for once; remote_calls and remote_cache_hits count. `revision` is told to
    nobody: change it when the model behind the name has changed. The texts of items and
    histories leave this machine: ask whether they may. Needs a server with logprobs.

    Example: models: [{remote-yes-no: {endpoint: "http://localhost:8000/v1", model: llama}}]
    """

    name = "remote-yes-no"

    def build(self, data: Dataset, ctx: Context) -> RemoteRecommender:
        from bench.text.remote_scorer import RemoteYesNoRecommender

        return RemoteYesNoRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"model": "stand-in", "candidates": 6, "history": 3}
