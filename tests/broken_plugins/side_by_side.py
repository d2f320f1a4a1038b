"""Puts targets side by side, which it says it does not."""

import numpy as np

from bench.api import HistoryAttack

BREAKS = "targets-where-allowed"
BECAUSE = "two targets stand side by side"


class SideBySide(HistoryAttack):
    """Appends nothing but targets; no paper.

    Example: attacks: [{side-by-side: {goal: push}}]
    """

    name = "side-by-side"
    goals = ("push",)
    goal: str = "push"
    changes = ("append",)
    places_targets = "apart"

    def edit(self, model, histories, targets, data, ctx):
        return [np.concatenate([h, np.resize(targets, self.edits)]) for h in histories]
