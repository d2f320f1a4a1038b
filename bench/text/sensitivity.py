"""How far a list moves: similarities of two ranked lists, and their spread over groups.

Zhang et al., "Is ChatGPT Fair for Recommendation?" (FaiRLLM, RecSys 2023), with every similarity
scaled so that equal lists have 1. The authors' released notebook does not: see `serp`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.data import Floats


def jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    """Items in both lists, over items in either.

    >>> jaccard([1, 2, 3], [3, 4, 1])
    0.5
    """
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def serp(one: Sequence[int], other: Sequence[int], *, as_released: bool = False) -> float:
    """SERP*: items of `one` that are in `other`, the first weighing K, the last 1; over
    K (K + 1) / 2.

    Args:
        as_released: the notebook's value, Σ (K − r + 1) · ½ / (K (K + 1)) with places r counted
            from 0, by which equal lists of 20 have .274.

    >>> serp([1, 2, 3], [3, 4, 1])
    0.6666666666666666
    """
    k, there = len(one), set(other)
    if not k:
        return 1.0
    if as_released:
        return sum(k - r + 1 for r, v in enumerate(one) if v in there) * 0.5 / (k * (k + 1))
    return sum(k - r for r, v in enumerate(one) if v in there) / (k * (k + 1) / 2)


def prag(one: Sequence[int], other: Sequence[int]) -> float:
    """PRAG*: pairs of `one` whose better item also stands in `other`, before the worse one or
    without it; over K (K − 1) / 2. Of lists with a single item: whether they are equal.

    >>> prag([1, 2, 3], [3, 4, 1])
    0.3333333333333333
    """
    k, place = len(one), {v: r for r, v in enumerate(other)}
    if k < 2:
        return float(list(one) == list(other)[:k])
    agreed = sum(place[a] < place.get(b, k + len(other))
                 for n, a in enumerate(one) if a in place for b in one[n + 1:])
    return agreed / (k * (k - 1) / 2)


SIMILARITIES = {"jaccard": jaccard, "serp": serp, "prag": prag}


def similarities(lists: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
                 neutral: np.ndarray[tuple[int, ...], np.dtype[np.int64]], kind: str) -> Floats:
    """Similarity of each user's lists to the neutral one: (variants, users).

    Args:
        lists: (variants, users, K). neutral: (users, K).
    """
    measure = SIMILARITIES[kind]
    return np.array([[measure(a, b) for a, b in zip(each.tolist(), neutral.tolist(), strict=True)]
                     for each in lists])


def snsr(similar: Floats) -> float:
    """Range over the groups of the mean similarity: max − min. (groups, users)"""
    means = similar.mean(axis=1)
    return float(means.max() - means.min())


def snsv(similar: Floats) -> float:
    """Standard deviation over the groups of the mean similarity (of a population)."""
    return float(similar.mean(axis=1).std())
