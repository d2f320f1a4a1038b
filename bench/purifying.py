"""Histories without the items that other users' histories do not bear out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bench.data import Dataset, Ints
from bench.models.base import Recommender, Wrapped

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Support:
    """How well the other items of a history bear an item out.

    support(i) = mean over the other items j of n(i, j) / √(n(i) n(j)), with n counted over the
    train positives of all users but the one whose history it is: who is asked about must not be
    the witness. From 0 (never taken together) to 1.

    Args:
        data: whose train split is counted.
    """

    def __init__(self, data: Dataset) -> None:
        from scipy.sparse import csr_matrix

        rows = data.train.positives()
        taken = csr_matrix((np.ones(len(rows)), (rows.users, rows.items)),
                           shape=(data.n_users, data.n_items))
        taken.data[:] = 1.0
        self._taken, self._together = taken, (taken.T @ taken).tocsr()

    def __call__(self, user: int, history: Ints) -> Floats:
        """(length,); infinite where a history has no other item."""
        together = np.asarray(self._together[history][:, history].toarray())  # (L, L)
        own = np.asarray(self._taken[user, history].toarray()).ravel()  # (L,)
        together = together - np.outer(own, own)
        alone = self._together[history, history]
        counts = np.maximum(np.asarray(alone).ravel() - own, 1.0)  # (L,)
        other = history[:, None] != history[None, :]
        like = together / np.sqrt(np.outer(counts, counts)) * other
        of = other.sum(axis=1)
        return np.where(of > 0, like.sum(axis=1) / np.maximum(of, 1), np.inf)


class Purified(Wrapped):
    """Reads histories without their least supported items.

    Args:
        base: the trained model. support: what bears items out.
        quantile: share of the items of the histories as they are now that lie below the
            threshold. share: most of a history that is dropped.
    """

    def __init__(self, base: Recommender, support: Support, quantile: float,
                 share: float) -> None:
        super().__init__(base)
        self._support, self._share = support, share
        self._kept: dict[tuple[int, bytes], Ints] = {}
        self.clean = base.histories()
        found = [support(u, h) for u, h in enumerate(self.clean) if len(h) > 1]
        self.threshold = float(np.quantile(np.concatenate(found), quantile, method="lower")) \
            if found else 0.0
        self._now: Sequence[Ints] = self.clean

    def purified(self, user: int, history: Ints) -> Ints:
        """The history without items below the threshold, the worst first, at most `share`."""
        if len(history) < 2:
            return history
        key = (user, history.tobytes())
        if key not in self._kept:
            if len(self._kept) > 200_000:
                self._kept.clear()
            found = self._support(user, history)
            worst = np.argsort(found, kind="stable")[:int(self._share * len(history))]
            gone = worst[found[worst] < self.threshold]
            self._kept[key] = np.delete(history, gone)
        return self._kept[key]

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        before, self._now = self._now, list(histories)
        try:
            with super().reading(histories):
                yield
        finally:
            self._now = before

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        if split != "test":  # what is read of a user then is the train split, which nobody edits
            return self.base.scores(users, split)
        with self.base.reading([self.purified(u, h) for u, h in enumerate(self._now)]):
            return self.base.scores(users, split)
