"""What fake profiles are made of: items, ratings and times that profile attacks share.

Streams are named by purpose, not by attack: at one seed all attacks share their lengths, their
uniform fillers and the noise of their ratings, and a larger budget begins with the profiles of a
smaller one. A difference between two attacks is then one of method, not of draw.
"""

from __future__ import annotations

import numpy as np

from bench.context import Context
from bench.data import Dataset, Floats, Ints


def uniform_items(data: Dataset, count: int, barred: Ints, ctx: Context, user: int) -> Ints:
    """`count` distinct items uniform over the catalogue without the barred: (≤ count,)."""
    free = np.ones(data.n_items, bool)
    free[barred] = False
    order = ctx.stream("fillers", user).permutation(data.n_items)
    return order[free[order]][:max(count, 0)].astype(np.int64)


def by_popularity(data: Dataset, barred: Ints) -> Ints:
    """All items but the barred, most train positives first; ties by item index."""
    order = np.lexsort((np.arange(data.n_items), -data.popularity))
    return order[~np.isin(order, barred)].astype(np.int64)


class RatingModel:
    """Means, spreads, scale and step of the genuine train ratings.

    Attributes:
        low, high: the scale; of the dataset, or as observed where it states none.
        step: 1 where every rating is whole, 0.5 for half stars, otherwise 0 (no rounding).
        mean, sd: of all ratings.
        item_mean, item_sd: (items,). An item without ratings has the overall mean and spread,
            one with a single rating the overall spread.
    """

    def __init__(self, data: Dataset) -> None:
        genuine = data.train[data.train.users < data.n_genuine]
        if genuine.ratings is None or not len(genuine):
            raise ValueError(f"{data.name} has no ratings")
        items, ratings = genuine.items, genuine.ratings
        self.low, self.high = data.rating_scale or (float(ratings.min()), float(ratings.max()))
        self.step = next((s for s in (1.0, 0.5) if not np.mod(ratings / s, 1).any()), 0.0)
        self.mean = float(ratings.mean())
        self.sd = float(ratings.std(ddof=1)) if len(ratings) > 1 else 0.0
        count = np.bincount(items, minlength=data.n_items)
        total = np.bincount(items, ratings, minlength=data.n_items)
        self.item_mean = np.where(count > 0, total / np.maximum(count, 1), self.mean)
        squares = np.bincount(items, (ratings - self.item_mean[items])**2, minlength=data.n_items)
        self.item_sd = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), self.sd)

    def to_scale(self, ratings: Floats) -> Floats:
        """Rounded to the step, then clipped to the scale."""
        if self.step:
            ratings = np.rint(ratings / self.step) * self.step
        return np.clip(ratings, self.low, self.high)

    def overall(self, items: Ints, ctx: Context, user: int) -> Floats:
        """N(μ, σ) of all ratings, one for each of the items: (k,)."""
        noise = ctx.stream("filler-ratings", user).standard_normal(len(items))
        return self.to_scale(self.mean + self.sd * noise)

    def per_item(self, items: Ints, ctx: Context, user: int) -> Floats:
        """N(μᵢ, σᵢ) of each item's own ratings: (k,)."""
        noise = ctx.stream("filler-ratings", user).standard_normal(len(items))
        return self.to_scale(self.item_mean[items] + self.item_sd[items] * noise)


def fake_times(data: Dataset, counts: Ints, rng: np.random.Generator) -> Floats | None:
    """Times like those of random genuine users: their start and their gaps, in random order.

    All of them lie within the genuine train times: a longer profile begins earlier, so that
    fakes do not stand out at the end.
    """
    if data.train.times is None:
        return None
    genuine = (data.train.users < data.n_genuine) & np.isfinite(data.train.times)
    users, times = data.train.users[genuine], data.train.times[genuine]
    if not len(times):
        return np.full(int(counts.sum()), np.nan)
    order = np.lexsort((times, users))
    times = times[order]
    starts = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0])
    ends = np.r_[starts[1:], len(times)]
    if (ends - starts > 1).any():  # a single row has no gap to copy
        starts, ends = starts[ends - starts > 1], ends[ends - starts > 1]
    first, last = times.min(), times.max()
    made = []
    for count in counts:
        who = rng.integers(len(starts))
        own = times[starts[who]:ends[who]]
        gaps = np.diff(own) if len(own) > 1 else np.zeros(1)
        passed = np.concatenate([[0.0], rng.choice(gaps, size=max(count - 1, 0))]).cumsum()[:count]
        span = min(passed[-1], last - first) if count else 0.0
        if count and passed[-1] > span:
            passed = passed * (span / passed[-1])
        begin = max(first, min(own[0], last - span))
        made.append(rng.permutation(np.clip(begin + passed, first, last)))
    return np.concatenate(made)
