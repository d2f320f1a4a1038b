"""Fake users who rate random items around the overall mean, and the targets highest."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack
from bench.data import Ints


class RandomProfiles(ProfileAttack):
    """Random attack (push): targets at the highest rating, fillers uniform over the catalogue.

    Fillers get ratings N(μ, σ) of all train ratings, rounded to the data's step and clipped to
    its scale. Implicit data: the same items without ratings. Lam and Riedl, "Shilling
    Recommender Systems for Fun and Profit", WWW 2004 (RandomBot),
    https://doi.org/10.1145/988672.988726.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: the catalogue and the mean and spread of ratings.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{random-profiles: {budget: [0.01, 0.03]}}]
    """

    name = "random-profiles"

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import RatingModel, uniform_items

        model = None if data.train.ratings is None else RatingModel(data)
        made = []
        for user, length in enumerate(lengths):
            fillers = uniform_items(data, int(length) - len(targets), targets, ctx, user)
            ratings = None if model is None else np.concatenate(
                [np.full(len(targets), model.high), model.overall(fillers, ctx, user)])
            made.append(Profile(np.concatenate([targets, fillers]), ratings))
        return made
