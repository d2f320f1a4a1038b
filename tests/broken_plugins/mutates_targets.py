"""Overwrites the targets it was given."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "inputs-unchanged"
BECAUSE = "it changes what it was given: the targets"


class MutatesTargets(ProfileAttack):
    """Overwrites the targets it was given; no paper.

    Example: attacks: [mutates-targets]
    """

    name = "mutates-targets"

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        targets[:] = 0
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length - len(targets), replace=False)
            items = np.concatenate([targets, fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 5.0)
            made.append(Profile(items, ratings))
        return made
