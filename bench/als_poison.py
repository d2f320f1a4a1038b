"""What fake rows do to the items of an ALS model, and its exact gradient over one round.

One round of alternating least squares, genuine users' vectors held still:

    ũ_i = Ã_i⁻¹ Σ_j t_ij v_j,              Ã_i = Σ_j c_ij v_j v_jᵀ + λ I     (fake user i)
    v'_j = A_j⁻¹ (b_j + Σ_i t_ij ũ_i),     A_j = A⁰_j + Σ_i c_ij ũ_i ũ_iᵀ    (item j)

A⁰, b are what genuine users contribute (`bench.als.normal`). What a fake user does with an item is
one number x_ij. From ratings, c = 1 where rated and t = x, the rating less the mean. From choices
(Hu et al. 2008), c = 1 + α x and t = (1 + α) x, for x from 0 (not taken) to 1 (taken).

Li et al., "Data Poisoning Attacks on Factorization-Based Collaborative Filtering", NIPS 2016, give
∂v_j/∂x_ij = A_j⁻¹ ũ_i with u held fixed. That alone says nothing about items other than the
targets; how a filler shapes the fake user's own vector, and through it the targets', is the second
term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench import als
from bench.data import Dataset, Floats


@dataclass(frozen=True)
class Feedback:
    """What x means: choices with confidence 1 + alpha, or (alpha None) ratings less `centre`."""

    alpha: float | None
    centre: float = 0.0

    def genuine(self, data: Dataset) -> als.Matrix:
        """What the train rows say, (users, items) sparse."""
        if self.alpha is None:
            return als.ratings(data.train, data, self.centre)
        return als.choices(data.train, data).minimum(1)

    def terms(self, x: Floats, rated: Floats) -> tuple[Floats, Floats]:
        """c and t of fake rows x (f, m); `rated` says which of them are there."""
        if self.alpha is None:
            return rated, x * rated
        return 1 + self.alpha * x, (1 + self.alpha) * x

    @property
    def slopes(self) -> tuple[float, float]:
        """dc/dx and dt/dx."""
        return (0.0, 1.0) if self.alpha is None else (self.alpha, 1 + self.alpha)


@dataclass(frozen=True)
class Round:
    """One round with the fake rows at x.

    Attributes:
        fakes: ũ (f, d). items: v' (m, d). matrices: A (m, d, d).
    """

    fakes: Floats
    items: Floats
    matrices: Floats


class FakeRows:
    """The map from fake rows to item vectors, at fixed genuine users and former item vectors."""

    def __init__(self, values: als.Matrix, users: Floats, items: Floats, reg: float,
                 feedback: Feedback) -> None:
        self.before, self.reg, self.feedback = items, reg, feedback  # V (m, d)
        d = users.shape[1]
        self.A = np.zeros((items.shape[0], d, d))  # of genuine users, with λ
        self.b = np.zeros((items.shape[0], d))
        for rows, A, b in als.normal(values.T.tocsr(), users, reg, alpha=feedback.alpha):
            self.A[rows], self.b[rows] = A, b

    def users(self, c: Floats, t: Floats) -> tuple[Floats, Floats]:
        """ũ (f, d) and Ã (f, d, d) of fake rows, given the former item vectors."""
        d = self.before.shape[1]
        A = np.einsum("fm,md,me->fde", c, self.before, self.before, optimize=True)
        A += self.reg * np.eye(d)
        return np.linalg.solve(A, (t @ self.before)[..., None])[..., 0], A

    def at(self, x: Floats, rated: Floats, fakes: Floats | None = None) -> Round:
        """The items' vectors with the fake rows; `fakes` holds ũ where it is given."""
        c, t = self.feedback.terms(x, rated)
        own = self.users(c, t)[0] if fakes is None else fakes
        A = self.A + np.einsum("fm,fd,fe->mde", c, own, own, optimize=True)  # (m, d, d)
        items = np.linalg.solve(A, (self.b + t.T @ own)[..., None])[..., 0]  # (m, d)
        return Round(own, items, A)

    def slope(self, x: Floats, rated: Floats, pull: Floats, *, found: Round | None = None,
              through_fakes: bool = True) -> Floats:
        """dU/dx (f, m) of a utility whose gradient in the items' vectors is `pull` (m, d).

        An item that is not there counts as if it were, at its x. With `through_fakes` False, ũ is
        held still: A_j⁻¹ ũ_i alone.
        """
        now = found or self.at(x, rated)
        c, t = self.feedback.terms(x, rated)
        dc, dt = self.feedback.slopes
        y = np.linalg.solve(now.matrices, pull[..., None])[..., 0]  # (m, d), A⁻¹ dU/dv'
        said = now.fakes @ now.items.T                              # (f, m), ũ·v'
        reach = now.fakes @ y.T                                     # (f, m), ũ·y
        slope: Floats = reach * (dt - dc * said)
        if through_fakes:
            on_fakes = (t - c * said) @ y - (c * reach) @ now.items  # (f, d), dU/dũ
            _, A = self.users(c, t)
            z = np.linalg.solve(A, on_fakes[..., None])[..., 0]      # (f, d)
            slope = slope + (z @ self.before.T) * (dt - dc * (now.fakes @ self.before.T))
        return slope


def hybrid(users: Floats, items: Floats, clean: Floats, taken: Floats, targets: Floats,
           availability: float) -> tuple[float, Floats]:
    """The utility of Li et al. (2016), and its gradient in the items' vectors, (m, d).

    U = (1/n) Σ_u Σ_j w_j s_uj + availability · mean over (u, j) not taken of (s_uj − clean_uj)²

    Args:
        clean: scores (n, m) of the model without fakes. taken: (n, m), 1 where u has j.
        targets: w (m,), the weight of each item in the integrity utility; 0 for no target.
    """
    n = len(users)
    total = users.sum(axis=0)                                  # (d,)
    utility = float(targets @ (items @ total)) / n
    pull = np.outer(targets, total) / n                        # (m, d)
    if availability:
        drift = np.where(taken > 0, 0.0, users @ items.T - clean)  # (n, m)
        count = max(float((taken == 0).sum()), 1.0)
        utility += availability * float((drift**2).sum()) / count
        pull = pull + 2 * availability * (drift.T @ users) / count
    return utility, pull
