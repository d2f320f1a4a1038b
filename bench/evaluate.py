"""Evaluation: full ranking of every genuine user, ties in expectation, values per user kept.

The whole catalogue is ranked for each user; what was known before the split is masked; injected
users are never counted. Exact definitions: `bench.metrics`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.metrics.names import Metric as Metric
from bench.metrics.names import check_metrics as check_metrics
from bench.metrics.names import parse_metric as parse_metric
from bench.metrics.plan import Plan, make_plan
from bench.metrics.ranks import Ranks

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.data import Dataset, Ints
    from bench.models.base import Recommender


@dataclass
class Evaluation:
    """What one evaluation found.

    Attributes:
        values: (metric, group, value); group is "all" or "attribute=value".
        users: columns with an entry per evaluated user: "user" (outside id), each per-user
            metric by its name, "group:<attribute>" (the user's group, "" for none).
        items: columns with an entry per item: "item" (outside id), "popularity" (clean train
            count), "eligible" (users who do not have it), "exposure@K", "mean-rank".
        facts: users_evaluated, users_skipped, tie_share, score_seconds, score_users_per_s, ….
    """

    values: list[tuple[str, str, float]] = field(default_factory=list)
    users: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    items: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def _plan(data: Dataset, split: str, mask: str) -> Plan:
    """The plan, made once per dataset: validation asks for it after every epoch. It is kept
    where `cached_property` keeps values, so a changed copy of the dataset does not inherit it."""
    key = f"_plan {split} {mask}"
    if key not in data.__dict__:
        data.__dict__[key] = make_plan(data, split, mask)
    plan: Plan = data.__dict__[key]
    return plan


def _quiet(model: Recommender) -> contextlib.AbstractContextManager[Any]:
    evaluating = getattr(model, "evaluating", None)
    return contextlib.nullcontext() if evaluating is None else evaluating()


def validation_score(model: Recommender, metric: str) -> float:
    """Mean over users of a per-user accuracy metric on the validation split of `model.data`.

    Raises:
        InputError: the metric is none that decides when to stop, or nobody can be validated on.
    """
    import torch

    from bench.metrics._stream import stream

    asked = parse_metric(metric)
    if asked.spec.user is None:
        raise InputError(f"metric {metric!r} cannot decide when training stops",
                         hint="validate takes an accuracy metric such as ndcg@10")
    plan = _plan(model.data, "valid", "known").evaluated_only()
    if not plan.n_evaluated:
        raise InputError(f"dataset {model.data.name!r} has no positive validation items",
                         hint="split with a validation part, or set patience: 0")
    with torch.no_grad(), _quiet(model):
        c = stream(model, model.data, plan, split="valid", cutoffs=(), lists=False)
    ranks = Ranks.make(plan.pair_owner, c.better, c.tied, c.eligible)
    return float(np.mean(asked.spec.user(ranks, asked.k or model.data.n_items)))


def evaluate(model: Recommender, data: Dataset, metrics: Sequence[str], *,
             groups: Any = None, targets: Ints | None = None, defense: Defense | None = None,
             split: str = "test", block: int = 0, mask: str = "known") -> Evaluation:
    """Rank the whole catalogue for every genuine user and measure."""
    import torch

    from bench.metrics._stream import stream

    asked = check_metrics(metrics)
    plan = _plan(data, split, mask).evaluated_only()
    with torch.no_grad(), _quiet(model):
        c = stream(model, data, plan, split=split, cutoffs=(), lists=False, defense=defense,
                   block=block)
    ranks = Ranks.make(plan.pair_owner, c.better, c.tied, c.eligible)
    result = Evaluation()
    result.users["user"] = np.array(data.user_ids, object)[plan.users]
    for metric in asked:
        if metric.spec.user is not None:
            per_user = metric.spec.user(ranks, metric.k or data.n_items)
            result.users[str(metric)] = per_user
            result.values.append((str(metric), "all", float(per_user.mean())))
    result.facts = {"users_evaluated": plan.n_evaluated, "users_skipped": plan.skipped,
                    "score_seconds": c.seconds,
                    "score_users_per_s": c.scored / c.seconds if c.seconds else float("nan")}
    return result
