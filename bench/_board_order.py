"""The table of what an order of candidates does alone, and of what attacks do beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import stats
from bench._board_view import NONE, Table, View, interval, number, signed, significant
from bench._estimates import RANK
from bench.leaderboard import Entry, Estimate, Row

if TYPE_CHECKING:
    from bench._board_tables import Builder

CONTROL = "candidate-permutation"
FIRST_ORDER = (f"{CONTROL}: nobody pushes; the same candidates in one other order, the first "
               "drawn. Mean and spread over the orders stand in a table of their own")
FACTS = {"users": "users", "orders": "orders", "rank variance": "rank_variance",
         "chance": "chance", "first moves": "first_moves"}
NOTES = (
    "rank variance: of a candidate's rank over the orders; chance: what orders drawn at random "
    "give, so that a model near it ranks by place; first moves: share of users whose first "
    "candidate is not the same in all orders",
    "order alone: change of target-rank (1 is best, a push lowers it) when the same candidates are "
    "listed in another order, mean over the orders; spread: standard deviation of target-rank "
    "between orders, within a seed. Two orders differ by about 1.4 times the spread, means over n "
    "seeds by √n less: an attack's change of the same targets, among the same users, says "
    "something only where it is clearly larger")


def by_order(b: Builder, dataset: str) -> Table | None:
    """What another order does to each row, and what the attacks do that were measured on the
    same targets, among the same users."""
    found = [e for (row, _), e in b.board.entries.items()
             if row[0] == dataset and e.first.attack.name == CONTROL]
    attacks = [a for a in b.board.attacks(dataset)
               if any(_beside(e, b.board.entries.get((e.row, a))) for e in found)]
    several = len({e.attack for e in found}) > 1
    rows, notes, skipped = [], dict[str, int](), dict[Row, list[str]]()
    for e in found:
        views = [*b.names(e.row), *[View(b.short["attack"][e.attack], full=e.attack)] * several]
        if e.ok:
            rows.append([*views, *(_mean(e, key) for key in FACTS.values()), *_floor(e),
                         *(_change(e, b.board.entries.get((e.row, a))) for a in attacks)])
        elif e.status == "skipped":
            skipped.setdefault(e.row, []).append(e.reason)
        else:
            rows.append([*views, b.missing(e, notes),
                         *[View(NONE)] * (len(FACTS) + 1 + len(attacks))])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: what the order of candidates does alone",
                 ["model", "defense", *["control"] * several, *FACTS, "order alone", "spread",
                  *(b.short["attack"][a] for a in attacks)], rows, fixed=2 + several,
                 numeric_from=2 + several, kind="order",
                 notes=[*(f"[{n}] {reason}" for reason, n in notes.items()), *NOTES,
                        *b.reasons("no such floor", skipped)])


def _mean(e: Entry, key: str) -> View:
    values = [float(c.facts[key]) for c in e.ok.values() if c.facts.get(key) is not None]
    mean = float(np.mean(values)) if values else math.nan
    return View(significant(mean), sort=mean)


def _floor(e: Entry) -> tuple[View, View]:
    """The change of target-rank by order alone, and its spread between orders."""
    told: list[tuple[Any, Any]] = [
        (c.facts["over_orders"][RANK], c.facts["clean_targets"][RANK])
        for c in e.ok.values() if c.facts.get("over_orders")]
    told = [(over, clean) for over, clean in told if clean is not None]  # None: nobody lacks them
    if not told:
        return View(NONE, full="no targets"), View(NONE, full="no targets")
    changes = [over["mean"] - clean for over, clean in told]
    sd = math.sqrt(float(np.mean([over["sd"] ** 2 for over, _ in told])))
    return _estimate(changes), View(number(sd), sort=sd)


def _beside(e: Entry, attack: Entry | None) -> dict[int, float]:
    """Seed -> the change of target-rank by an attack at test time, of the seeds in which it was
    measured as the control was: on the same targets, among equally many users."""
    if attack is None or attack.first.attack.name == CONTROL or \
            attack.first.threat.get("stage") != "test-input":
        return {}
    made = {}
    for seed, cell in attack.ok.items():
        clean = (cell.facts.get("clean_targets") or {}).get(RANK)
        other = e.ok.get(seed)
        if other is not None and clean is not None and (RANK, "all") in cell.values and all(
                cell.facts.get(k) == other.facts.get(k) for k in ("targets", "users_evaluated")):
            made[seed] = cell.values[RANK, "all"] - clean
    return made


def _change(e: Entry, attack: Entry | None) -> View:
    found = list(_beside(e, attack).values())
    if found:
        return _estimate(found)
    return View(NONE, full="" if attack is None or not attack.ok else
                "measured on other targets or users")


def _estimate(values: list[float]) -> View:
    mean = float(np.mean(values))
    return View(signed(mean), interval(Estimate(mean, *stats.seed_interval(values))), sort=mean)
