"""Rates ten on a scale to five."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "no-duplicates"
BECAUSE = "off-the-scale: a rating of fake user"


class OffScale(ProfileAttack):
    """Rates ten on a scale to five; no paper.

    Example: attacks: [off-the-scale]
    """

    name = "off-the-scale"

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length - len(targets), replace=False)
            items = np.concatenate([targets, fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 10.0)
            made.append(Profile(items, ratings))
        return made
