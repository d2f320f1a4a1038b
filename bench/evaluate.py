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
from bench.metrics import beyond, fair, pointwise
from bench.metrics._between import NO_GROUPS, SMALL, between, ratings, watch_for
from bench.metrics._items import NO_GROUPS as NO_ITEM_GROUPS
from bench.metrics._items import by_item_group
from bench.metrics._pass import Pass
from bench.metrics.exposure import item_table, target_hr, target_rank
from bench.metrics.groups import (
    SMALLEST,
    Grouping,
    Groups,
    check_groups,
    gap,
    group_means,
    item_groups,
    user_groups,
)
from bench.metrics.names import Metric as Metric
from bench.metrics.names import check_metrics as check_metrics
from bench.metrics.names import parse_metric as parse_metric
from bench.metrics.plan import Plan, make_plan
from bench.metrics.ranks import Floats, Ints, Ranks

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.data import Dataset
    from bench.models.base import Recommender


@dataclass
class Evaluation:
    """What one evaluation found.

    Attributes:
        values: (metric, group, value); group is "all" or "attribute=value". What compares all
            groups of an attribute names it in the metric: "parity@10:gender".
        users: columns with an entry per evaluated user: "user" (outside id), each per-user
            metric by its name, "group:<attribute>" (the user's group, "" for none).
        items: columns with an entry per item: "item" (outside id), "popularity" (clean train
            count), "eligible" (users who do not have it), "exposure@K", "mean-rank".
        facts: users_evaluated, users_skipped; test_rows_known (positives of the split that are
            masked: not to be found); tie_share (users whose list ends inside a tie; the largest
            over the cut-offs) and tie_share_at (by K); undefined (metric -> why it is NaN, or
            for whom); group_sizes, small_groups (enter no gap), group_missing, item_groups;
            point_pairs, point_positives, score_kind. And two times, which alone differ from
            run to run: score_seconds (the model's scoring and a defense's re-ranking, ranking
            left out, after a warm-up) and score_users_per_s.
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
    """Mean over users of a per-user accuracy metric on the validation split of `model.data`;
    users for whom it is undefined are left out, as in `evaluate`.

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
    return _mean(asked.spec.user(ranks, asked.k or model.data.n_items))


def evaluate(model: Recommender, data: Dataset, metrics: Sequence[str], *,
             groups: Grouping | None = None, targets: Ints | Sequence[int] | None = None,
             defense: Defense | None = None, split: str = "test", block: int = 0,
             mask: str = "known") -> Evaluation:
    """Rank the whole catalogue for every genuine user and measure.

    Args:
        model: trained; scores blocks of users on `model.ctx.device`.
        data: the dataset before any defense cleaned it (its train split says what is masked and
            what is popular); injected users in it are not counted anywhere.
        metrics: names such as "ndcg@10"; `bench.metrics.names.METRICS` lists them. Metrics of
            targets are left out where no targets are given.
        groups: attributes of users and items to group by (`.users`, `.items`).
        targets: indices of the items that an attack promotes.
        defense: re-ranks the scores, where it overrides `rerank`.
        split: "test", or "valid".
        block: users scored at once; 0: as many as keep a block of scores near 8 MB. No value
            depends on it (the model's own rounding apart).
        mask: "known" masks what the user took before the split; "none" ranks that too, as some
            papers do.

    Raises:
        ScoreError: a score is NaN or infinite, or the scores have another shape.
        InputError: unknown metric or attribute, or nobody has a positive in the split.
    """
    import torch

    from bench.metrics._stream import stream

    asked = check_metrics(metrics)
    grouping = groups if groups is not None else _NoGroups()
    check_groups(data, grouping)
    wanted = _targets(targets, data)
    plan = _plan(data, split, mask)
    if not plan.n_evaluated:
        raise InputError(f"no user of dataset {data.name!r} has a positive {split} item that is "
                         "not masked", hint="check the split and the rating threshold")
    cutoffs = tuple(sorted({m.k for m in asked if m.k is not None}))
    columns = beyond.columns(data, {m.name for m in asked})
    by_group = {a: user_groups(data, a) for a in grouping.users}
    watch = watch_for(asked, by_group, plan, data, model.ctx.device)
    with torch.no_grad(), _quiet(model):
        counts = stream(model, data, plan, split=split, cutoffs=cutoffs, defense=defense,
                        columns=[values for values, _ in columns.values()], block=block,
                        watch=watch)
    pass_ = Pass(model, data, plan, counts, cutoffs, columns, split)
    result = Evaluation()
    result.users["user"] = np.array(data.user_ids, object)[plan.users[:plan.n_evaluated]]
    result.items = {"item": np.array(data.item_ids, object), "popularity": data.popularity,
                    **item_table(counts, plan, data.n_items, cutoffs)}
    _facts(result, pass_)
    for metric in asked:
        if metric.spec.kind in ("user", "list", "graded"):
            result.users[str(metric)] = pass_.per_user(metric)
            result.values.append((str(metric), "all", _mean(result.users[str(metric)])))
        elif metric.spec.kind == "catalogue":
            result.values.append((str(metric), "all", pass_.catalogue(metric)))
        elif metric.spec.kind == "target" and wanted is not None:
            value = target_rank(result.items["mean-rank"], wanted) if metric.k is None else \
                target_hr(result.items[f"exposure@{metric.k}"], wanted)
            result.values.append((str(metric), "all", value))
        elif metric.spec.kind == "ratio":
            result.values.append((str(metric), "all", pass_.rate(metric)(metric)))
    _point(result, pass_, asked)
    for made in by_group.values():
        _by_user_group(result, pass_, asked, made)
    measured, undefined = between(asked, by_group, plan, watch)
    rated, unrated = ratings(model, data, asked, by_group, split)
    result.values += measured + rated
    for attribute in grouping.items:
        made = item_groups(data, attribute)
        compared, uncompared = by_item_group(asked, made, pass_.exposures, pass_.relevant)
        result.values += compared
        undefined |= uncompared
        result.facts.setdefault("item_groups", {}).update({
            f"{attribute}={label}": int((weight > 0).sum())
            for label, weight in made.members.items()})
    undefined |= _ungrouped(asked, grouping, result)
    if undefined or unrated:
        result.facts["undefined"] = result.facts.get("undefined", {}) | undefined | unrated
    return result


