"""Says that it demotes, and promotes."""

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, param

BREAKS = "changes-exposure"
BECAUSE = "catalogue towards the top, and the goal is nuke"


class SaysNuke(ProfileAttack):
    """Says that it demotes, and promotes; no paper.

    Example: attacks: [says-nuke]
    """

    name = "says-nuke"
    goal: str = param("nuke", "nuke the targets", choices=("nuke",))
    goals = ("nuke",)
    holds_targets = False  # an indirect nuke, which implicit models would feel

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
