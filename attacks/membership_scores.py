"""Interaction-level membership by the score alone: what was trained on ranks higher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, param
from bench.data import Floats
from bench.inference import Candidates, InteractionMembership

if TYPE_CHECKING:
    from bench.models.base import Recommender


class MembershipScores(InteractionMembership):
    """Takes a pair for a member where the model scores the item high for this user.

    A model scores what it was trained on higher than what it was not (Yeom et al., "Privacy Risk
    in Machine Learning", CSF 2018, threshold attack). `statistic` margin: (s_ui − mean_u)/sd_u,
    the score in standard deviations of the user's scores; rank: the share of the catalogue that
    stands below. Non-members are of the same user and of equal popularity, so that popularity
    tells nothing; what a model knows by taste remains, which is why the figures of a model
    without overfitting are above chance too (`lira` calibrates that away, and `non_members:
    held-out` leaves it out).

    Knowledge: black, the scores of the candidates. Changes nothing.

    Args:
        candidates: how many pairs are judged, half of them members.
        non_members: free (what the user never took), or held-out (positives kept out of the
            training: nothing but membership tells, and a promise of privacy bounds it).
        reads: own (the scores that the user is served) or released (such as the item vectors and
            the rest of the user's history give).
        statistic: margin, or rank.
        direction: high, or low: a defense that gives what a user has no votes (smoothing, an
            ensemble) betrays members by low scores. An AUC below one half is no privacy.

    Shapes: one score per candidate, (n,).

    Example: attacks: [membership-scores]
    """

    name = "membership-scores"
    statistic: str = param("margin", "what is compared: margin or rank",
                           choices=("margin", "rank"))
    direction: str = param("high", "which scores are taken for members: high, or low",
                           choices=("high", "low"))

    def budget_text(self) -> str:
        return f"{super().budget_text()}, {self.direction} {self.statistic} means member"

    def judge(self, model: Recommender, candidates: Candidates, ctx: Context) -> Floats:
        users, place = np.unique(candidates.users, return_inverse=True)
        scores = self.scores_read(model, users, candidates)  # (users, items)
        own = scores[place, candidates.items]  # (n,)
        sign = 1.0 if self.direction == "high" else -1.0
        if self.statistic == "rank":
            mine = scores[place]
            return sign * np.asarray((mine < own[:, None]).mean(axis=1)
                                     + 0.5 * (mine == own[:, None]).mean(axis=1))
        spread = scores.std(axis=1)
        return sign * np.asarray((own - scores.mean(axis=1)[place])
                                 / np.where(spread > 0, spread, 1.0)[place])

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"candidates": 200}
