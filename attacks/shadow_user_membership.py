"""User-level membership: do the recommendations look like the history they were learned from?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.api import Context, Struck, ThreatModel, param
from bench.data import Dataset, Floats, Ints
from bench.errors import PluginError
from bench.inference import UserMembership

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared


class ShadowUserMembership(UserMembership):
    """Membership of a whole user by the distance of recommendations from history.

    A user's feature is the mean vector of the history minus the mean vector of the recommended
    items, the vectors being of a matrix factorisation of the attacker's own users. A classifier
    (100-32-8-2) learns members from non-members on a shadow recommender, trained on half of the
    attacker's users, and judges the users of the attacked one (Zhang et al., "Membership
    Inference Attacks Against Recommender Systems", CCS 2021). As there, non-members are served
    popular items by default; much of what the attack finds is then who was served popularity.
    `serving: fold-in` gives non-members lists made from their own history, for models that can.

    `reads: released` is the same game against central differential privacy (dp-sgd,
    sparse-dp-sgd, dpals). Its promise leaves out users' own rows and the lists made with them, so
    that nothing of theirs is read: the classifier sees how well the item vectors alone explain a
    history (`bench.serving.released_scores`; this feature is ours, as lists made anew tell
    little). Users are in or out by a draw in which no history has a part. Nothing but membership
    tells them apart then, so that TPR ≤ e^ε FPR + δ must hold (the flag dp-bound). Of models
    without a row per user (MultiVAE, SASRec) the lists of `serving: fold-in` are covered as well.

    Knowledge: black: lists, histories of the judged users, and users of the attacker's own, who
    are in no training of the attacked model; the shadow is of the attacked model's kind, with its
    settings and defense; reads: released is white-box, by the item vectors in place of lists.
    Costs one shadow training.

    Args:
        held_out: share of the users outside the training; half of them are judged.
        reads: own (lists that are served), or released (item vectors).
        serving: what non-members are shown, k, dim: length of the lists read, and of the item
            vectors made of the attacker's users. All three only with reads: own.

    Shapes: one score per judged user, (n,).

    Example: attacks: [{shadow-user-membership: {serving: [popular, fold-in]}},
    {shadow-user-membership: {reads: released}}]
    """

    name = "shadow-user-membership"
    dim: int = param(100, "length of the item vectors", low=1)
    reads: str = param("own", "the lists that users are served, or the released item vectors, "
                       "which a promise of privacy covers", choices=("own", "released"))

    def budget_text(self) -> str:
        if self.reads == "own":
            return super().budget_text()
        return f"{self.held_out:.0%} of the users held out, from the item vectors"

    def threat_model(self) -> ThreatModel:
        return dataclasses.replace(self.threat,
                                   knowledge="black" if self.reads == "own" else "white")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.reads == "own":
            reason = super().unfit(model, data)
            if reason is not None and "embeddings" in model.gives and "cannot serve" in reason:
                return f"{reason}; reads: released judges by its item vectors"
            return reason
        if "embeddings" not in model.gives:
            return f"{model.name} exposes no vectors of items; reads: own judges by its lists"
        if round(self.held_out * data.n_genuine) < 8:
            return f"{self.held_out:.0%} of {data.n_genuine} users are too few to hold out"
        return None

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        if self.reads == "own":
            with super().strike(model, prepared, ctx) as struck:
                if self.serving == "fold-in" and not _own_rows(model):
                    struck.facts["reads"] = "released"  # no list is made with anything else
                yield struck
            return
        with model.evaluating(), ctx.seeded(self.name):
            found, facts = self._released(model, prepared.genuine, ctx)
        yield Struck(model, prepared.genuine, None, facts, found)

    def _released(self, model: Recommender, data: Dataset, ctx: Context
                  ) -> tuple[dict[str, float], dict[str, Any]]:
        """What is measured of the item vectors, and facts for the report."""
        from bench.roc import measured

        outside, own = self._groups(data, ctx)
        inside = np.setdiff1d(np.flatnonzero(data.activity > 0), np.concatenate([outside, own]))
        members = ctx.stream("members").permutation(inside)[:len(outside)]
        users = np.sort(np.concatenate([members, outside]))
        is_member = np.isin(users, members)
        away = np.ones(data.n_users, bool)
        away[own] = False
        shadow = data.without_users(away).replace(valid=data.valid[:0], test=data.test[:0])
        recommender, asked, without = self._shadow(shadow, ctx)
        judge = self._classifier(_fits(recommender, shadow, asked), ~without, ctx)
        scores = np.asarray(judge.predict_proba(_fits(model, data, users))[:, 1])
        facts = {"members": len(members), "non_members": len(outside), "shadow_users": len(own),
                 "activity_members": float(data.activity[members].mean()),
                 "activity_non_members": float(data.activity[outside].mean()),
                 "exchangeable": True, "reads": "released"}
        return measured(scores, is_member, users, ctx.stream("roc")), facts

    def judge_users(self, lists: Ints, histories: list[Ints], shadow: Dataset, model: ModelPlugin,
                    ctx: Context) -> Floats:
        from bench.serving import served

        vectors = self._vectors(shadow, ctx)  # (items, d)
        recommender, own, outside = self._shadow(shadow, ctx)
        shown = served(recommender, model, shadow, own, outside, self.serving, self.k, ctx)
        judge = self._classifier(_features(shown, _took(shadow, own), vectors), ~outside, ctx)
        return np.asarray(judge.predict_proba(_features(lists, histories, vectors))[:, 1])

    def _shadow(self, shadow: Dataset, ctx: Context
                ) -> tuple[Recommender, Ints, npt.NDArray[np.bool_]]:
        """A recommender trained on half of the attacker's users; these users, and who of them it
        was not trained on."""
        if ctx.victim is None:
            raise PluginError(f"{self.name}: it trains a shadow recommender, and was told of none")
        own = ctx.stream("shadow-users").permutation(np.unique(shadow.train.users))
        outside = np.zeros(shadow.n_users, bool)
        outside[own[len(own) // 2:]] = True
        return ctx.victim.trained(shadow.without_users(outside),
                                  seed=ctx.number("shadow") % 2**31), own, outside[own]

    def _vectors(self, shadow: Dataset, ctx: Context) -> Floats:
        """Item vectors of a factorisation of the shadow users' interactions: (items, d)."""
        from bench.als import choices, fit, start

        begin = start(shadow.n_items, self.dim, ctx.stream("shadow-vectors"))
        return fit(choices(shadow.train, shadow), begin, 1.0, 10, alpha=10.0)[1]

    def _classifier(self, features: Floats, member: npt.NDArray[np.bool_], ctx: Context) -> Any:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        net = MLPClassifier((32, 8), alpha=1e-2, max_iter=500,
                            random_state=ctx.number("classifier") % 2**31)
        made = make_pipeline(StandardScaler(), net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit(features, member)
        return made

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"held_out": 0.5, "dim": 8, "k": 5}


