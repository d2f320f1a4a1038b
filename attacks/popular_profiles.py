"""Fake users who like the most popular items and nothing else, and the targets."""

from __future__ import annotations

from bench.api import Context, Dataset, Profile, ProfileAttack
from bench.data import Ints


class PopularProfiles(ProfileAttack):
    """Popular attack (push): targets and the very most popular items, all at the highest rating.

    The fakes are near-copies of each other, told apart by their lengths alone: the least hidden
    of the heuristics, and the weakest on items that nobody knows. Implicit data: the same items
    without ratings. O'Mahony, Hurley and Silvestre, "Recommender Systems: Attack Types and
    Signatures", AAAI 2005 (there with ratings chosen against user-based neighbours; here all are
    liked).

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: which items are popular.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{popular-profiles: {budget: 0.03}}]
    """

    name = "popular-profiles"

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import by_popularity, joined, ratings_of

        rated, popular, made = ratings_of(data), by_popularity(data, targets), []
        for length in lengths:
            liked = popular[:int(length) - len(targets)]
            made.append(joined((targets, rated.best(targets)), (liked, rated.best(liked))))
        return made
