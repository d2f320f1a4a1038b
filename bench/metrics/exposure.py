"""Exposure and rank of items among the users who could still be recommended them.

Attack metrics are means of these over the target items, so that an attacked run compares exactly
with the clean run's table for the same targets (CATALOGUE H2: E_u leaves out injected users and
those who have the target in any split; users without test items are in).
"""

from __future__ import annotations

import numpy as np

from bench.metrics.counts import FIXED, Counts
from bench.metrics.plan import Plan
from bench.metrics.ranks import Floats, Ints


def target_hr(exposure: Floats, targets: Ints) -> float:
    """Exposure ratio of the targets: mean_t mean_u P(t is in the list of u), u eligible for t.

    Every target counts the same, however many users are eligible for it. A target that nobody
    is eligible for is left out; NaN if that is all of them. Also known as ER@K, or as the hit
    ratio of target items (e.g. Huang et al., NDSS 2021).

    >>> target_hr(np.array([0.5, 0.0, 0.1]), np.array([0, 2]))
    0.3
    """
    return _mean_of(exposure, targets)


def target_rank(mean_rank: Floats, targets: Ints) -> float:
    """Mean over targets of their mean expected rank, 1 is best, as for `target_hr`.

    >>> target_rank(np.array([10.0, 3.0, 20.0]), np.array([0, 2]))
    15.0
    """
    return _mean_of(mean_rank, targets)


def _mean_of(column: Floats, targets: Ints) -> float:
    there = column[targets][~np.isnan(column[targets])]
    return float(there.mean()) if len(there) else float("nan")


def item_table(counts: Counts, plan: Plan, n_items: int,
               cutoffs: tuple[int, ...]) -> dict[str, Floats | Ints]:
    """Exposure and rank of every item among the users who have not taken it in any split.

    Args:
        counts: of a pass over all genuine users, over the pairs of `plan`.

    Returns:
        "eligible": genuine users without the item in train, valid and test, (m,);
        "exposure@K": mean over them of P(the item is in the list of length K), (m,);
        "mean-rank": mean over them of its expected rank among their eligible items, 1 is best,
        (m,). NaN where nobody is eligible.
    """
    taken = np.bincount(plan.pair_item, minlength=n_items)
    eligible = len(plan.users) - taken - np.bincount(plan.known_item, minlength=n_items)
    least = np.maximum(eligible, 1)
    table: dict[str, Floats | Ints] = {"eligible": eligible.astype(np.int64)}

    def over_pairs(values: Ints) -> Ints:
        summed = np.zeros(n_items, np.int64)
        np.add.at(summed, plan.pair_item, values)
        return summed

    for place, k in enumerate(cutoffs):
        lists = counts.sure[:, place].sum(axis=0) * FIXED + counts.chance[:, place].sum(axis=0)
        lists = lists - over_pairs(counts.pair_chance(k))
        table[f"exposure@{k}"] = np.where(eligible > 0, lists / FIXED / least, np.nan)
    twice = counts.rank_sum - over_pairs(2 * counts.better + counts.tied + 1)
    table["mean-rank"] = np.where(eligible > 0, twice / 2 / least, np.nan)
    return table
