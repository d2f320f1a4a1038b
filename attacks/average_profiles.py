"""Fake users who rate random items as others do, and the targets to an extreme."""

from __future__ import annotations

from typing import ClassVar

from bench.api import Context, Dataset, Profile, ProfileAttack
from bench.data import Ints


class AverageProfiles(ProfileAttack):
    """Average attack: targets at the highest rating (push), fillers rated near their own mean.

    Fillers are uniform over the catalogue, the same as those of random-profiles at the same
    seed; filler i gets a rating N(μᵢ, σᵢ) of that item's train ratings, rounded to the data's
    step and clipped to its scale (an item without ratings: overall μ, σ; with a single one:
    overall σ). With `goal: nuke` the targets get the lowest rating, which only means something
    to models that read ratings or dislikes. Implicit data cannot express the difference: there
    this attack equals random-profiles row by row; and a model that reads no ratings learns the
    same from both. Lam and Riedl, "Shilling Recommender Systems for Fun and Profit", WWW 2004
    (AverageBot), https://doi.org/10.1145/988672.988726.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: the catalogue and the mean and spread of every item's ratings.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        goal: push, or nuke.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{average-profiles: {budget: 0.03, stratum: tail}}]
    """

    name = "average-profiles"
    goals: ClassVar[tuple[str, ...]] = ("push", "nuke")

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import joined, ratings_of, uniform_items

        rated, made = ratings_of(data), []
        for user, length in enumerate(lengths):
            fillers = uniform_items(data, int(length) - len(targets), targets, ctx, user)
            made.append(joined((targets, rated.toward(self.goal, targets)),
                               (fillers, rated.per_item(fillers, ctx, user))))
        return made
