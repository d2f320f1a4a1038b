"""What is compared between groups of items: how much of all exposure each gets, beside its share
of the catalogue and of what is relevant. `bench.evaluate` brings the numbers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics._between import Found
from bench.metrics.beyond import gini
from bench.metrics.fair_items import due, evenness
from bench.metrics.groups import SMALLEST, Groups
from bench.metrics.ranks import Floats, Ints

if TYPE_CHECKING:
    from bench.metrics.names import Metric

_SMALL = (f"fewer than two groups have {SMALLEST} items (and, for exposure-eo, {SMALLEST} "
          "relevant pairs), or nothing is shown")
NO_GROUPS = "no groups of items are asked for"


def by_item_group(asked: Sequence[Metric], made: Groups, exposures: Mapping[int, Floats],
                  relevant: Ints) -> Found:
    """Values of every group of one attribute, and of all together.

    `exposure@K`, a group's share of all exposure, for every cut-off; `gini@K` within the group,
    over its items alone; `exposure-dp@K` and `exposure-eo@K`, its share over its share of the
    catalogue and of the relevant pairs, and by attribute the smallest over the largest of these
    among the groups that are large enough.

    Args:
        exposures: K -> expected lists of evaluated users that hold each item, (m,).
        relevant: evaluated users for whom each item is relevant, (m,).
    """
    values: list[tuple[str, str, float]] = []
    why: dict[str, str] = {}
    names = {label: f"{made.attribute}={label}" for label in made.members}
    for k, exposure in exposures.items():
        total = max(float(exposure.sum()), 1e-300)
        values += [(f"exposure@{k}", names[label], float((exposure * weight).sum() / total))
                   for label, weight in made.members.items()]
    for metric in asked:
        if metric.name == "gini" and metric.k:
            values += [(str(metric), names[label], gini(exposures[metric.k][weight > 0]))
                       for label, weight in made.members.items()]
        elif metric.spec.kind == "due" and metric.k:
            merit = metric.name == "exposure-eo"
            claim = relevant.astype(np.float64) if merit else np.ones(len(relevant))
            dues = {label: due(exposures[metric.k], claim, weight)
                    for label, weight in made.members.items()}
            values += [(str(metric), names[label], value) for label, value in dues.items()]
            large = [value for label, value in dues.items()
                     if _large(made.members[label], claim, merit)]
            even = evenness(np.array(large))
            if np.isnan(even):
                why[f"{metric}:{made.attribute}"] = _SMALL
            values.append((f"{metric}:{made.attribute}", "all", even))
    return values, why


def _large(inside: Floats, claim: Floats, merit: bool) -> bool:
    """Whether the group has enough items, and enough to divide by."""
    return int((inside > 0).sum()) >= SMALLEST and \
        (not merit or float((claim * inside).sum()) >= SMALLEST)
