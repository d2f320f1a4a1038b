"""Has a goal that nobody knows."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, param

BREAKS = "threat-model"
BECAUSE = "world-domination"


class UnknownGoal(ProfileAttack):
    """Has a goal that nobody knows; no paper.

    Example: attacks: [unknown-goal]
    """

    name = "unknown-goal"
    goal: str = param("world-domination", "rule", choices=("world-domination",))
    goals = ("world-domination",)

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
