"""Accuracy per user, ties in expectation (CATALOGUE H1).

T is a user's set of relevant items, h_k = 1 where the item at rank k is in T, K the length of the
list. Each function takes `Ranks` of U users and gives float64 (U,): the exact expectation over
all orders of items with equal scores. A list that is shorter than K, since the catalogue holds
fewer eligible items, is filled with nothing: it has no hits there.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.ranks import Floats, Ints, Ranks

_CHUNK = 1 << 20  # probabilities of a first hit held at once


def hr(ranks: Ranks, k: int) -> Floats:
    """Hit ratio: 1 if any of the first K items is relevant, else 0.

    Ties: of t equal items of which r are relevant, c fit into the list; none of the r is among
    them with probability C(t−r, c)/C(t, c) = Π_{x<r} (t−c−x)/(t−x). (ARLib's "Hit Ratio",
    Σ hits/Σ|T|, is another quantity: recall over all users together.) Deshpande & Karypis, TOIS
    2004.

    >>> hr(Ranks.of([[2, 9], [11]], eligible=20), k=10)
    array([1., 0.])
    """
    reach = np.clip(k - ranks.better, 0, ranks.tied)
    miss = np.maximum(ranks.tied - reach - ranks.place, 0) / (ranks.tied - ranks.place)
    return 1.0 - (np.multiply.reduceat(miss, ranks.starts) if len(miss) else miss)


def recall(ranks: Ranks, k: int) -> Floats:
    """Recall: Σ_{k≤K} h_k / |T|, also where |T| > K (van Rijsbergen 1979, as precision, F1).

    >>> recall(Ranks.of([[2, 9, 30, 31]], eligible=40), k=10)
    array([0.5])
    """
    return ranks.total(ranks.inside(k)) / ranks.counts


def precision(ranks: Ranks, k: int) -> Floats:
    """Precision: Σ_{k≤K} h_k / K, divided by K even where the list is shorter.

    >>> precision(Ranks.of([[2, 9, 30, 31]], eligible=40), k=10)
    array([0.2])
    """
    return ranks.total(ranks.inside(k)) / k


def f1(ranks: Ranks, k: int) -> Floats:
    """Harmonic mean of precision and recall per user, 0 where both are 0: 2·hits/(K + |T|).

    Two hits, K = 10, |T| = 4: P = 0.2, R = 0.5, 2·0.2·0.5/0.7 = 4/14.

    >>> f1(Ranks.of([[2, 9, 30, 31]], eligible=40), k=10).round(4)
    array([0.2857])
    """
    return 2 * ranks.total(ranks.inside(k)) / (k + ranks.counts)


def ndcg(ranks: Ranks, k: int) -> Floats:
    """Normalised discounted cumulative gain, binary (Järvelin & Kekäläinen, TOIS 2002).

    Σ_{k≤K} h_k/log2(k+1) over the same sum for the ideal list, which holds min(K, |T|) relevant
    items: all of T, not those that were retrieved. Five relevant, one found at rank 2:
    0.6309 / 2.9485 = 0.2140 (an ideal made of the retrieved items would give 0.6309).

    >>> ndcg(Ranks.of([[2, 50, 51, 52, 53]], eligible=60), k=10).round(4)
    array([0.214])
    """
    discount, _, upto = _discounts(ranks, k)
    ideal: Floats = upto[np.minimum(ranks.counts, k)]
    return ranks.total(discount) / ideal


def _discounts(ranks: Ranks, k: int) -> tuple[Floats, Floats, Floats]:
    """Expected discount of each row, 0 beyond rank K, (N,); the discounts of rank 1, 2, …; and
    their running sums, which begin with 0."""
    n = int(max(ranks.counts.max(initial=1), (ranks.better + ranks.tied).max(initial=1)))
    each = 1.0 / np.log2(np.arange(2, n + 2))  # of rank 1, 2, …, n
    upto = np.concatenate([[0.0], np.cumsum(each)])
    low, high = np.minimum(ranks.better, k), np.minimum(ranks.better + ranks.tied, k)
    discount = np.where(ranks.tied == 1, np.where(ranks.better < k, each[ranks.better], 0.0),
                        (upto[high] - upto[low]) / ranks.tied)
    return discount, each, upto


def ndcg_graded(ranks: Ranks, k: int, ratings: Floats) -> Floats:
    """nDCG with the gain 2^(rating + 1) − 1 of each relevant item (the exponential gain of Burges
    et al., ICML 2005, with ratings moved by one so that a rating of 0 gains something; Elliot's
    "nDCG" with threshold 0).

    Σ_{k≤K} gain/log2(k+1) over the same sum for the K largest gains in T, best first.

    Args:
        ratings: of each relevant item, in the order of the rows of `ranks`, shape (N,).

    Ratings 1 and 3 at ranks 1 and 2, gains 3 and 15; the ideal has 15 first:
    (3 + 15·0.6309)/(15 + 3·0.6309) = 0.7378.

    >>> ndcg_graded(Ranks.of([[1, 2]], eligible=20), 10, np.array([1.0, 3.0])).round(4)
    array([0.7378])
    """
    discount, each, _ = _discounts(ranks, k)
    gains = 2.0 ** (ratings + 1) - 1
    best = gains[np.lexsort((-gains, ranks.owner))]
    place = np.arange(len(best)) - ranks.starts[ranks.owner]
    ideal = ranks.total(np.where(place < k, best * each[place], 0.0))
    return ranks.total(gains * discount) / ideal


def mrr(ranks: Ranks, k: int) -> Floats:
    """Reciprocal rank of the first relevant item, 0 if it stands after K; without @K the full
    list (Voorhees, TREC-8 1999).

    Ties: only the best group of equal scores that holds a relevant item matters. With r of its t
    items relevant, P(the first stands at place f) = C(t−f, r−1)/C(t, r).

    >>> mrr(Ranks.of([[4, 9], [11]], eligible=20), k=10)
    array([0.25, 0.  ])
    """
    first = ranks.starts  # rows are sorted: the first of a user is its best
    g, t, r = ranks.better[first], ranks.tied[first], ranks.group[first]
    value = np.where(g < k, 1.0 / (g + 1), 0.0)
    open_ = np.flatnonzero((t > r) & (g < k))
    if len(open_):
        cases, back = np.unique(np.stack([g, t, r])[:, open_], axis=1, return_inverse=True)
        value[open_] = _first_hit(cases[0], cases[1], cases[2], k)[back.reshape(-1)]
    return value


def _first_hit(g: Ints, t: Ints, r: Ints, k: int) -> Floats:
    """Σ_f P(f)/(g+f) over f ≤ min(k−g, t−r+1), P(1) = r/t, P(f+1) = P(f)·(t−r−f+1)/(t−f)."""
    length = np.minimum(k - g, t - r + 1)
    value = np.empty(len(g))
    rows = max(1, _CHUNK // int(length.max()))
    for start in range(0, len(g), rows):
        part = slice(start, start + rows)
        f = np.arange(1, int(length[part].max()) + 1)[None, :]  # (1, L)
        gg, tt, rr = g[part, None], t[part, None], r[part, None]  # (n, 1)
        step = np.maximum(tt - rr - f + 1, 0) / np.maximum(tt - f, 1)  # (n, L), P(f+1)/P(f)
        p = (rr / tt) * np.cumprod(np.concatenate([np.ones_like(gg), step[:, :-1]], 1), axis=1)
        value[part] = np.where(f <= length[part, None], p / (gg + f), 0.0).sum(axis=1)
    return value


def average_precision(ranks: Ranks, k: int) -> Floats:
    """AP@K = Σ_{k≤K} h_k·P@k / min(K, |T|); without @K the full list. Its mean is MAP (Buckley
    & Voorhees, SIGIR 2000).

    Ties: of a group with g better items (R of them relevant), t items and r relevant, with
    X = min(t, K−g) of its places in the list, each relevant one adds
    (1/t)·Σ_{x=1..X} (1 + R + (r−1)(x−1)/(t−1))/(g+x), and Σ_{x≤X} 1/(g+x) = H(g+X) − H(g).

    Relevant at ranks 1 and 4: (1/1 + 2/4)/2.

    >>> average_precision(Ranks.of([[1, 4]], eligible=20), k=10)
    array([0.75])
    """
    g, t, r, before = ranks.better, ranks.tied, ranks.group, ranks.before
    n = int((g + t).max(initial=1))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])
    x = np.clip(k - g, 0, t)
    inverse = np.where(t == 1, (x > 0) / (g + 1), harmonic[g + x] - harmonic[g])
    others = (x - (g + 1) * inverse) * (r - 1) / np.maximum(t - 1, 1)
    return ranks.total(((1 + before) * inverse + others) / t) / np.minimum(ranks.counts, k)


def auc(ranks: Ranks, k: int) -> Floats:
    """P(s_pos > s_neg) + ½·P(s_pos = s_neg) over a user's relevant items and eligible others.

    Every user counts the same (RecBole's GAUC weights by |T|). NaN for a user whose eligible
    items are all relevant; such users are left out of the mean and counted (Rendle et al., UAI
    2009).

    Of 4 others, 1 stands above the first relevant item and 3 above the second: (3/4 + 1/4)/2.

    >>> auc(Ranks.of([[2, 5]], eligible=6), k=6)
    array([0.5])
    """
    others = (ranks.eligible - ranks.counts)[ranks.owner]
    above = ranks.better - ranks.before
    equal = ranks.tied - ranks.group
    least = np.maximum(others, 1)
    value = ranks.total((others - above - equal / 2) / least) / ranks.counts
    return np.where(ranks.eligible > ranks.counts, value, np.nan)
