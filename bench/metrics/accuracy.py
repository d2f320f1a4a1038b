"""Accuracy per user, ties in expectation (CATALOGUE H1).

T is a user's set of relevant items, h_k = 1 where the item at rank k is in T, K the length of the
list. Each function takes `Ranks` of U users and gives float64 (U,); its value is the exact
expectation over all orders of items with equal scores.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.ranks import Floats, Ints, Ranks


def _discounts(n: int) -> Floats:
    """Sum of 1/log2(r+1) over the ranks up to 0, 1, …, n: shape (n + 1,)."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, n + 2)))])


def hr(ranks: Ranks, k: int) -> Floats:
    """Hit ratio: 1 if any of the first K items is relevant, else 0.

    Of t equal items of which r are relevant, c reach the list: no hit has probability
    C(t−r, c)/C(t, c) = Π_{x<r} (t−c−x)/(t−x).

    >>> hr(Ranks.of([[2, 9], [11]], eligible=20), k=10)
    array([1., 0.])
    """
    reach = np.clip(k - ranks.better, 0, ranks.tied)
    miss = np.maximum(ranks.tied - reach - ranks.place, 0) / (ranks.tied - ranks.place)
    return 1.0 - (np.multiply.reduceat(miss, ranks.starts) if len(miss) else miss)


def recall(ranks: Ranks, k: int) -> Floats:
    """Recall: Σ_{k≤K} h_k / |T|.

    >>> recall(Ranks.of([[2, 9, 30, 31]], eligible=40), k=10)
    array([0.5])
    """
    return ranks.total(ranks.inside(k)) / ranks.counts


def ndcg(ranks: Ranks, k: int) -> Floats:
    """Normalised discounted cumulative gain, binary (Järvelin & Kekäläinen, TOIS 2002).

    Σ_{k≤K} h_k/log2(k+1) over the same sum for the ideal list, which holds min(K, |T|) relevant
    items: all of T, not those that were retrieved. Five relevant, one found at rank 2:
    0.6309 / 2.9485 = 0.2140.

    >>> ndcg(Ranks.of([[2, 50, 51, 52, 53]], eligible=60), k=10).round(4)
    array([0.214])
    """
    top = int(min(k, ranks.eligible.max(initial=1)))
    upto = _discounts(max(top, int(ranks.counts.max(initial=1))))
    low, high = np.minimum(ranks.better, top), np.minimum(ranks.better + ranks.tied, top)
    return ranks.total((upto[high] - upto[low]) / ranks.tied) / _ideal(upto, ranks.counts, k)


def _ideal(upto: Floats, counts: Ints, k: int) -> Floats:
    return upto[np.minimum(counts, k)]
