"""Fake users who like what the targets' audience likes, and the targets."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, Profile, ProfileAttack, param
from bench.data import Floats, Ints


class SegmentProfiles(ProfileAttack):
    """Segment attack (push): targets and the items of their segment liked, fillers disliked.

    The segment are the items most often liked together with the targets, by
    Σ_t c_it / √(pop_i pop_t) with c_it the genuine users who like both, or (`by: genre`, any item
    attribute) the most popular items that share a value with a target. A share `selected` of
    each profile's length goes to its first items at the highest rating, the rest to uniform
    fillers at the lowest. Implicit data cannot express the fillers: there the whole profile is
    the segment. To a model that reads positives alone the fillers are positives too, unless the
    dataset has a rating threshold. Burke, Mobasher, Bhaumik and Williams, "Segment-Based
    Injection Attacks against Collaborative Filtering Recommender Systems", ICDM 2005.

    Budget: round(budget · genuine users) fakes, `length` items each, targets and segment
    included. Knowledge: which items are liked together, or the items' attributes.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        selected: share of the length given to the segment (at least one item, where there is
            room); explicit data only.
        by: co-liked, or the name of an item attribute.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{segment-profiles: {budget: 0.03, by: genre}}]
    """

    name = "segment-profiles"
    selected: float = param(0.1, "share of a profile's length that is the segment (explicit)",
                            above=0, high=1)
    by: str = param("co-liked", "what makes the segment: co-liked, or an item attribute")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        column = data.item_attributes.get(self.by)
        if self.by != "co-liked" and (column is None or column.dtype != object):
            known = [k for k, v in data.item_attributes.items() if v.dtype == object]
            return (f"{data.name} has no categorical item attribute {self.by!r}; it has "
                    f"{', '.join(known) or 'none'}")
        return super().unfit(model, data)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import co_liking, joined, ranked, ratings_of, uniform_items

        rated, made = ratings_of(data), []
        alike = co_liking(data, targets) if self.by == "co-liked" else self._shared(data, targets)
        segment = ranked(data, alike, targets)
        for user, length in enumerate(lengths):
            room = int(length) - len(targets)
            wanted = max(1, round(self.selected * int(length))) if data.train.ratings is not None \
                else room
            liked = np.concatenate([targets, segment[:min(wanted, room)]])
            fillers = uniform_items(data, int(length) - len(liked), liked, ctx, user)
            made.append(joined((liked, rated.best(liked)), (fillers, rated.worst(fillers))))
        return made

    def _shared(self, data: Dataset, targets: Ints) -> Floats:
        """How many of each item's values a target has: (items,)."""
        def values(item: int) -> set[str]:
            value = data.item_attributes[self.by][item]
            return set(value if isinstance(value, tuple) else (str(value),)) - {""}

        wanted = set().union(*(values(int(t)) for t in targets))
        return np.array([len(values(i) & wanted) for i in range(data.n_items)], np.float64)
