"""Groups of users and items by attribute, and what is compared between groups (CATALOGUE H3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.data import Dataset
from bench.errors import InputError, nearest
from bench.metrics.beyond import popularity_groups
from bench.metrics.ranks import Floats, Ints

SMALLEST = 20  # evaluated users below which a group enters no gap and no worst
MOST_GROUPS = 200  # labels above which a column is no grouping (names, addresses)
MOST_VALUES = 10  # distinct numbers above which a column is cut into thirds

Column = npt.NDArray[np.generic]


class Grouping(Protocol):
    """What to group by: names of attributes of users (or "activity") and items ("popularity")."""

    @property
    def users(self) -> Sequence[str]: ...
    @property
    def items(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Groups:
    """One attribute's groups: label -> weight of each member (users: 0 or 1), shape (n,)."""

    attribute: str
    members: Mapping[str, Floats]

    def missing(self, users: Ints) -> int:
        """How many of these users are in no group, since the attribute is missing."""
        inside = sum((weight[users] for weight in self.members.values()),
                     start=np.zeros(len(users)))
        return int((inside == 0).sum())

    def label_of(self, n: int) -> npt.NDArray[np.object_]:
        """The label of each of n, "" for none; several labels are joined by "|"."""
        text = np.full(n, "", object)
        for label, weight in self.members.items():
            for at in np.flatnonzero(weight > 0):
                text[at] = f"{text[at]}|{label}" if text[at] else label
        return text


def user_groups(data: Dataset, attribute: str) -> Groups:
    """Groups of the genuine users by an attribute, or by "activity" (thirds of train counts).

    Thirds are cut over all genuine users, equal values kept together; a user with several values
    is in several groups; a missing value is in none.

    Raises:
        InputError: the data has no such attribute, or it has too many values.
    """
    if attribute == "activity":
        return Groups(attribute, _thirds(data.activity.astype(np.float64),
                                         ("low", "mid", "high")))
    column = _find(data.user_attributes, attribute, "users", "activity", data.name)
    return Groups(attribute, _by_value(column, attribute))


def item_groups(data: Dataset, attribute: str) -> Groups:
    """Groups of the items by an attribute, or by "popularity": head (most popular 20 % by clean
    train counts), tail (least popular half), mid. An item with n values is 1/n in each.

    Raises:
        InputError: the data has no such attribute, or it has too many values.
    """
    if attribute == "popularity":
        return Groups(attribute, popularity_groups(data.popularity))
    column = _find(data.item_attributes, attribute, "items", "popularity", data.name)
    groups = _by_value(column, attribute)
    several = np.maximum(sum(groups.values(), start=np.zeros(len(column))), 1.0)
    return Groups(attribute, {label: inside / several for label, inside in groups.items()})


def check_groups(data: Dataset, grouping: Grouping) -> None:
    """Refuse attributes that the data does not have, or that make no groups (InputError)."""
    for attribute in grouping.users:
        user_groups(data, attribute)
    for attribute in grouping.items:
        item_groups(data, attribute)


def _find(columns: Mapping[str, Column], attribute: str, whose: str, made: str,
          name: str) -> Column:
    if attribute not in columns:
        raise InputError(f"{whose} of dataset {name!r} have no attribute {attribute!r}",
                         key=f"groups.{whose}", hint=nearest(attribute, [*columns, made]))
    return columns[attribute]


def _by_value(column: Column, attribute: str) -> dict[str, Floats]:
    if column.dtype.kind in "fiub":
        numbers = column.astype(np.float64)
        values = np.unique(numbers[~np.isnan(numbers)])
        if len(values) > MOST_VALUES:
            return _thirds(numbers, None)
        return {f"{v:g}": (numbers == v).astype(np.float64) for v in values}
    tokens = [(v,) if isinstance(v, str) else tuple(v) if v is not None else ()
              for v in column.tolist()]
    labels = sorted({t for row in tokens for t in row if t != ""})
    if len(labels) > MOST_GROUPS:
        raise InputError(f"attribute {attribute!r} has {len(labels)} different values, and a "
                         f"grouping has at most {MOST_GROUPS}", key="groups",
                         hint="group by an attribute with fewer values")
    place = {label: k for k, label in enumerate(labels)}
    inside = np.zeros((len(labels), len(tokens)))
    for at, row in enumerate(tokens):
        for token in row:
            if token != "":
                inside[place[token], at] = 1.0
    return dict(zip(labels, inside, strict=True))


