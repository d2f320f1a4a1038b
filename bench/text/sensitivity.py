"""How far a list moves: similarities of two ranked lists, and their spread over groups.

Zhang et al., "Is ChatGPT Fair for Recommendation?" (FaiRLLM, RecSys 2023), with every similarity
scaled so that equal lists have 1. The authors' released notebook does not: see `serp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.data import Dataset, Floats, Ints

if TYPE_CHECKING:
    from bench.models.base import Recommender


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


def fills(k: int, shown: int, kind: str) -> bool:
    """Whether lists of k have similarity 1 whatever a model answers, as they hold everything that
    it can show. Jaccard and SERP* ask which items a list holds, and see no order among the same
    ones; PRAG* does.

    >>> fills(3, 3, "serp"), fills(3, 3, "prag"), fills(4, 3, "prag"), fills(2, 3, "jaccard")
    (True, False, True, False)
    """
    return k >= shown + (kind == "prag" and shown > 1)


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


# -- the lists -----------------------------------------------------------------------------------

def lists_of(model: Recommender, users: Ints, k: int) -> Ints:
    """The lists of these users without what they have, best first, the lower index first among
    equals: (users, k)."""
    import torch

    from bench.shown_lists import best_items

    found, rows = [], model.data.known("test")
    model.forget()  # a wrapper may have kept lists of another prompt
    with torch.no_grad():
        for start in range(0, len(users), 64):
            block = users[start:start + 64]
            scores = model.scores(torch.as_tensor(block, device=model.ctx.device)
                                  ).double().cpu().numpy().copy()  # (B, items)
            for row, user in enumerate(block.tolist()):
                scores[row, rows.items[rows.users == user]] = -np.inf
            found.append(best_items(scores, k))
    return np.concatenate(found)


def least_shown(data: Dataset, users: Ints, most: int) -> tuple[int, int]:
    """The fewest items that a list of one of these users can be made of, and that user: those of
    the catalogue that the user is not known to have, `most` of them at most."""
    rows = data.known("test")
    pairs = np.unique(rows.users.astype(np.int64) * data.n_items + rows.items)
    taken = np.bincount(pairs // data.n_items, minlength=data.n_users)
    shown = np.minimum(data.n_items - taken[users], most)
    return int(shown.min()), int(users[shown.argmin()])
