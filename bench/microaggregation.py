"""Groups of at least k alike rows: MDAV microaggregation."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.data import Floats, Ints

Matrix = Any  # scipy.sparse.csr_matrix


def mdav(rows: Matrix, k: int) -> Ints:
    """The group of each row, numbered from 0, every group of at least k rows: (rows,).

    MDAV (Domingo-Ferrer and Torra, DMKD 2005): while 3k rows remain, take the one
    farthest from their centroid with its k − 1 nearest, then the one farthest from that with its
    k − 1 nearest; of at least 2k one such group is split off; what remains is one group.
    Distances are Euclidean; of equal ones the first row counts. Fewer than k rows are one group.
    """
    n = rows.shape[0]
    square = np.asarray(rows.multiply(rows).sum(axis=1)).ravel()  # (n,)
    left = np.arange(n)
    groups = np.full(n, -1, np.int64)
    total = np.asarray(rows.sum(axis=0)).ravel().astype(np.float64)  # (columns,), of what is left
    made = 0

    def distance(point: Floats, among: Ints) -> Floats:
        """‖row − point‖² of these rows."""
        found: Floats = square[among] - 2 * (rows[among] @ point) + point @ point
        return found

    def split_off(centre: int) -> None:
        """Group the row with its k − 1 nearest of those left."""
        nonlocal left, total, made
        far = distance(rows[centre].toarray().ravel(), left)
        far[left == centre] = -1  # itself first, whatever rounding says
        nearest = np.argsort(far, kind="stable")[:k]
        taken = left[nearest]
        groups[taken] = made
        total = total - np.asarray(rows[taken].sum(axis=0)).ravel()
        left = np.delete(left, nearest)
        made += 1

    while len(left) >= 3 * k:
        first = left[np.argmax(distance(total / len(left), left))]
        point = rows[first].toarray().ravel()
        split_off(first)
        split_off(left[np.argmax(distance(point, left))])
    if len(left) >= 2 * k:
        split_off(left[np.argmax(distance(total / len(left), left))])
    groups[left] = made
    return groups
