"""What flags are made of: the warning itself, and how two entries are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench._estimates import RANK
from bench.leaderboard import Board, Entry, Row

ADAPTIVE_FLAGS = ("adaptive-weaker", "adaptive-equals-static")


@dataclass(frozen=True)
class Flag:
    """One warning.

    Attributes:
        code: key of EXPLAINED.
        row: the row it concerns, or None for the whole run.
        attack: the attack's label, or None where it concerns the whole row.
        detail: the figures that made it fire.
    """

    code: str
    row: Row | None
    attack: str | None
    detail: str


Check = Callable[[Board], Iterator[Flag]]


def ran(board: Board) -> Iterator[Entry]:
    """The entries of which at least one seed ran."""
    return (e for e in board.entries.values() if e.ok)


def mean(entry: Entry) -> float:
    """The entry's mean of the leading metric; NaN without one."""
    return math.nan if entry.value is None else entry.value.mean


def pair(board: Board, a: Entry, b: Entry, name: str = "") -> tuple[float, float]:
    """The two means of a metric, the leading one if not named, over the seeds that both have."""
    metric = (name or board.metric[a.row[0]], "all")
    both = [s for s in a.ok if s in b.ok and metric in a.ok[s].values and metric in b.ok[s].values]
    if not both:
        return math.nan, math.nan
    return (sum(a.ok[s].values[metric] for s in both) / len(both),
            sum(b.ok[s].values[metric] for s in both) / len(both))


def by_goal(board: Board, e: Entry, other: Entry) -> tuple[str, float, float, bool] | None:
    """What the attacks aim at, its two means over the seeds that both have, and whether more of
    it is more harm. None where the attack only reads, or nothing can be compared."""
    return next(aims(board, e, other), None)


def aims(board: Board, e: Entry, other: Entry) -> Iterator[tuple[str, float, float, bool]]:
    """As `by_goal`, by every metric of what the attacks aim at: accuracy, or the exposure of
    their targets at each cut-off and then their rank, of which less is more."""
    goal = e.first.threat.get("goal")
    names = [board.metric[e.row[0]]] if goal == "untargeted" else (
        [*e.exposure, RANK] if goal in ("push", "nuke") else [])
    for name in names:
        mine, its = pair(board, e, other, name)
        if not math.isnan(mine):
            yield ("" if goal == "untargeted" else f"{name} ", mine, its,
                   goal == ("nuke" if name == RANK else "push"))


def met(entry: Entry) -> bool:
    """Whether a detector says that it was trained on the very attack that it met: by name, or by
    the rows that the attack makes where nobody reads ratings."""
    return any((c.facts.get("defense") or {}).get("trained_on_evaluated_attack") is True
               for c in entry.ok.values())
