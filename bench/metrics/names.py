"""The metrics by name: "ndcg@10", "auc", "target-hr@50"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.errors import InputError, nearest
from bench.metrics import accuracy
from bench.metrics.fair import EXPLICIT
from bench.metrics.ranks import Floats, Ranks


@dataclass(frozen=True)
class Spec:
    """What a metric's name stands for.

    Attributes:
        kind: "user" (a value per user from the ranks of its relevant items), "list" (a value
            per user from the items in its list), "catalogue" (one value from all lists),
            "graded" (as "user", from the ratings of those items as well),
            "target" (one value for the target items), "point" (one value from labelled pairs),
            "ratio" (a ratio of sums over users, by group too), "odds" (one value per attribute
            of users, from such ratios), "parity" (one value per attribute of users, from the
            lists of its groups), "due" (one value per attribute of items, and one per group),
            "rating" (one value from predicted ratings, or one per attribute).
        cutoff: whether "@K", a list of K items, must ("required"), may ("optional") or may not
            ("none") follow.
        better: "high", "low", or "" where neither is better.
        user: for kind "user", the function of ranks and K.
    """

    kind: str
    cutoff: str
    better: str = "high"
    user: Callable[[Ranks, int], Floats] | None = None


METRICS: dict[str, Spec] = {
    "hr": Spec("user", "required", user=accuracy.hr),
    "ndcg": Spec("user", "required", user=accuracy.ndcg),
    "ndcg-graded": Spec("graded", "required"),
    "recall": Spec("user", "required", user=accuracy.recall),
    "precision": Spec("user", "required", user=accuracy.precision),
    "f1": Spec("user", "required", user=accuracy.f1),
    "mrr": Spec("user", "optional", user=accuracy.mrr),
    "map": Spec("user", "optional", user=accuracy.average_precision),
    "auc": Spec("user", "none", user=accuracy.auc),
    "novelty": Spec("list", "required"),
    "arp": Spec("list", "required", better=""),
    "aplt": Spec("list", "required", better=""),
    "aplt-all": Spec("list", "required", better=""),
    "aclt": Spec("list", "required", better=""),
    "coverage": Spec("catalogue", "required"),
    "gini": Spec("catalogue", "required", better="low"),
    "popreo": Spec("catalogue", "required", better="low"),
    "poprsp": Spec("catalogue", "required", better="low"),
    "pru": Spec("catalogue", "none", better=""),
    "pri": Spec("catalogue", "none", better=""),
    "exposure-dp": Spec("due", "required"),
    "exposure-eo": Spec("due", "required"),
    "tpr": Spec("ratio", "required"),
    "fpr": Spec("ratio", "required", better=""),
    "equalised-odds": Spec("odds", "required", better="low"),
    "parity": Spec("parity", "required", better="low"),
    "differential-fairness": Spec("parity", "required", better="low"),
    "ks": Spec("parity", "none", better="low"),
    "wasserstein": Spec("parity", "none", better="low"),
    "rmse": Spec("rating", "none", better="low"),
    "mae": Spec("rating", "none", better="low"),
    **{name: Spec("rating", "none", better="low") for name in EXPLICIT},
    "target-hr": Spec("target", "required", better=""),
    "target-rank": Spec("target", "none", better=""),
    "point-auc": Spec("point", "none"),
    "point-pr-auc": Spec("point", "none"),
    "point-accuracy": Spec("point", "none"),
    "point-precision": Spec("point", "none"),
    "point-recall": Spec("point", "none"),
    "point-f1": Spec("point", "none"),
}


@dataclass(frozen=True)
class Metric:
    """A metric and its cut-off K (None: none, the full list)."""

    name: str
    k: int | None

    @property
    def spec(self) -> Spec:
        return METRICS[self.name]

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


def parse_metric(text: str) -> Metric:
    """The metric that a name such as "ndcg@10" stands for.

    Raises:
        InputError: unknown name, missing or superfluous @K, or K < 1.

    >>> parse_metric("ndcg@10")
    Metric(name='ndcg', k=10)
    """
    name, at, cut = str(text).strip().partition("@")
    if name not in METRICS:
        raise InputError(f"there is no metric {text!r}", hint=nearest(name, METRICS))
    cutoff = METRICS[name].cutoff
    if not at:
        if cutoff == "required":
            raise InputError(f"metric {text!r} needs a list length", hint=f"write {name}@10")
        return Metric(name, None)
    if cutoff == "none":
        raise InputError(f"metric {text!r} has no list length", hint=f"write {name}")
    if not re.fullmatch(r"[0-9]{1,9}", cut) or int(cut) < 1:
        raise InputError(f"the list length of metric {text!r} is a whole number from 1 on",
                         hint=f"write {name}@10")
    return Metric(name, int(cut))


def check_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """All of them parsed; InputError for the first that is not a metric or stands twice."""
    parsed = tuple(parse_metric(n) for n in names)
    for place, metric in enumerate(parsed):
        if metric in parsed[:place]:
            raise InputError(f"metric {str(metric)!r} stands twice", hint="name it once")
    return parsed
