"""What a detector is worth: area under its curve, where it cuts, whom it wrongs (CATALOGUE D7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import Dataset, Floats
from bench.errors import InputError

Flags = npt.NDArray[np.bool_]


def auc(suspicion: Floats, fake: Flags) -> float | None:
    """The chance that a fake user is more suspicious than a genuine one, ties counting half.

    Users that the detector could not judge (NaN) are left out. None where a side is empty.

    >>> auc(np.array([.9, .5, .5, .1]), np.array([True, True, False, False]))
    0.875
    """
    judged = np.isfinite(suspicion)
    values, fake = suspicion[judged], fake[judged]
    n_fake = int(fake.sum())
    if not n_fake or n_fake == len(fake):
        return None
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # 1-based, ties share their mean
    above = rank[fake].sum() - n_fake * (n_fake + 1) / 2
    return float(above / (n_fake * (len(fake) - n_fake)))


def best_cut(received: Floats, own: Floats, cost: float) -> float:
    """The suspicion from which to flag: it maximises caught − cost · flagged, as shares.

    `own` are fakes that the defender made, `received` users who may be anybody. Where a share
    π of the received are fakes like the own, the maximised value only becomes
    (1 − cost · π) · caught − cost · (1 − π) · false alarms: with cost · π below 1 the cut is
    still a sensible one, so that nobody needs to know π. Infinite, so that nobody is flagged,
    where no cut gains anything.

    >>> best_cut(np.array([.1, .2, .3, .9]), np.array([.4, .5, .6, .95]), 1.0)
    0.4
    >>> best_cut(np.array([.1, .2]), np.array([.1, .2]), 1.0)
    inf
    """
    cuts = np.unique(own)
    caught = 1 - np.searchsorted(np.sort(own), cuts) / max(len(own), 1)
    flagged = 1 - np.searchsorted(np.sort(received), cuts) / max(len(received), 1)
    gain = caught - cost * flagged
    if not len(gain) or gain.max() <= 0:
        return float("inf")
    return float(cuts[np.flatnonzero(gain == gain.max())[-1]])


def report(data: Dataset, flagged: Flags, suspicion: Floats | None) -> dict[str, Any]:
    """Counted with the truth that a detector does not see.

    Keys: flagged (how many); precision, None where nobody was flagged; recall, None where nobody
    is fake; auc of the suspicion, None where there are not both kinds or it is not known;
    false_positives, the share of genuine users flagged; the same by_group ("gender=F") of every
    attribute and of activity (thirds), as `bench.metrics.groups` makes them, for groups of at
    least 20 users; who is in smaller ones, by group; and the gap between groups, by attribute: to
    be flagged without cause is a harm that niche and minority users bear more than others.
    """
    from bench.metrics.groups import SMALLEST, gap, group_means, user_groups

    fake = np.arange(data.n_users) >= data.n_genuine
    caught, genuine = int((flagged & fake).sum()), flagged[~fake]
    rates: dict[str, float] = {}
    small: dict[str, int] = {}
    gaps, ungrouped = {}, []
    users = np.arange(data.n_genuine)
    for attribute in (*data.user_attributes, "activity"):
        try:
            groups = user_groups(data, attribute)
        except InputError:  # names, zip codes: too many values to be groups
            ungrouped.append(attribute)
            continue
        found = group_means(genuine.astype(np.float64), groups, users)
        size = {label: int((groups.members[label] > 0).sum()) for label in found}
        large = {label: rate for label, rate in found.items() if size[label] >= SMALLEST}
        rates |= {f"{attribute}={label}": rate for label, rate in large.items()}
        small |= {f"{attribute}={label}": n for label, n in size.items() if label not in large}
        gaps[attribute] = gap(large.values())
    return {
        "flagged": int(flagged.sum()),
        "precision": caught / int(flagged.sum()) if flagged.any() else None,
        "recall": caught / int(fake.sum()) if fake.any() else None,
        "auc": None if suspicion is None else auc(suspicion, fake),
        "false_positives": float(genuine.mean()) if len(genuine) else None,
        "false_positives_by_group": rates, "false_positives_gap": gaps,
        **({"groups_too_small": small} if small else {}),
        **({"attributes_not_grouped": ungrouped} if ungrouped else {})}
