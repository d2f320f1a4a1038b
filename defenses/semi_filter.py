"""Find fake users by how they rate, learning from few labels and from everybody else."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.detection import TrainedDetector
from bench.detection_features import (
    entropy,
    fmtd,
    length_variance,
    parts,
    rdma,
    similarity_degree,
)
from bench.detection_metrics import Flags


class SemiFilter(TrainedDetector):
    """Semi-SAD: naive Bayes on five features of a profile, improved by EM on unlabelled users.

    Features: H, the entropy of the ratings of a profile; DegSim, the mean similarity with the
    `neighbours` most similar users; LengthVar, how far the profile's length is from the mean;
    RDMA, the deviation from the items' means, items with few ratings counting more; FMTD, the
    difference between the suspected targets' ratings and the rest (see
    `bench.detection_features` for each formula). A Gaussian naive Bayes is learned from labelled
    users, then EM-λ: the class probabilities of the unlabelled users are computed (E), and
    priors, means and variances again from labelled users at weight 1 and unlabelled ones at
    weight λ times their probability (M). J. Cao, Z. Wu, B. Mao and Y. Zhang, "Shilling Attack
    Detection Utilizing Semi-supervised Learning Method for Collaborative Recommender System",
    World Wide Web 16(5-6), 2013.

    The labelled fakes are of the defender's own making (see `trained_on`). Nobody hands it
    labelled genuine users either: it takes a share `assumed` of the received users, drawn at
    random, for genuine; the rest are unlabelled. Suspicion is the log odds, by a classifier that
    did not see the user's label: received users who are judged take part as unlabelled, own fakes
    not at all. H, RDMA and FMTD need ratings: on implicit data the filter has
    DegSim (as a cosine) and LengthVar alone, and the report lists the features used. Works with
    every model. Flagged users lose their train rows and keep their place.

    Knowledge: train rows, and the attacks named in `trained_on`. Adaptive attack: profiles that
    copy a genuine user's ratings (power users), or add noise to ratings and lengths.

    Args:
        trained_on, train_budget, folds: which attacks make its examples, and how many.
        neighbours: k of DegSim (28 in SDLib's configuration).
        weight: λ of the unlabelled users (0.5 there); 0 learns from labels alone.
        rounds: of EM. assumed: share of received users taken for genuine.
        false_alarm_cost, max_share: where it flags.

    Shapes: features (users, 5), or (users, 2) on implicit data; suspicion (users,).

    Example: defenses: [{semi-filter: {weight: 0.5, trained_on: average-profiles}}]
    """

    name = "semi-filter"
    neighbours: int = param(28, "how many most similar users DegSim is the mean over", low=1)
    weight: float = param(0.5, "weight λ of an unlabelled user against a labelled one", low=0,
                          high=1)
    rounds: int = param(20, "how often EM repeats", low=0)
    assumed: float = param(0.25, "share of received users that are taken for genuine", above=0,
                           high=1)

    def judge(self, data: Dataset, campaign: Ints, ctx: Context) -> Floats:
        features = {"DegSim": similarity_degree(data, self.neighbours),
                    "LengthVar": length_variance(data)}
        if data.train.ratings is not None:
            features |= {"H": entropy(data), "RDMA": rdma(data), "FMTD": fmtd(data)}
        ctx.notes["features"] = sorted(features)
        table = np.column_stack(list(features.values()))  # (users, k)
        known = np.isfinite(table).all(axis=1)
        fake, fold = campaign >= 0, parts(campaign, self.folds, ctx)
        trusted = ctx.stream(self.name, "assumed").random(len(fake)) < self.assumed
        found = np.full(len(fake), np.nan)
        for part in range(self.folds):
            judged = known & (fold == part)
            labelled = known & ~judged & (fake | trusted)
            free = known & ~labelled & ~fake
            if judged.any() and fake[labelled].any() and not fake[labelled].all():
                odds = NaiveBayes(table[labelled], fake[labelled], table[free], self.weight,
                                  self.rounds)
                found[judged] = odds(table[judged])
        return found

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"train_budget": 0.3, "folds": 2, "neighbours": 5}


class NaiveBayes:
    """Gaussian naive Bayes by EM-λ; called with features (n, k), it gives log odds (n,).

    Args:
        features, labels: of the labelled users, (n, k) and (n,); True is fake.
        free: features of the unlabelled users, (m, k).
        weight: λ. rounds: how often E and M are repeated after the labels alone.
    """

    def __init__(self, features: Floats, labels: Flags, free: Floats, weight: float,
                 rounds: int) -> None:
        self.middle, self.scale = features.mean(axis=0), features.std(axis=0)
        self.scale = np.where(self.scale > 0, self.scale, 1.0)
        sure = np.column_stack([~labels, labels]).astype(np.float64)  # (n, 2)
        x = self._units(features)
        self._maximise(x, sure)
        if not weight or not len(free):
            return
        both = np.concatenate([x, self._units(free)])
        for _ in range(rounds):
            chance = 1 / (1 + np.exp(-np.clip(self(free), -700, 700)))  # (m,), E step
            soft = weight * np.column_stack([1 - chance, chance])
            self._maximise(both, np.concatenate([sure, soft]))

    def _units(self, features: Floats) -> Floats:
        units: Floats = (features - self.middle) / self.scale
        return units

    def _maximise(self, x: Floats, weight: Floats) -> None:
        """Priors (2,), means (2, k) and variances (2, k) of users x (n, k) with weights (n, 2)."""
        total = weight.sum(axis=0)
        self.prior = total / total.sum()
        self.mean = (weight.T @ x) / total[:, None]
        square = (weight.T @ x**2) / total[:, None]
        # as in scikit-learn, a variance is kept off zero by 1e-9 of the largest
        self.variance = np.maximum(square - self.mean**2, 0.0) + 1e-9 * x.var(axis=0).max()

    def __call__(self, features: Floats) -> Floats:
        x = self._units(features)[:, None, :]  # (n, 1, k)
        log = np.log(self.prior) - 0.5 * (
            np.log(2 * np.pi * self.variance) + (x - self.mean)**2 / self.variance).sum(axis=2)
        odds: Floats = log[:, 1] - log[:, 0]  # (n,)
        return odds
