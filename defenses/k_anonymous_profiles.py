"""Every user trains under the profile of a group: k-anonymity by microaggregation."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.api import Context, Dataset, Defense, Interactions, ModelPlugin, param


class KAnonymousProfiles(Defense):
    """k-anonymous train profiles by MDAV microaggregation (Domingo-Ferrer and Torra, DMKD 2005).

    Users are grouped by the 0/1 vectors of their train positives, at least `k` to a group
    (`bench.microaggregation`, Euclidean distance), and every member's rows are replaced by one
    profile of the group, so that each released profile occurs at least k times. The profile is
    a 0/1 rounding of the centroid: release centroid takes the L items that most members have, L
    being the members' mean profile length, rounded (of equally frequent ones the first in the
    catalogue); majority takes the items of more than half of the members, which may be none in
    sparse data. A row's rating and time are the means over the members who have it, equal for all
    members too; every released row counts as liked.

    Users without train positives release nothing and are in no group. Fewer than k users with
    some cannot have profiles that occur k times, and are turned away. k 1 is `none`, bit for
    bit. Facts give the information loss SSE/SST: the squared distance of profiles to their
    group's centroid over that to the centroid of all, 0 where groups are alike and 1 for a single
    group; and to the released profile, which is larger for being rounded.

    No ε is quoted: k-anonymity bounds re-identification from the released profile alone, not what
    a group's profile tells about its members, and others' data decide who is in a group. Adaptive
    attack: k − 1 fakes who copy a user's profile make the group's profile that user's own.

    Example: defenses: [{k-anonymous-profiles: {k: [5, 10, 20]}}]
    """

    name = "k-anonymous-profiles"
    k: int = param(5, "users that share a profile at least; 1 changes nothing", low=1)
    release: str = param("centroid", "items of a group's profile: centroid (the most frequent, as "
                         "many as a member has on average) or majority (of more than half)",
                         choices=("centroid", "majority"))

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"k": 1}

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        n = len(np.unique(data.train.positives().users))
        if self.k > max(n, 1):
            return f"{n} users of {data.name} have train positives, fewer than k = {self.k}"
        return None

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        return data if self.k == 1 else self.aggregated(data)

    def aggregated(self, data: Dataset) -> Dataset:
        """The data with one profile per group."""
        from scipy.sparse import csr_matrix

        from bench.microaggregation import mdav

        rows = data.train.positives()
        here = np.unique(rows.users)
        taken = profiles(rows, data.n_users, data.n_items)[here]
        groups = mdav(taken, self.k)
        n = int(groups.max()) + 1 if len(groups) else 0
        member = csr_matrix((np.ones(len(here)), (groups, np.arange(len(here)))),
                            shape=(n, len(here)))
        size = np.bincount(groups, minlength=n)
        columns = {}  # ratings and times: their mean over the rows of the group at the item
        of_row = groups[np.searchsorted(here, rows.users)] * data.n_items + rows.items
        for field in ("ratings", "times"):
            column = getattr(rows, field)
            if column is not None:
                where, at = np.unique(of_row, return_inverse=True)
                columns[field] = where, np.bincount(at, weights=column) / np.bincount(at)
        users, items = [here[:0]], [here[:0]]
        shares = (member @ taken).tocsr()  # (groups, items): how many members have the item
        for group in range(n):
            mine = self.chosen(shares[group].toarray().ravel(), int(size[group]))
            everybody = here[groups == group]
            users.append(np.repeat(everybody, len(mine)))
            items.append(np.tile(mine, len(everybody)))
        who, what = np.concatenate(users), np.concatenate(items)
        key = groups[np.searchsorted(here, who)] * data.n_items + what
        made = {f: values[np.searchsorted(where, key)] for f, (where, values) in columns.items()}
        labels = None if rows.labels is None else np.ones(len(who), np.int8)
        return data.replace(train=Interactions(who, what, labels=labels, **made))

    def chosen(self, count: Any, size: int) -> Any:
        """The items of a group's profile, ascending, given how many members have each."""
        if self.release == "majority":
            return np.flatnonzero(2 * count > size)
        length = int(np.floor(count.sum() / size + 0.5))
        order = np.argsort(-count, kind="stable")[:length]
        return np.sort(order[count[order] > 0])

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """Groups (made again: they draw nothing at random), and what is lost by them."""
        from scipy.sparse import csr_matrix

        from bench.microaggregation import mdav

        rows = data.train.positives()
        here = np.unique(rows.users)
        if not len(here):
            return {"groups": 0}
        taken = profiles(rows, data.n_users, data.n_items)[here]
        groups = mdav(taken, self.k) if self.k > 1 else np.arange(len(here))
        size = np.bincount(groups)
        member = csr_matrix((np.ones(len(here)), (groups, np.arange(len(here)))))
        total = float(taken.sum())  # Σ‖x‖², of 0/1 rows
        within = total - float((np.asarray((member @ taken).power(2).sum(axis=1)).ravel()
                                / size).sum())
        around = total - float((np.asarray(taken.sum(axis=0)) ** 2).sum()) / len(here)
        released = profiles(cleaned.train, data.n_users, data.n_items)[here]
        both = float(taken.multiply(released).sum())
        return {"groups": len(size), "smallest_group": int(size.min()),
                "information_loss": within / around if around else 0.0,
                "released_loss": (total + float(released.sum()) - 2 * both) / around
                if around else 0.0,
                "true_rows_kept": both / total,
                "made_up_rows": 1 - both / max(float(released.sum()), 1.0)}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"k": 3}


def profiles(rows: Interactions, n_users: int, n_items: int) -> Any:
    """0/1 rows, (users, items) sparse."""
    from scipy.sparse import csr_matrix

    pairs = np.unique(rows.users * n_items + rows.items)
    return csr_matrix((np.ones(len(pairs)), np.divmod(pairs, n_items)), shape=(n_users, n_items))
