"""Flags on attacks that do no more than chance: than a control of the same size, or than another
training would."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench._flags_common import Flag, by_goal, pair, ran
from bench.leaderboard import Board, Entry, Row

BALL = ("eps", "relative", "norm", "tables")  # equal for attacks in the same ball
# the attack that every other in its ball must beat
CONTROLS = {"noise": BALL,
            "feature-noise": ("eps", "relative", "norm", "targets", "stratum", "goal"),
            "token-noise": ("eps", "targets", "stratum", "sample")}
# of these, the ones that are refused as static attacks, since they look at no model: one of them
# is the control of static and of adaptive attacks
ONE_FOR_BOTH = frozenset({"noise", "feature-noise", "token-noise"})
# those that every attack of the same budget must beat, if it may make the same changes of a
# history (None: it has none); to append is to insert at the end
BLIND: dict[str, frozenset[str] | None] = {
    "append-items": frozenset({"append", "insert"}), "replace-last": frozenset({"substitute"}),
    "random-substitution": frozenset({"substitute"}), "random-profiles": None,
    "random-clients": None}


def _ball(entry: Entry, keys: tuple[str, ...], both: bool) -> tuple[Any, ...] | None:
    """The values of the keys, and whether the attack is adaptive (`both`: or not); None where it
    has no such ball, or an empty one."""
    params = entry.first.attack.params
    if any(key not in params for key in keys) or not params["eps"]:
        return None
    return (*(params[key] for key in keys), both or params.get("adaptive", True))


def same_ball(board: Board, name: str, keys: tuple[str, ...] = BALL
              ) -> Iterator[tuple[Entry, Entry]]:
    """(entry, the entry of attack `name` in the same row and ball). Who sees test positives is
    held to others who do, and, as everybody is, to the control, which sees nothing."""
    both, control = name in ONE_FOR_BOTH, name in CONTROLS
    by_ball = {(e.row, _ball(e, keys, both), e.oracle): e for e in ran(board)
               if e.first.attack.name == name and _ball(e, keys, both) is not None}
    for e in ran(board):
        other = by_ball.get((e.row, _ball(e, keys, both), e.oracle and not control))
        if other is not None and other is not e:
            yield e, other


def _controlled(board: Board) -> Iterator[tuple[Entry, Entry]]:
    """(entry, a control of the same budget in the same row) for all that have one."""
    for control, keys in CONTROLS.items():
        yield from same_ball(board, control, keys)
    blind = [e for e in ran(board) if e.first.attack.name in BLIND]
    for e in ran(board):
        if e.first.attack.name not in BLIND:
            yield from ((e, other) for other in blind if _same_budget(e, other))


def _same_budget(e: Entry, blind: Entry) -> bool:
    """Whether an attack could have done what the blind one did, and knows no less."""
    mine, its = e.first.threat, blind.first.threat
    changes = BLIND[blind.first.attack.name]
    knowing = its.get("knowledge") != "none" and bool(blind.first.attack.params.get("adaptive"))
    return (e.row == blind.row and bool(mine.get("comparable"))
            and all(mine.get(key) == its.get(key) for key in ("stage", "goal"))
            and _spends(mine) == _spends(its)
            and (changes is None or bool(changes & changes_of(mine)))
            and (not knowing or bool(e.first.attack.params.get("adaptive"))))


def _spends(threat: Mapping[str, Any]) -> str:
    """What makes attacks comparable, without what they see: a control sees less than any."""
    return str(threat.get("comparable")).split(", sees ")[0]


def changes_of(threat: Mapping[str, Any]) -> frozenset[str]:
    """The changes of a history that an attack may make, as its budget ends with them."""
    after = str(threat.get("budget", "")).removeprefix(str(threat.get("comparable")))
    found = re.match(r" \(([a-z, ]+)\)", after)
    return frozenset(found[1].split(", ")) if found else frozenset()


def weaker_than_noise(board: Board) -> Iterator[Flag]:
    """An attack on vectors, histories or the data leaves accuracy, or its targets, where its
    strongest control of the same size leaves them, or better off. Nothing is said where both
    leave 0: the metric cannot tell them apart."""
    worst: dict[int, tuple[float, Flag]] = {}
    for e, control in _controlled(board):
        found = by_goal(board, e, control)
        if found is None:
            continue
        name, mine, its, more_is_harm = found
        short = its - mine if more_is_harm else mine - its
        if short >= 0 and not mine == its == 0 and short >= worst.get(id(e), (0.0,))[0]:
            worst[id(e)] = short, Flag(
                "weaker-than-noise", e.row, e.attack,
                f"{name}{mine:.4g} against {its:.4g} by {control.attack}")
    yield from (flag for _, flag in worst.values())


def seed_floor(board: Board, row: Row) -> float:
    """Standard deviation of the leading metric between clean trainings; NaN below two seeds."""
    clean = board.clean(row)
    values = [] if clean is None else clean.seed_values(board.metric[row[0]])
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def noise_floor(board: Board) -> Iterator[Flag]:
    """The change of accuracy is smaller than the spread between clean seeds."""
    for e in ran(board):
        clean, floor = board.clean(e.row), seed_floor(board, e.row)
        if clean is None or clean is e or e.first.attack.name in CONTROLS or math.isnan(floor):
            continue
        if e.first.threat.get("goal") == "infer":  # it changes nothing, and is not meant to
            continue
        before, after = pair(board, clean, e)
        if abs(before - after) <= floor:
            yield Flag("noise-floor", e.row, e.attack,
                       f"change {before - after:+.2g}, floor {floor:.2g}")
