"""Puts the first target in twice."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "no-duplicates"
BECAUSE = "has an item twice"


class ItemTwice(ProfileAttack):
    """Puts the first target in twice; no paper.

    Example: attacks: [item-twice]
    """

    name = "item-twice"

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length - len(targets) - 1, replace=False)
            items = np.concatenate([targets, targets[:1], fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 5.0)
            made.append(Profile(items, ratings))
        return made
