"""Items put into a history beside those that matter, each chosen by the lists that come back."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ThreatModel, param
from bench.data import Floats, Ints
from bench.histories import HistoryAttack
from bench.shown_lists import Shown, new_items


class HistoryInsertion(HistoryAttack):
    """Puts up to `edits` items where the victim's lists react most, greedily (black box).

    Places: of the `looked` newest items of a history those `places` without which the list
    changes most. Items: a pool of `pool` random items. In each step all pairs of a place and an
    item of the pool are asked for, and the pair is kept that serves most, none where none does:

        untargeted: Σ_i g(i) g(rank_i) falls, g(r) = 1/log2(1 + r), i = 1 … `watched` over the
        list before the attack; push: Σ g(rank) over the targets rises

    The factor g(i) makes a mere change of order among the watched count. An item that the
    attacker's list does not reach counts 0. It is the scheme of CheatAgent (Ning et al.,
    "CheatAgent: Attacking LLM-Empowered Recommender Systems via LLM Agent", KDD 2024: insertion
    beside what matters most when masked, candidates compared by the victim's answers) without its
    language model, which proposes the candidates and learns a prompt for it from the answers; here
    they are drawn. Any model that reads histories will do, whether as texts or not. What is
    recommended and the targets are never put in: a list leaves out what its history holds, so that
    the attacker could not tell harm from that.

    The attacker acts within the victims' own accounts (taken over, or through an extension that
    opens items for their owners): it puts items into a victim's history and reads the lists that
    this account then shows, one history at a time. So what depends on the account, as the
    candidates of a re-ranker do, is in every answer as it is in the list that is measured; no
    attacker without access to the account could ask this.

    Budget: `edits` items inserted. Queries: per user 1 + looked + edits · places · pool at most,
    counted. Only users who are evaluated are attacked.

    Args:
        edits: the budget. goal, targets, stratum: see the base class.
        pool, places, looked, watched: see above. depth: length of the lists that come back.
        adaptive: see the base class.

    Shapes: histories are arrays of items (length,).

    Example: attacks: [{history-insertion: {edits: 3, pool: 10}}]
    """

    name = "history-insertion"
    threat = ThreatModel("test-input", "black", "untargeted")
    changes = ("insert",)
    places_targets = "nowhere"
    edits: int = param(3, "most items inserted per user", low=0)
    pool: int = param(10, "random items that are tried for each user", low=1)
    places: int = param(3, "places of a history that are tried", low=1)
    looked: int = param(20, "newest items of a history that are left out in turn, to find the "
                        "places", low=1)
    watched: int = param(10, "first items of the list before the attack that are to fall", low=1)
    depth: int = param(50, "length of the lists that the attacker gets to see", low=1)

    def edit(self, model: Shown, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        asked = range(len(histories)) if data.asked is None else data.asked.tolist()
        users = [u for u in asked if len(histories[u])]
        made = [h.copy() for h in histories]
        if not users:
            return made
        own = [histories[u] for u in users]
        whose = np.array(users)
        lists = model.lists(own, self.depth, whose)  # (U, depth)
        aim = lists[:, :self.watched] if self.goal == "untargeted" else np.tile(
            targets, (len(users), 1))  # (U, w)
        pools = [new_items(data, h, np.union1d(seen, targets), self.pool, ctx, u)
                 for u, h, seen in zip(users, own, lists[:, :self.watched], strict=True)]
        spots = self.spots(model, own, lists, aim, whose)
        put: list[list[tuple[int, int]]] = [[] for _ in users]  # (place, item), oldest first
        reached = self.worth(lists, aim)  # (U,)
        for _ in range(self.edits):
            tries = [(row, [*put[row], (at, item)]) for row in range(len(users))
                     for at in spots[row] for item in pools[row].tolist()
                     if item not in [i for _, i in put[row]]]
            if not tries:
                break
            rows = np.array([row for row, _ in tries])
            found = self.worth(model.lists([inserted(own[row], new) for row, new in tries],
                                           self.depth, whose[rows]), aim[rows])  # (tries,)
            for row in np.unique(rows).tolist():
                mine = np.flatnonzero(rows == row)
                best = mine[found[mine].argmax()]
                if found[best] > reached[row]:
                    reached[row], put[row] = found[best], tries[best][1]
        for user, row in zip(users, range(len(users)), strict=True):
            made[user] = inserted(own[row], put[row])
        return made

    def spots(self, model: Shown, own: list[Ints], lists: Ints, aim: Ints,
              whose: Ints) -> list[list[int]]:
        """Per user the places whose items change most when left out, the most first."""
        each = [(row, at) for row, h in enumerate(own) if len(h) > 1
                for at in range(max(0, len(h) - self.looked), len(h))]
        if not each:
            return [[0] for _ in own]
        rows = np.array([row for row, _ in each])
        without = model.lists([np.delete(own[row], at) for row, at in each], self.depth,
                              whose[rows])
        left = np.array([own[row][at] for row, at in each])  # may come back into the list
        change = np.abs(self.worth(without, aim[rows], left) - self.worth(lists, aim)[rows])
        found: list[list[int]] = [[0] for _ in own]
        for row in np.unique(rows).tolist():
            mine = np.flatnonzero(rows == row)[::-1]  # of equals the newest
            order = mine[np.argsort(-change[mine], kind="stable")][:self.places]
            found[row] = [each[n][1] for n in order]
        return found

    def worth(self, lists: Ints, aim: Ints, back: Ints | None = None) -> Floats:
        """What the attacker wants more of: Σ g(rank) of the items to push, or less of
        Σ g(i) g(rank) of those to fall: (n,).

        Args:
            lists: (n, k), best first. aim: (n, w), in their order before.
            back: (n,) an item that takes no rank.
        """
        total = np.zeros(len(lists))
        own = np.full(lists.shape, False) if back is None else lists == back[:, None]
        ranks = 1 + np.arange(lists.shape[1]) - np.cumsum(own, axis=1)  # (n, k)
        gains = np.where(own, 0.0, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)))
        for n, column in enumerate(aim.T):
            weight = 1.0 if self.goal == "push" else 1.0 / np.log2(2.0 + n)
            total += weight * np.where(lists == column[:, None], gains, 0.0).sum(axis=1)
        return total if self.goal == "push" else -total

    def comparable(self) -> str:
        return f"{super().comparable()}, {self.pool} items tried at {self.places} places"


def inserted(history: Ints, put: list[tuple[int, int]]) -> Ints:
    """The history with each item after the one at its place, later ones behind earlier ones.

    >>> inserted(np.array([7, 8]), [(0, 1), (1, 2), (0, 3)])
    array([7, 1, 3, 8, 2])
    """
    made = [[item, *(new for at, new in put if at == n)] for n, item in
            enumerate(history.tolist())]
    return np.array([item for part in made for item in part], np.int64)
