"""What detectors measure of a user's profile, and how a classifier of it is kept honest.

Profiles are train rows. Features have one row per user, NaN where a user has no train row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.detection_metrics import Flags

BLOCK = 512  # users whose similarities to all others are held at once


def activity(data: Dataset) -> Ints:
    """Train rows of every user, (n_users,)."""
    return np.bincount(data.train.users, minlength=data.n_users)


def degree_features(data: Dataset) -> Floats:
    """MUD, RUD and QUD of each user: (n_users, 3) (Li et al. 2016).

    The degree of an item is how many users have it. Over the degrees of a user's items: the mean,
    the range (largest minus smallest), and the lower quartile (the sorted degree at position
    ⌊(count − 1) / 4⌋, from 0).
    """
    rows, count = data.train, activity(data)
    degree = np.bincount(rows.items, minlength=data.n_items)[rows.items]
    order = np.lexsort((degree, rows.users))
    degree = degree[order].astype(np.float64)
    there = np.flatnonzero(count)
    start = (np.cumsum(count) - count)[there]
    last = start + count[there] - 1
    found = np.full((data.n_users, 3), np.nan)
    found[there, 0] = np.add.reduceat(degree, start) / count[there] if len(there) else 0.0
    found[there, 1] = degree[last] - degree[start]
    found[there, 2] = degree[start + (count[there] - 1) // 4]
    return found


def entropy(data: Dataset) -> Floats:
    """H = −Σᵣ pᵣ log₂ pᵣ over the shares pᵣ of the rating values in a profile: (n_users,)."""
    rows, count = data.train, activity(data)
    assert rows.ratings is not None
    values, value = np.unique(rows.ratings, return_inverse=True)
    share = np.zeros((data.n_users, len(values)))
    np.add.at(share, (rows.users, value), 1.0)
    share /= np.maximum(count, 1)[:, None]
    bits = np.where(share > 0, -share * np.log2(np.where(share > 0, share, 1.0)), 0.0).sum(axis=1)
    return np.where(count > 0, bits, np.nan)


def length_variance(data: Dataset) -> Floats:
    """LengthVar = |n_u − n̄| / Σ_v (n_v − n̄)², n_u the length of a profile: (n_users,)."""
    count = activity(data).astype(np.float64)
    there = count > 0
    off = count - count[there].mean() if there.any() else count
    squares = float((off[there]**2).sum())
    return np.where(there, np.abs(off) / squares if squares else 0.0, np.nan)


def rdma(data: Dataset) -> Floats:
    """RDMA = (1/n_u) Σᵢ |r_ui − r̄ᵢ| / nᵢ, nᵢ the number of ratings of item i: (n_users,)
    (Chirita et al. 2005)."""
    rows, count = data.train, activity(data)
    assert rows.ratings is not None
    ratings = np.bincount(rows.items, minlength=data.n_items)
    mean = np.bincount(rows.items, rows.ratings, data.n_items) / np.maximum(ratings, 1)
    each = np.abs(rows.ratings - mean[rows.items]) / ratings[rows.items]
    total = np.bincount(rows.users, each, data.n_users)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fmtd(data: Dataset) -> Floats:
    """FMTD = |mean of the ratings at the profile's extreme − mean of its other ratings|:
    (n_users,) (Burke et al. 2006).

    The suspected targets are the items rated highest on the scale (a push); in a profile without
    such a rating, those rated lowest (a nuke). 0 where a profile has only one of the two parts.
    """
    rows, count = data.train, activity(data)
    assert rows.ratings is not None
    low, high = data.rating_scale or (float(rows.ratings.min()), float(rows.ratings.max()))
    top = np.bincount(rows.users[rows.ratings == high], minlength=data.n_users) > 0
    target = np.where(top[rows.users], rows.ratings == high, rows.ratings == low)
    means = []
    for part in (target, ~target):
        n = np.bincount(rows.users[part], minlength=data.n_users)
        total = np.bincount(rows.users[part], rows.ratings[part], data.n_users)
        means.append(np.where(n > 0, total / np.maximum(n, 1), np.nan))
    return np.where(count > 0, np.nan_to_num(np.abs(means[0] - means[1]), nan=0.0), np.nan)


def similarity_degree(data: Dataset, neighbours: int) -> Floats:
    """DegSim: mean similarity with the most similar other users, (n_users,) (Chirita et al.
    2005).

    Similarity is Pearson's over the items that both rated (0 with fewer than two, or without
    spread); without ratings it is the cosine of the two sets. O(users² · items per user), in
    blocks: no table of all pairs is held.
    """
    from scipy.sparse import csr_matrix

    rows, n = data.train, data.n_users
    shape = (n, data.n_items)
    has = csr_matrix((np.ones(len(rows)), (rows.users, rows.items)), shape=shape)
    count = activity(data)
    there = np.flatnonzero(count)
    found = np.full(n, np.nan)
    most = min(neighbours, len(there) - 1)
    if most < 1:
        return found
    rating = None if rows.ratings is None else csr_matrix(
        (rows.ratings, (rows.users, rows.items)), shape=shape)
    for block in _blocks(there):
        both = (has[block] @ has[there].T).toarray()  # (b, users), items in common
        if rating is None:
            like = both / np.sqrt(np.outer(count[block], count[there]))
        else:
            like = _pearson(rating[block], rating[there], has[block], has[there], both)
        like[np.arange(len(block)), np.searchsorted(there, block)] = -np.inf  # not oneself
        found[block] = np.partition(like, -most, axis=1)[:, -most:].mean(axis=1)
    return found


def _pearson(a: Any, b: Any, has_a: Any, has_b: Any, both: Floats) -> Floats:
    """Pearson's correlation over common items of sparse rows a (b, m) and b (n, m): (b, n)."""
    safe = np.maximum(both, 1)
    sum_a, sum_b = (a @ has_b.T).toarray(), (has_a @ b.T).toarray()
    cross = (a @ b.T).toarray() - sum_a * sum_b / safe
    spread_a = (a.multiply(a) @ has_b.T).toarray() - sum_a**2 / safe
    spread_b = (has_a @ b.multiply(b).T).toarray() - sum_b**2 / safe
    varies = (spread_a > 1e-9) & (spread_b > 1e-9) & (both > 1)
    spread = np.sqrt(np.where(varies, spread_a * spread_b, 1.0))
    like: Floats = np.clip(np.where(varies, cross / spread, 0.0), -1.0, 1.0)
    return like


