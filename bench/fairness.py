"""What fairness defenses share: which side users are on, and how unequally two sides are served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.metrics.groups import user_groups

if TYPE_CHECKING:
    from torch import Tensor

Sides = npt.NDArray[np.int64]
KINDS = ("value", "absolute", "under", "over", "non-parity")


def sides(data: Dataset, attribute: str, value: str = "") -> Sides:
    """1 for users who have the value of the attribute, 0 for those who have another, −1 for those
    without any: (n_users,). Injected users are on the side that their attacker filled in
    (`bench.profiles.fake_attributes`): nobody told the defender who they are.

    With no value named, an attribute of two values is split into these.

    Raises:
        InputError: no such attribute, no user with the value or none without, or several values
            and none named.
    """
    key = f"_sides {attribute}={value}"  # kept as a cached_property is: once per training
    if key not in data.__dict__:
        data.__dict__[key] = _sides(data, attribute, value)
    found: Sides = data.__dict__[key]
    return found


def _sides(data: Dataset, attribute: str, value: str) -> Sides:
    if attribute not in data.user_attributes:
        raise InputError(f"users of {data.name} have no attribute {attribute!r}", hint="they have "
                         + (", ".join(sorted(data.user_attributes)) or "none"))
    members: Mapping[str, npt.NDArray[np.float64]] = user_groups(everybody(data),
                                                                 attribute).members
    if not value and len(members) != 2:
        raise InputError(f"{attribute!r} has {len(members)} values ({', '.join(list(members)[:8])})"
                         ", and two groups are compared", hint="name one with value:, which is "
                         "compared with all others")
    if value and value not in members:
        raise InputError(f"no user of {data.name} has {attribute}={value}",
                         hint=f"known: {', '.join(list(members)[:20])}")
    value = value or next(iter(members))
    inside = members[value] > 0  # (n_users,)
    known = sum((m for m in members.values()), start=np.zeros(len(inside))) > 0
    found = np.where(inside, 1, np.where(known, 0, -1)).astype(np.int64)
    if not (found == 1).any() or not (found == 0).any():
        raise InputError(f"all users of {data.name} are on one side of {attribute}={value}")
    return found


def everybody(data: Dataset) -> Dataset:
    """The data as a defender has them, who takes injected users for genuine ones."""
    return data.replace(n_fake=0, user_attributes=data.all_attributes, fake_attributes={})


def item_means(values: Tensor, items: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a value per side over the rows of each item that both sides have rows of.

    Args:
        values: (B,) or (B, V). items: (B,). side: 1, 0 or −1 (left out), (B,).

    Returns:
        means of the 1s and of the 0s: (J,) or (J, V) each; J may be 0.
    """
    import torch

    kept = side >= 0
    values, items, side = values[kept], items[kept], side[kept]
    distinct, place = torch.unique(items, return_inverse=True)  # (J',), (B',)
    means, both = [], torch.ones(len(distinct), dtype=torch.bool, device=items.device)
    for which in (1, 0):
        own = side == which
        count = torch.bincount(place[own], minlength=len(distinct))  # (J',)
        total = values.new_zeros((len(distinct), *values.shape[1:])).index_add(
            0, place[own], values[own])
        shape = (-1, *[1] * (values.dim() - 1))
        means.append(total / count.clamp_min(1).reshape(shape))  # (J', …)
        both &= count > 0
    return means[0][both], means[1][both]


