"""Fake histories in which every target follows popular items."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, Profile, ProfileAttack, param
from bench.data import Ints


class CoVisitationProfiles(ProfileAttack):
    """Co-visitation attack (push, sequential): popular items and targets take turns in time.

    Each fake user's history is cut into as many stretches as there are targets; a stretch is
    popular items in random order (drawn from the `anchors` most popular) with a target at its
    end. At a length of twice the targets this is popular, target, popular, target, …; a user
    takes an item once, so that a longer history has longer stretches. What predicts the next
    item learns that a target follows what everybody takes. The order reaches the model: times
    rise along the profile. Yang, Gong and Cai, "Fake Co-visitation Injection Attacks to
    Recommender Systems", NDSS 2017; alternating as in the baselines of Yue, He, Zeng and McAuley,
    "Black-Box Attacks on Sequential Recommenders via Data-Free Model Extraction", RecSys 2021.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: which items are popular.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        anchors: how many of the most popular items stand before targets.

    Shapes: one Profile of items (k,) in order of time and ratings (k,) per fake user.

    Example: attacks: [{co-visitation-profiles: {budget: 0.03, length: 20}}]
    """

    name = "co-visitation-profiles"
    anchors: int = param(100, "how many of the most popular items are drawn from (more where a "
                         "profile is longer)", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "histories" not in model.gives:
            return (f"{model.name} reads no order, which is all that this attack is made of; "
                    "popular-profiles holds such items without one")
        return super().unfit(model, data)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import by_popularity, joined, ratings_of

        rated, popular, made = ratings_of(data), by_popularity(data, targets), []
        for user, length in enumerate(lengths):
            rng, room = ctx.stream("co-visits", user), int(length) - len(targets)
            anchors = rng.permutation(popular[:max(self.anchors, room)])[:room]
            last = rng.permutation(targets)
            items = np.concatenate([part for stretch, target in zip(
                np.array_split(anchors, len(targets)), last, strict=True)
                for part in (stretch, [target])]).astype(np.int64)
            made.append(joined((items, rated.best(items)), ordered=True))
        return made
