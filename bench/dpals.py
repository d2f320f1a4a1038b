"""Private alternating least squares: what the server learns of users, and the noise it gets.

Of the users the server needs sums alone (Chien et al., ICML 2021), for each item j and, where
every pair counts, for all items together:

    A_j = Σ_u p_u p_uᵀ    b_j = Σ_u M_uj p_u    (u who has j)    G = Σ_u p_u p_uᵀ (all u)

With ‖p_u‖ ≤ Γ_u, |M_uj| ≤ Γ_M and at most k items of a user, one user's whole history moves all
A_j together by at most √k Γ_u² in Frobenius norm, all b_j by √k Γ_u Γ_M, and G by Γ_u². Each gets
Gaussian noise of that size times σ; symmetric matrices one number per entry on and above the
diagonal, which has no larger sensitivity. All else is made from the noised sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from bench import als
from bench.data import Floats, Ints


@dataclass(frozen=True)
class Bounds:
    """What one user can bring, and the noise in units of it.

    Attributes:
        row: Γ_u, largest norm of a user's vector. entry: Γ_M, largest |value|.
        most: k, most items of a user. noise: σ; 0 for none.
    """

    row: float
    entry: float
    most: int
    noise: float

    def noised(self, sums: Floats, size: float, rng: np.random.Generator) -> Floats:
        """The sums (…, d), with N(0, (σ · size)²) on each number."""
        if not self.noise:
            return sums
        found: Floats = sums + self.noise * size * rng.standard_normal(sums.shape)
        return found

    def noised_symmetric(self, sums: Floats, size: float, rng: np.random.Generator) -> Floats:
        """Symmetric matrices (…, d, d) with symmetric noise, projected on those without a
        negative eigenvalue."""
        if not self.noise:
            return sums
        upper = np.triu(rng.standard_normal(sums.shape))  # one number for (a, b) and (b, a)
        noise = upper + np.swapaxes(np.triu(upper, 1), -1, -2)
        return psd(sums + self.noise * size * noise)


def psd(matrices: Floats) -> Floats:
    """The nearest matrices without negative eigenvalues: (…, d, d)."""
    values, vectors = np.linalg.eigh(matrices)  # (…, d), (…, d, d)
    found: Floats = (vectors * np.maximum(values, 0.0)[..., None, :]) @ np.swapaxes(
        vectors, -1, -2)
    return found


def clip_rows(vectors: Floats, most: float) -> Floats:
    """Vectors no longer than this: (rows, d)."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors * np.minimum(1.0, most / np.maximum(norms, 1e-30))
    return found


def at_most(values: als.Matrix, keys: Ints | Floats, most: int) -> als.Matrix:
    """Each user's `most` entries of the smallest keys, one key per stored entry: (users, items)."""
    owner = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    order = np.lexsort((keys, owner))
    place = np.arange(len(order)) - values.indptr[owner[order]]
    kept = order[place < most]
    return csr_matrix((values.data[kept], (owner[kept], values.indices[kept])), values.shape)


def solve_items(values: als.Matrix, users: Floats, reg: float, bounds: Bounds,
                rng: np.random.Generator, *, alpha: float | None = None) -> Floats:
    """The items' vectors from noised sums: (items, d). Every item gets noise, also one that
    nobody has: were it not so, its vector would tell.

    Args:
        values: (users, items), at most `most` entries a user, |entry| ≤ Γ_M.
        users: their vectors (users, d), clipped here to Γ_u.
        alpha: None: from ratings; otherwise from choices, as in `bench.als`.
    """
    p = clip_rows(users, bounds.row)
    n, d = values.shape[1], p.shape[1]
    A, b = np.zeros((n, d, d)), np.zeros((n, d))
    for rows, some, right in als.normal(values.T.tocsr(), p, 0.0):
        A[rows], b[rows] = some, right
    size = math.sqrt(bounds.most) * bounds.row
    A = bounds.noised_symmetric(A, size * bounds.row, rng)
    b = bounds.noised(b, size * bounds.entry, rng)
    if alpha is not None:  # every pair counts once, those taken alpha times more
        everywhere = bounds.noised_symmetric(p.T @ p, bounds.row**2, rng)  # (d, d)
        A *= alpha
        A += everywhere
        b *= 1 + alpha
    found = np.linalg.solve(A + reg * np.eye(d), b[..., None])[..., 0]
    return np.asarray(found, np.float64)


def iterations(values: als.Matrix, sampled: als.Matrix, items: Floats, reg: float, count: int,
               bounds: Bounds, rng: np.random.Generator, *, alpha: float | None = None
               ) -> Iterator[tuple[Floats, Floats]]:
    """Users' and items' vectors after each of `count` rounds, in the order of `als.iterations`.

    Args:
        values: all that each user has; it stays with the user, who solves for p_u from it.
        sampled: what enters the sums, at most k entries a user.
    """
    users = als.solve_users(values, items, reg, alpha=alpha)
    for _ in range(count):
        items = solve_items(sampled, users, reg, bounds, rng, alpha=alpha)
        users = als.solve_users(values, items, reg, alpha=alpha)
        yield users, items


def gaussians(count: int, implicit: bool, tail: bool) -> int:
    """How many Gaussians of noise σ a training is: two or three a round, one for item counts."""
    return count * (3 if implicit else 2) + int(tail)
