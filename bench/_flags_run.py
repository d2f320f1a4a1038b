"""Flags on the run itself: seeds, cut-offs, groups, ties, models that are no better than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench._flags_common import Flag, mean, ran
from bench.leaderboard import Board

TIES = 0.01


def missing_seeds(board: Board) -> Iterator[Flag]:
    """Some, not all, of the seeds asked for ran."""
    asked = len(board.run.seeds)
    for e in ran(board):
        if len(e.ok) < asked:
            detail = f"{len(e.ok)} of {asked} seeds"
            yield Flag("missing-seeds", e.row, e.attack,
                       f"{detail}: {e.reason}" if e.reason else detail)


def one_seed(board: Board) -> Iterator[Flag]:
    """The run has one seed."""
    if len(board.run.seeds) == 1:
        yield Flag("one-seed", None, None, f"seed {board.run.seeds[0]}")


def exposure_floor(board: Board) -> Iterator[Flag]:
    """Target exposure is 0 for every attack on the row, and was 0 before it: a nuke that leaves
    nothing of something has met no floor."""
    for row in dict.fromkeys(e.row for e in ran(board)):
        entries = board.of(row)
        for metric in dict.fromkeys(m for e in entries for m in e.exposure):
            seen = [e for e in entries if metric in e.exposure]
            if all(e.exposure[metric].mean <= 0 and metric in e.lifts
                   and e.lifts[metric].mean >= 0 for e in seen):
                yield Flag("exposure-floor", row, None,
                           f"{metric} is 0 for all attacks, and without them")


def small_groups(board: Board) -> Iterator[Flag]:
    """Groups that the evaluation left out because they are too small."""
    for e in ran(board):
        left = e.first.facts.get("small_groups")
        if e.first.attack.name == "none" and left:
            yield Flag("small-groups", e.row, None,
                       ", ".join(f"{name} ({size} users)" for name, size in left.items()))


def ties(board: Board) -> Iterator[Flag]:
    """More than 1 % of the users have ties at the edge of their list."""
    for e in ran(board):
        if e.first.threat.get("goal") == "infer":  # nothing of what it reads is a list's edge
            continue
        share = max(float(c.facts.get("tie_share") or 0.0) for c in e.ok.values())
        if share > TIES:
            yield Flag("ties", e.row, e.attack, f"{share:.1%} of the users")


def not_above_pop(board: Board) -> Iterator[Flag]:
    """A model whose clean accuracy is not above that of `pop` on the same data."""
    floors = {e.row[0]: mean(e) for e in ran(board)
              if e.first.model.name == "pop" and e.row[2] == "none"
              and e.first.attack.name == "none"}
    for e in ran(board):
        if e.first.attack.name != "none" or e.first.model.name in ("pop", "random"):
            continue
        if mean(e) <= floors.get(e.row[0], -math.inf):
            yield Flag("not-above-pop", e.row, None,
                       f"{mean(e):.4g} against {floors[e.row[0]]:.4g}")


def failed(board: Board) -> Iterator[Flag]:
    """Cells of which no seed ran, for another reason than being skipped."""
    for e in board.entries.values():
        if e.status in ("failed", "timeout"):
            yield Flag("failed", e.row, e.attack, e.reason)
