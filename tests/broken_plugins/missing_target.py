"""Leaves a target out."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "fake-users-within-budget"
BECAUSE = "misses a target"


class MissingTarget(ProfileAttack):
    """Leaves a target out; no paper.

    Example: attacks: [missing-target]
    """

    name = "missing-target"

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length - len(targets), replace=False)
            items = np.concatenate([targets[1:], fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 5.0)
            made.append(Profile(items, ratings))
        return made
