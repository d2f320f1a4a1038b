"""Fake users who take what the recommender shows them, and the targets."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.api import (
    Context,
    Dataset,
    Defense,
    ModelPlugin,
    Profile,
    ProfileAttack,
    ThreatModel,
    param,
)
from bench.data import Ints
from bench.errors import CannotActError, PluginError


class ProbeProfiles(ProfileAttack):
    """Probe attack (push or nuke, black box): profiles grown out of the recommender's own lists.

    Each fake user begins with `seeds` items (fewer where that would fill a profile of genuine
    length), drawn by popularity among the rows that the attacker knows. In each of `rounds` rounds
    the fakes look at their lists, as the attacked system (retrained with them) gives them, and
    take its best items, rated by the scores shown, until the profile is full; the targets, at the
    highest (push) or lowest rating (nuke), come last. The system itself thus says what goes with
    what. Scores that are no ratings are given the mean and spread of known ratings. O'Mahony,
    Hurley and Silvestre, "Recommender Systems: Attack Types and Signatures", AAAI 2005; Mobasher
    et al., ACM TOIT 7(4), 2007.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included; `rounds`
    queries per fake, each the list of a system retrained (counted in the report).
    Knowledge: the rows of a share `known` of the users, and the fakes' own lists.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        goal: push, or nuke.
        known: share of the users whose rows are seen.
        seeds, rounds: items to begin with; how often the lists are read.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{probe-profiles: {budget: 0.03, rounds: 2}}]
    """

    name = "probe-profiles"
    goals: ClassVar[tuple[str, ...]] = ("push", "nuke")
    knowledge: str = param("black", "sees a share `known` of the users, and its own fakes' lists",
                           choices=("black",))
    seeds: int = param(5, "items of a profile before the first list is read", low=1)
    rounds: int = param(3, "how often the fakes read their lists; each time trains the attacked "
                        "system anew", low=1)
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "black", "push")

    def unseen(self, defense: Defense, data: Dataset) -> None:
        return None  # the lists that it reads are those of the defended system

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.length and self.length <= self.targets + self.seeds:
            return (f"profiles of {self.length} items are full with {self.targets} targets and "
                    f"{self.seeds} seeds, so that no list is read; set length to "
                    f"{self.targets + self.seeds + 1} at least, or lower seeds")
        return super().unfit(model, data)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import joined, popular_sample, ratings_of

        if ctx.victim is None:
            raise PluginError(f"{self.name} reads lists of the attacked system, and none is given")
        rated, room = ratings_of(data), lengths - len(targets)
        if room.max() < 2:
            raise CannotActError(f"{self.name}: profiles of {int(lengths.max())} items have no "
                                 f"room for {len(targets)} targets, a seed and an item of a list; "
                                 "raise length or lower targets")
        held = []
        for user, most in enumerate(room.tolist()):
            count = min(self.seeds, most - 1 if most > 1 else most)  # room for an item shown
            seeds = popular_sample(data, targets, ctx, user)[:count]
            held.append(joined((seeds, rated.per_item(seeds, ctx, user))))
        for turn in range(self.rounds):
            left = room - [len(profile.items) for profile in held]
            take = -(-left // (self.rounds - turn))  # (fakes,), rounded up
            if not take.any():
                break
            shown, scores = ctx.victim.lists(held, int(take.max()) + len(targets))
            for user, profile in enumerate(held):
                new = ~np.isin(shown[user], targets) & np.isfinite(scores[user])
                items = shown[user][new][:take[user]]
                more = rated.of_scores(scores[user][new][:take[user]])
                held[user] = joined((profile.items, profile.ratings), (items, more))
        return [joined((targets, rated.toward(self.goal, targets)),
                       (profile.items, profile.ratings)) for profile in held]

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"seeds": 3, "rounds": 1}