class _NoGroups:
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


def _targets(targets: Ints | Sequence[int] | None, data: Dataset) -> Ints | None:
    if targets is None or not len(targets):
        return None
    wanted = np.asarray(targets, np.int64)
    if wanted.min() < 0 or wanted.max() >= data.n_items:
        raise ValueError(f"targets are item indices from 0 to {data.n_items - 1}")
    return wanted


def _mean(values: Floats) -> float:
    """Mean of what is defined; NaN if nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _facts(result: Evaluation, p: Pass) -> None:
    n = p.plan.n_evaluated
    shares = {k: p.counts.tie_share(place, k, n) for place, k in enumerate(p.cutoffs)}
    result.facts |= {
        "users_evaluated": n, "users_skipped": p.plan.skipped,
        "test_rows_known": p.plan.repeats,
        "tie_share": max(shares.values(), default=0.0),
        "tie_share_at": {str(k): share for k, share in shares.items()},
        "score_seconds": p.counts.seconds,
        "score_users_per_s": (p.counts.scored / p.counts.seconds if p.counts.seconds
                              else float("nan"))}


def _point(result: Evaluation, p: Pass, asked: Sequence[Metric]) -> None:
    """Metrics of the labelled pairs; where they cannot be measured, NaN and the reason."""
    names = [m.name for m in asked if m.spec.kind == "point"]
    undefined: dict[str, str] = {
        str(m): f"{int(np.isnan(v).sum())} of {len(v)} users have no eligible item that is not "
                "relevant" for m in asked if m.name == "auc"
        for v in [result.users["auc"]] if np.isnan(v).any()}
    if any(m.spec.kind == "graded" for m in asked) and p.ratings is None:
        undefined |= {str(m): f"{p.data.name} has no ratings" for m in asked
                      if m.spec.kind == "graded"}
    if names and not len(p.plan.point_label):
        undefined |= dict.fromkeys(names, f"{p.data.name} has no labelled pairs in the split")
        result.values += [(name, "all", float("nan")) for name in names]
    elif names:
        kind = str(getattr(p.model, "score_kind", "other"))
        values, why = pointwise.measure(set(names), p.plan.point_label, p.counts.points, kind)
        undefined |= why
        result.values += [(name, "all", values[name]) for name in names]
        result.facts |= {"point_pairs": len(p.plan.point_label), "score_kind": kind,
                         "point_positives": int(p.plan.point_label.sum())}
    if undefined:
        result.facts["undefined"] = undefined


def _by_user_group(result: Evaluation, p: Pass, asked: Sequence[Metric], made: Groups) -> None:
    """Values of every per-user metric in each group; sizes, and which groups are too small."""
    users = p.plan.users[:p.plan.n_evaluated]
    result.users[f"group:{made.attribute}"] = made.label_of(p.data.n_genuine)[users]
    sizes = result.facts.setdefault("group_sizes", {})
    small = result.facts.setdefault("small_groups", {})
    for label, weight in made.members.items():
        name, size = f"{made.attribute}={label}", int((weight[users] > 0).sum())
        sizes[name] = size
        if size < SMALLEST:
            small[name] = size
    result.facts.setdefault("group_missing", {})[made.attribute] = made.missing(users)
    for metric in asked:
        if metric.spec.kind in ("user", "list"):
            means = group_means(result.users[str(metric)], made, users)
            result.values += [(str(metric), f"{made.attribute}={label}", value)
                              for label, value in means.items()]
        elif metric.spec.kind == "ratio":
            found = {label: p.rate(metric)(metric, weight[users] > 0)
                     for label, weight in made.members.items()}
            result.values += [(str(metric), f"{made.attribute}={label}", value)
                              for label, value in found.items()]
            large = [v for label, v in found.items() if f"{made.attribute}={label}" not in small]
            result.values.append((f"{metric}-gap:{made.attribute}", "all", gap(large)))
        elif metric.spec.kind == "odds":
            inside = [weight[users] > 0 for label, weight in made.members.items()
                      if f"{made.attribute}={label}" not in small]
            gaps = [gap([rate(metric, part) for part in inside]) for rate in (p.tpr, p.fpr)]
            result.values.append((f"{metric}:{made.attribute}", "all", fair.odds(*gaps)))


def _ungrouped(asked: Sequence[Metric], grouping: Grouping, result: Evaluation) -> dict[str, str]:
    """Why metrics that compare groups have no value, where these functions cannot say it."""
    why = {}
    for metric in asked:
        if metric.spec.kind == "odds" and not grouping.users:
            why[str(metric)] = NO_GROUPS
        elif metric.spec.kind == "due" and not grouping.items:
            why[str(metric)] = NO_ITEM_GROUPS
    return why | {name: SMALL for name, group, value in result.values
                  if name.startswith("equalised-odds") and group == "all" and np.isnan(value)}
