"""One pass over the scores, and the metrics that are read off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.metrics import accuracy, beyond, fair, fair_items
from bench.metrics.beyond import long_tail
from bench.metrics.counts import FIXED, Counts
from bench.metrics.plan import Plan
from bench.metrics.ranks import Floats, Ints, Ranks

if TYPE_CHECKING:
    from bench.data import Dataset
    from bench.metrics.names import Metric
    from bench.models.base import Recommender


@dataclass(frozen=True)
class Pass:
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
        n = self.plan.n_evaluated
        mean = self.counts.list_mean(place, self.cutoffs.index(k), k, n) / unit
        return mean * np.minimum(k, self.counts.eligible[:n]) if metric.name == "aclt" else mean

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
            return fair_items.pri(self.data.popularity, ranks, items) if metric.name == "pri" else \
                fair_items.pru(self.data.popularity[items], ranks, self.plan.pair_owner[keep])
        if metric.name == "popreo":
            return fair_items.spread(fair_items.opportunity(
                c.pair_chance(metric.k)[keep] / FIXED, tail[items]))
        known = np.bincount(self.plan.known_item[self.plan.known_owner < n],
                            minlength=self.data.n_items)
        shown = c.exposure(self.cutoffs.index(metric.k))
        sums = [np.bincount(tail, of, minlength=2) for of in (shown, n - known)]
        return fair_items.spread(np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan))

    def hits(self, metric: Metric) -> Floats:
        """Expected relevant items in the list of each evaluated user."""
        assert metric.k is not None
        return self.ranks.total(self.ranks.inside(metric.k))

    def tpr(self, metric: Metric, inside: npt.NDArray[np.bool_] | None = None) -> float:
        """Share of the relevant items of some evaluated users, all if None, in their lists."""
        chosen = slice(None) if inside is None else inside
        return fair.tpr(self.hits(metric)[chosen], self.ranks.counts[chosen])

    def fpr(self, metric: Metric, inside: npt.NDArray[np.bool_] | None = None) -> float:
        """Share of what is eligible and not relevant, of the same users, in their lists."""
        assert metric.k is not None
        chosen = slice(None) if inside is None else inside
        eligible = self.ranks.eligible[chosen]
        return fair.fpr(self.hits(metric)[chosen], np.minimum(metric.k, eligible),
                        self.ranks.counts[chosen], eligible)

    def rate(self, metric: Metric) -> Callable[..., float]:
        """The function of a metric of kind "ratio"."""
        return self.fpr if metric.name == "fpr" else self.tpr

    @property
    def exposures(self) -> dict[int, Floats]:
        """K -> expected lists of evaluated users that hold each item, (m,)."""
        return {k: self.counts.exposure(place) for place, k in enumerate(self.cutoffs)}

    @property
    def relevant(self) -> Ints:
        """Evaluated users for whom each item is relevant, (m,)."""
        return np.bincount(self.plan.pair_item[self.plan.relevant], minlength=self.data.n_items)
