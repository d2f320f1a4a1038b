"""What a black-box attacker is shown for histories of its own, and what attacks on histories share:
best and new items, similarity, whether anybody asks the model inside."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import CannotActError

if TYPE_CHECKING:
    from bench.context import Context
    from bench.data import Dataset, Ints
    from bench.models.base import Recommender


@dataclass(frozen=True)
class Shown:
    """The recommendations that a black-box attacker gets to see for histories of its own.

    Args:
        _model: as it is served; not for the attacker.
        unasked: for the report, not for the attacker: no query is counted.
    """

    _model: Recommender
    unasked: bool = False

    @property
    def n_items(self) -> int:
        return self._model.data.n_items

    def lists(self, histories: Sequence[Ints], k: int, accounts: Ints | None = None) -> Ints:
        """The k best items of each history, best first, without what it holds: (n, k).

        Each history is a query. What comes back may depend on whose history it is: a model that
        knows its users, or takes candidates from one that does.

        Args:
            accounts: (n,) the user in whose place each history is read, one history of an account
                at a time; None: whoever asks has accounts of its own, for which those of the
                model's users stand, in turn.
        """
        import torch

        from bench.queries import uncounted

        own, n = self._model.histories(), len(histories)
        counts = uncounted(self._model) if self.unasked else contextlib.nullcontext()
        whose = np.arange(n) % len(own) if accounts is None else np.asarray(accounts, np.int64)
        found = np.empty((n, min(k, self.n_items)), np.int64)
        with torch.no_grad(), counts, self._model.evaluating():
            for round in rounds(whose):  # places in histories, each of another account
                read = list(own)
                for at in round.tolist():
                    read[int(whose[at])] = histories[at]
                with self._model.reading(read):
                    for first in range(0, len(round), 1024):
                        places = round[first:first + 1024]
                        users = torch.as_tensor(whose[places], device=self._model.ctx.device)
                        scores = self._model.scores(users).double().cpu().numpy().copy()
                        for row, at in enumerate(places.tolist()):
                            scores[row, histories[at]] = -np.inf
                        found[places] = best_items(scores, k)
        return found


def rounds(whose: Ints) -> list[Ints]:
    """Places of `whose`, in order, in as few parts as hold everybody once at most.

    >>> rounds(np.array([4, 2, 4, 4]))
    [array([0, 1]), array([2]), array([3])]
    """
    turn = np.empty(len(whose), np.int64)  # how many of the same stand before it
    seen: dict[int, int] = {}
    for at, one in enumerate(whose.tolist()):
        turn[at] = seen.get(one, 0)
        seen[one] = seen.get(one, 0) + 1
    return [np.flatnonzero(turn == n) for n in range(max(seen.values(), default=0))]


def best_items(scores: np.ndarray[Any, Any], k: int) -> Ints:
    """The k best items of each row, best first, the lower index first among equals: (n, k)."""
    k = min(k, scores.shape[1])
    least = -np.partition(-scores, k - 1, axis=1)[:, [k - 1]]  # (n, 1)
    order = np.where(scores >= least, -scores, np.inf)
    return np.argsort(order, axis=1, kind="stable")[:, :k].astype(np.int64)


def new_items(data: Dataset, history: Ints, barred: Ints, count: int, ctx: Context,
              user: int) -> Ints:
    """`count` distinct items uniform over the catalogue without the user's own and the barred;
    more begin with fewer, and all attacks draw the same: (≤ count,)."""
    free = np.ones(data.n_items, bool)
    free[history] = free[barred] = False
    order = ctx.stream("edits", user).permutation(data.n_items)
    return order[free[order]][:count].astype(np.int64)


def unit_vectors(model: Recommender) -> Any:
    """The vectors of items by which they are similar, each of length 1: (n_items, width).

    Of several item tables it is the one that histories are looked up in.
    """
    from bench.models.base import TorchRecommender, innermost
    from bench.perturb import TINY

    bare = innermost(model)
    tables = bare.tables() if isinstance(bare, TorchRecommender) else {}
    items = {k: t for k, t in tables.items() if t.role == "item"}
    if not items:
        raise CannotActError(f"{type(bare).__name__} has no vectors of items")
    rows = items.get("item_embedding", next(iter(items.values()))).rows().double()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(TINY)


class _Asked(Exception):
    """The model inside was asked."""


def asks_inside(model: Recommender) -> bool:
    """Whether what a wrapper serves comes from the model inside, or was fixed before."""
    import torch

    from bench.models.base import innermost
    from bench.queries import uncounted

    bare = innermost(model)
    if bare is model:
        return True

    def asking(*args: Any, **more: Any) -> Any:
        raise _Asked

    model.forget()
    with uncounted(model):  # the harness asks, nobody attacks
        bare.scores = asking  # type: ignore[method-assign]
        try:
            with torch.no_grad(), model.evaluating():
                model.scores(torch.zeros(1, dtype=torch.long, device=model.ctx.device))
        except _Asked:
            return True
        finally:
            del bare.scores
        model.forget()
    return False
