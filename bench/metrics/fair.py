"""Fairness between groups of users and between items, beyond gaps of accuracy (CATALOGUE H3, H4).

Groups with fewer than 20 evaluated users enter nothing, and where fewer than two are left a value
is NaN; with more than two groups the two that differ most are compared, item by item.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from bench.metrics.ranks import Floats, Ints

BINS = 50  # of percentiles, for `ks`
EXPLICIT = {"value-unfairness": "value", "absolute-unfairness": "absolute",
            "under-unfairness": "under", "over-unfairness": "over", "non-parity": "non-parity"}


# -- users ---------------------------------------------------------------------------------------

def tpr(hits: Floats, relevant: Ints) -> float:
    """Share of all relevant items of these users that reach a list: Σ hits / Σ |T|.

    Its gap between groups is that of equal opportunity@K (Hardt et al., NIPS 2016, for lists).
    Not the mean of the users' recalls: a user with many relevant items weighs more.

    One of two and one of six:

    >>> tpr(np.array([1.0, 1.0]), np.array([2, 6]))
    0.25
    """
    return float(hits.sum() / relevant.sum()) if relevant.sum() else float("nan")


def parity(lists: Floats, users: Floats) -> float:
    """Demographic parity of exposure: mean over items of |P(i in L | g) − P(i in L | h)|.

    Args:
        lists: expected lists of each group that hold each item, (G, m). users: per group, (G,).

    Two groups of 2 and 4 users: an item in 1 and 2 of their lists is shown alike, one in 2 and 1
    differs by 1 − 1/4; the third is in no list.

    >>> parity(np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0]]), np.array([2.0, 4.0]))
    0.25
    """
    if len(users) < 2:
        return float("nan")
    shares = lists / users[:, None]  # (G, m)
    return float((shares.max(axis=0) - shares.min(axis=0)).mean())


def ks(histograms: Ints, least: int = 1) -> float:
    """Kolmogorov–Smirnov distance between two groups' percentiles of an item, mean over items.

    A percentile is an item's place in a user's own ranking, 0 best and 1 worst, as scores of
    different users have no common scale. Over all items it is uniform for everybody; item by item
    it says whether two groups are shown the same things early. Cut into equal bins, so that the
    distance may be a little too small.

    Args:
        histograms: how many users of a group have the item in each bin, (G, m, bins).
        least: items that a group has fewer users for are left out of its comparisons.

    Item 1: all of one group in the first half, half of the other: 1 − 1/2. Item 2: alike.

    >>> ks(np.array([[[4, 0], [2, 2]], [[3, 3], [3, 3]]]))
    0.25
    """
    sizes = histograms.sum(axis=2)  # (G, m)
    curves = histograms.cumsum(axis=2) / np.maximum(sizes, 1)[:, :, None]  # (G, m, bins)
    largest = np.full(sizes.shape[1], np.nan)
    for g, h in combinations(range(len(sizes)), 2):
        far = np.abs(curves[g] - curves[h]).max(axis=1)  # (m,)
        both = (sizes[g] >= least) & (sizes[h] >= least)
        largest = np.where(both, np.fmax(largest, far), largest)
    there = largest[~np.isnan(largest)]
    return float(there.mean()) if len(there) else float("nan")


def unfairness(predicted: Floats, truth: Floats, items: Ints, side: Ints, kind: str) -> float:
    """The quantities of Yao and Huang (NIPS 2017) on predicted ratings.

    With d_g = E_g[y]_j − E_g[r]_j, an item's mean error among the ratings of group g, a mean over
    the items that both groups rated of: "value" |d_g − d_h|; "absolute" ||d_g| − |d_h||; "under"
    |max(0, −d_g) − max(0, −d_h)|; "over" |max(0, d_g) − max(0, d_h)|. "non-parity":
    |E_g[y] − E_h[y]| over all their ratings. An item that one group did not rate counts nowhere
    (RecBole-FairRec's 1e-5 in the counts makes its mean 0). NaN where nothing can be compared.

    Args:
        predicted, truth, items: rated pairs, (n,). side: 1, 0 or −1 (left out), (n,).

    Item 0 is rated by both: errors +1 and −1. Item 1 by one group alone.

    >>> y, r = np.array([5.0, 1.0, 9.0]), np.array([4.0, 2.0, 1.0])
    >>> items, side = np.array([0, 0, 1]), np.array([1, 0, 0])
    >>> [unfairness(y, r, items, side, k) for k in ("value", "absolute", "under", "over")]
    [2.0, 0.0, 1.0, 1.0]
    >>> unfairness(y, r, items, side, "non-parity")
    0.0
    """
    if kind == "non-parity":
        groups = [predicted[side == g] for g in (1, 0)]
        return float(abs(groups[0].mean() - groups[1].mean())) if all(map(len, groups)) \
            else float("nan")
    size = int(items.max(initial=-1)) + 1
    counts = [np.bincount(items[side == g], minlength=size) for g in (1, 0)]
    both = (counts[0] > 0) & (counts[1] > 0)
    if not both.any():
        return float("nan")
    error = predicted - truth
    d = [np.bincount(items[side == g], error[side == g], size)[both] / n[both]
         for g, n in zip((1, 0), counts, strict=True)]
    if kind == "absolute":
        d = [np.abs(x) for x in d]
    elif kind in ("under", "over"):
        d = [np.maximum(-x if kind == "under" else x, 0) for x in d]
    return float(np.abs(d[0] - d[1]).mean())


# -- items ---------------------------------------------------------------------------------------

def spread(shares: Floats) -> float:
    """Standard deviation over mean of one probability per group of items; 0 is alike.

    `popreo@K` takes P(in the list | group, relevant), `poprsp@K` P(in the list | group), over
    head and tail of the catalogue (Zhu et al., "Measuring and Mitigating Item Under-Recommendation
    Bias in Personalized Ranking Systems", SIGIR 2020). NaN where nothing is shown.

    >>> spread(np.array([0.75, 0.25])), spread(np.array([0.2, 0.2]))
    (0.5, 0.0)
    """
    mean = shares.mean() if len(shares) else 0.0
    return float(shares.std() / mean) if mean > 0 else float("nan")


def opportunity(chance: Floats, group: Ints, n_groups: int = 2) -> Floats:
    """P(in the list | group, relevant) from relevant pairs: (n_groups,). A group of which nothing
    is relevant has no such share: NaN, and with it `spread`.

    Two relevant pairs of group 0, one found; four of group 1, one found:

    >>> opportunity(np.array([1., 0., 1., 0., 0., 0.]), np.array([0, 0, 1, 1, 1, 1]))
    array([0.5 , 0.25])
    >>> opportunity(np.array([1.]), np.array([1]))
    array([nan,  1.])
    """
    count = np.bincount(group, minlength=n_groups)
    found: Floats = np.bincount(group, chance, n_groups) / np.maximum(count, 1)
    return np.where(count > 0, found, np.nan)


def pru(popularity: Ints, ranks: Floats, owner: Ints, least: int = 3) -> float:
    """Popularity-rank correlation for users: −mean_u Spearman(popularity, rank) over the user's
    relevant items (Zhu et al., "Popularity-Opportunity Bias in Collaborative Filtering", WSDM
    2021). Above 0, popular ones among what a user likes are ranked higher.

    Users with fewer than `least` relevant items, or for whom one side is constant, are left out.

    Args: of relevant pairs, (n,): the item's popularity, its rank for the user (1 is best), user.

    >>> pru(np.array([9, 5, 1, 4, 4]), np.array([1., 2., 3., 7., 8.]), np.array([0, 0, 0, 1, 1]))
    1.0
    """
    found = []
    order = np.argsort(owner, kind="stable")
    edges = np.flatnonzero(np.diff(owner[order])) + 1
    for rows in np.split(order, edges):
        if len(rows) >= least:
            found.append(spearman(popularity[rows].astype(np.float64), ranks[rows]))
    there = [v for v in found if not np.isnan(v)]
    return -float(np.mean(there)) + 0.0 if there else float("nan")


def pri(popularity: Ints, ranks: Floats, items: Ints) -> float:
    """Popularity-rank correlation for items: −Spearman(popularity, mean rank among the users for
    whom the item is relevant), over items that are relevant for somebody (Zhu et al., WSDM 2021).

    Items 0 and 1 have popularity 9 and 2; their mean ranks are 2 and 7:

    >>> pri(np.array([9, 2, 5]), np.array([1., 3., 7.]), np.array([0, 0, 1]))
    1.0
    """
    count = np.bincount(items, minlength=len(popularity))
    there = count > 0
    mean = np.bincount(items, ranks, len(popularity))[there] / count[there]
    return -spearman(popularity[there].astype(np.float64), mean) + 0.0


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's correlation, equal values at their mean rank; NaN where one side is constant.

    >>> spearman(np.array([1., 2., 2., 4.]), np.array([9., 7., 7., 1.]))
    -1.0
    """
    a, b = (_ranked(v) for v in (x, y))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / size, 12) if size > 0 else float("nan")


def _ranked(values: Floats) -> Floats:
    """Ascending ranks from 1, equal values at their mean."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(size) - (size - 1) / 2)[group]
    return ranks
