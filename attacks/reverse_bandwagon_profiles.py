"""Fake users who dislike what everybody dislikes, and the targets."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, ThreatModel, param
from bench.data import Ints


class ReverseBandwagonProfiles(ProfileAttack):
    """Reverse bandwagon attack (nuke): targets among widely rated items that few like, all lowest.

    A share `selected` of each profile's length is given to the items of lowest mean rating among
    the share `widely` of the catalogue with the most ratings, at the lowest rating like the
    targets; the rest are uniform fillers rated N(μ, σ) of all train ratings. Explicit data and
    models that read ratings or dislikes only. Mobasher, Burke, Bhaumik and Williams, "Toward
    Trustworthy Recommender Systems: An Analysis of Attack Models and Algorithm Robustness", ACM
    TOIT 7(4), 2007.

    Budget: round(budget · genuine users) fakes, `length` items each, targets and disliked items
    included. Knowledge: the catalogue, every item's number and mean of ratings, and the overall
    mean and spread.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are nuked, from which stratum of popularity.
        selected: share of the length given to disliked items (at least one, where there is room).
        widely: share of the items that counts as widely rated.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{reverse-bandwagon-profiles: {budget: 0.03, stratum: head}}]
    """

    name = "reverse-bandwagon-profiles"
    goal: str = param("nuke", "nuke the targets", choices=("nuke",))
    goals: ClassVar[tuple[str, ...]] = ("nuke",)
    explicit_only: ClassVar[bool] = True
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "nuke")
    selected: float = param(0.1, "share of a profile's length that is disliked items", above=0,
                            high=1)
    widely: float = param(0.2, "share of the items that counts as widely rated", above=0, high=1)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import RatingModel, joined, uniform_items

        rated, made = RatingModel(data), []
        genuine = data.train.items[data.train.users < data.n_genuine]
        count = np.bincount(genuine, minlength=data.n_items)  # of ratings, liked or not
        order = np.lexsort((np.arange(data.n_items), -count))
        known = order[:max(1, round(self.widely * data.n_items))]
        known = known[~np.isin(known, targets)]
        worst = known[np.argsort(rated.item_mean[known], kind="stable")]
        for user, length in enumerate(lengths):
            room = int(length) - len(targets)
            wanted = max(1, round(self.selected * int(length)))
            hated = np.concatenate([targets, worst[:min(wanted, room)]])
            fillers = uniform_items(data, int(length) - len(hated), hated, ctx, user)
            made.append(joined((hated, rated.worst(hated)),
                               (fillers, rated.overall(fillers, ctx, user))))
        return made
