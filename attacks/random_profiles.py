"""Fake users who rate random items around the overall mean, and the targets to an extreme."""

from __future__ import annotations

from typing import ClassVar

from bench.api import Context, Dataset, Profile, ProfileAttack
from bench.data import Ints


class RandomProfiles(ProfileAttack):
    """Random attack: targets at the highest rating (push), fillers uniform over the catalogue.

    Fillers get ratings N(μ, σ) of all train ratings, rounded to the data's step and clipped to
    its scale. With `goal: nuke` the targets get the lowest rating, which only means something to
    models that read ratings or dislikes. Implicit data: the same items without ratings. Lam and
    Riedl, "Shilling Recommender Systems for Fun and Profit", WWW 2004 (RandomBot),
    https://doi.org/10.1145/988672.988726.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: the catalogue and the mean and spread of ratings.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        goal: push, or nuke.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{random-profiles: {budget: [0.01, 0.03]}}]
    """

    name = "random-profiles"
    goals: ClassVar[tuple[str, ...]] = ("push", "nuke")

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import joined, ratings_of, uniform_items

        rated, made = ratings_of(data), []
        for user, length in enumerate(lengths):
            fillers = uniform_items(data, int(length) - len(targets), targets, ctx, user)
            made.append(joined((targets, rated.toward(self.goal, targets)),
                               (fillers, rated.overall(fillers, ctx, user))))
        return made
