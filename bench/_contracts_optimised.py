"""Contracts of attacks that learn their profiles: learning must reach the profiles, and pay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.plugin import Plugin
from bench.testing import require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.api import Dataset, Profile


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [learning_reaches_the_profiles, target_loss_falls]


def _made(lab: Lab, seed: int, **changes: Any) -> tuple[list[Profile], dict[str, Any]]:
    """Profiles of the gray-box attack on data it can act on, and its notes."""
    from bench._contracts_lab import profile_task, refuse

    plugin = lab.plugin(knowledge="gray", **changes)
    data = _data(lab)
    refuse(plugin.unfit(lab.model_plugin(), data))
    ctx = dataclasses.replace(lab.context(seed), victim=None)
    return plugin.profiles(data, *profile_task(), ctx), ctx.notes


def _data(lab: Lab) -> Dataset:
    """Explicit data: there, an attack may also learn ratings."""
    return lab.data(explicit=True)


def learning_reaches_the_profiles(lab: Lab) -> None:
    """With the steps of its test parameters, profiles are other than with none."""
    for seed in (0, 1):
        (first, _), (learned, _) = _made(lab, seed, steps=0), _made(lab, seed)
        same = all(_same(a, b) for a, b in zip(first, learned, strict=True))
        require(not same, "it injects what it began with: nothing that it learns reaches the "
                "profiles", "let the gradient of the target loss reach them: is a lookup, a "
                "rounding or the generator's output detached?")


def target_loss_falls(lab: Lab) -> None:
    """Its own target loss with the profiles it takes is lower than with those it began with."""
    for seed in (0, 1):
        losses = _made(lab, seed)[1]["target_loss"]
        require(losses["taken"] < losses["first"], f"the target loss goes from "
                f"{losses['first']:.6g} to {losses['taken']:.6g}",
                "descend: is the sign right, and is the gradient that of the target loss?")


def _same(a: Profile, b: Profile) -> bool:
    one, other = np.argsort(a.items), np.argsort(b.items)
    if not np.array_equal(a.items[one], b.items[other]):
        return False
    return (a.ratings is None or b.ratings is None
            or np.array_equal(a.ratings[one], b.ratings[other]))
