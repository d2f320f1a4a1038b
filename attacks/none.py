"""No attack: the baseline that every robustness number is a difference from."""

from __future__ import annotations

from typing import ClassVar

from bench.api import Attack, ThreatModel


class NoAttack(Attack):
    """Nothing is attacked. Always on the attack axis of a grid; no paper.

    Example: attacks: [none]
    """

    name = "none"
    threat: ClassVar[ThreatModel] = ThreatModel("none", "none", "none")
