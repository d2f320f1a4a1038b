"""Everybody's history is short."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, param
from bench.natural import NaturalNoise, over_users


class Sparsification(NaturalNoise):
    """Cuts each user's train rows to the `most` newest, or by a share `rate`.

    What happens to a model when it knows its users for a shorter time: density as a property of
    the data, as in Deldjoo et al., "How Dataset Characteristics Affect the Robustness of
    Collaborative Recommendation Models", SIGIR 2020. With most: 0 every user loses rate · n of
    n rows, up to one and never the last, the oldest first; otherwise whoever has more than
    `most` keeps `most`, and `rate` bounds what that may cost in all.

    Budget: rate of the train rows. Knowledge: none.

    Args:
        rate: share of each user's rows cut, or (most above 0) of all rows at most.
        most: rows kept per user; 0: cut by rate.
        keep: which rows stay: the newest of each user, or random ones.

    Shapes: what is left of the train rows keeps its order.

    Example: attacks: [{sparsification: {rate: 0.5}}, {sparsification: {rate: 0.95, most: 5}}]
    """

    name = "sparsification"
    rate: float = param(0.5, "share of each user's train rows cut; with `most`, of all rows at "
                        "most", low=0, high=1)
    most: int = param(0, "rows kept per user; 0: cut every history by rate", low=0)
    keep: str = param("newest", "which rows of a user stay", choices=("newest", "random"))

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.keep == "newest" and data.train.times is None:
            return f"{data.name} has no times, so that nothing is newest; take keep: random"
        cut = int((data.activity - self.most).clip(min=0).sum())
        if self.rate and self.most and cut > self.budget(data.train):
            return (f"histories of at most {self.most} rows cut {cut / len(data.train):.1%} of "
                    f"the train rows of {data.name}, and rate allows {self.rate:.1%}")
        return super().unfit(model, data)

    def corrupt(self, data: Dataset, ctx: Context) -> Dataset:
        rows, n = data.train, len(data.train)
        if self.keep == "newest":
            assert rows.times is not None
            worth = np.where(np.isfinite(rows.times), rows.times, -np.inf)  # unknown: oldest
        else:
            worth = ctx.stream("sparsification").random(n)
        order = np.lexsort((worth, rows.users))
        counts = np.bincount(rows.users, minlength=data.n_users)
        left = np.empty(n, np.int64)  # a row's place in its user's history: 1 is the newest
        left[order] = np.repeat(counts.cumsum(), counts) - np.arange(n)
        if self.most:
            return data.replace(train=rows[left <= self.most])
        cut = over_users(rows, ctx, "sparsification", worth=worth)
        kept = np.ones(n, bool)
        kept[cut[left[cut] > 1][:self.budget(rows)]] = False
        return data.replace(train=rows[kept])
