"""Users randomise their own profiles before anybody sees them (local differential privacy)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Context, Dataset, Defense, Interactions, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.data import Ints
    from bench.training import FitResult

PROMISING = ("profile", "oue", "k-rr")


class RandomisedResponse(Defense):
    """Randomised response on profiles, in four modes that promise different things.

    With ε = `answer_epsilon`, m items in the catalogue, k = `max_interactions` and a user's train
    positives R_u; adjacent are any two profiles of one user (the local model, δ = 0):

    - profile: all m bits of the 0/1 profile, each flipped with 1/(e^ε + 1) (Warner, JASA 1965).
      A bit costs ε. Of a larger profile k random items are sent, so that any two profiles differ
      in at most min(2 k, m) bits; k 0 sends all, in which they differ in up to m. Quoted is the
      smaller that holds, 2 k ε or m ε, and the accountant's line says which.
    - oue: one random item of R_u, one-hot, optimised unary encoding: 1 stays 1 with ½, 0 becomes 1
      with 1/(e^ε + 1). k-rr: the same item, or with probability (m − 1)/(e^ε + m − 1) another
      (Wang et al., USENIX Security 2017, both). A user answers once, so a profile costs ε.
    - positives: as published by Müllner et al. (ECIR 2024): each of R_u stays with e^ε/(e^ε + 1),
      and of |R_u| random others each is added with 1/(e^ε + 1). This is no ε-LDP: a given other
      item appears with about |R_u| / (m − |R_u|) · 1/(e^ε + 1) only, so that a reported item's
      likelihood ratio is e^ε (m − |R_u|) / |R_u|, far above e^ε for short profiles, and the size
      of the profile shows. Nothing is quoted.

    In the modes that promise, what is sent has neither ratings, times nor order, and every user
    answers, those without a history too. `unbias` thins the rows at random until items' counts
    are in the proportions of the unbiased ones, n̂_j = (ñ_j − n q)/(p − q), negative ones being 0:
    post-processing; no row is added, so all are scaled down where n̂_j exceeds ñ_j. Validation and
    test stay clean; where early stopping has looked at validation, nothing is quoted either:
    give the model patience 0. Nor where e^ε is beyond what random floats tell from never.
    A user's own clean validation rows are read at that user's side only, when scoring. Adaptive
    attack: fakes who answer with their true profile keep their full weight.

    Example: defenses: [{randomised-response: {mode: profile, answer_epsilon: 3}}]
    """

    name = "randomised-response"
    mode: str = param("profile", "what a user answers: profile (every bit), positives (Müllner et "
                      "al.; no guarantee), oue or k-rr (one item)",
                      choices=("profile", "positives", "oue", "k-rr"))
    answer_epsilon: float = param(3.0, "ε of one answer: of a bit, or of the one item", above=0,
                                  high=math.inf)
    max_interactions: int = param(50, "profile: items of a user that are sent at most; 0: all",
                                  low=0)
    unbias: bool = param(False, "thin rows until items stand in the proportions of their unbiased "
                         "counts (not in positives)")
    catalogue: ClassVar[int | None] = None  # m, known once profiles were answered
    void: ClassVar[str | None] = None  # why no ε is quoted, known once a model was trained

    def __post_init__(self) -> None:
        if self.unbias and self.mode == "positives":
            raise InputError("mode positives has no known flip probabilities to correct for",
                             key="unbias", hint="use mode: profile, oue or k-rr")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.mode in PROMISING and "histories" in model.gives:
            return f"{model.name} learns from the order of a history, which is not sent"
        if self.mode in PROMISING and "ratings" in model.gives:
            return (f"{model.name} learns from ratings, which are not sent; take mode: positives, "
                    "which keeps them")
        if self.mode == "k-rr" and data.n_items < 2:
            return "one item leaves no other to answer with"
        if self.mode in PROMISING and not math.isinf(self.answer_epsilon):
            from bench.accounting import chosen_together

            return chosen_together(data)
        return None

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        # m is public, and `spent`, which is not told it, needs it to quote the smaller bound
        object.__setattr__(self, "catalogue", data.n_items)
        if self.mode == "positives":
            return data if math.isinf(self.answer_epsilon) else self._positives(data, ctx)
        rows = data.train.positives()
        order = np.argsort(rows.users, kind="stable")
        items = np.split(rows.items[order], np.cumsum(
            np.bincount(rows.users, minlength=data.n_users))[:-1])
        sent = [self.send(np.unique(mine), data.n_items, ctx.stream(self.name, user))
                for user, mine in enumerate(items)]
        users = np.repeat(np.arange(data.n_users), [len(x) for x in sent])
        found = np.concatenate(sent) if sent else np.empty(0, np.int64)
        if self.unbias:
            kept = self._thinned(found, data, ctx.stream(self.name, "unbias"))
            users, found = users[kept], found[kept]
        return data.replace(train=_bare(data, users, found))

    def rates(self, n_items: int) -> tuple[float, float]:
        """(p, q): how likely an answer holds an item that is there, and one that is not."""
        from bench import ldp

        if self.mode == "k-rr":
            return ldp.direct(self.answer_epsilon, n_items)
        return (ldp.unary if self.mode == "oue" else ldp.flip)(self.answer_epsilon)

    def send(self, mine: Ints, n_items: int, rng: np.random.Generator) -> Ints:
        """What a user with these items sends, ascending; it depends on nobody else."""
        from bench import ldp

        p, q = self.rates(n_items)
        most = self.max_interactions if self.mode == "profile" else 1
        if most and len(mine) > most:
            mine = rng.choice(mine, most, replace=False)
        if self.mode == "k-rr":
            return np.array([ldp.answer_item(int(mine[0]) if len(mine) else None, p, n_items,
                                             rng)], np.int64)
        bits = np.zeros(n_items, bool)
        bits[mine] = True
        return np.flatnonzero(ldp.answer(bits, p, q, rng))

    def _thinned(self, found: Ints, data: Dataset, rng: np.random.Generator) -> Any:
        """Which rows stay: (rows,) bool."""
        from bench import ldp

        answered = np.bincount(found, minlength=data.n_items)
        wanted = ldp.counts(answered, data.n_users, *self.rates(data.n_items))
        share = np.maximum(wanted, 0) / np.maximum(answered, 1)
        return rng.random(len(found)) < (share / max(1.0, float(share.max())))[found]

    def _positives(self, data: Dataset, ctx: Context) -> Dataset:
        """Müllner et al.: rows that stay keep rating, time and order; an added row takes them
        from a random row of its user."""
        from bench import ldp

        p, q = ldp.flip(self.answer_epsilon)
        rows = data.train.positives()
        order = np.argsort(rows.users, kind="stable")
        starts = np.r_[0, np.cumsum(np.bincount(rows.users, minlength=data.n_users))]
        kept, source, added = [order[:0]], [order[:0]], [order[:0]]
        for user in range(data.n_users):
            mine = order[starts[user]:starts[user + 1]]
            rng = ctx.stream(self.name, user)
            kept.append(mine[rng.random(len(mine)) < p])
            others = np.setdiff1d(np.arange(data.n_items), rows.items[mine])
            drawn = rng.choice(others, min(len(mine), len(others)), replace=False)
            drawn = drawn[rng.random(len(drawn)) < q]
            added.append(drawn)
            source.append(rng.choice(mine, len(drawn)) if len(drawn) else mine[:0])
        stay, new = rows[np.sort(np.concatenate(kept))], rows[np.concatenate(source)]
        columns = {f: getattr(new, f) for f in ("ratings", "times", "labels")}
        return data.replace(train=stay.plus(
            Interactions(new.users, np.concatenate(added), **columns)))

    def profile_epsilon(self, n_items: int) -> float | None:
        """ε of a user's whole profile; None where there is no such guarantee."""
        if self.mode == "positives" or math.isinf(self.answer_epsilon):
            return None
        return self._answers(n_items)[0] * self.answer_epsilon

    def _answers(self, n_items: int) -> tuple[int, str]:
        """In how many answers two profiles of one user can differ, and the cost in words."""
        if self.mode != "profile":
            return 1, "ε of the one item answered"
        sparse = 2 * self.max_interactions
        if sparse and sparse < n_items:
            return sparse, f"2 k ε for the k = {self.max_interactions} items sent at most"
        return n_items, f"m ε for all m = {n_items} bits"

    def _unquoted(self, fit: FitResult) -> str | None:
        """Why no ε is quoted for this training, or None."""
        if self.mode not in PROMISING:
            return "this mode promises no ε"
        if math.isinf(self.answer_epsilon):
            return "nothing is randomised"
        if not self.rates(self.catalogue or 2)[1] >= 2.0**-53:  # what a random float can meet
            return "answer_epsilon is so large that no answer is ever made up"
        if fit.history:
            return "early stopping read validation, which is not randomised (patience 0: none)"
        return None

    def spent(self, fit: FitResult) -> dict[str, float]:
        object.__setattr__(self, "void", self._unquoted(fit))  # for `facts`, which see no training
        if self.void:
            return {}
        # before the catalogue is known, the bound that needs no m
        most = self.catalogue or 2 * self.max_interactions
        answers = self._answers(most)[0] if most or self.mode != "profile" else 0
        return {"epsilon": answers * self.answer_epsilon, "delta": 0.0} if answers else {}

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """What one answer and a whole profile cost, and what became of the rows."""
        from bench.training import FitResult

        n, void = data.n_items, self.void or self._unquoted(FitResult())
        before = np.unique(data.train.positives().users * n + data.train.positives().items)
        after = np.unique(cleaned.train.users * n + cleaned.train.items)
        true = int(np.isin(after, before).sum())
        return {"adjacency": "any two profiles of one user (local model)",
                "accountant": f"none: {void}" if void else f"exact: pure ε, {self._answers(n)[1]}",
                "no_epsilon": void, "answer_epsilon": self.answer_epsilon,
                "profile_epsilon": None if void else self.profile_epsilon(n),
                "rows_before": len(before), "rows_after": len(after),
                "true_rows_kept": true / max(len(before), 1),
                "made_up_rows": (len(after) - true) / max(len(after), 1)}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"mode": "positives", "answer_epsilon": math.inf, "unbias": False}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"answer_epsilon": 3.0, "max_interactions": 20}


def _bare(data: Dataset, users: Ints, items: Ints) -> Interactions:
    """Rows with nothing in their columns that a user did not send: one rating, one time."""
    like, n = data.train, len(users)
    rating = data.rating_scale[1] if data.rating_scale else (data.threshold or 1.0)
    return Interactions(users, items, None if like.ratings is None else np.full(n, float(rating)),
                        None if like.times is None else np.zeros(n),
                        None if like.labels is None else np.ones(n, np.int8))