def _own_rows(model: Recommender) -> bool:
    """Whether users have rows of their own in the model: if not, a list follows from what is
    released and from the history, which the attacker knows."""
    from bench.models.base import TorchRecommender, innermost

    bare = innermost(model)
    return not isinstance(bare, TorchRecommender) or any(
        t.role == "user" for t in bare.tables().values())


def _took(data: Dataset, users: Ints) -> list[Ints]:
    rows = data.train.positives()
    return [rows.items[rows.users == u] for u in users]


def _fits(model: Recommender, data: Dataset, users: Ints) -> Floats:
    """How well the item vectors explain each history: how often an item of it scores above
    another, and the mean of its lowest quarter in standard deviations of all scores: (n, 2)."""
    from bench.roc import auc
    from bench.serving import released_scores

    scores = released_scores(model, users, data)  # (n, items)
    scores = (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(
        scores.std(axis=1, keepdims=True), 1e-12)
    found = np.zeros((len(users), 2))
    for place, mine in enumerate(_took(data, users)):
        others = np.setdiff1d(np.arange(data.n_items), mine)
        if len(mine) and len(others):
            lowest = np.sort(scores[place, mine])[:max(1, len(mine) // 4)]
            found[place] = auc(scores[place, mine], scores[place, others]), lowest.mean()
    return found


def _features(lists: Ints, histories: list[Ints], vectors: Floats) -> Floats:
    """Mean vector of the history minus mean vector of the list: (n, d)."""
    shown = vectors[lists].mean(axis=1)  # (n, d)
    took = np.stack([vectors[h].mean(axis=0) if len(h) else np.zeros(vectors.shape[1])
                     for h in histories])  # (n, d)
    return np.asarray(took - shown)
