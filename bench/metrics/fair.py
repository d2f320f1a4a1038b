"""Fairness between groups of users, beyond gaps of accuracy (CATALOGUE H3).

Groups with fewer than 20 evaluated users enter nothing, and where fewer than two are left a value
is NaN; with more than two groups the two that differ most are compared, item by item.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from bench.metrics.ranks import Floats, Ints

BINS = 50  # of percentiles, for `ks` and `wasserstein`
EXPLICIT = {"value-unfairness": "value", "absolute-unfairness": "absolute",
            "under-unfairness": "under", "over-unfairness": "over", "non-parity": "non-parity"}

def tpr(hits: Floats, relevant: Ints) -> float:
    """Share of all relevant items of these users that reach a list: Σ hits / Σ |T|.

    Its gap between groups is that of equal opportunity@K (Hardt et al., NIPS 2016, for lists).
    Not the mean of the users' recalls: a user with many relevant items weighs more.

    One of two and one of six:

    >>> tpr(np.array([1.0, 1.0]), np.array([2, 6]))
    0.25
    """
    return float(hits.sum() / relevant.sum()) if relevant.sum() else float("nan")


def fpr(hits: Floats, listed: Ints, relevant: Ints, eligible: Ints) -> float:
    """Share of all items that are eligible and not relevant which reach a list all the same:
    Σ (|L| − hits) / Σ (eligible − |T|), over users. NaN where there is no such item.

    Lists of two: one hit and one miss among 6 and among 10 items, 2 and 6 of them relevant.

    >>> fpr(np.array([1.0, 1.0]), np.array([2, 2]), np.array([2, 6]), np.array([6, 10]))
    0.25
    """
    others = int((eligible - relevant).sum())
    return float((listed - hits).sum() / others) if others else float("nan")


def odds(tpr_gap: float, fpr_gap: float) -> float:
    """Distance from equalised odds (Hardt et al., NIPS 2016): the larger of the gaps of the true-
    and the false-positive rate between groups, as in fairlearn. NaN where either is.

    >>> odds(0.25, 0.375)
    0.375
    """
    return float(np.maximum(tpr_gap, fpr_gap))


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


def differential(lists: Floats, users: Floats) -> float:
    """Differential fairness of exposure: mean over items of the largest |ln(θ_g / θ_h)| between
    groups, with θ_g = (lists of g that hold the item + 1/m) / (users of g + 1), m items.

    Foulds et al., "An Intersectional Definition of Fairness", ICDE 2020, on the items of lists as
    Islam et al., "Debiasing Career Recommendations with Neural Fair Collaborative Filtering", WWW
    2021, and RecBole-FairRec have it (there of mean scores). Items that none of the groups is shown
    are left out: the smoothing alone would make ln((users of h + 1) / (users of g + 1)) of each,
    and most items are of that kind. NaN where no item is shown.

    Args: as of `parity`.

    Two groups of 3 users; of three items one is in 2 lists of one group and none of the other, one
    in a list of each, one in none: (ln(7/3) − ln(1/3) + 0) / 2.

    >>> round(differential(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), np.array([3.0, 3.0])), 6)
    0.972955
    """
    shown = lists.sum(axis=0) > 0  # (m,)
    if len(users) < 2 or not shown.any():
        return float("nan")
    theta = np.log((lists[:, shown] + 1 / lists.shape[1]) / (users[:, None] + 1))  # (G, shown)
    return float((theta.max(axis=0) - theta.min(axis=0)).mean())


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
    return _between_places(histograms, least, lambda apart: apart.max(axis=1))


def wasserstein(histograms: Ints, least: int = 1) -> float:
    """Wasserstein-1 distance between two groups' percentiles of an item, mean over items: how far,
    as a share of the ranking, the item stands from where it stands for the other group.

    ∫|F_g − F_h| over bins of equal width; cutting moves it by at most one bin. For the rest see
    `ks`, which says how many users differ, and not how far.

    Two bins: half of the users stand half a ranking apart; item 2: alike.

    >>> wasserstein(np.array([[[4, 0], [2, 2]], [[2, 2], [3, 3]]]))
    0.125
    """
    return _between_places(histograms, least, lambda apart: apart.mean(axis=1))


def _between_places(histograms: Ints, least: int, far: Callable[[Floats], Floats]) -> float:
    """Mean over items of the largest distance between two groups; `far` makes it of |F_g − F_h| at
    the upper end of each bin, (m, bins) -> (m,)."""
    sizes = histograms.sum(axis=2)  # (G, m)
    curves = histograms.cumsum(axis=2) / np.maximum(sizes, 1)[:, :, None]  # (G, m, bins)
    largest = np.full(sizes.shape[1], np.nan)
    for g, h in combinations(range(len(sizes)), 2):
        both = (sizes[g] >= least) & (sizes[h] >= least)
        largest = np.where(both, np.fmax(largest, far(np.abs(curves[g] - curves[h]))), largest)
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
