"""What a user's vector, or a user's list, says about an attribute that was never asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, ThreatModel, param
from bench.errors import CannotActError, InputError
from bench.inference import PrivacyAttack

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.stages import Prepared


class AttributeInference(PrivacyAttack):
    """A fresh classifier from what is known of a user to an attribute, on other users.

    Trained and judged in five stratified folds; `attribute-auc` stands beside `attribute-floor`,
    what the same classifier finds in permuted labels, and `attribute-majority` beside the plain
    accuracy (Weinsberg et al., "BlurMe", RecSys 2012; Beigi et al., "Privacy-Aware
    Recommendation with Private-Attribute Protection", WSDM 2020). `source` vectors: the user's
    own vector in the model (whoever holds the model); lists: which items stand in the user's
    list (whoever sees it); history: which items the user took, the ceiling that no model raises.

    Knowledge: by `source`; the attribute of the other users. Changes nothing.

    Args:
        attribute: of the users, as in `groups`; numbers are cut into thirds.
        source: vectors, lists or history.
        k: length of the list.
        probe: logistic (what is linearly there) or mlp.

    Shapes: features (users, width).

    Example: attacks: [{attribute-inference: {attribute: gender, source: [vectors, lists]}}]
    """

    name = "attribute-inference"
    attribute: str = param("gender", "attribute of the users that is inferred")
    source: str = param("vectors", "what it is inferred from: vectors, lists, or history",
                        choices=("vectors", "lists", "history"))
    k: int = param(50, "length of the list", low=1)
    probe: str = param("logistic", "kind of the classifier", choices=("logistic", "mlp"))
    permutations: int = param(10, "how often labels are permuted for the floor", low=1)

    def budget_text(self) -> str:
        return f"{self.attribute} of the other users, read from {self.source}"

    def threat_model(self) -> ThreatModel:
        knowledge = {"vectors": "white", "lists": "black", "history": "gray"}[self.source]
        return ThreatModel("output-query", knowledge, "infer")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.metrics.groups import user_groups

        try:
            user_groups(data, self.attribute)
        except InputError as error:
            return error.what
        if self.source == "vectors" and "embeddings" not in model.gives:
            return f"{model.name} exposes no vectors of users; source: lists reads its lists"
        return None

    def infer(self, model: Recommender, prepared: Prepared, ctx: Context
              ) -> tuple[dict[str, float], dict[str, Any]]:
        from bench.metrics.groups import SMALLEST
        from bench.probe import attribute_labels, probe

        users, labels = attribute_labels(prepared.genuine, self.attribute)
        found = probe(self._features(model, prepared, users), labels, ctx, name="attribute",
                      kind=self.probe, permutations=self.permutations)
        if not np.isfinite(found.auc):
            few = ", ".join(f"{c}: {n}" for c, n in {**found.users, **found.left_out}.items())
            raise CannotActError(f"fewer than two groups by {self.attribute} have {SMALLEST} users "
                                 f"to learn from ({few or 'no user has one'})")
        measured = {
            "attribute-auc": found.auc, "attribute-auc-low": found.auc_low,
            "attribute-auc-high": found.auc_high, "attribute-floor": found.floor_auc,
            "attribute-balanced-accuracy": found.balanced_accuracy,
            "attribute-accuracy": found.accuracy, "attribute-majority": found.majority}
        return measured, {
            "attribute": self.attribute, "probe": found.facts()}

    def _features(self, model: Recommender, prepared: Prepared, users: np.ndarray[Any, Any]
                  ) -> Any:
        from scipy.sparse import csr_matrix

        from bench.models.base import TorchRecommender, innermost
        from bench.serving import all_scores

        data = prepared.genuine
        if self.source == "vectors":
            bare = innermost(model)
            tables = [t for t in bare.tables().values() if t.role == "user"] if isinstance(
                bare, TorchRecommender) else []
            if not tables:
                raise CannotActError("the model has no vectors of users")
            return np.concatenate([t.rows().double().cpu().numpy()[users] for t in tables], axis=1)
        rows = data.train.positives()
        shape = (data.n_users, data.n_items)
        history = csr_matrix((np.ones(len(rows)), (rows.users, rows.items)), shape)[users]
        if self.source == "history":
            return history
        scores = all_scores(model, users)  # (n, items)
        scores[history.nonzero()] = -np.inf
        k = min(self.k, data.n_items)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (n, k)
        place = np.repeat(np.arange(len(users)), k)
        shown = np.isfinite(np.take_along_axis(scores, best, axis=1)).ravel()  # not the history
        return csr_matrix((np.ones(int(shown.sum())), (place[shown], best.ravel()[shown])),
                          (len(users), data.n_items))

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"permutations": 2, "k": 5}