def _blocks(users: Ints) -> Iterator[Ints]:
    for start in range(0, len(users), BLOCK):
        yield users[start:start + BLOCK]


def parts(campaign: Ints, folds: int, ctx: Context) -> Ints:
    """The fold of each user, (n,): own fakes by campaign, received users (-1) drawn evenly."""
    fold = campaign % folds
    received = ctx.stream("folds").permutation(np.flatnonzero(campaign < 0))
    fold[received] = np.arange(len(received)) % folds
    return fold


def judged_by_others(features: Floats, campaign: Ints, folds: int, ctx: Context,
                     learn: Callable[[Floats, Flags, int], Callable[[Floats], Floats]]) -> Floats:
    """The suspicion of each user by a classifier that was trained without that user: (n,).

    Own fakes and received users would otherwise be recognised, not judged: a tree that has seen
    a user labelled genuine repeats it.

    Args:
        features: (n, k); a user with a NaN is neither learned from nor judged.
        campaign: of each own fake, -1 for received users, (n,).
        learn: from features, labels (own fake or not) and the fold's number to a function from
            features to scores.
    """
    known = np.isfinite(features).all(axis=1)
    fake, fold = campaign >= 0, parts(campaign, folds, ctx)
    found = np.full(len(fake), np.nan)
    for part in range(folds):
        out, rest = known & (fold == part), known & (fold != part)
        if out.any() and fake[rest].any() and not fake[rest].all():
            found[out] = learn(features[rest], fake[rest], part)(features[out])
    return found


def entropy_tree(features: Floats, labels: Flags, depth: int, leaf: int, ctx: Context,
                 fold: int) -> Callable[[Floats], Floats]:
    """A decision tree of the entropy criterion: gives the share of fakes in a user's leaf."""
    with ctx.seeded("tree", fold):  # its import draws from the global generators
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(criterion="entropy", max_depth=depth, min_samples_leaf=leaf,
                                      random_state=ctx.number("tree", fold) % 2**32)
        tree.fit(features, labels)

    def score(other: Floats) -> Floats:
        found: Floats = tree.predict_proba(other)[:, 1]
        return found

    return score
