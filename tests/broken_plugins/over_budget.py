"""Adds the targets on top of the length."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "fake-users-within-budget"
BECAUSE = "with targets included"


class OverBudget(ProfileAttack):
    """Adds the targets on top of the length; no paper.

    Example: attacks: [over-budget]
    """

    name = "over-budget"

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length, replace=False)
            items = np.concatenate([targets, fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 5.0)
            made.append(Profile(items, ratings))
        return made