def _thirds(numbers: Floats, names: tuple[str, str, str] | None) -> dict[str, Floats]:
    """Low, middle and high third; equal numbers stay together, empty thirds are left out."""
    there = numbers[~np.isnan(numbers)]
    if not len(there):
        return {}
    cuts = np.quantile(there, [1 / 3, 2 / 3], method="higher")
    low, high = float(cuts[0]), float(cuts[1])
    inside = [numbers < low, (numbers >= low) & (numbers < high), numbers >= high]
    if names is None:
        whole = bool((there == np.rint(there)).all())
        middle = f"{low:g}-{high - 1:g}" if whole else f"{low:g}-<{high:g}"
        names = (f"<{low:g}", middle, f">={high:g}")
    return {name: part.astype(np.float64) for name, part in zip(names, inside, strict=True)
            if part.any()}


# -- comparisons ---------------------------------------------------------------------------------

def group_means(values: Floats, groups: Groups, users: Ints) -> dict[str, float]:
    """Mean of a value per evaluated user in each group.

    Args:
        values: one per evaluated user, (n,); NaN is left out.
        users: their indices among the genuine users, (n,).
    """
    found = {}
    for label, weight in groups.members.items():
        inside = values[(weight[users] > 0) & ~np.isnan(values)]
        found[label] = float(inside.mean()) if len(inside) else float("nan")
    return found


def gap(values: Iterable[float]) -> float:
    """Largest minus smallest group value; NaN with fewer than two (CATALOGUE H3).

    >>> round(gap([0.3, 0.1, 0.25]), 6)
    0.2
    """
    there = [v for v in values if not np.isnan(v)]
    return max(there) - min(there) if len(there) > 1 else float("nan")


def worst(values: Iterable[float], better: str = "high") -> float:
    """The value of the group that fares worst; NaN with fewer than two groups.

    >>> worst([0.3, 0.1, 0.25])
    0.1
    """
    there = [v for v in values if not np.isnan(v)]
    if len(there) < 2:
        return float("nan")
    return max(there) if better == "low" else min(there)


def mad(values: Iterable[float]) -> float:
    """Mean absolute difference over all pairs of groups (as in Elliot, Anelli et al., SIGIR
    2021); with two groups it is their gap. NaN with fewer than two.

    Differences of 0.2, 0.3 and 0.1:

    >>> round(mad([0.1, 0.3, 0.4]), 6)
    0.2
    """
    there = [v for v in values if not np.isnan(v)]
    pairs = [abs(a - b) for n, a in enumerate(there) for b in there[:n]]
    return float(np.mean(pairs)) if pairs else float("nan")


def deviation(values: Iterable[float]) -> float:
    """Standard deviation of the groups' values, each group counting once (over n, not n − 1: they
    are all there are). NaN with fewer than two.

    >>> deviation([0.1, 0.3])
    0.1
    """
    there = [v for v in values if not np.isnan(v)]
    return round(float(np.std(there)), 15) if len(there) > 1 else float("nan")


def weighted_gap(values: Sequence[float], sizes: Sequence[float]) -> float:
    """How far a user's group is from the mean of all groups, on average over users:
    Σ_g w_g |M_g − Σ_h w_h M_h|, w_g the group's share of the users compared. A small group that
    fares badly weighs as much as it has users; with two groups it is 2·w_1·w_2 times their gap.
    NaN with fewer than two groups.

    A quarter of the users get 0.1, the others 0.3; the mean is 0.25:

    >>> round(weighted_gap([0.1, 0.3], [10, 30]), 6)
    0.075
    """
    there = [(v, n) for v, n in zip(values, sizes, strict=True) if not np.isnan(v) and n > 0]
    if len(there) < 2:
        return float("nan")
    value, size = np.array(there).T
    share = size / size.sum()
    return float((share * np.abs(value - (share * value).sum())).sum())


def compared(values: Iterable[tuple[str, str, float]], facts: Mapping[str, Any], metric: str,
             attribute: str) -> dict[str, float]:
    """The values of one metric by group of one attribute, small groups left out: what `gap` and
    `worst` are taken over.

    >>> rows = [("hr@10", "all", 0.5), ("hr@10", "sex=F", 0.4), ("hr@10", "sex=M", 0.6)]
    >>> compared(rows, {}, "hr@10", "sex")
    {'sex=F': 0.4, 'sex=M': 0.6}
    """
    small = facts.get("small_groups", {})
    return {group: value for name, group, value in values
            if name == metric and group.startswith(f"{attribute}=") and group not in small}
