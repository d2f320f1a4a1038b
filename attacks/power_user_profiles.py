"""Fake users who copy the most influential users, and add the targets."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, Profile, ProfileAttack, param
from bench.data import Ints


class PowerUserProfiles(ProfileAttack):
    """Power-user attack (push): each fake copies rows of one of the most influential users.

    The `models` users of most influence are copied: by number of train rows (`number`), by how
    many users have a user among their `neighbours` nearest (`in-degree`), or by the sum of a
    user's similarities to all others (`similarity`). Similarity is the cosine of rows of train:
    of ratings less the user's mean, or of positives where data is implicit. Rows of the copied
    user are taken at random with their ratings; where they do not fill the profile, the next
    power user's go on. Wilson and Seminario, "When Power Users Attack: Assessing Impacts in
    Collaborative Recommender Systems", RecSys 2013 (NumRatings, InDegree, AggSim).

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: the genuine train rows.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        by, models, neighbours: what makes a power user, how many there are.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{power-user-profiles: {budget: 0.03, by: in-degree}}]
    """

    name = "power-user-profiles"
    by: str = param("number", "what makes a power user: number of rows, in-degree among nearest "
                    "neighbours, or sum of similarities",
                    choices=("number", "in-degree", "similarity"))
    models: int = param(50, "how many of the most influential users are copied", low=1)
    neighbours: int = param(50, "nearest neighbours per user, for by: in-degree", low=1)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import influence, joined, ratings_of

        rated, made = ratings_of(data), []
        power = influence(data, self.by, self.neighbours)[:self.models]
        power = ctx.stream("power-users").permutation(power)
        for fake, length in enumerate(lengths):
            rng, room = ctx.stream("copied-rows", fake), int(length) - len(targets)
            parts, taken = [(targets, rated.best(targets))], targets
            for turn in range(len(power)):
                rows = data.train[data.train.users == power[(fake + turn) % len(power)]]
                free = rng.permutation(np.flatnonzero(~np.isin(rows.items, taken)))[:room]
                items = rows.items[free]
                parts.append((items, None if rows.ratings is None else rows.ratings[free]))
                taken, room = np.concatenate([taken, items]), room - len(items)
                if not room:
                    break
            made.append(joined(*parts))
        return made
