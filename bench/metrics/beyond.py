"""What lists are made of, whether or not they hit: coverage, concentration, popularity, novelty.

Item i is in the list L of a user with probability p_ui, which is 1 or 0 except where a tie
straddles the end of the list. Means over a list are exact expectations; `coverage` is one under
independent orders of ties per user; `gini` is the Gini coefficient of expected exposures. Lists
of evaluated users count. Popularity is the count of clean train positives by genuine users, also
in attacked runs (CATALOGUE H4).
"""

from __future__ import annotations

import numpy as np

from bench.data import Dataset
from bench.metrics.ranks import Floats, Ints

BITS = 1 << 32  # one bit of information in fixed point
HEAD = 0.2  # share of items in the short head
TAIL = 0.5  # share of items in the tail of head, mid and tail


def coverage(covered: Floats) -> float:
    """Catalogue coverage: |∪_u L_u| / |I|, expected: mean over all items of 1 − Π_u (1 − p_ui).

    Items that no model knows count in |I| (Herlocker et al., TOIS 2004; Ge et al., RecSys 2010).
    Three of four items are in somebody's list:

    >>> coverage(np.array([1.0, 1.0, 1.0, 0.0]))
    0.75
    """
    return float(covered.mean())


def gini(exposure: Floats) -> float:
    """Gini coefficient of exposure: Σ_j (2j − m − 1)·c_(j) / (m·Σc), c ascending.

    Over all m items, those never shown included: 0 if all are shown alike, (m − 1)/m if one
    takes everything. NaN if nothing is shown. (Elliot's "Gini" is 1 minus this.)
    Fleder & Hosanagar, Management Science 2009.

    >>> gini(np.array([5.0, 5.0, 5.0, 5.0])), gini(np.array([0.0, 8.0, 0.0, 0.0]))
    (0.0, 0.75)
    """
    m, total = len(exposure), float(exposure.sum())
    if total <= 0:
        return float("nan")
    place = np.arange(1, m + 1)
    return float(((2 * place - m - 1) * np.sort(exposure)).sum() / (m * total))


def novelty_bits(popularity: Ints) -> Floats:
    """Self-information of items: −log2(c_i/Σc); an item never seen counts as seen once.

    `novelty@K` is the mean over a user's list (Zhou et al., PNAS 2010; Vargas & Castells 2011).

    >>> novelty_bits(np.array([4, 2, 2, 0]))
    array([1., 2., 2., 3.])
    """
    total = max(int(popularity.sum()), 1)
    bits: Floats = -np.log2(np.maximum(popularity, 1) / total) + 0.0
    return bits


def by_popularity(popularity: Ints) -> Ints:
    """Items from the most popular on; ties of popularity are cut by item index.

    >>> by_popularity(np.array([1, 5, 1, 7]))
    array([3, 1, 0, 2])
    """
    return np.lexsort((np.arange(len(popularity)), -popularity))


def long_tail(popularity: Ints) -> Ints:
    """1 for the items outside the short head, 0 for the head: the first int(0.2·m) items.

    `aplt@K` is the mean over a user's list: the average share of long-tail items (Abdollahpouri
    et al., RecSys 2017). `aplt-all@K` counts popularity over train, valid and test, as Anelli
    et al. (RecSys 2021) do. `aclt@K` is the number of long-tail items in a list, not their share
    (Abdollahpouri et al., FLAIRS 2019): both go together unless lists are shorter than K.

    >>> long_tail(np.array([9, 1, 2, 3, 4]))
    array([0, 1, 1, 1, 1])
    """
    tail = np.ones(len(popularity), np.int64)
    tail[by_popularity(popularity)[: int(HEAD * len(popularity))]] = 0
    return tail


def popularity_groups(popularity: Ints) -> dict[str, Floats]:
    """Membership of items in "head" (most popular 20 %), "tail" (least popular half) and "mid".

    >>> groups = popularity_groups(np.arange(10))
    >>> {name: np.flatnonzero(inside).tolist() for name, inside in groups.items()}
    {'head': [8, 9], 'mid': [5, 6, 7], 'tail': [0, 1, 2, 3, 4]}
    """
    m = len(popularity)
    order, edges = by_popularity(popularity), (0, int(HEAD * m), m - int(TAIL * m), m)
    groups = {}
    for place, name in enumerate(("head", "mid", "tail")):
        inside = np.zeros(m)
        inside[order[edges[place]:edges[place + 1]]] = 1.0
        groups[name] = inside
    return groups


def whole_popularity(data: Dataset) -> Ints:
    """Positives of each item by genuine users in train, valid and test together, (m,)."""
    later = [np.bincount(data.truth(s).items, minlength=data.n_items) for s in ("valid", "test")]
    total: Ints = data.popularity + later[0] + later[1]
    return total


def list_mean(sure: Ints, open_: Ints, better: Ints, tied: Ints, eligible: Ints,
              k: int) -> Floats:
    """Expected mean of an item value (popularity, novelty, tail) over each user's list.

    The list holds min(K, eligible) items: `better` of them for sure, whose values add up to
    `sure`; where `tied` more do not all fit, each of these, with values that add up to `open_`,
    is in it with probability (K − better)/tied. Where all fit, `sure` counts them as well.

    Popularities 9 and 4 are in the list of 3 for sure; one of two tied items with popularities
    2 and 6 comes third, so (9 + 4 + 8/2)/3:

    >>> one = [np.array([v]) for v in (13, 8, 2, 2, 50)]
    >>> list_mean(*one, k=3).round(4)
    array([5.6667])
    """
    share = np.where(better + tied > k, (k - better) / np.maximum(tied, 1), 0.0)
    mean: Floats = (sure + share * open_) / np.minimum(k, eligible)
    return mean


def columns(data: Dataset, names: set[str]) -> dict[str, tuple[Ints, int]]:
    """Integer values of items for the list means asked for, and the unit of each.

    `arp@K` is the average recommendation popularity: the mean train count of the items in a
    user's list (Yin et al., VLDB 2012).
    """
    made: dict[str, tuple[Ints, int]] = {}
    if "arp" in names:
        made["arp"] = data.popularity.astype(np.int64), 1
    if "novelty" in names:
        bits = np.rint(novelty_bits(data.popularity) * BITS)
        made["novelty"] = bits.astype(np.int64), BITS
    for name in ("aplt", "aclt"):
        if name in names:
            made[name] = long_tail(data.popularity), 1
    if "aplt-all" in names:
        made["aplt-all"] = long_tail(whole_popularity(data)), 1
    return made
