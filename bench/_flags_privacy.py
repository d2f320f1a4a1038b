"""Flags on promises of privacy, on attacks that test them, and on detectors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from bench._cells import Cell
from bench._flags_common import Flag, met, ran
from bench.leaderboard import Board

PRIVACY_TOLERANCE = 0.01


def dp_bound(board: Board) -> Iterator[Flag]:
    """Even the lower end of the true-positive rate lies above e^ε times the upper end of the
    false-positive rate, plus δ. Only where nothing but membership tells the two sets apart:
    otherwise knowing what users like is enough to tell them, and no promise is broken. And only
    where the attack read what the promise covers."""
    for e in ran(board):
        for cell in e.ok.values():
            epsilon, delta = cell.privacy.get("epsilon"), cell.privacy.get("delta", 0.0)
            others = cell.facts.get("non_members")
            if epsilon is None or not math.isfinite(epsilon) or not others \
                    or not cell.facts.get("exchangeable") or not _covered(cell):
                continue
            for name, low in cell.privacy.items():
                found = re.fullmatch(r"mia-tpr@([\d.]+)%fpr-low", name)
                if found is None:
                    continue
                from bench.roc import highest_fpr

                false = highest_fpr(float(found[1]) / 100, others)
                bound = math.exp(min(epsilon, 700.0)) * false + delta
                if low > bound:
                    yield Flag("dp-bound", e.row, e.attack, f"TPR of at least {low:.4g} at "
                               f"{found[1]} % FPR, which is at most {false:.4g}: allowed "
                               f"{bound:.4g} (seed {cell.seed})")


def _covered(cell: Cell) -> bool:
    """Whether the privacy promised is of what the attack read. A training that says what it
    releases promises nothing of the scores that a user is served: they are made with the user's
    own row or history."""
    said = [f for f in (cell.facts.get("training") or {}).values() if isinstance(f, dict)]
    return cell.facts.get("reads") == "released" or not any("released" in f for f in said)


def below_chance(board: Board) -> Iterator[Flag]:
    """The upper end of a membership attack's AUC lies under one half."""
    for e in ran(board):
        highs = [c.privacy["mia-auc-high"] for c in e.ok.values() if "mia-auc-high" in c.privacy]
        if highs and max(highs) < 0.5:
            yield Flag("below-chance", e.row, e.attack, f"AUC at most {max(highs):.4g}")


def met_before(board: Board) -> Iterator[Flag]:
    """A detector is judged on the attack that made its examples."""
    for e in ran(board):
        if met(e):
            yield Flag("met-before", e.row, e.attack, f"trained with {e.first.attack.name}")


def epsilon_asked(cell: Cell) -> Any:
    """The ε that the defense was given, or else the model, which may be private by itself. None
    where noise was given instead: the ε beside it is a default that nobody asked for."""
    for params in (cell.defense.params, cell.model.params):
        if params.get("epsilon") is not None:
            return None if params.get("noise_multiplier") is not None else params["epsilon"]
    return None


def epsilon_differs(board: Board) -> Iterator[Flag]:
    """The defense's epsilon parameter and the epsilon spent differ by more than 1 %."""
    for e in ran(board):
        asked = epsilon_asked(e.first)
        if e.first.attack.name != "none" or not isinstance(asked, (int, float)) or not asked:
            continue
        off = {c.privacy["epsilon"] for c in e.ok.values() if "epsilon" in c.privacy
               and not abs(c.privacy["epsilon"] - asked) <= PRIVACY_TOLERANCE * asked}
        if off:
            spent = ", ".join(f"{v:.4g}" for v in sorted(off))
            yield Flag("epsilon-differs", e.row, None, f"asked {asked:g}, spent {spent}")
