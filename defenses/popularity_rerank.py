"""Lists in which unpopular items have their place: xQuAD on head and tail, or a quota."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, param

if TYPE_CHECKING:
    from bench.models.base import Recommender


class PopularityRerank(Defense):
    """Re-ranks the best candidates of each user towards the long tail.

    "xquad" (Abdollahpouri et al., "Managing Popularity Bias in Recommender Systems with
    Personalized Re-ranking", FLAIRS 2019): items are added one by one by (1 − λ)·s + λ·Σ_c
    P(c|u)·[item in c]·nov(c), where c is head or tail, P(c|u) the share of c in what the user
    liked, and nov(c) is 1 while c is not in the list yet and 0 afterwards (coverage: binary), or
    1 minus its share in the list so far (smooth). s is the score brought to 0 … 1 among the
    candidates. "quota" (after FA*IR, Zehlike et al., CIKM 2017): every prefix of k items holds at
    least the α-quantile of Bin(k, share) tail items, each taken as late and as good as possible;
    α is not adjusted for testing many prefixes. Where a user's candidates hold too few tail items,
    the list has those and then the model's order; the report gives the share of such users.

    The tail is all but the most popular 20 % of the items, counted on the rows that the model
    was trained on: a defender has no clean counts. Items beyond `length` keep their order.
    strength 0 and share 0 leave the model as it is. Costs N·K comparisons per user. Adaptive
    attack: fake users can make a target popular enough to leave the tail, or rate tail items so
    that they do; bandwagon-profiles at several budgets. Attacks on vectors are not adaptive: what
    an item is worth depends on the items chosen before it, and has no slope.

    Example: defenses: [{popularity-rerank: {strength: [0.2, 0.5]}}]
    """

    name = "popularity-rerank"
    method: str = param("xquad", "how the tail gets its place", choices=("xquad", "quota"))
    strength: float = param(0.2, "λ of xquad: 0 keeps the model's order", low=0, high=1)
    coverage: str = param("smooth", "of xquad: what a group that is in the list is still worth",
                          choices=("smooth", "binary"))
    share: float = param(0.5, "of quota: share of tail items asked for; 0 asks for none", low=0,
                         high=1)
    alpha: float = param(0.1, "of quota: α, how unlikely a prefix must be to be refused", above=0,
                         high=0.5)
    length: int = param(10, "items of a list that are chosen", low=1)
    candidates: int = param(100, "best items of the model that are chosen from", low=1)

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if not (self.strength if self.method == "xquad" else self.share):
            return model
        from bench.rerank_greedy import Quota, XQuad

        if self.method == "xquad":
            return XQuad(model, data, self.length, self.candidates, self.strength,
                         self.coverage == "binary")
        return Quota(model, data, self.length, self.candidates, self.share, self.alpha)

    def unseen(self) -> str | None:
        active = self.strength if self.method == "xquad" else self.share
        return "items are chosen one by one, by those chosen before" if active else None

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """Of quota: how many users' candidates did not allow it."""
        from bench.rerank_greedy import Quota

        return {"quota_missed": model.missed()} if isinstance(model, Quota) else {}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"strength": 0.0, "share": 0.0}
