"""How much of an attribute can be read off vectors: a fresh classifier, and what it must exceed.

The auditor is always trained anew, on other users than it is judged on. An adversary that took
part in the training says nothing (CATALOGUE J 15): the model was trained to fool that very one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.metrics.groups import SMALLEST, user_groups

KINDS = ("logistic", "mlp")
FOLDS = 5


@dataclass(frozen=True)
class ProbeResult:
    """What a probe finds.

    Attributes:
        auc: P(a member of a class gets more of its probability than another user) + ½·P(equal),
            one class against the rest, the mean over folds and classes (over the one pair of two
            classes). 0.5 is chance.
        auc_low, auc_high: 95 % percentile interval over users, drawn with replacement within
            class and fold; the fitted classifiers stay as they are.
        balanced_accuracy: mean over classes of the share of their members found; chance is one
            over the number of classes. A class is predicted by p_c/π_c, π_c its share.
        accuracy: share found where the most probable class is predicted.
        majority: what accuracy predicting the largest class gives: what `accuracy` must exceed.
        floor_auc, floor_balanced_accuracy: means of the same over labels permuted among users:
            what a probe of this size finds in nothing.
        floor_auc_low, floor_auc_high: the lowest and highest AUC of those permutations. An AUC
            below the lowest is no absence of the attribute: whoever balanced the classes on these
            very users made each fold mirror the others, and an attacker may turn the answer round.
        p_value: (1 + permutations with an AUC at least as high) / (1 + permutations).
        users: how many users, by class. left_out: classes with too few users, and how many.
    """

    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    accuracy: float
    majority: float
    floor_auc: float
    floor_auc_low: float
    floor_auc_high: float
    floor_balanced_accuracy: float
    p_value: float
    users: dict[str, int]
    left_out: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def attribute_labels(data: Dataset, attribute: str) -> tuple[Ints, npt.NDArray[np.object_]]:
    """The genuine users who have one value of the attribute, and that value: (n,), (n,).

    Numbers with many values are cut into thirds, as groups are everywhere; "activity" is one.

    Raises:
        InputError: the data has no such attribute, or it has too many values.
    """
    groups = user_groups(data, attribute)
    labels = groups.label_of(data.n_genuine)
    one = sum(groups.members.values(), start=np.zeros(data.n_genuine)) == 1
    users = np.flatnonzero(one)
    return users, labels[users]


def probe(features: Any, labels: npt.NDArray[np.object_], ctx: Context, *,
          name: str = "probe", kind: str = "logistic", permutations: int = 20,
          draws: int = 1000, smallest: int = SMALLEST) -> ProbeResult:
    """Train a fresh classifier to tell the labels from the features, in 5 stratified folds.

    Args:
        features: array or sparse matrix (n, width); each column is brought to unit variance, by
            the training part alone.
        labels: one class per row, (n,).
        ctx: for folds, permutations and bootstrap, by name.
        name: of these streams: equal names on equal labels give equal folds.
        kind: "logistic" (ridge, C = 1: what is linearly there) or "mlp" (one hidden layer of 64).
        permutations: how often the labels are permuted for the floor.
        draws: of the bootstrap.
        smallest: classes with fewer users are left out and listed; at least one per fold.

    Returns:
        the result; NaN throughout where fewer than two classes are left.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {KINDS}, not {kind!r}")
    with ctx.seeded(name):  # importing scikit-learn draws from Python's generator
        return _probe(features, labels.astype(str), ctx, name, kind, permutations, draws,
                      max(smallest, FOLDS))


