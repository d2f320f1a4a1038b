"""Many members, each trained on few users, vote: a few fake users reach few of the votes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Context, Dataset, Defense, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.models.base import Recommender

FAKES = (0, 1, 2, 5, 10, 20)  # against how many fake users lists are certified


class SubsampleEnsemble(Defense):
    """Votes of `members` models, each trained on `users` users drawn without replacement.

    Each member votes for its `picks` best items of every user, from that user's own history; the
    share of votes is the score, for any way of inserting fake users. What is certified, with p
    bounded by Clopper and Pearson's intervals at alpha / (2 · items) each: with e fake users a
    subset holds none of them with probability δ = C(n, s) / C(n + e, s), hence
    p' ≥ δ p and Σ p' ≤ δ Σ p + (1 − δ) min(picks, c) over c items, and so at least r of the
    `length` items served remain (`bench.certificates`). Jia et al., "PORE: Provably Robust
    Recommender Systems against Data Poisoning Attacks", USENIX Security 2023,
    https://arxiv.org/abs/2303.14601; our bounds are simpler and looser than the paper's.

    The certificate is of the ensemble of infinitely many members: that r of the items that this
    one serves are among the `length` likeliest there, whatever e users are added to the data at
    hand. It holds with probability 1 − alpha for each user. The report has, by e, the mean r, and
    lower bounds on hit rate and recall (the test positives enter there alone, as in evaluation).
    Small `users` and `picks` certify more and recommend worse; few members leave wide intervals.

    For models that score users they were not trained on (`bench.foldin`). What is trained on all
    users is not served. members 0 equals `none`. Cost: `members` trainings on `users` users, and
    members × users × picks integers. Adaptive attack: profiles that aim at the members' own
    model; no profile can beat the certificate.

    Example: defenses: [{subsample-ensemble: {members: 100, users: 200, picks: 4}}]
    """

    name = "subsample-ensemble"
    members: int = param(100, "models that vote; 0: serve the one trained on all users", low=0)
    users: int = param(200, "users each member is trained on (s)", low=1)
    picks: int = param(4, "items each member votes for, per user (N')", low=1)
    length: int = param(10, "length of the list that is certified (N)", low=1)
    alpha: float = param(0.001, "probability with which a user's certificate may be wrong",
                         above=0, high=0.5)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.foldin import unfit

        if not self.members:
            return None
        if self.users > data.n_users:
            return f"members of {self.users} users cannot be drawn from {data.n_users}"
        if self.length > data.n_items or self.picks > data.n_items:
            return f"lists are longer than the {data.n_items} items of {data.name}"
        return unfit(model)

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if not self.members:
            return model
        from bench._votes import Ensemble
        from bench.foldin import FoldIn

        plugin: Any = model.hyper  # type: ignore[attr-defined]
        folding = FoldIn(plugin, data, ctx)

        def member(b: int) -> Recommender:
            own = Context(ctx.number("member", b), ctx.device)
            return folding.member(self.subset(data.n_users, b, ctx), own)

        served = Ensemble(model, data, self.members, self.alpha, member=member,
                          picks=self.picks, subset=self.users)
        served.lists("test")
        return served

    def subset(self, n_users: int, b: int, ctx: Context) -> Any:
        """The users of member b, ascending, (users,): those with the smallest of numbers drawn
        in order of users, so that added users change as few subsets as possible."""
        if self.users > n_users:
            raise InputError(f"{self.name}: members of {self.users} users cannot be drawn from "
                             f"{n_users}", key="users")
        drawn = ctx.stream("subset", b).random(n_users)
        return np.sort(np.argsort(drawn, kind="stable")[:self.users])

    def unseen(self) -> str | None:
        return "members that were trained apart vote" if self.members else None

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """By number of fake users e: mean items of `length` that stay for sure, and the certified
        hit rate and recall of the genuine users who have test items."""
        from bench._votes import Ensemble

        if not isinstance(model, Ensemble):
            return {}
        return {"members": self.members, "users_each": self.users,
                "users_of": model.known_data.n_users, "confidence": 1 - self.alpha,
                **model.certificate(FAKES, self.length)}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"members": 0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"members": 12, "users": 20}
