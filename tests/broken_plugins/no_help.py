"""Has a parameter that nobody explains."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack

BREAKS = "parameters"
BECAUSE = "has no help sentence"


class NoHelp(ProfileAttack):
    """Has a parameter that nobody explains; no paper.

    Example: attacks: [no-help]
    """

    name = "no-help"
    strength: float = 0.5

    def profiles(self, data: Dataset, targets, lengths, ctx: Context) -> list[Profile]:
        made = []
        for fake, length in enumerate(lengths):
            others = np.setdiff1d(np.arange(data.n_items), targets)
            rng = ctx.stream(self.name, fake)
            fillers = rng.choice(others, length - len(targets), replace=False)
            items = np.concatenate([targets, fillers])
            ratings = None if data.train.ratings is None else np.full(len(items), 5.0)
            made.append(Profile(items, ratings))
        return made
