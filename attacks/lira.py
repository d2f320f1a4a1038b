"""Interaction-level membership by the likelihood ratio of shadow models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from bench.api import Context, ThreatModel, param
from bench.data import Floats
from bench.errors import PluginError
from bench.inference import Candidates, InteractionMembership

if TYPE_CHECKING:
    from bench.models.base import Recommender


class LiRA(InteractionMembership):
    """Likelihood ratio attack: how the model would score this pair with it, and without it.

    `shadows` models of the attacked kind, with its defense, are trained on the data with a random
    half of the candidates in each. For every candidate the statistic φ of the models that had it
    and of those that had not give two normal distributions, and the attacked model's φ is judged
    by log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out) (Carlini et al., "Membership Inference
    Attacks From First Principles", S&P 2022, Algorithm 1, online; with few shadows their
    variances are pooled over candidates, as they advise). φ is the score in standard deviations
    of the user's scores. High means member.

    Knowledge: gray: the kind of the model, its settings and defense, the data but for which of the
    candidates are in it; and the scores. Costs `shadows` trainings.

    Args:
        candidates, non_members, reads: how many pairs are judged, half of them members, what the
            others are, and what is read: as in membership-scores.
        shadows: how many shadow models; 16 to 64 are usual.

    Shapes: one score per candidate, (n,).

    Example: attacks: [{lira: {shadows: 16}}]
    """

    name = "lira"
    threat: ClassVar[ThreatModel] = ThreatModel("output-query", "gray", "infer")
    shadows: int = param(16, "how many shadow models", low=4)

    def budget_text(self) -> str:
        return f"{super().budget_text()}, {self.shadows} shadow models"

    def judge(self, model: Recommender, candidates: Candidates, ctx: Context) -> Floats:
        if ctx.victim is None:
            raise PluginError("lira: it trains shadows of the attacked pipeline, and was told none")
        count = len(candidates.users)
        # each candidate is in exactly half of the shadows, drawn apart from the others
        draw = ctx.stream("lira").random((self.shadows, count))
        inside = draw.argsort(axis=0).argsort(axis=0) < self.shadows // 2  # (S, n)
        found = np.stack([self._statistic(ctx.victim.trained(
            candidates.added(inside[k]), seed=ctx.number("lira", k) % 2**31), candidates)
            for k in range(self.shadows)])  # (S, n)
        ctx.notes["shadow_models"] = self.shadows
        return likelihood_ratio(self._statistic(model, candidates), found, inside)

    def _statistic(self, model: Recommender, candidates: Candidates) -> Floats:
        """φ of every candidate, (n,)."""
        users, place = np.unique(candidates.users, return_inverse=True)
        scores = self.scores_read(model, users, candidates)  # (users, items)
        spread = scores.std(axis=1)
        return np.asarray((scores[place, candidates.items] - scores.mean(axis=1)[place])
                          / np.where(spread > 0, spread, 1.0)[place])

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"candidates": 100, "shadows": 4}


def likelihood_ratio(observed: Floats, found: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out) of every candidate, (n,).

    Args:
        observed: φ by the attacked model, (n,).
        found: φ by the shadow models, (S, n). inside: which had the candidate, bool (S, n).
    """
    logs = []
    for had in (inside, ~inside):
        mean = np.where(had, found, 0.0).sum(axis=0) / had.sum(axis=0)  # (n,)
        rest = np.where(had, found - mean, 0.0)
        variance = (rest**2).sum() / max(int(had.sum()) - had.shape[1], 1)  # pooled
        variance = max(float(variance), 1e-12)
        logs.append(-0.5 * np.log(variance) - (observed - mean)**2 / (2 * variance))
    return np.asarray(logs[0] - logs[1])
