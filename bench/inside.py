"""Attacks that look into the trained model: its vectors, and the slopes of what it serves."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from bench.attack import ModelAttack
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin
    from bench.context import Context
    from bench.data import Dataset
    from bench.models.base import Recommender

COPIES = 16
WHAT_COPIES = ("noisy copies of the vectors over which slopes are averaged, where the defense "
               "serves them under noise; more are nearer to the expectation, and slower")
LONGEST = 1e9
"""Largest length or factor: float32 holds the square of a product of two, and products of four."""


class InsideAttack(ModelAttack):
    """Base of attacks that differentiate the model, or that read its vectors.

    An adaptive one strikes what is served. Where a defense wraps the trained model when serving,
    that is what the wrapper gives for it (`Wrapped.stand_in`): under randomised smoothing the
    expectation over noise of the attacker's own, `copies` times, under macr the loss of the scores
    that it serves. Greedy re-rankers, linear programs and rewritten texts have no slopes: a
    defense says so (`Defense.unseen`), the attack is made on the model inside, and it is not
    called adaptive. What looks at nothing (knowledge: none) is neither static nor adaptive.
    """

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks_inside(self) -> bool:
        """Whether it differentiates the model or reads its vectors with these parameters."""
        return self.threat_model().knowledge == "white"

    @property
    def is_adaptive(self) -> bool:
        return self.adaptive and self.threat_model().knowledge != "none"

    def unseen(self, defense: Defense, data: Dataset) -> str | None:
        return defense.unseen() if self.adaptive and self.looks_inside else None

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        reason = super().unfit_defended(defense, model, data)
        if reason is None and not self.adaptive and self.threat_model().knowledge == "none":
            return "it does not look at the model, so that no defense changes it"
        return reason

    def stand_in(self, source: Recommender, ctx: Context) -> Recommender:
        """What the attack differentiates of the model that it is made on."""
        from bench.served import attackable

        return attackable(source, ctx, getattr(self, "copies", COPIES))


def check_numbers(attack: ModelAttack) -> None:
    """Refuse numbers with which float32 would overflow, so that a perturbation became nothing or
    no number.

    Raises:
        InputError: naming the parameter, its value and what is allowed.
    """
    for f in dataclasses.fields(attack):
        value = getattr(attack, f.name)
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LONGEST):
            raise InputError(f"{attack.name}: {f.name} is {value:g}, with which vectors overflow",
                             key=f.name, hint=f"allowed: a number of at most {LONGEST:g}; learned "
                             "vectors have norms of about 1")


def check_radius(attack: ModelAttack, eps: float, radius: float, table: str) -> float:
    """The radius, refused where relative units make it so long that float32 overflows."""
    if math.isfinite(radius) and radius <= LONGEST:
        return radius
    raise InputError(f"{attack.name}: eps {eps:g} is a radius of {radius:g} around the rows of "
                     f"{table}, with which vectors overflow", key="eps",
                     hint=f"allowed: a radius of at most {LONGEST:g}; ask for a smaller eps, or "
                     "look for a training that diverged")
