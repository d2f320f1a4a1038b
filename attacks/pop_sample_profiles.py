"""Fake users who take items as often as everybody does, and the targets."""

from __future__ import annotations

from bench.api import Context, Dataset, Profile, ProfileAttack
from bench.data import Ints


class PopSampleProfiles(ProfileAttack):
    """Popularity-sampled profiles (push): fillers drawn in proportion to their popularity.

    Each filler is drawn without replacement with probability ∝ its train positives, and rated
    N(μᵢ, σᵢ) of its own ratings, so that the fakes' histogram of items is that of genuine users:
    the best hidden of the heuristics that copy nobody. Implicit data: the same items without
    ratings. A sampled form of the popular attack (O'Mahony et al., AAAI 2005), as in the
    popularity-based fillers of Lin et al., "Attacking Recommender Systems with Augmented User
    Profiles", CIKM 2020.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: how popular every item is, and the mean and spread of its ratings.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{pop-sample-profiles: {budget: [0.01, 0.1]}}]
    """

    name = "pop-sample-profiles"

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import joined, popular_sample, ratings_of

        rated, made = ratings_of(data), []
        for user, length in enumerate(lengths):
            fillers = popular_sample(data, targets, ctx, user)[:int(length) - len(targets)]
            made.append(joined((targets, rated.best(targets)),
                               (fillers, rated.per_item(fillers, ctx, user))))
        return made
