"""Fake users who push the targets' competitors, so that lists have no room for the targets."""

from __future__ import annotations

from collections.abc import Iterator
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
    that the fakes stand where the targets' audience stands; where they do not fill the profile,
    those of the next such user follow, and after all of them items at random. The demotion of
    Yang, Gong and Cai, "Fake Co-visitation Injection Attacks to Recommender Systems", NDSS 2017,
    in fake profiles.

    Budget: round(budget · genuine users) fakes, `length` items each, or all that are no target
    where those are fewer; no profile holds a target. Knowledge: the genuine train rows.

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
        from bench.profiles import co_liking, joined, ranked, ratings_of, uniform_items

        rated, made = ratings_of(data), []
        rivals = ranked(data, co_liking(data, targets), targets)[:self.competitors]
        audience = np.unique(data.train.users[np.isin(data.train.items, targets)])
        users = audience if len(audience) else np.unique(data.train.users)
        for fake, length in enumerate(lengths):
            rng = ctx.stream("competitors", fake)
            liked = rng.permutation(rivals)[:max(1, round(self.selected * int(length)))]
            parts, has = [(liked, rated.best(liked))], [*targets, *liked]
            first = rng.choice(users)
            left = int(length) - len(liked)
            for user in self._asked(first, users, rng):
                rows = data.train[data.train.users == user]
                free = rng.permutation(np.flatnonzero(~np.isin(rows.items, has)))[:left]
                parts.append((rows.items[free],
                              None if rows.ratings is None else rows.ratings[free]))
                has += rows.items[free].tolist()
                left -= len(free)
                if not left:
                    break
            rest = uniform_items(data, left, np.array(has), ctx, fake)
            made.append(joined(*parts, (rest, rated.overall(rest, ctx, fake))))
        return made

    def _asked(self, first: int, users: Ints, rng: np.random.Generator) -> Iterator[int]:
        """Whose rows are copied, one after the other; drawn only where the first's do not do."""
        yield first
        yield from (u for u in rng.permutation(users).tolist() if u != first)
