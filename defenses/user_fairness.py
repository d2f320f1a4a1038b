"""Lists of all users chosen together, so that two groups of users are served alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.fairness import Sides
    from bench.models.base import Recommender


class UserFairness(Defense):
    """User-oriented group fairness by re-ranking (UGF; Li et al., WWW 2021).

    max Σ_ui s_ui·w_ui subject to Σ_i w_ui = K for each user, 0 ≤ w ≤ 1, and
    |M(G₁) − M(G₂)| ≤ eps, where M is the mean F1@K (or precision, recall) of a group's users and
    s the score brought to 0 … 1 among a user's candidates, as models have scales of their own:
    linear in w, so that the whole is a linear program over users × candidates. It is solved exactly
    by its dual, which is one number; where its optimum mixes two lists, one of them is served, so
    that the constraint may be missed where one exchange of items changes the gap by over 2·eps.

    M needs to know what users will like. The published code takes the test labels. Here it is
    estimated on validation: per group, a logistic regression of being taken up on an item's rank,
    score and popularity among a user's candidates; labels of the validation split themselves
    would not do, as those items are known by then and no candidates. So the constraint holds for
    the expected metric; how far it carries over to the test split is for the table to
    say. A gap can be closed by serving the better group worse: the report gives both groups'
    expected metric before and after, and `groups:` the real ones.

    Groups: the `share` most active users against the rest (attribute: activity), or one value of
    a user attribute against all others. Items beyond `length` keep their order. eps .inf leaves
    the model as it is. Adaptive attack: fake users of high activity push genuine ones out of the
    advantaged group; random-profiles with a large length. Where fakes are all of that group,
    nobody in it has validation rows: lists are served as the model makes them, and the facts say
    so. Attacks on vectors are not adaptive: a linear program has no slopes. Attackers who inject
    profiles have no validation rows, and meet nothing of it.

    Example: defenses: [{user-fairness: {attribute: activity, share: 0.05, eps: [0.0, 0.01]}}]
    """

    name = "user-fairness"
    attribute: str = param("activity", "user attribute that makes the two groups, or activity")
    value: str = param("", "the value that makes one group; may be left out where there are two")
    share: float = param(0.05, "of activity: share of users that are most active", above=0,
                         high=0.5)
    eps: float = param(0.0, "largest gap allowed between the groups' expected metric", low=0,
                       high=math.inf)
    metric: str = param("f1", "what is made alike", choices=("f1", "precision", "recall"))
    length: int = param(10, "K, items of a list that are chosen", low=1)
    candidates: int = param(100, "best items of the model that are chosen from", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if math.isinf(self.eps):
            return None
        try:
            side = self.sides(data)
        except InputError as error:
            return str(error)
        liked = data.valid.positives().users
        for which, name in ((1, "one group"), (0, "the other group")):
            if not (side[liked] == which).any():
                return (f"nobody of {name} has a positive in the validation split of {data.name}, "
                        "on which the lists' worth is estimated")
        return None

    def sides(self, data: Dataset) -> Sides:
        """1 and 0 for the two groups, −1 for who is in neither, (n_users,)."""
        from bench.fairness import most_active, sides

        if self.attribute == "activity":
            return most_active(data, self.share)
        return sides(data, self.attribute, self.value)

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if math.isinf(self.eps):
            return model
        from bench.rerank_fair import FairLists

        return FairLists(model, data, self.sides(data), self.length, self.candidates, self.eps,
                         self.metric)

    def unseen(self) -> str | None:
        return None if math.isinf(self.eps) else "a linear program chooses all lists together"

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """The expected metric of both groups, before and after: which side paid; and how many
        users of each it was estimated on."""
        from bench.rerank_fair import FairLists

        if not isinstance(model, FairLists):
            return {}
        if model.blank():
            return {"lists": "as the model makes them: nobody of one group has a positive in the "
                             "validation split"}
        found = model.solution()
        judged = {name: int((model.side[model.judged()] == which).sum())
                  for which, name in ((1, "group"), (0, "rest"))}
        return {"users_judged": judged, f"expected_{self.metric}": {
            "group": {"before": found.before[0], "after": found.after[0]},
            "rest": {"before": found.before[1], "after": found.after[1]},
            "gap": {"before": abs(found.before[0] - found.before[1]),
                    "after": abs(found.after[0] - found.after[1]), "allowed": self.eps}}}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"eps": math.inf}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"eps": 0.01, "share": 0.3, "candidates": 20}
