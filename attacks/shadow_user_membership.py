"""User-level membership: do the recommendations look like the history they were learned from?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.api import Context, param
from bench.data import Dataset, Floats, Ints
from bench.errors import PluginError
from bench.inference import UserMembership

if TYPE_CHECKING:
    from bench.api import ModelPlugin


class ShadowUserMembership(UserMembership):
    """Membership of a whole user by the distance of recommendations from history.

    A user's feature is the mean vector of the history minus the mean vector of the recommended
    items, the vectors being of a matrix factorisation of the attacker's own users. A classifier
    (100-32-8-2) learns members from non-members on a shadow recommender, trained on half of the
    attacker's users, and judges the users of the attacked one (Zhang et al., "Membership
    Inference Attacks Against Recommender Systems", CCS 2021). As there, non-members are served
    popular items by default; much of what the attack finds is then who was served popularity.
    `serving: fold-in` gives non-members lists made from their own history, for models that can.

    Knowledge: black: lists, histories of the judged users, and users of the attacker's own, who
    are in no training of the attacked model; the shadow is of the attacked model's kind, with its
    settings and defense. Costs one shadow training.

    Args:
        held_out: share of the users outside the training; half of them are judged.
        serving: what non-members are shown.
        k, dim: length of the lists read, and of the item vectors.

    Shapes: one score per judged user, (n,).

    Example: attacks: [{shadow-user-membership: {serving: [popular, fold-in]}}]
    """

    name = "shadow-user-membership"
    dim: int = param(100, "length of the item vectors", low=1)

    def judge_users(self, lists: Ints, histories: list[Ints], shadow: Dataset, model: ModelPlugin,
                    ctx: Context) -> Floats:
        from bench.serving import served

        if ctx.victim is None:
            raise PluginError(f"{self.name}: it trains a shadow recommender, and was told of none")
        vectors = self._vectors(shadow, ctx)  # (items, d)
        own = ctx.stream("shadow-users").permutation(np.unique(shadow.train.users))
        outside = np.zeros(shadow.n_users, bool)
        outside[own[len(own) // 2:]] = True
        recommender = ctx.victim.trained(shadow.without_users(outside),
                                         seed=ctx.number("shadow") % 2**31)
        shown = served(recommender, model, shadow, own, outside[own], self.serving, self.k,
                       ctx)
        rows = shadow.train.positives()
        took = [rows.items[rows.users == u] for u in own]
        judge = self._classifier(_features(shown, took, vectors), ~outside[own], ctx)
        return np.asarray(judge.predict_proba(_features(lists, histories, vectors))[:, 1])

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


def _features(lists: Ints, histories: list[Ints], vectors: Floats) -> Floats:
    """Mean vector of the history minus mean vector of the list: (n, d)."""
    shown = vectors[lists].mean(axis=1)  # (n, d)
    took = np.stack([vectors[h].mean(axis=0) if len(h) else np.zeros(vectors.shape[1])
                     for h in histories])  # (n, d)
    return np.asarray(took - shown)
