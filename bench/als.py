"""Alternating least squares: matrix factorisation in which every half-step is solved exactly.

With one side's vectors held still, the other side's are ridge regressions, one per row:

    p_u = A_u⁻¹ b_u,   A_u = Σ_{i∈Ω_u} q_i q_iᵀ + λ_u I,                 b_u = Σ r_ui q_i
    p_u = A_u⁻¹ b_u,   A_u = QᵀQ + Σ_{i∈Ω_u} α r_ui q_i q_iᵀ + λ_u I,    b_u = Σ (1 + α r_ui) q_i

The first learns from ratings (Zhou et al., AAIM 2008), the second from choices: every pair
counts, those taken with confidence 1 + α r and target 1, all others with confidence 1 and target
0 (Hu, Koren and Volinsky, ICDM 2008, Eq. 4). λ_u = λ, or λ max(|Ω_u|, 1) where `weighted`
(ALS-WR of Zhou et al., Eq. 4). Everything is float64 on the CPU and draws nothing: attacks and
private training that build on ALS call these functions with their own matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bench.data import Dataset, Floats, Interactions, Ints
from bench.errors import TrainingError

Matrix = Any  # scipy.sparse.csr_matrix; a stored zero is an observed value of zero

_NUMBERS = 1 << 22  # of float64 that a block of rows may hold at once


def choices(rows: Interactions, data: Dataset) -> Matrix:
    """How often each user took each item, positives alone: (users, items)."""
    rows = rows.positives()
    return csr_matrix((np.ones(len(rows)), (rows.users, rows.items)),
                      shape=(data.n_users, data.n_items))


def ratings(rows: Interactions, data: Dataset, centre: float = 0.0) -> Matrix:
    """Every rating, liked or not, less `centre`: (users, items). A pair rated twice is two
    observations, and a rating equal to the centre is stored all the same."""
    assert rows.ratings is not None
    order = np.argsort(rows.users, kind="stable")
    starts = np.r_[0, np.bincount(rows.users, minlength=data.n_users).cumsum()]
    return csr_matrix((rows.ratings[order] - centre, rows.items[order], starts),
                      shape=(data.n_users, data.n_items))


def normal(values: Matrix, factors: Floats, reg: float, *, alpha: float | None = None,
           weighted: bool = False) -> Iterator[tuple[Ints, Floats, Floats]]:
    """The normal equations A x = b of every row, in blocks of rows of similar length.

    Args:
        values: what each row observed, (rows, columns).
        factors: the columns' vectors, (columns, d).
        reg: λ. alpha: None: ratings; otherwise choices with this confidence. weighted: see above.

    Yields:
        row numbers (n,), A (n, d, d), b (n, d).
    """
    d = factors.shape[1]
    count = np.diff(values.indptr)  # (rows,)
    order = np.argsort(count, kind="stable")
    ridge = reg * (np.maximum(count, 1) if weighted else np.ones(len(count)))
    everywhere = np.zeros((d, d)) if alpha is None else factors.T @ factors  # (d, d)
    start = 0
    while start < len(order):
        shortest = max(int(count[order[start]]), 1)
        stop = int(np.searchsorted(count[order], 2 * shortest, side="right"))  # little padding
        stop = min(stop, start + max(_NUMBERS // (2 * shortest * d + d * d), 1))
        rows = order[start:stop]
        place = np.arange(max(int(count[rows].max()), 1))
        held = place < count[rows, None]  # (n, L)
        at = np.where(held, values.indptr[rows, None] + place, 0)
        column = values.indices[at] if values.nnz else np.zeros(at.shape, np.int64)
        value = values.data[at] if values.nnz else np.zeros(at.shape)
        x = factors[column] * held[..., None]  # (n, L, d)
        if alpha is None:
            A = x.transpose(0, 2, 1) @ x  # (n, d, d)
            target = value * held  # (n, L)
        else:
            A = everywhere + (x * (alpha * value)[..., None]).transpose(0, 2, 1) @ x
            target = (1 + alpha * value) * held
        A[:, np.arange(d), np.arange(d)] += ridge[rows, None]
        yield rows, A, (target[:, None, :] @ x)[:, 0]  # b: (n, d)
        start = stop


def solve(values: Matrix, factors: Floats, reg: float, *, alpha: float | None = None,
          weighted: bool = False) -> Floats:
    """The vector of every row, given the columns' vectors: (rows, d). A row that observed
    nothing is zero."""
    found = np.zeros((values.shape[0], factors.shape[1]))
    for rows, A, b in normal(values, factors, reg, alpha=alpha, weighted=weighted):
        try:
            found[rows] = np.linalg.solve(A, b[..., None])[..., 0]
        except np.linalg.LinAlgError as error:
            raise TrainingError("the normal equations have no single solution: raise reg, or bring "
                                "alpha nearer to 1") from error
    return found


def solve_users(values: Matrix, items: Floats, reg: float, *, alpha: float | None = None,
                weighted: bool = False) -> Floats:
    """The users' vectors, given the items': (users, d). Also folds in users never trained on."""
    return solve(values.tocsr(), items, reg, alpha=alpha, weighted=weighted)


def solve_items(values: Matrix, users: Floats, reg: float, *, alpha: float | None = None,
                weighted: bool = False) -> Floats:
    """The items' vectors, given the users': (items, d)."""
    return solve(values.T.tocsr(), users, reg, alpha=alpha, weighted=weighted)


def iterations(values: Matrix, items: Floats, reg: float, count: int, *,
               alpha: float | None = None, weighted: bool = False
               ) -> Iterator[tuple[Floats, Floats]]:
    """Users' and items' vectors, (users, d) and (items, d), after each of `count` rounds.

    A round solves the items for the users and then the users for the items, so that each user's
    vector is the one that folding in this user would give. `items` (items, d) is where it
    begins: the only thing about the start, so that injected users change nothing in it.
    """
    how: dict[str, Any] = {"alpha": alpha, "weighted": weighted}
    users = solve_users(values, items, reg, **how)
    by_item = values.T.tocsr()
    for _ in range(count):
        items = solve(by_item, users, reg, **how)
        users = solve_users(values, items, reg, **how)
        yield users, items


def fit(values: Matrix, items: Floats, reg: float, count: int = 15, *,
        alpha: float | None = None, weighted: bool = False) -> tuple[Floats, Floats]:
    """The vectors after `count` rounds: users (users, d), items (items, d)."""
    *_, last = iterations(values, items, reg, count, alpha=alpha, weighted=weighted)
    return last


def start(n_items: int, dim: int, rng: np.random.Generator, std: float = 0.1) -> Floats:
    """Item vectors to begin with, N(0, std²): (items, d)."""
    return rng.normal(0.0, std, (n_items, dim))


def objective(values: Matrix, users: Floats, items: Floats, reg: float, *,
              alpha: float | None = None, weighted: bool = False) -> float:
    """What every half-step lowers: weighted squared errors plus λ_u‖p_u‖² and λ_i‖q_i‖²."""
    own = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    said = np.einsum("nd,nd->n", users[own], items[values.indices])  # (observed,)
    if alpha is None:
        error = float(((values.data - said)**2).sum())
    else:  # all pairs as if not taken, then what is otherwise with those taken
        error = float(((users.T @ users) * (items.T @ items)).sum())
        error += float(((1 + alpha * values.data) * (1 - said)**2 - said**2).sum())
    for vectors, count in ((users, np.diff(values.indptr)),
                           (items, np.bincount(values.indices, minlength=values.shape[1]))):
        ridge = np.maximum(count, 1) if weighted else np.ones(len(count))
        error += reg * float(ridge @ (vectors**2).sum(axis=1))
    return error