def unfairness(predicted: Tensor, truth: Tensor, items: Tensor, side: Tensor, kind: str,
               smooth: bool = False) -> Tensor | None:
    """One of Yao and Huang's quantities (NIPS 2017) on rated pairs, a scalar.

    With d_g = E_g[y]_j − E_g[r]_j, the mean error of the predictions for item j in group g:
    value |d_g − d_h|, absolute ||d_g| − |d_h||, under |max(0, −d_g) − max(0, −d_h)|, over
    |max(0, d_g) − max(0, d_h)|, each a mean over the items that both groups rated here; non-parity
    |E_g[y] − E_h[y]| over all pairs of either group. An item that one group did not rate has no
    mean there, and counts nowhere. None where nothing can be compared.

    Args:
        predicted, truth: ratings, (B,). items: (B,). side: 1, 0 or −1 (left out), (B,).
        smooth: the outer |x| is ½x² below 1 and |x| − ½ from there on, so that its slope is
            continuous.
    """
    from torch.nn import functional as F

    if kind == "non-parity":
        if not (side == 1).any() or not (side == 0).any():
            return None
        gaps = (predicted[side == 1].mean() - predicted[side == 0].mean()).reshape(1)  # (1,)
    else:
        ours, theirs = item_means(predicted - truth, items, side)  # (J,) each
        if not len(ours):
            return None
        gaps = _kept(ours, kind) - _kept(theirs, kind)  # (J,)
    return F.smooth_l1_loss(gaps, gaps.new_zeros(gaps.shape)) if smooth else gaps.abs().mean()


def _kept(errors: Tensor, kind: str) -> Tensor:
    """What of the mean errors a quantity looks at: (J,) -> (J,)."""
    if kind == "value":
        return errors
    if kind == "absolute":
        return errors.abs()
    return (-errors if kind == "under" else errors).clamp_min(0)


def labels_of(data: Dataset, attribute: str) -> tuple[Sides, list[str]]:
    """The class of each user, −1 for those without or with several values, and the classes'
    names: (n_users,). Numbers with many values are cut into thirds.

    Raises:
        InputError: no such attribute, too many values, or fewer than two that somebody has alone.
    """
    if attribute not in data.user_attributes:
        raise InputError(f"users of {data.name} have no attribute {attribute!r}", hint="they have "
                         + (", ".join(sorted(data.user_attributes)) or "none"))
    members = user_groups(everybody(data), attribute).members
    inside = np.stack([*members.values(), np.zeros(data.n_users)]) > 0  # (classes + 1, n_users)
    alone = inside.sum(axis=0) == 1  # (n_users,)
    taken = inside[:, alone].any(axis=1)  # (classes + 1,): a class that nobody has alone is none
    if taken.sum() < 2:
        raise InputError(f"all users of {data.name} have one value of {attribute!r}, several at "
                         "once, or none")
    found = np.where(alone, inside[taken].argmax(axis=0), -1).astype(np.int64)
    names = list(members)
    return found, [names[k] for k in np.flatnonzero(taken)]


def rated(model: object, data: Dataset) -> Interactions:
    """The train rows that a model learns from: all of them where it predicts ratings, and those
    that count as liked for all others."""
    return data.train if getattr(model, "score_kind", "") == "rating" else data.train.positives()


def rated_counts(model: object, data: Dataset) -> Sides:
    """How many of these rows each item has, (n_items,)."""
    rows = rated(model, data)
    key = "_rated" if rows is data.train else "_liked"  # kept: losses ask for it at every step
    if key not in data.__dict__:
        data.__dict__[key] = np.bincount(rows.items, minlength=data.n_items)
    found: Sides = data.__dict__[key]
    return found


def reason(error: InputError) -> str:
    """What is wrong, without the place in a grid that the function that found it had in mind."""
    return error.what + (f" ({error.hint})" if error.hint else "")


def most_active(data: Dataset, share: float) -> Sides:
    """1 for the share of users with the most train rows, 0 for the others, −1 for those with
    none: (n_users,). At least one on each side; equal counts are cut by index. Injected users
    count like all others, since a defender does not know them.

    Raises:
        InputError: fewer than two users have train rows.
    """
    rows = np.bincount(data.train.users, minlength=data.n_users)
    order = np.argsort(-rows, kind="stable")[:int((rows > 0).sum())]
    if len(order) < 2:
        raise InputError(f"fewer than two users of {data.name} have train rows")
    found = np.where(rows > 0, 0, -1).astype(np.int64)
    found[order[:min(max(1, round(share * len(order))), len(order) - 1)]] = 1
    return found
