"""Find fake users by how little they vary with everybody else, and train without them."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, param
from bench.data import Floats
from bench.detection import Detector, outlying
from bench.detection_metrics import Flags


class PcaFilter(Detector):
    """PCA-VarSelect (Mehta and Nejdl, UMUAI 2009), with a threshold that the data give.

    Each user's row over the whole catalogue (ratings, 0 where there is none; 1 and 0 where the
    data is implicit) is brought to mean 0 and deviation 1. A user's score is the sum of squared
    entries in the first `components` eigenvectors of the covariance of users: near 0 for
    profiles that share no taste with anybody, as heuristic fakes do. The paper flags the r lowest
    for a known number r of fakes; a defender does not know r, so users are flagged whose log
    score lies `threshold` robust deviations (1.4826 · median absolute deviation) below the
    median; 3.5 is the usual cut for outliers (Iglewicz and Hoaglin, 1993). At most `max_share`
    of the users are flagged, lowest first.

    Flagged users lose their train rows and keep their place: a genuine user flagged by mistake is
    evaluated as one without a history. Works with every model. Adaptive attack: profiles that
    copy genuine co-occurrence (bandwagon, popularity sampling, power users) pass.

    Example: defenses: [{pca-filter: {threshold: 3.5}}]
    """

    name = "pca-filter"
    components: int = param(3, "how many eigenvectors a user's score sums over", low=1)
    threshold: float = param(3.5, "robust deviations below the median log score from which a "
                             "user is flagged", above=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.max_share and self.components > data.n_users - 2:
            return (f"the first {self.components} components of {data.n_users} users leave "
                    "nothing to tell them apart by")
        return None

    def suspicion(self, data: Dataset, ctx: Context) -> Floats:
        return -pca_scores(data, self.components)

    def doubtful(self, suspicion: Floats) -> Flags:
        logs = np.log(np.maximum(-suspicion, 1e-300))
        return outlying(-logs, self.threshold)


def pca_scores(data: Dataset, components: int = 3) -> Floats:
    """PCA-VarSelect's score of each user, (n_users,): low is suspicious, NaN has no row.

    The covariance of z-scored rows is never formed: ARPACK asks for products with the sparse
    rows only, which costs O(train rows) each. Its start is fixed, and squares have no sign, so
    that the same data give the same scores.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import LinearOperator, eigsh

    rows = data.train
    n, m = data.n_users, data.n_items
    values = np.ones(len(rows)) if rows.ratings is None else rows.ratings
    taken = csr_matrix((values, (rows.users, rows.items)), shape=(n, m))
    mean = np.asarray(taken.sum(axis=1)).ravel() / m
    variance = np.asarray(taken.multiply(taken).sum(axis=1)).ravel() / m - mean**2
    known = variance > 1e-12
    scale = np.where(known, 1.0 / np.sqrt(np.where(known, variance, 1.0)), 0.0)

    def covariance(vector: Floats) -> Floats:
        weighted = vector.ravel() * scale
        per_item = taken.T @ weighted - mean @ weighted  # (m,), Zᵀ v
        product: Floats = scale * (taken @ per_item - mean * per_item.sum())  # (n,), Z Zᵀ v
        return product

    scores = np.full(n, np.nan)
    if known.sum() <= components + 1:
        return scores
    start = np.random.default_rng(0).standard_normal(n)
    _, vectors = eigsh(LinearOperator((n, n), matvec=covariance, dtype=np.float64),
                       k=components, v0=start, which="LA")
    scores[known] = (vectors[known]**2).sum(axis=1)
    return scores
