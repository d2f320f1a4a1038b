"""How much each user's rows raise a score: influence functions of a factorisation.

With θ = (U, V) at a minimum of f(θ) = Σ_ui c_ui (x_ui − u·v)² + λ (‖U‖² + ‖V‖²), a little more
weight on user k's part ℓ_k of f changes a score s(θ) at the rate

    I(k) = −∇sᵀ H⁻¹ ∇ℓ_k,   H = ∇²f

(Koh and Liang, ICML 2017; for recommenders Fang et al., WWW 2020). H⁻¹∇s is found by conjugate
gradients from products with H alone, which cost O(users · items · d) each. A factorisation may be
rotated freely, so H has directions of no curvature: a small multiple of the identity is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.data import Floats


@dataclass(frozen=True)
class Factorised:
    """A factorisation of x (n, m) with confidences c (n, m): U (n, d), V (m, d), λ."""

    x: Floats
    c: Floats
    users: Floats
    items: Floats
    reg: float

    @property
    def weighted_errors(self) -> Floats:
        """c (x − UVᵀ), (n, m)."""
        return self.c * (self.x - self.users @ self.items.T)

    def product(self, direction: Floats, errors: Floats | None = None) -> Floats:
        """H times a direction; both are U's rows, then V's: (n + m, d)."""
        n = len(self.users)
        du, dv = direction[:n], direction[n:]
        e = self.weighted_errors if errors is None else errors
        moved = self.c * (du @ self.items.T + self.users @ dv.T)  # (n, m), −c dE
        return np.concatenate([
            2 * (moved @ self.items - e @ dv + self.reg * du),
            2 * (moved.T @ self.users - e.T @ du + self.reg * dv)])

    def score_slope(self, weights: Floats) -> Floats:
        """∇s of s = Σ_j w_j mean_u u·v_j, for w (m,): (n + m, d)."""
        n = len(self.users)
        return np.concatenate([np.tile(weights @ self.items / n, (n, 1)),
                               np.outer(weights, self.users.mean(axis=0))])

    def influence(self, weights: Floats, damping: float, most: int = 100) -> Floats:
        """I(k) of every user on that score, (n,)."""
        n, e = len(self.users), self.weighted_errors
        z = conjugate_gradients(lambda v: self.product(v, e) + damping * v,
                                self.score_slope(weights), most)
        zu, zv = z[:n], z[n:]
        # ∇ℓ_k is −2 Σ_j e_kj v_j in u_k, and −2 e_kj u_k in every v_j
        found: Floats = 2 * (((e @ self.items) * zu).sum(axis=1)
                             + (e * (self.users @ zv.T)).sum(axis=1))
        return found


def conjugate_gradients(product: Callable[[Floats], Floats], b: Floats, most: int,
                        tolerance: float = 1e-8) -> Floats:
    """The x with product(x) = b, for a symmetric positive product; at most `most` products.

    Stops where the residual has fallen by `tolerance`, and where a direction without positive
    curvature comes up, with what it has.
    """
    x = np.zeros_like(b)
    residual = b.copy()
    direction = b.copy()
    size = float((residual * residual).sum())
    goal = size * tolerance**2
    for _ in range(most):
        if size <= goal:
            break
        along = product(direction)
        curvature = float((direction * along).sum())
        if curvature <= 0:
            break
        step = size / curvature
        x = x + step * direction
        residual = residual - step * along
        former, size = size, float((residual * residual).sum())
        direction = residual + size / former * direction
    return x


def wmw(users: Floats, items: Floats, taken: Floats, targets: Floats, k: int,
        width: float) -> tuple[float, Floats]:
    """The Wilcoxon–Mann–Whitney loss Σ_u Σ_{i∈L_u} Σ_t g(s_ui − s_ut), g(x) = 1/(1 + e^(−x/b)).

    L_u are the k best items that user u (rows of `users`) has not taken and that are no targets,
    fewer where fewer are left; targets that u has are left out.

    Returns:
        the loss, and its gradient in the items' vectors with the lists as they are: (m, d).
    """
    scores = users @ items.T                                      # (n, m)
    aim = targets > 0
    offered = np.where((taken > 0) | aim, -np.inf, scores)
    best = np.argsort(-offered, axis=1, kind="stable")[:, :k]     # (n, k)
    listed = np.take_along_axis(scores, best, axis=1)             # (n, k)
    there = np.isfinite(np.take_along_axis(offered, best, axis=1))  # (n, k)
    loss, pull = 0.0, np.zeros_like(items)
    for t in np.flatnonzero(aim):
        free = taken[:, t] == 0                                   # (n,)
        x = np.clip((listed[free] - scores[free, t][:, None]) / width, -50, 50)
        g = there[free] / (1 + np.exp(-x))                        # (free, k)
        slope = g * (1 - g) / width
        loss += float(g.sum())
        np.add.at(pull, best[free].ravel(), (slope[..., None] * users[free][:, None]).reshape(
            -1, users.shape[1]))
        pull[t] -= slope.sum(axis=1) @ users[free]
    return loss, pull
