"""Tables of what defenses met: static against adaptive attacks, and every defense that was trained
with an attack against every attack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench import stats
from bench._board_view import NONE, Table, View, interval, number, signed
from bench._estimates import RANK, seed_lifts
from bench._flags_common import ADAPTIVE_FLAGS, met
from bench.leaderboard import Board, Entry, Estimate, Row

if TYPE_CHECKING:
    from bench._board_tables import Builder

RANKED = "target-rank counts from 1, the best: a push lowers it"


def adaptive(b: Builder, dataset: str) -> Table | None:
    """The same attack made without and with knowledge of the defense, side by side, over the
    seeds that both have."""
    rows, ranked = [], False
    for static, knowing in b.board.static_and_adaptive():
        if static.row[0] != dataset:
            continue
        flags = b.codes(knowing.row, knowing.attack, ADAPTIVE_FLAGS)
        for metric, one, other in _both(b, dataset, static, knowing):
            ranked |= metric.startswith(RANK)
            rows.append([*b.names(static.row),
                         View(b.short["attack"][knowing.attack], full=knowing.attack),
                         View(metric), _estimate(one), _estimate(other),
                         View(signed(other.mean - one.mean), sort=other.mean - one.mean,
                              flags=flags, full="" if one.seeds else "no seed in common")])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: static and adaptive attacks on the defended",
                 ["model", "defense", "attack", "metric", "static", "adaptive", "difference"],
                 rows, fixed=4, numeric_from=4, kind="adaptive",
                 notes=["static: made on the undefended model, or without knowing the defense; "
                        "adaptive: made against the defended pipeline; both over the seeds in "
                        "which both ran", *[RANKED] * ranked])


def _both(b: Builder, dataset: str, static: Entry, knowing: Entry
          ) -> list[tuple[str, Estimate, Estimate]]:
    """What the attacks aim at: its name, static and adaptive, over the same seeds."""
    board, metric = b.board, b.board.metric[dataset]
    if knowing.first.threat.get("goal") == "untargeted":
        if set(static.ok) == set(knowing.ok) and static.value and knowing.value:
            return [(metric, static.value, knowing.value)]  # with users resampled as well
        return [(metric, *_paired(*({s: c.values[metric, "all"] for s, c in e.ok.items()
                                     if (metric, "all") in c.values}
                                    for e in (static, knowing))))]
    clean = board.clean(knowing.row)
    if clean is None:
        return []
    found = []
    for name in [*knowing.lifts, *[RANK] * (knowing.rank_move is not None)]:
        one, other = (seed_lifts(board, e, clean, name) for e in (static, knowing))
        if one and other:
            found.append((f"{name} {'change' if name == RANK else 'lift'}", *_paired(one, other)))
    return found


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[Estimate, Estimate]:
    """Two estimates over the seeds in both; NaN of 0 seeds where there is none."""
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return Estimate(math.nan), Estimate(math.nan)
    first, second = ([v[s] for s in seeds] for v in (one, other))
    return tuple(Estimate(float(np.mean(v)), *stats.seed_interval(v), len(v))  # type: ignore[return-value]
                 for v in (first, second))


def crossed(b: Builder, dataset: str) -> Table | None:
    """Every defense that was trained with an attack, against every attack."""
    trained = {row: _trained_against(b.board, row) for row in b.board.live_rows(dataset)}
    if not any(trained.values()):
        return None
    models = {row[1] for row, names in trained.items() if names}
    attacks = [a for a in b.board.attacks(dataset)
               if any((row, a) in b.board.entries and b.board.entries[row, a].ok
                      for row in trained if row[1] in models)]
    exposure = next(iter(b.lifted(dataset)), RANK)
    rows, aimed = [], False
    for row, names in trained.items():
        if row[1] not in models or not (names or row[2] == "none"):
            continue
        found = [b.board.entries.get((row, a)) for a in attacks]
        if any(e is not None and e.ok for e in found):
            aimed |= any(e is not None and e.ok and _targeted(e) for e in found)
            rows.append([*b.names(row), View(names or NONE),
                         *(_left(e, names, exposure) for e in found)])
    if not rows:
        return None
    moves = f"the change of {RANK}; {RANKED}" if exposure == RANK else f"the lift of {exposure}"
    return Table(f"{b.short['dataset'][dataset]}: each defense by the attack it was trained with, "
                 "under each attack", ["model", "defense", "trained with",
                                       *(b.short["attack"][a] for a in attacks)], rows, fixed=3,
                 numeric_from=3, kind="crossed",
                 notes=[f"share of clean {b.board.metric[dataset]} kept",
                        *[f"for attacks with targets: {moves}"] * aimed,
                        "(seen) marks the attack trained with, and what makes the same rows where "
                        "nobody reads ratings"])


def _trained_against(board: Board, row: Row) -> str:
    for (r, _), e in board.entries.items():
        if r == row:
            for cell in e.ok.values():
                return str(cell.facts.get("trained_against") or "")
    return ""


def _targeted(e: Entry) -> bool:
    return e.first.threat.get("goal") in ("push", "nuke")


def _left(e: Entry | None, trained: str, exposure: str) -> View:
    """What an attack did to what it aims at: to its targets by the metric named, or to accuracy."""
    if e is None or not e.ok:
        return View(NONE)
    # `met` asks the detector itself, which knows more than names
    named = e.first.attack.name in trained.replace(",", " ").split()
    seen = " (seen)" if named or met(e) else ""
    if _targeted(e):
        lift = e.rank_move if exposure == RANK else e.lifts.get(exposure)
        if lift is None or math.isnan(lift.mean):
            return View(NONE)
        return View(signed(lift.mean) + seen, interval(lift), sort=lift.mean, full=exposure)
    if e.drop is None or math.isnan(e.drop.mean):
        return View(NONE)
    kept = Estimate(1 - e.drop.mean, 1 - e.drop.high, 1 - e.drop.low)
    ends = "" if math.isnan(kept.low) else f"[{100 * kept.low:.1f}%, {100 * kept.high:.1f}%]"
    return View(f"{100 * kept.mean:.1f}%{seen}", ends, sort=kept.mean)


def _estimate(e: Estimate) -> View:
    return View(number(e.mean), interval(e), sort=e.mean)
