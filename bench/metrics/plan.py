"""Who is evaluated on what: the users, what is masked, and which pairs must be looked up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data import Dataset, Interactions
from bench.metrics.ranks import Ints

Flags = npt.NDArray[np.bool_]
MASKS = ("known", "none")


@dataclass(frozen=True)
class Plan:
    """The genuine users of a dataset that are asked, those with something to find first; all as
    indices.

    Attributes:
        users: user indices, shape (U,); the first `n_evaluated` have a positive in the split.
        n_evaluated: how many users are evaluated.
        known_owner, known_item: pairs to mask, sorted by owner; an owner is a place in `users`.
        pair_owner, pair_item: pairs of any split that are not masked, sorted by owner.
        relevant: whether such a pair is a positive of the split evaluated.
        point_owner, point_item, point_label: labelled pairs of the split (1 liked, 0 disliked),
            sorted by owner; none where the data has no labels.
        skipped: genuine users without a positive in the split.
        repeats: positives of the split that are masked, since the user took them before.
    """

    users: Ints
    n_evaluated: int
    known_owner: Ints
    known_item: Ints
    pair_owner: Ints
    pair_item: Ints
    relevant: Flags
    point_owner: Ints
    point_item: Ints
    point_label: Ints
    skipped: int
    repeats: int

    def evaluated_only(self) -> Plan:
        """Without the users that have nothing to find and the pairs that are not relevant."""
        n = self.n_evaluated
        known = slice(0, int(np.searchsorted(self.known_owner, n)))
        keep = self.relevant  # users who are not evaluated have none
        return Plan(self.users[:n], n, self.known_owner[known], self.known_item[known],
                    self.pair_owner[keep], self.pair_item[keep], keep[keep],
                    self.point_owner[:0], self.point_item[:0], self.point_label[:0],
                    self.skipped, self.repeats)


def _distinct(keys: Ints) -> Ints:
    """Sorted, each once. (np.unique hashes, which is several times slower on a million keys.)"""
    keys = np.sort(keys.astype(np.int64))
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def make_plan(data: Dataset, split: str, mask: str = "known") -> Plan:
    """The plan for one split. Duplicate rows count once; injected users do not count at all."""
    if mask not in MASKS:
        raise ValueError(f"mask is one of {MASKS}, not {mask!r}")
    m = data.n_items
    everyone = np.arange(data.n_genuine) if data.asked is None else data.asked

    def keys(*parts: Interactions) -> Ints:
        rows = np.concatenate([p.users[p.users < data.n_genuine] * m
                               + p.items[p.users < data.n_genuine] for p in parts])
        found = _distinct(rows)
        return found if data.asked is None else found[np.isin(found // m, everyone)]

    known = keys(data.known(split)) if mask == "known" else np.empty(0, np.int64)
    truth = keys(data.truth(split))
    found = np.setdiff1d(truth, known, assume_unique=True)
    pairs = np.setdiff1d(keys(data.train, data.valid, data.test), known, assume_unique=True)
    evaluated = _distinct(found // m)
    others = np.setdiff1d(everyone, evaluated)
    users = np.concatenate([evaluated, others])
    place = np.empty(data.n_genuine, np.int64)
    place[users] = np.arange(len(users))

    def placed(rows: Ints) -> tuple[Ints, Ints, Ints]:
        owner = place[rows // m]
        order = np.argsort(owner, kind="stable")
        return owner[order], (rows % m)[order], order

    known_owner, known_item, _ = placed(known)
    pair_owner, pair_item, order = placed(pairs)
    relevant = np.isin(pairs, found, assume_unique=True)[order]
    rows: Interactions = getattr(data, split)
    if data.asked is not None:
        rows = rows[np.isin(rows.users, everyone)]
    labelled = np.empty(0, np.int64) if rows.labels is None else rows.users * m + rows.items
    point_owner, point_item, point_order = placed(labelled)
    labels = np.empty(0, np.int64) if rows.labels is None else rows.labels.astype(np.int64)
    return Plan(users, len(evaluated), known_owner, known_item, pair_owner, pair_item, relevant,
                point_owner, point_item, labels[point_order], len(others),
                len(truth) - len(found))
