"""Histories lose the items that do not go with the rest, by what other users took together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models.base import Recommender


class RetrievalPurifier(Defense):
    """Drops the items of a user's history that the collaborative item graph does not support.

    The support of an item is its mean cosine of co-occurrence with the other items of the
    history, n(i, j) / √(n(i) n(j)), over the train positives of all other users: a user's own
    rows bear nothing out. Items below the threshold are not read, the worst first and at most
    `share` of a history. The threshold is the `quantile` of the supports in the histories before
    any attack, so that at most that share of genuine items is lost. A threshold of 0 (items that
    go with nothing are too common) drops nothing, and the report says so.

    After RETURN (Ning, Fan and Li, "Retrieval-Augmented Purifier for Robust LLM-Empowered
    Recommendation", TOIS 2025, https://arxiv.org/abs/2504.02458): positions found by retrieval
    from co-occurrence, cleansed by deletion. The paper's graph may come from other data, it also
    knows replacement instead of deletion, and predicts by an ensemble; these are not here.

    It purifies what is read of a user at test time, not the training, and no item texts. What a
    re-ranker of candidates no longer reads may come back as a candidate. share 0: nothing
    happens. Cost: one product of the interactions with themselves, items × items where it is not
    sparse. Adaptive attack: substitution by items that co-occur with the history, and all attacks
    on histories that ask the served model.

    Example: defenses: [{retrieval-purifier: {quantile: 0.05, share: 0.3}}]
    """

    name = "retrieval-purifier"
    quantile: float = param(0.05, "share of genuine items that lie below the threshold", low=0,
                            high=1)
    share: float = param(0.3, "most of a history that is dropped; 0: nothing", low=0, high=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "histories" not in model.gives:
            return f"{model.name} reads no history when it scores a user"
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if not self.share:
            return model
        from bench.purifying import Purified, Support

        return Purified(model, Support(data), self.quantile, self.share)

    def unseen(self) -> str | None:
        return "items of a history are dropped before the model reads it" if self.share else None

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """The threshold, and the share of items that the histories lose without any attack."""
        from bench.purifying import Purified

        if not isinstance(model, Purified):
            return {}
        pairs = [(len(h), len(model.purified(u, h))) for u, h in enumerate(model.clean)]
        lost, had = sum(a - b for a, b in pairs), sum(a for a, _ in pairs)
        return {"threshold": model.threshold, "clean_items_dropped": lost / max(had, 1),
                "clean_histories_changed": sum(a != b for a, b in pairs) / max(len(pairs), 1)}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"share": 0.0}
