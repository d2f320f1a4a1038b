"""Fake users who like what everybody likes, and the targets."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, param
from bench.data import Ints


class BandwagonProfiles(ProfileAttack):
    """Bandwagon attack (push): targets and the most popular items at the highest rating.

    A share `selected` of each profile's length (targets included in the length) is filled with
    the most popular items, so that the fakes resemble many users; the rest are uniform fillers
    with ratings N(μ, σ) of all train ratings, rounded to the data's step and clipped to its
    scale. Implicit data: the same items without ratings. Burke et al., "Limited Knowledge
    Shilling Attacks in Collaborative Filtering Systems", ITWP 2005; Mobasher et al., "Toward
    Trustworthy Recommender Systems", ACM TOIT 7(4), 2007.

    Budget: round(budget · genuine users) fakes, `length` items each, targets and popular items
    included. Knowledge: the catalogue, which items are popular, mean and spread of ratings.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        selected: share of the length given to popular items (at least one, where there is room).

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{bandwagon-profiles: {budget: 0.03, selected: 0.1}}]
    """

    name = "bandwagon-profiles"
    selected: float = param(0.1, "share of a profile's length that is popular items", low=0,
                            high=1)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import by_popularity, joined, ratings_of, uniform_items

        rated, popular, made = ratings_of(data), by_popularity(data, targets), []
        for user, length in enumerate(lengths):
            room = int(length) - len(targets)
            wanted = max(1, round(self.selected * int(length))) if self.selected else 0
            liked = np.concatenate([targets, popular[:min(wanted, room)]])
            fillers = uniform_items(data, int(length) - len(liked), liked, ctx, user)
            made.append(joined((liked, rated.best(liked)),
                               (fillers, rated.overall(fillers, ctx, user))))
        return made
