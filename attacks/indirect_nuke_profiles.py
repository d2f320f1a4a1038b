"""Fake users who push the targets' competitors, so that lists have no room for the targets."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, ThreatModel, param
from bench.data import Ints


class IndirectNukeProfiles(ProfileAttack):
    """Indirect nuke: the targets' closest competitors are liked, the targets are not mentioned.

    Implicit data cannot say that something is bad. What can be done is to raise at least K other
    items above the targets for those who would be shown them. Competitors are the `competitors`
    items most often liked together with the targets, by Σ_t c_it / √(pop_i pop_t). A share
    `selected` of each profile is competitors, drawn at random among them, at the highest rating;
    the rest are rows of one genuine user who took a target (of any user, where none did), so
    that the fakes stand where the targets' audience stands. The demotion of Yang, Gong and Cai,
    "Fake Co-visitation Injection Attacks to Recommender Systems", NDSS 2017, in fake profiles.

    Budget: round(budget · genuine users) fakes, at most `length` items each; no profile holds a
    target. Knowledge: the genuine train rows.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are nuked, from which stratum of popularity.
        competitors: how many items are pushed; at least the length of the lists.
        selected: share of the length given to them.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{indirect-nuke-profiles: {budget: 0.03, stratum: head}}]
    """

    name = "indirect-nuke-profiles"
    goal: str = param("nuke", "nuke the targets", choices=("nuke",))
    goals: ClassVar[tuple[str, ...]] = ("nuke",)
    holds_targets: ClassVar[bool] = False
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "nuke")
    competitors: int = param(50, "how many items are pushed in the targets' place", low=1)
    selected: float = param(0.5, "share of a profile's length that is competitors", above=0,
                            high=1)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import co_liking, joined, ranked, ratings_of

        rated, made = ratings_of(data), []
        rivals = ranked(data, co_liking(data, targets), targets)[:self.competitors]
        audience = np.unique(data.train.users[np.isin(data.train.items, targets)])
        users = audience if len(audience) else np.unique(data.train.users)
        for fake, length in enumerate(lengths):
            rng = ctx.stream("competitors", fake)
            liked = rng.permutation(rivals)[:max(1, round(self.selected * int(length)))]
            rows = data.train[data.train.users == rng.choice(users)]
            free = rng.permutation(np.flatnonzero(~np.isin(rows.items, [*targets, *liked])))
            free = free[:int(length) - len(liked)]
            copied = None if rows.ratings is None else rows.ratings[free]
            made.append(joined((liked, rated.best(liked)), (rows.items[free], copied)))
        return made