def _probe(features: Any, labels: npt.NDArray[np.str_], ctx: Context, name: str, kind: str,
           permutations: int, draws: int, smallest: int) -> ProbeResult:
    classes, counts = np.unique(labels, return_counts=True)
    enough = counts >= smallest
    sizes = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    left_out = {c: n for (c, n), keep in zip(sizes.items(), enough, strict=True) if not keep}
    kept = np.isin(labels, classes[enough])
    sizes = {c: n for c, n in sizes.items() if c not in left_out}
    if len(sizes) < 2:
        nan: dict[str, Any] = {f.name: float("nan") for f in fields(ProbeResult)}
        return ProbeResult(**nan | {"users": sizes, "left_out": left_out})
    x, y = features[kept], np.unique(labels[kept], return_inverse=True)[1]
    made = _Folds(x, y, kind, ctx.number(name, "folds") % 2**32)
    auc, boot = _auc(made, ctx.stream(name, "bootstrap"), draws)
    rng = ctx.stream(name, "permutations")
    floors = []
    for _ in range(permutations):
        folds = _Folds(x, rng.permutation(y), kind, int(rng.integers(2**32)))
        floors.append((_auc(folds)[0], folds.balanced_accuracy()))
    floor = np.array(floors or [(np.nan, np.nan)])  # (permutations, 2)
    low, high = np.quantile(boot, [0.025, 0.975]) if draws else (float("nan"), float("nan"))
    at_least = 1 + int((floor[:, 0] >= auc).sum())
    return ProbeResult(
        auc=auc, auc_low=float(low), auc_high=float(high),
        balanced_accuracy=made.balanced_accuracy(), accuracy=made.accuracy(),
        majority=float(np.bincount(y).max() / len(y)), floor_auc=float(floor[:, 0].mean()),
        floor_auc_low=float(floor[:, 0].min()), floor_auc_high=float(floor[:, 0].max()),
        floor_balanced_accuracy=float(floor[:, 1].mean()),
        p_value=at_least / (1 + permutations) if permutations else float("nan"),
        users=sizes, left_out=left_out)


class _Folds:
    """Out-of-fold probabilities: each row's come from a classifier that has not seen it.

    Attributes:
        y: classes 0 … C−1, (n,). p: probabilities, (n, C). fold: which fold a row is judged in.
    """

    def __init__(self, x: Any, y: Ints, kind: str, seed: int) -> None:
        from scipy.sparse import issparse
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.y, n_classes = y, int(y.max()) + 1
        self.p, self.prior = np.zeros((len(y), n_classes)), np.zeros((len(y), n_classes))
        self.fold = np.zeros(len(y), np.int64)
        splits = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y)
        for k, (seen, judged) in enumerate(splits):
            model = make_pipeline(StandardScaler(with_mean=not issparse(x)),
                                  _classifier(kind, seed))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x[seen], y[seen])
            self.p[judged] = model.predict_proba(x[judged])  # (judged, C)
            self.prior[judged] = np.bincount(y[seen], minlength=n_classes) / len(seen)
            self.fold[judged] = k

    def accuracy(self) -> float:
        return float((self.p.argmax(axis=1) == self.y).mean())

    def balanced_accuracy(self) -> float:
        right = (self.p / self.prior).argmax(axis=1) == self.y
        return float(np.mean([right[self.y == c].mean() for c in range(self.p.shape[1])]))

    def pairs(self) -> Iterator[tuple[Floats, Floats]]:
        """Per fold and class (for two classes, one of them): its probability among members and
        among the rest."""
        classes = range(self.p.shape[1]) if self.p.shape[1] > 2 else [1]
        for k in range(FOLDS):
            here = self.fold == k
            for c in classes:
                yield self.p[here & (self.y == c), c], self.p[here & (self.y != c), c]


def _classifier(kind: str, seed: int) -> Any:
    if kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1.0, max_iter=500)
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((64,), alpha=0.01, max_iter=200, random_state=seed)


def _auc(folds: _Folds, rng: np.random.Generator | None = None,
         draws: int = 0) -> tuple[float, Floats]:
    """The AUC, mean over folds and classes, and its value in each bootstrap draw (draws,)."""
    values, drawn, parts = 0.0, np.zeros(draws), 0
    for inside, rest in folds.pairs():
        won = (inside[:, None] > rest) + 0.5 * (inside[:, None] == rest)  # (inside, rest)
        values, parts = values + float(won.mean()), parts + 1
        if draws and rng is not None:
            often = [rng.multinomial(n, np.full(n, 1 / n), draws) / n  # (draws, n), sums to 1
                     for n in won.shape]
            drawn += ((often[0] @ won) * often[1]).sum(axis=1)
    return values / parts, drawn / parts
