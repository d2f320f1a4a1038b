"""Labelled pairs, all users pooled: how well scores tell liked from disliked (CATALOGUE H1).

Arguments are the labels (1 liked, 0 disliked) and the scores of the same pairs, shape (n,).
"""

from __future__ import annotations

import numpy as np

from bench.metrics.ranks import Floats, Ints

THRESHOLDED = ("point-accuracy", "point-precision", "point-recall", "point-f1")


def auc(labels: Ints, scores: Floats) -> float:
    """P(s_liked > s_disliked) + ½·P(equal), over all pairs. NaN if only one class is there.

    Liked: 3 and 1, disliked: 2 and 1. Won: 3>2, 3>1, half of 1=1.

    >>> auc(np.array([1, 0, 1, 0]), np.array([3.0, 2.0, 1.0, 1.0]))
    0.625
    """
    n_pos, n_neg = int(labels.sum()), int(len(labels) - labels.sum())
    if not n_pos or not n_neg:
        return float("nan")
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2  # mean ascending rank of each distinct score
    return float((rank[group][labels == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def pr_auc(labels: Ints, scores: Floats) -> float:
    """Average precision: Σ_n (R_n − R_{n−1})·P_n over the distinct scores from the highest on.

    Step-wise, not by trapezoids, which would be too good (Davis & Goadrich, ICML 2006). NaN if
    nothing is liked. Liked, disliked, liked from the top: ½·1 + 0 + ½·⅔.

    >>> round(pr_auc(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0])), 4)
    0.8333
    """
    if not labels.sum():
        return float("nan")
    _, group, size = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=labels)
    return float((hits * np.cumsum(hits) / np.cumsum(size)).sum() / labels.sum())


def at_half(labels: Ints, probabilities: Floats) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of "liked if p ≥ ½"; 0 where nothing is predicted or
    nothing is liked, as is usual.

    >>> at_half(np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.6, 0.1]))["point-f1"]
    0.5
    """
    said, liked = probabilities >= 0.5, labels == 1
    both = int((said & liked).sum())
    precision = both / max(int(said.sum()), 1)
    recall = both / max(int(liked.sum()), 1)
    return {"point-accuracy": float((said == liked).mean()) if len(labels) else float("nan"),
            "point-precision": precision, "point-recall": recall,
            "point-f1": 2 * both / max(int(said.sum()) + int(liked.sum()), 1)}


def probabilities(scores: Floats, kind: str) -> Floats | None:
    """Scores as probabilities by the model's `score_kind`: "logit", "probability", or else None.

    >>> probabilities(np.array([0.0]), "logit"), probabilities(np.array([7.0]), "other")
    (array([0.5]), None)
    """
    if kind == "logit":
        return 0.5 * (1.0 + np.tanh(0.5 * scores))  # the logistic function without overflow
    return scores if kind == "probability" else None


def measure(names: set[str], labels: Ints, scores: Floats,
            kind: str) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics named, and for those that are NaN the reason."""
    values: dict[str, float] = {}
    if "point-auc" in names:
        values["point-auc"] = auc(labels, scores)
    if "point-pr-auc" in names:
        values["point-pr-auc"] = pr_auc(labels, scores)
    p = probabilities(scores, kind)
    cut = at_half(labels, p) if p is not None else dict.fromkeys(THRESHOLDED, float("nan"))
    values |= {n: cut[n] for n in THRESHOLDED if n in names}
    why = {}
    for name, value in values.items():
        if np.isnan(value):
            one_class = "the labelled pairs of the split are not of both classes"
            why[name] = one_class if p is not None or name not in THRESHOLDED else \
                "the model's scores are neither probabilities nor logits: no threshold at ½"
    return values, why
