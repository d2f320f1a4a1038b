"""Fake users who love everything but the targets."""

from __future__ import annotations

from typing import ClassVar

from bench.api import Context, Dataset, Profile, ProfileAttack, ThreatModel, param
from bench.data import Ints


class LoveHateProfiles(ProfileAttack):
    """Love/hate attack (nuke): targets at the lowest rating, uniform fillers at the highest.

    Knows next to nothing, and is among the strongest nukes against user-based neighbours.
    Explicit data and models that read ratings or dislikes only. Mobasher, Burke, Bhaumik and
    Williams, "Toward Trustworthy Recommender Systems: An Analysis of Attack Models and Algorithm
    Robustness", ACM TOIT 7(4), 2007.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: the catalogue.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are nuked, from which stratum of popularity.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{love-hate-profiles: {budget: 0.03, stratum: head}}]
    """

    name = "love-hate-profiles"
    goal: str = param("nuke", "nuke the targets", choices=("nuke",))
    goals: ClassVar[tuple[str, ...]] = ("nuke",)
    explicit_only: ClassVar[bool] = True
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "nuke")

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import RatingModel, joined, uniform_items

        rated, made = RatingModel(data), []
        for user, length in enumerate(lengths):
            fillers = uniform_items(data, int(length) - len(targets), targets, ctx, user)
            made.append(joined((targets, rated.worst(targets)), (fillers, rated.best(fillers))))
        return made
