"""What fake profiles are made of: items, ratings and times that profile attacks share.

Streams are named by purpose, not by attack: at one seed all attacks share their lengths, their
uniform fillers and the noise of their ratings, and a larger budget begins with the profiles of a
smaller one. A difference between two attacks is then one of method, not of draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.errors import CannotActError

if TYPE_CHECKING:
    from bench.profile_attack import Profile


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


def popular_sample(data: Dataset, barred: Ints, ctx: Context, user: int) -> Ints:
    """All items but the barred, drawn one after the other in proportion to their train positives;
    those without any come last, in random order."""
    rng = ctx.stream("popular-fillers", user)
    waiting, uniform = rng.exponential(size=data.n_items), rng.random(data.n_items)
    with np.errstate(divide="ignore"):
        waiting = waiting / data.popularity  # the first of competing exponentials is a draw ∝ rate
    order = np.lexsort((uniform, waiting))
    return order[~np.isin(order, barred)].astype(np.int64)


def co_liking(data: Dataset, targets: Ints) -> Floats:
    """How often each item is liked together with the targets: Σ_t c_it / √(pop_i pop_t), where
    c_it counts genuine users with both among their train positives: (items,)."""
    from scipy.sparse import csr_matrix

    rows = data.train.positives()
    rows = rows[rows.users < data.n_genuine]
    taken = csr_matrix((np.ones(len(rows)), (rows.users, rows.items)),
                       shape=(data.n_users, data.n_items))
    taken.data[:] = 1.0
    together = (taken.T @ taken[:, targets]).toarray()  # (items, targets)
    count = np.maximum(data.popularity, 1)
    found: Floats = (together / np.sqrt(count[:, None] * count[targets])).sum(axis=1)
    return found


def influence(data: Dataset, by: str, neighbours: int) -> Ints:
    """Genuine users with train rows, the most influential first; ties by user index.

    Args:
        by: number (of train rows), in-degree (in how many users' nearest `neighbours` a user is),
            or similarity (the sum over all other users). Similar is the cosine of rows of train:
            ratings less the user's mean, or positives. Only similar (above 0) users are
            neighbours, and among equals the user of lower index.
    """
    from scipy.sparse import csr_matrix, diags

    rows = data.train if data.train.ratings is not None else data.train.positives()
    rows = rows[rows.users < data.n_genuine]
    count = np.bincount(rows.users, minlength=data.n_genuine)
    found = count.astype(np.float64)
    if by != "number":
        values = np.ones(len(rows))
        if rows.ratings is not None:
            mean = np.bincount(rows.users, rows.ratings, data.n_genuine) / np.maximum(count, 1)
            values = rows.ratings - mean[rows.users]
        x = csr_matrix((values, (rows.users, rows.items)), shape=(data.n_genuine, data.n_items))
        norms = np.sqrt(x.multiply(x).sum(axis=1).A1)
        x = csr_matrix(diags(np.divide(1.0, norms, where=norms > 0, out=np.zeros_like(norms))) @ x)
        found = np.zeros(data.n_genuine)
        for start in range(0, data.n_genuine, 512):
            alike = (x[start:start + 512] @ x.T).toarray()  # (B, users)
            own = np.arange(len(alike))
            alike[own, start + own] = 0.0
            if by == "similarity":
                found += alike.sum(axis=0)
                continue
            near = np.argsort(-alike, axis=1, kind="stable")[:, :neighbours]
            near = near[np.take_along_axis(alike, near, axis=1) > 0]
            found += np.bincount(near, minlength=data.n_genuine)
    order = np.lexsort((np.arange(data.n_genuine), -found))
    return order[count[order] > 0].astype(np.int64)


def ranked(data: Dataset, score: Floats, barred: Ints) -> Ints:
    """All items but the barred, highest score first; ties by popularity, then by item index."""
    order = np.lexsort((np.arange(data.n_items), -data.popularity, -score))
    return order[~np.isin(order, barred)].astype(np.int64)


def joined(*parts: tuple[Ints, Floats | None], ordered: bool = False) -> Profile:
    """A profile of these items and ratings, one after the other; ratings of None: implicit."""
    from bench.profile_attack import Profile

    items = np.concatenate([items for items, _ in parts]).astype(np.int64)
    ratings = [r for _, r in parts if r is not None]
    return Profile(items, np.concatenate(ratings) if ratings else None, ordered)


def ratings_of(data: Dataset) -> RatingModel | Unrated:
    """What fake users rate by: the genuine train ratings, or nothing where data is implicit."""
    return Unrated() if data.train.ratings is None else RatingModel(data)


class Unrated:
    """In place of a RatingModel where data is implicit: every rating is None."""

    def best(self, items: Ints) -> None: ...

    def worst(self, items: Ints) -> None: ...

    def toward(self, goal: str, items: Ints) -> None: ...

    def overall(self, items: Ints, ctx: Context, user: int) -> None: ...

    def per_item(self, items: Ints, ctx: Context, user: int) -> None: ...

    def of_scores(self, scores: Floats) -> None: ...


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
        if genuine.ratings is None or not (len(genuine) or data.rating_scale):
            raise CannotActError(f"of {data.name} no rating is known, and no scale")
        items, ratings = genuine.items, genuine.ratings
        self.low, self.high = data.rating_scale or (float(ratings.min()), float(ratings.max()))
        if not len(genuine):  # a black-box attacker who knows users without a row
            items, ratings = np.zeros(1, np.int64), np.array([(self.low + self.high) / 2])
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

    def best(self, items: Ints) -> Floats:
        """The highest rating for each of the items: (k,)."""
        return np.full(len(items), self.high)

    def worst(self, items: Ints) -> Floats:
        """The lowest rating for each of the items: (k,)."""
        return np.full(len(items), self.low)

    def toward(self, goal: str, items: Ints) -> Floats:
        """What the goal wants the targets to be rated, the highest (push) or lowest: (k,)."""
        return self.best(items) if goal == "push" else self.worst(items)

    def of_scores(self, scores: Floats) -> Floats:
        """A recommender's scores as ratings: as they are where all lie on the scale, otherwise
        with the mean and spread of the train ratings: (k,)."""
        if len(scores) and (scores.min() < self.low or scores.max() > self.high):
            spread = float(scores.std()) or 1.0
            scores = self.mean + self.sd * (scores - scores.mean()) / spread
        return self.to_scale(scores)

    def overall(self, items: Ints, ctx: Context, user: int) -> Floats:
        """N(μ, σ) of all ratings, one for each of the items: (k,)."""
        noise = ctx.stream("filler-ratings", user).standard_normal(len(items))
        return self.to_scale(self.mean + self.sd * noise)

    def per_item(self, items: Ints, ctx: Context, user: int) -> Floats:
        """N(μᵢ, σᵢ) of each item's own ratings: (k,)."""
        noise = ctx.stream("filler-ratings", user).standard_normal(len(items))
        return self.to_scale(self.item_mean[items] + self.item_sd[items] * noise)


def fake_attributes(data: Dataset, seen: Dataset, n_fake: int, rng: np.random.Generator
                    ) -> dict[str, npt.NDArray[np.generic]]:
    """What fake users say of themselves when they sign up, (n_fake,) a column: each says all
    that one genuine user says, drawn from those of whom the attacker sees a row. So neither what
    they leave out nor an odd mixture tells them apart."""
    donors = np.flatnonzero(seen.activity > 0)
    if not len(donors) or not data.user_attributes:
        return {}
    drawn = rng.choice(donors, n_fake)
    return {name: column[drawn] for name, column in data.user_attributes.items()}


def fake_times(data: Dataset, counts: Ints, rng: np.random.Generator,
               ordered: Sequence[bool] | None = None) -> Floats | None:
    """Times like those of random genuine users: their start and their gaps, in random order, or
    rising along the profile where it is `ordered`.

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
    for fake, count in enumerate(counts):
        who = rng.integers(len(starts))
        own = times[starts[who]:ends[who]]
        gaps = np.diff(own) if len(own) > 1 else np.zeros(1)
        passed = np.concatenate([[0.0], rng.choice(gaps, size=max(count - 1, 0))]).cumsum()[:count]
        span = min(passed[-1], last - first) if count else 0.0
        if count and passed[-1] > span:
            passed = passed * (span / passed[-1])
        begin = min(own[0], last - span)
        rising = np.clip(begin + passed, first, last)
        mixed = rng.permutation(rising)
        made.append(rising if ordered is not None and ordered[fake] else mixed)
    return np.concatenate(made)
