"""Find fake users by spreading suspicion from known ones over the items they share."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.detection import TrainedDetector
from bench.detection_features import activity, parts
from bench.detection_metrics import Flags


class FapFilter(TrainedDetector):
    """Fraudulent action propagation over the graph of users and items.

    The edge of user u and item i weighs w_ui = 1 + |r − μ_u|/μ_u + |r − μ_i|/μ_i + |r − μ|/μ
    (without ratings: 1), so that unusual ratings carry more. With each row brought to sum 1,
    p_items = T_IU · p_users and p_users = T_UI · p_items are repeated, known fakes being put back
    to 1 before each step; p_users is the suspicion. Y. Zhang, Y. Tan, M. Zhang, Y. Liu, T. Chua
    and S. Ma, "Catch the Black Sheep: Unified Framework for Shilling Attack Detection Based on
    Fraudulent Action Propagation", IJCAI 2015.

    With fakes alone as seeds on a connected graph the fixed point is 1 for everybody, whoever
    they are: only the order tells anything, and it does so from the start. So the number of
    steps is fixed and the values are ranked, not compared with ½; all others start at 0.

    Seeds are fakes that the defender makes (see `trained_on`), in `folds` campaigns with targets
    of their own: own fakes of one are judged by seeds of the others, a received user by the mean
    over all. What the received fakes have in common with the seeds is the way of choosing items,
    not the targets: expect little of it against an attack unlike those. Works with every model.
    Flagged users lose their train rows and keep their place.

    Knowledge: train rows, and the attacks named in `trained_on`. Adaptive attack: profiles whose
    items are those of genuine users (popularity sampling, power users).

    Args:
        trained_on, train_budget, folds: which attacks make its seeds, how many, and how they
            are split.
        steps: how often suspicion travels to items and back.
        false_alarm_cost, max_share: where it flags.

    Shapes: transitions (users, items) sparse, suspicion (users,).

    Example: defenses: [{fap-filter: {steps: 5, trained_on: average-profiles}}]
    """

    name = "fap-filter"
    steps: int = param(5, "how often suspicion travels to items and back", low=1)

    def judge(self, data: Dataset, campaign: Ints, ctx: Context) -> Floats:
        fake, fold = campaign >= 0, parts(campaign, self.folds, ctx)
        total, judges = np.zeros(data.n_users), np.zeros(data.n_users)
        for part in range(self.folds):
            seeds = fake & (fold != part)
            if seeds.any():
                judged = ~fake | (fold == part)
                total[judged] += propagate(data, seeds, self.steps)[judged]
                judges[judged] += 1
        known = (activity(data) > 0) & (judges > 0)
        return np.where(known, total / np.maximum(judges, 1), np.nan)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"train_budget": 0.3, "folds": 2}


def propagate(data: Dataset, seeds: Flags, steps: int, start: Floats | None = None) -> Floats:
    """Suspicion of each user after so many steps from the seeds: (n_users,), seeds 1.

    `start` is that of the others, (n_users,), 0 if not given (the authors draw it at random).
    """
    from scipy.sparse import csr_matrix, diags

    rows = data.train
    weight = csr_matrix((edge_weights(data), (rows.users, rows.items)),
                        shape=(data.n_users, data.n_items))

    def to_one(table: csr_matrix) -> csr_matrix:
        sums = np.asarray(table.sum(axis=1)).ravel()
        return diags(np.where(sums > 0, 1.0 / np.where(sums > 0, sums, 1.0), 0.0)) @ table

    to_users, to_items = to_one(weight), to_one(weight.T.tocsr())  # (n, m), (m, n)
    found = np.where(seeds, 1.0, 0.0 if start is None else start)  # (n,)
    for _ in range(steps):
        found = to_users @ (to_items @ found)  # (n,)
        found[seeds] = 1.0
    return found


def edge_weights(data: Dataset) -> Floats:
    """1 + |r − μ_u|/μ_u + |r − μ_i|/μ_i + |r − μ|/μ of each train row: (rows,)."""
    rows = data.train
    if rows.ratings is None:
        return np.ones(len(rows))
    weight = np.ones(len(rows))
    for group in (rows.users, rows.items, np.zeros(len(rows), np.int64)):
        mean = np.bincount(group, rows.ratings) / np.maximum(np.bincount(group), 1)
        middle = mean[group]
        safe = np.where(middle != 0, np.abs(middle), 1.0)  # a mean of 0 has no relative deviation
        weight += np.where(middle != 0, np.abs(rows.ratings - middle) / safe, 0.0)
    return weight
