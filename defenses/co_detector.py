"""Find fake users by vectors learned from what they rated and whom they resemble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.detection import TrainedDetector
from bench.detection_features import activity, entropy_tree, judged_by_others
from bench.detection_metrics import Flags
from bench.errors import PluginError


class CoDetector(TrainedDetector):
    """CoDetector: user vectors shared by matrix factorisation and a user–user embedding.

    Minimises Σ (r_ui − p_u·q_i)² over the ratings plus Σ (m_uv − p_u·g_v − w_u − c_v)² over the
    pairs of users with m_uv > 0, plus `reg` · the squared lengths of a row's vector for each of
    its terms. m is the shifted positive pointwise mutual information of users by the items they
    share, m_uv = max(0, log₂(#(u,v) · D / (#u · #v)) − log₂ `negatives`), brought to a largest
    value of 1; #(u,v) counts common items where there are more than `overlap`, #u = Σ_v #(u,v),
    D = Σ_u #u. A decision tree (entropy criterion) then learns from p_u who is fake. T. Dou,
    J. Yu, Q. Xiong, M. Gao, Y. Song and Q. Fang, "Collaborative Shilling Detection Bridging
    Factorization and User Embedding", CollaborateCom 2017.

    Solved by alternating least squares, each block exactly, where the authors' code takes
    stochastic steps. SDLib's configuration for sparse Amazon data shifts by 256 negatives; on
    dense data no pair lies 8 bits above chance and the term would be empty, so the default is 1,
    and the report says how many pairs were used. Without ratings r is 1 for the train rows and 0
    for as many items drawn for each user. Labels come from fakes that the defender makes (see
    `trained_on`); suspicion is the share of own fakes in a user's leaf, of a tree learned without
    that user. Works with every model. Flagged users lose their train rows and keep their place.

    Knowledge: train rows, and the attacks named in `trained_on`. Adaptive attack: profiles that
    share items with genuine users as these do among themselves (power users).

    Args:
        trained_on, train_budget, folds: which attacks make its examples, and how many.
        dim, sweeps, reg, negatives, overlap: of the vectors. depth, leaf: of the tree.
        false_alarm_cost, max_share: where it flags.

    Shapes: p (users, dim), q (items, dim), g (users, dim), w and c (users,).

    Example: defenses: [{co-detector: {dim: 10, negatives: 1}}]
    """

    name = "co-detector"
    dim: int = param(10, "length of the vectors", low=1, high=1024)
    sweeps: int = param(10, "how often all vectors are solved for in turn", low=1)
    reg: float = param(0.1, "weight of a vector's squared length, for each of its terms", above=0)
    negatives: float = param(1.0, "shift of the mutual information: log₂ of this is taken off",
                             above=0)
    overlap: int = param(4, "common items that a pair of users must exceed", low=0)
    depth: int = param(4, "most questions from the root of the tree to a leaf", low=1)
    leaf: int = param(10, "fewest users in a leaf", low=1)

    def judge(self, data: Dataset, campaign: Ints, ctx: Context) -> Floats:
        pairs = sppmi(data, self.negatives, self.overlap)
        if not pairs.nnz:
            raise PluginError(f"{self.name}: no two users share more items than log₂ negatives "
                              "above chance, so there is no embedding to learn; lower negatives "
                              "or overlap")
        ctx.notes["pairs"] = int(pairs.nnz)
        ratings, given = rating_table(data, ctx)
        vectors = Factors(ratings, given, pairs, self.dim, self.reg,
                          ctx.stream(self.name, "start"))
        for _ in range(self.sweeps):
            vectors.sweep()
        vectors.p[activity(data) == 0] = np.nan

        def learn(features: Floats, labels: Flags, fold: int) -> Callable[[Floats], Floats]:
            return entropy_tree(features, labels, self.depth, self.leaf, ctx, fold)

        return judged_by_others(vectors.p, campaign, self.folds, ctx, learn)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"train_budget": 0.3, "folds": 2, "leaf": 2, "dim": 4, "sweeps": 3, "overlap": 2}


def sppmi(data: Dataset, negatives: float, overlap: int) -> Any:
    """Shifted positive mutual information of users, sparse (n_users, n_users), largest value 1."""
    from scipy.sparse import csr_matrix

    rows = data.train
    has = csr_matrix((np.ones(len(rows)), (rows.users, rows.items)),
                     shape=(data.n_users, data.n_items))
    common = (has @ has.T).tolil()
    common.setdiag(0)
    common = common.tocoo()
    keep = common.data > overlap
    u, v, count = common.row[keep], common.col[keep], common.data[keep]
    total = np.bincount(u, count, data.n_users)
    bits = np.log2(count * total.sum() / (total[u] * total[v])) - np.log2(negatives)
    above = bits > 0
    largest = bits.max() if above.any() else 1.0
    return csr_matrix((bits[above] / largest, (u[above], v[above])),
                      shape=(data.n_users, data.n_users))


def rating_table(data: Dataset, ctx: Context) -> tuple[Any, Any]:
    """What the vectors explain, and 1 where they shall: both sparse (users, items)."""
    from scipy.sparse import csr_matrix

    rows, shape = data.train, (data.n_users, data.n_items)
    users, items = rows.users, rows.items
    values = np.ones(len(rows)) if rows.ratings is None else rows.ratings
    if rows.ratings is None:  # ones alone would be explained by equal vectors for everybody
        drawn = ctx.stream("co-detector", "zeros").integers(data.n_items, size=len(rows))
        taken = np.isin(users * data.n_items + drawn, users * data.n_items + items)
        zeros = np.unique((users * data.n_items + drawn)[~taken])
        users, items = np.r_[users, zeros // data.n_items], np.r_[items, zeros % data.n_items]
        values = np.r_[values, np.zeros(len(zeros))]
    return (csr_matrix((values, (users, items)), shape=shape),
            csr_matrix((np.ones(len(users)), (users, items)), shape=shape))


class Factors:
    """p, q, g, w and c, and one round of solving for each of them.

    Args:
        ratings, given: values, and ones where they are: sparse (users, items).
        pairs: m, sparse (users, users).
    """

    def __init__(self, ratings: Any, given: Any, pairs: Any, dim: int, reg: float,
                 rng: np.random.Generator) -> None:
        n, m = ratings.shape
        self.r, self.r_t, self.given, self.given_t = ratings, ratings.T.tocsr(), given, given.T
        self.m, self.m_t = pairs, pairs.T.tocsr()
        self.near = (pairs > 0).astype(np.float64)
        self.near_t, self.reg = self.near.T.tocsr(), reg
        self.p, self.q, self.g = (rng.random((k, dim)) / 20 for k in (n, m, n))
        self.w, self.c = np.zeros(n), np.zeros(n)

    def sweep(self) -> None:
        """Each block at its best, the others held."""
        self.p = self._solve([(self.r @ self.q, self.given, self.q),
                              (self._rest(self.m, self.near, self.w, self.c) @ self.g,
                               self.near, self.g)])
        self.q = self._solve([(self.r_t @ self.p, self.given_t, self.p)])
        self.g = self._solve([(self._rest(self.m_t, self.near_t, self.c, self.w) @ self.p,
                               self.near_t, self.p)])
        self.w = self._bias(self.m, self.near, self.p, self.g, self.c)
        self.c = self._bias(self.m_t, self.near_t, self.g, self.p, self.w)

    def loss(self) -> float:
        """The value that no part of a sweep raises."""
        total = 0.0
        for table, mask, right, w, c in (
                (self.r, self.given, self.q, np.zeros_like(self.w), np.zeros(len(self.q))),
                (self.m, self.near, self.g, self.w, self.c)):
            at = mask.tocoo()
            said = (self.p[at.row] * right[at.col]).sum(axis=1) + w[at.row] + c[at.col]
            total += float(((np.asarray(table[at.row, at.col]).ravel() - said)**2).sum())
        for vectors, masks in ((self.p, [self.given, self.near]), (self.q, [self.given_t]),
                               (self.g, [self.near_t])):
            total += self.reg * float((_terms(masks) * (vectors**2).sum(axis=1)).sum())
        return total

    def _solve(self, sides: list[tuple[Floats, Any, Floats]]) -> Floats:
        """Ridge regression per row: Σ over sides of (right-hand side (n, k), mask (n, m), the
        vectors (m, k) that explain)."""
        k = sides[0][0].shape[1]
        square = np.sum([mask @ np.einsum("mi,mj->mij", x, x).reshape(len(x), k * k)
                         for _, mask, x in sides], axis=0).reshape(-1, k, k)  # (n, k, k)
        terms = _terms([mask for _, mask, _ in sides])
        ridge = self.reg * np.maximum(terms, 1.0)[:, None, None] * np.eye(k)
        right = np.sum([side for side, _, _ in sides], axis=0)  # (n, k)
        solved: Floats = np.linalg.solve(square + ridge, right[:, :, None])[:, :, 0]
        return solved

    @staticmethod
    def _rest(m: Any, near: Any, w: Floats, c: Floats) -> Any:
        """m less both biases where it is above 0: sparse, as m."""
        from scipy.sparse import diags

        return m - diags(w) @ near - near @ diags(c)

    @staticmethod
    def _bias(m: Any, near: Any, left: Floats, right: Floats, other: Floats) -> Floats:
        """Mean over a row's pairs of what vectors and the other bias leave: (n,)."""
        count = np.asarray(near.sum(axis=1)).ravel()
        left_over = np.asarray(m.sum(axis=1)).ravel() - near @ other \
            - (left * (near @ right)).sum(axis=1)
        return np.where(count > 0, left_over / np.maximum(count, 1), 0.0)


def _terms(masks: list[Any]) -> Floats:
    """How many terms each row has: (n,)."""
    counts: Floats = np.sum([np.asarray(mask.sum(axis=1)).ravel() for mask in masks], axis=0)
    return counts
