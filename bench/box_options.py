"""The arguments that each attack of torchattacks takes for a ball of a given radius."""

from __future__ import annotations

import math
from typing import Any


def options(attack: Any, radius: float, seed: int, width: int) -> dict[str, Any]:
    """Keyword arguments for the library's class.

    Args:
        attack: the plugin, with its steps, step, norm, c and n_queries.
        radius: ε in units of the box.
        seed: of the attacks that seed the global generator themselves.
        width: how many coordinates a vector has.
    """
    name, steps, alpha = attack.attack, attack.steps, attack.step * radius
    norm = {"linf": "Linf", "l2": "L2"}[attack.norm]
    if name == "FGSM":
        return {"eps": radius}
    if name == "FFGSM":
        return {"eps": radius, "alpha": 1.25 * radius}
    if name in ("RFGSM", "BIM", "PGD", "PGDL2", "MIFGSM", "NIFGSM", "VMIFGSM", "VNIFGSM",
                "EOTPGD", "UPGD", "Jitter"):
        return {"eps": radius, "alpha": alpha, "steps": steps}
    if name == "CW":
        # Adam moves every coordinate by about lr/2 in the box. A longer first step than the ball
        # raises the cost, and the library ends there with nothing found.
        return {"c": attack.c * radius**2, "steps": steps, "lr": 2 * alpha / math.sqrt(width)}
    if name == "SPSA":
        # its step is Adam's: lr moves a coordinate by at most lr an iteration, whatever eps is
        count = max(steps, math.ceil(2 / attack.step))
        return {"eps": radius, "delta": 0.1 * radius, "lr": alpha, "nb_iter": count,
                "nb_sample": 64, "max_batch_size": 32}
    if name == "APGD":
        return {"eps": radius, "norm": norm, "steps": steps, "seed": seed}
    if name in ("APGDT", "FAB"):
        return {"eps": radius, "norm": norm, "steps": steps, "seed": seed, "n_classes": 4}
    if name == "Square":
        return {"eps": radius, "norm": norm, "n_queries": attack.n_queries, "seed": seed}
    if name == "AutoAttack":
        return {"eps": radius, "norm": norm, "seed": seed, "n_classes": 4}
    raise ValueError(f"{name} has no arguments here")
