"""Evaluation: full ranking of every genuine user, ties in expectation, values per user kept.

The whole catalogue is ranked for each user; what was known before the split is masked; injected
users are never counted. Exact definitions: `bench.metrics`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.metrics import accuracy, beyond, fair, pointwise
from bench.metrics._between import between, ratings, watch_for
from bench.metrics.beyond import long_tail
from bench.metrics.counts import FIXED, Counts
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
    pass_ = _Pass(model, data, plan, counts, cutoffs, columns, split)
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
            result.values.append((str(metric), "all", pass_.tpr(metric)))
    _point(result, pass_, asked)
    for made in by_group.values():
        _by_user_group(result, pass_, asked, made)
    measured, undefined = between(asked, by_group, plan, watch)
    rated, unrated = ratings(model, data, asked, by_group, split)
    result.values += measured + rated
    if undefined or unrated:
        result.facts["undefined"] = result.facts.get("undefined", {}) | undefined | unrated
    for attribute in grouping.items:
        _by_item_group(result, pass_, item_groups(data, attribute))
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


@dataclass(frozen=True)
class _Pass:
    """One pass over the scores, and what is needed to read metrics off it."""

    model: Recommender
    data: Dataset
    plan: Plan
    counts: Counts
    cutoffs: tuple[int, ...]
    columns: dict[str, tuple[Ints, int]]
    split: str

    @cached_property
    def ratings(self) -> Floats | None:
        """Rating of each relevant item, in the order of the rows of `ranks`; None: no ratings."""
        rows, keep = getattr(self.data, self.split).positives(), self.plan.relevant
        if rows.ratings is None:
            return None
        keys, first = np.unique(rows.users * self.data.n_items + rows.items, return_index=True)
        owner, items = self.plan.pair_owner[keep], self.plan.pair_item[keep]
        place = np.searchsorted(keys, self.plan.users[owner] * self.data.n_items + items)
        found: Floats = rows.ratings[first[place]]
        return found[np.lexsort((self.counts.better[keep], owner))]

    @cached_property
    def ranks(self) -> Ranks:
        keep, c = self.plan.relevant, self.counts
        return Ranks.make(self.plan.pair_owner[keep], c.better[keep], c.tied[keep],
                          c.eligible[:self.plan.n_evaluated])

    def per_user(self, metric: Metric) -> Floats:
        """One value per evaluated user."""
        k = self.data.n_items if metric.k is None else metric.k
        if metric.spec.user is not None:
            return metric.spec.user(self.ranks, k)
        if metric.spec.kind == "graded":
            if self.ratings is None:
                return np.full(self.plan.n_evaluated, np.nan)
            return accuracy.ndcg_graded(self.ranks, k, self.ratings)
        place, (_, unit) = list(self.columns).index(metric.name), self.columns[metric.name]
        return self.counts.list_mean(place, self.cutoffs.index(k), k,
                                     self.plan.n_evaluated) / unit

    def catalogue(self, metric: Metric) -> float:
        """One value from the lists of all evaluated users."""
        if metric.name in ("pru", "pri", "popreo", "poprsp"):
            return self._popularity(metric)
        assert metric.k is not None
        place = self.cutoffs.index(metric.k)
        if metric.name == "coverage":
            return beyond.coverage(self.counts.covered(place))
        return beyond.gini(self.counts.exposure(place))

    def _popularity(self, metric: Metric) -> float:
        """How lists and ranks go with popularity, on the relevant pairs of evaluated users."""
        keep, c, n = self.plan.relevant, self.counts, self.plan.n_evaluated
        items, tail = self.plan.pair_item[keep], long_tail(self.data.popularity)
        if metric.k is None:
            ranks = c.better[keep] + (c.tied[keep] + 1) / 2
            return fair.pri(self.data.popularity, ranks, items) if metric.name == "pri" else \
                fair.pru(self.data.popularity[items], ranks, self.plan.pair_owner[keep])
        if metric.name == "popreo":
            return fair.spread(fair.opportunity(c.pair_chance(metric.k)[keep] / FIXED,
                                                tail[items]))
        known = np.bincount(self.plan.known_item[self.plan.known_owner < n],
                            minlength=self.data.n_items)
        shown = c.exposure(self.cutoffs.index(metric.k))
        sums = [np.bincount(tail, of, minlength=2) for of in (shown, n - known)]
        return fair.spread(np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan))

    def hits(self, metric: Metric) -> Floats:
        """Expected relevant items in the list of each evaluated user."""
        assert metric.k is not None
        return self.ranks.total(self.ranks.inside(metric.k))

    def tpr(self, metric: Metric, inside: npt.NDArray[np.bool_] | None = None) -> float:
        """Share of the relevant items of some evaluated users, all if None, in their lists."""
        chosen = slice(None) if inside is None else inside
        return fair.tpr(self.hits(metric)[chosen], self.ranks.counts[chosen])


def _facts(result: Evaluation, p: _Pass) -> None:
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


def _point(result: Evaluation, p: _Pass, asked: Sequence[Metric]) -> None:
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


def _by_user_group(result: Evaluation, p: _Pass, asked: Sequence[Metric], made: Groups) -> None:
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
            found = {label: p.tpr(metric, weight[users] > 0)
                     for label, weight in made.members.items()}
            result.values += [(str(metric), f"{made.attribute}={label}", value)
                              for label, value in found.items()]
            large = [v for label, v in found.items() if f"{made.attribute}={label}" not in small]
            result.values.append((f"{metric}-gap:{made.attribute}", "all", gap(large)))


def _by_item_group(result: Evaluation, p: _Pass, made: Groups) -> None:
    """Share of all expected exposure that falls to each group of items, and their numbers."""
    sizes = result.facts.setdefault("item_groups", {})
    for label, weight in made.members.items():
        sizes[f"{made.attribute}={label}"] = int((weight > 0).sum())
    for place, k in enumerate(p.cutoffs):
        exposure = p.counts.exposure(place)
        total = max(float(exposure.sum()), 1e-300)
        result.values += [(f"exposure@{k}", f"{made.attribute}={label}",
                           float((exposure * weight).sum() / total))
                          for label, weight in made.members.items()]
