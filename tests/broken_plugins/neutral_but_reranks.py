"""Reranks even where it is switched off."""

from bench.api import Defense

BREAKS = "neutral-is-none"
BECAUSE = "with {} rerank changes scores"


class NeutralButReranks(Defense):
    """Reranks even where it is switched off; no paper.

    Example: defenses: [neutral-but-reranks]
    """

    name = "neutral-but-reranks"
    @classmethod
    def neutral_params(cls):
        return {}

    def rerank(self, scores, users, data):
        return scores.flip(1)
