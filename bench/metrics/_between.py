"""What is compared between groups of users beyond their means: whose lists hold what, and how far
predicted ratings are off. One value per attribute, "parity@10:gender"."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics import fair
from bench.metrics.counts import FIXED
from bench.metrics.groups import SMALLEST, Groups
from bench.metrics.plan import Plan
from bench.metrics.ranks import Floats, Ints

if TYPE_CHECKING:
    from bench.data import Dataset, Interactions
    from bench.metrics._watch import Watch
    from bench.metrics.names import Metric
    from bench.models.base import Recommender

Found = tuple[list[tuple[str, str, float]], dict[str, str]]
"""Values as (metric, "all", value), and for those that are NaN or absent the reason."""

_SCORES = 1 << 21  # held at once
NO_GROUPS = "no groups of users are asked for"
SMALL = f"fewer than two groups have {SMALLEST} evaluated users"


def large(made: Groups, users: Ints) -> dict[str, Floats]:
    """The groups that enough of these users are in, as 1 or 0 for each of them: (n,)."""
    inside = {label: (weight[users] > 0).astype(np.float64)
              for label, weight in made.members.items()}
    return {label: member for label, member in inside.items() if member.sum() >= SMALLEST}


def watch_for(asked: Sequence[Metric], by_group: Mapping[str, Groups], plan: Plan, data: Dataset,
              device: str) -> Watch | None:
    """What the pass over the scores has to count by group of users, if a metric asks for it."""
    names = {m.name for m in asked if m.spec.kind == "parity"}
    if not names or not by_group:
        return None
    from bench.metrics._watch import Watch

    users = plan.users[:plan.n_evaluated]
    members = {f"{attribute}={label}": member for attribute, made in by_group.items()
               for label, member in large(made, users).items()}
    cutoffs = dict.fromkeys(m.k for m in asked if m.spec.kind == "parity" and m.k)
    return Watch(members, data.n_items, list(cutoffs), bool({"ks", "wasserstein"} & names), device)


def between(asked: Sequence[Metric], by_group: Mapping[str, Groups], plan: Plan,
            watch: Watch | None) -> Found:
    """Metrics of kind "parity"."""
    values, why = [], {}
    for metric in (m for m in asked if m.spec.kind == "parity"):
        if watch is None:
            why[str(metric)] = NO_GROUPS
            continue
        for attribute, made in by_group.items():
            groups = large(made, plan.users[:plan.n_evaluated])
            own = [watch.names.index(f"{attribute}={label}") for label in groups]
            name, value = f"{metric}:{attribute}", float("nan")
            if len(own) < 2:
                why[name] = SMALL
            elif metric.k is None:
                apart = fair.ks if metric.name == "ks" else fair.wasserstein
                value = apart(watch.bins[own], SMALLEST)
            else:
                lists = watch.lists[own, watch.cutoffs.index(metric.k)] / FIXED  # (G, m)
                exposed = fair.parity if metric.name == "parity" else fair.differential
                value = exposed(lists, np.array([m.sum() for m in groups.values()]))
            values.append((name, "all", value))
    return values, why


def ratings(model: Recommender, data: Dataset, asked: Sequence[Metric],
            by_group: Mapping[str, Groups], split: str) -> Found:
    """Metrics of kind "rating", over all rated pairs of the split, liked or not; the model's own
    predictions, whatever re-ranks them."""
    names = [m.name for m in asked if m.spec.kind == "rating"]
    if not names:
        return [], {}
    rows: Interactions = getattr(data, split)
    if rows.ratings is None or getattr(model, "score_kind", "other") != "rating":
        reason = f"{data.name} has no ratings" if rows.ratings is None else \
            "the model's scores are no ratings"
        return ([(n, "all", float("nan")) for n in names if n in ("rmse", "mae")],
                dict.fromkeys(names, reason))
    predicted = _predicted(model, rows, split, data.n_items)
    error = predicted - rows.ratings
    values: list[tuple[str, str, float]] = []
    why: dict[str, str] = {}
    for name in names:
        if name in ("rmse", "mae"):
            size = np.sqrt(np.mean(error**2)) if name == "rmse" else np.mean(np.abs(error))
            values.append((name, "all", float(size)))
        elif not by_group:
            why[name] = NO_GROUPS
        else:
            for attribute, made in by_group.items():
                value = _largest(made, rows, predicted, fair.EXPLICIT[name])
                if np.isnan(value):
                    why[f"{name}:{attribute}"] = f"{SMALL}, or none share an item"
                values.append((f"{name}:{attribute}", "all", value))
    return values, why


def _largest(made: Groups, rows: Interactions, predicted: Floats, kind: str) -> float:
    """A quantity of two groups; of several, the largest of each against all others."""
    assert rows.ratings is not None
    users, place = np.unique(rows.users, return_inverse=True)
    groups = list(large(made, users).values())  # (n,) each
    if len(groups) < 2:
        return float("nan")
    known = np.sum(groups, axis=0) > 0
    found = [fair.unfairness(predicted, rows.ratings, rows.items,
                             np.where(member > 0, 1, np.where(known, 0, -1))[place], kind)
             for member in groups]
    there = [v for v in found if not np.isnan(v)]
    return max(there, default=float("nan"))


def _predicted(model: Recommender, rows: Interactions, split: str, n_items: int) -> Floats:
    """The model's scores of these pairs, (n,)."""
    import torch

    from bench.models.base import user_blocks

    found = np.empty(len(rows))
    users, place = np.unique(rows.users, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(users) + 1))
    first = 0
    evaluating: Any = getattr(model, "evaluating", contextlib.nullcontext)
    with torch.no_grad(), evaluating():
        for block in user_blocks(users, max(1, _SCORES // max(n_items, 1)), model.ctx.device):
            own = order[starts[first]:starts[first + len(block)]]
            scores = model.scores(block, split).double().cpu().numpy()  # (B, m)
            found[own] = scores[place[own] - first, rows.items[own]]
            first += len(block)
    return found
