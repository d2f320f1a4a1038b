"""Flags on attacks that are weaker than they should be: than fewer steps, a smaller budget, or one
who knows less."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from bench._flags_common import Flag, aims, by_goal, pair, ran
from bench._flags_controls import CONTROLS, same_ball
from bench.leaderboard import Board, Entry


def pgd_weaker_than_fgsm(board: Board) -> Iterator[Flag]:
    """PGD leaves more accuracy than FGSM in the same ball."""
    for e, one_step in same_ball(board, "fgsm"):
        mine, fgsm = pair(board, e, one_step)
        if e.first.attack.name == "pgd" and mine > fgsm:
            yield Flag("pgd-weaker-than-fgsm", e.row, e.attack, f"{mine:.4g} against {fgsm:.4g}")


def _ladders(board: Board, key: str) -> Iterator[tuple[Entry, Entry]]:
    """Neighbours (less, more) that differ in the parameter `key` alone."""
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for e in ran(board):
        params = e.first.attack.params
        if isinstance(params.get(key), (int, float)):
            rest = tuple(sorted((k, repr(v)) for k, v in params.items() if k != key))
            found.setdefault((e.row, e.first.attack.name, rest), []).append(e)
    for group in found.values():
        group.sort(key=lambda e: float(e.first.attack.params[key]))
        yield from itertools.pairwise(group)


def _weaker_with_more(board: Board, key: str, code: str) -> Iterator[Flag]:
    for less, more in _ladders(board, key):
        found = by_goal(board, more, less)
        if more.first.attack.name in CONTROLS or found is None:
            continue
        name, high, low, more_is_harm = found
        if high < low if more_is_harm else high > low:
            yield Flag(code, more.row, more.attack,
                       f"{name}{high:.4g} at {key} {more.first.attack.params[key]:g}, {low:.4g} "
                       f"at {less.first.attack.params[key]:g}")


def more_steps_weaker(board: Board) -> Iterator[Flag]:
    """The same attack with more steps comes less near to its goal."""
    return _weaker_with_more(board, "steps", "more-steps-weaker")


def larger_eps_weaker(board: Board) -> Iterator[Flag]:
    """The same attack with a larger eps comes less near to its goal."""
    return _weaker_with_more(board, "eps", "larger-eps-weaker")


def static_only(board: Board) -> Iterator[Flag]:
    """Fake profiles against a defense that cleans the data, and none of them is adaptive.

    A defense cleans the data if its `facts` say what it did to them; an attack is adaptive if
    its name or a parameter says so.
    """
    for row in dict.fromkeys(e.row for e in ran(board)):
        profile = [e for e in board.of(row) if e.first.threat.get("stage") == "train-poison"]
        cleans = any(c.facts.get("defense") for e in profile for c in e.ok.values())
        if profile and cleans and not any(_adaptive(e) for e in profile):
            names = ", ".join(dict.fromkeys(e.first.attack.name for e in profile))
            yield Flag("static-only", row, None, f"tried: {names}")


def _adaptive(entry: Entry) -> bool:
    return "adaptive" in entry.first.attack.name or entry.adaptive


def not_adaptive(board: Board) -> Iterator[Flag]:
    """An attack on vectors means to be adaptive, and the defense does what it cannot follow."""
    for e in ran(board):
        if e.first.threat.get("unseen"):
            yield Flag("not-adaptive", e.row, e.attack, str(e.first.threat["unseen"]))


def adaptive_equals_static(board: Board) -> Iterator[Flag]:
    """An attack that knows the defense leaves to the last digit what the same attack leaves that
    does not: every metric, of every seed that both have."""
    for static, adaptive in board.static_and_adaptive():
        both = [s for s in adaptive.ok if s in static.ok]
        if both and all(adaptive.ok[s].values == static.ok[s].values for s in both):
            yield Flag("adaptive-equals-static", adaptive.row, adaptive.attack,
                       f"as {static.attack}, in {len(both)} seed{'s' * (len(both) > 1)}")


def adaptive_weaker(board: Board) -> Iterator[Flag]:
    """An attack that knows the defense does less harm than the same attack that does not, over
    the seeds that both have."""
    for static, adaptive in board.static_and_adaptive():
        for name, mine, other, more_is_harm in aims(board, adaptive, static):
            if mine < other if more_is_harm else mine > other:
                yield Flag("adaptive-weaker", adaptive.row, adaptive.attack,
                           f"{name}{mine:.4g}{'' if name else ' left'} against {other:.4g}")
