"""What flags are made of: the warning itself, and how two entries are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.leaderboard import Board, Entry, Row


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
    goal = e.first.threat.get("goal")
    names = [board.metric[e.row[0]]] if goal == "untargeted" else (
        [m for m in e.exposure if m in other.exposure] if goal in ("push", "nuke") else [])
    for name in names:
        mine, its = pair(board, e, other, name)
        if not math.isnan(mine):
            return ("" if goal == "untargeted" else f"{name} "), mine, its, goal == "push"
    return None
