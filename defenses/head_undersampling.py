"""Popular items lose some of their train rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.api import Context, Dataset, Defense, param


class HeadUndersampling(Defense):
    """Undersampling of the head: frequent items lose rows before training.

    The subsampling of frequent words of Mikolov et al. (NIPS 2013), with the exponent left open:
    a train row of item i stays with probability k_i = min(1, (t / c_i)^gamma), where c_i counts
    the item's train positives and t is the `quantile` of the counts of items that have any: items
    up to t keep all rows, of others about t^gamma · c_i^(1 − gamma) are left. gamma .5 is
    Mikolov's formula, 1 cuts every item down to t. A row stays where a uniform number x, a hash of
    (seed, user, item), is below k_i, so that clean and poisoned data lose the same real rows
    wherever the counts agree. A user who would lose every row keeps the one with the least x / k_i.

    Works with every model, as the data themselves are thinned; validation and test splits are
    not touched. gamma 0 equals `none` bit for bit. Sequences become shorter. Adaptive attack:
    bandwagon-profiles, whose popular fillers are thinned away and whose targets are not.

    Example: defenses: [{head-undersampling: {gamma: 0.5, quantile: 0.8}}]
    """

    name = "head-undersampling"
    gamma: float = param(0.5, "exponent of the share of a popular item's rows that stay; 0 keeps "
                         "all", low=0, high=1)
    quantile: float = param(0.8, "share of the items, from the least popular on, that keep all "
                            "their rows", low=0, high=1)

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        if not self.gamma:
            return data
        import torch

        from bench.imbalance import item_counts
        from bench.sampling import hash_rows

        counts = item_counts(data).astype(np.float64)
        if not counts.any():
            return data  # nothing to thin; training says that there is nothing to train on
        threshold = float(np.quantile(counts[counts > 0], self.quantile, method="lower"))
        keep = np.minimum(1.0, (threshold / np.maximum(counts, 1.0)) ** self.gamma)  # (n_items,)
        rows = data.train
        mixed = hash_rows(ctx.number(self.name), torch.as_tensor(rows.users),
                          torch.as_tensor(rows.items))
        luck = mixed.double().numpy() / 2.0**63  # (rows,), uniform
        stays = luck < keep[rows.items]
        best = np.lexsort((luck / keep[rows.items], rows.users))  # each user's safest row first
        first = np.r_[True, np.diff(rows.users[best]) != 0] if len(best) else best.astype(bool)
        lost = np.bincount(rows.users, stays, minlength=data.n_users) == 0
        stays[best[first & lost[rows.users[best]]]] = True
        return data.replace(train=rows[stays])

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """How many train rows are left, and of how many items some went."""
        from bench.imbalance import item_counts

        return {"rows_before": len(data.train), "rows_after": len(cleaned.train),
                "items_thinned": int((item_counts(cleaned) < item_counts(data)).sum())}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"gamma": 0.0}
