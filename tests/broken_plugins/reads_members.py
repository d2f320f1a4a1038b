"""Looks up in the attacked model's own data who is a member."""

import numpy as np

from bench.api import Context
from bench.inference import Candidates, InteractionMembership

BREAKS = "finds-nothing-in-a-random-model"
BECAUSE = "differs from chance on a model of random scores"


class ReadsMembers(InteractionMembership):
    """Is told the answer; no paper.

    Example: attacks: [reads-members]
    """

    name = "reads-members"

    def judge(self, model, candidates: Candidates, ctx: Context):
        train = model.data.train
        keys = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
        return np.array([(u, i) in keys for u, i in zip(
            candidates.users.tolist(), candidates.items.tolist(), strict=True)], float)
