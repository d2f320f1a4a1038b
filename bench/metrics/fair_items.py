"""Fairness between items: who is shown, beside what would be due (CATALOGUE H4)."""

from __future__ import annotations

import numpy as np

from bench.metrics.ranks import Floats, Ints


def due(exposure: Floats, claim: Floats, inside: Floats) -> float:
    """Share of all exposure that falls to a group of items, over its share of a claim: of the
    catalogue (1 per item: demographic parity) or of what is relevant (its users: merit).

    Above 1 the group is shown more than that. Singh and Joachims, "Fairness of Exposure in
    Rankings", KDD 2018, with lists for exposure: each place of a list counts the same. NaN where
    the group has no claim, or nothing is shown.

    Args:
        exposure: expected lists that hold each item, (m,). claim: of each item, (m,). inside: the
            item's weight in the group, (m,).

    Half of the catalogue gets three quarters of the exposure:

    >>> due(np.array([6.0, 0.0, 1.0, 1.0]), np.ones(4), np.array([1.0, 1.0, 0.0, 0.0]))
    1.5
    """
    shown, claimed = float(exposure.sum()), float(claim.sum())
    own = float((claim * inside).sum())
    if shown <= 0 or own <= 0:
        return float("nan")
    return float((exposure * inside).sum()) / shown / (own / claimed)


def evenness(dues: Floats) -> float:
    """Smallest over largest of what groups of items get of their due: 1 is alike, 0 that a group
    is never shown. NaN with fewer than two groups, or where nothing is shown.

    >>> evenness(np.array([1.5, 0.5, 0.75])).__round__(6)
    0.333333
    """
    there = dues[~np.isnan(dues)]
    if len(there) < 2 or there.max() <= 0:
        return float("nan")
    return float(there.min() / there.max())


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
