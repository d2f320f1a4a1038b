"""Tables of what is compared between groups of users, and between items, beyond the gap of the
leading metric: one column per quantity that a grid asked for, without attack."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench import stats
from bench._board_view import NONE, Table, View, half, interval, number
from bench._estimates import seed_derived
from bench.leaderboard import Entry, Estimate
from bench.metrics.groups import compared

if TYPE_CHECKING:
    from bench._board_tables import Builder

# Of the leading metric, by attribute: what stands behind its name -> what it is.
DERIVED = {
    "weighted": "how far a user's group is from the mean of all groups, on average over users",
    "mad": "mean difference over all pairs of groups",
    "sd": "standard deviation of the groups' values"}
USERS = {
    "tpr": "equal opportunity: largest difference between groups in the share of relevant items "
           "that reach a list",
    "fpr": "largest difference between groups in the share of items not relevant that reach a list",
    "equalised-odds": "the larger of the gaps of tpr and fpr",
    "parity": "demographic parity: mean over items of the difference in the share of a group's "
              "lists that hold it",
    "differential-fairness": "mean over items shown to any of the largest |ln ratio| of these "
                             "shares, smoothed",
    "ks": "mean over items of the largest difference between distributions of its percentile in "
          "users' rankings",
    "wasserstein": "mean over items of how far these distributions are apart, as a share of the "
                   "ranking",
    "value-unfairness": "mean over items of the difference between groups in the mean error of "
                        "predicted ratings",
    "absolute-unfairness": "the same of the size of the mean error",
    "under-unfairness": "the same of how much ratings are underestimated",
    "over-unfairness": "the same of how much ratings are overestimated",
    "non-parity": "difference between groups in the mean predicted rating"}
ITEMS = {
    "exposure-dp": "smallest over largest of the groups' share of exposure over share of the "
                   "catalogue (1: alike)",
    "exposure-eo": "the same over share of the relevant pairs (merit)",
    "popreo": "sd over mean, of head and tail, of P(in a list | relevant); 0: alike",
    "poprsp": "sd over mean, of head and tail, of P(in a list); 0: alike",
    "pru": "popular ones among what a user likes are ranked higher: rank correlation, per user",
    "pri": "popular items are ranked higher by those who like them: rank correlation, over items",
    "aclt": "long-tail items in a list",
    "aplt": "share of long-tail items in a list",
    "arp": "mean train count of the items in a list",
    "gini": "concentration of exposure, over all items or within a group of them (0: all alike)"}
BY_GROUP = ("gini",)  # of these, the values of groups stand in the table as well,
MOST_GROUPS = 4  # if they are no more than these
SEEDS = ("intervals are over seeds alone: what all lists have in common is no mean over users, and "
         "no bootstrap over users is taken")

Key = tuple[str, str]  # metric, group


def between_users(b: Builder, dataset: str) -> Table | None:
    """What is compared between groups of users."""
    return _table(b, dataset, USERS, "groups of users", "fairness-users")


def between_items(b: Builder, dataset: str) -> Table | None:
    """How exposure is shared between items."""
    return _table(b, dataset, ITEMS, "items", "fairness-items")


def _table(b: Builder, dataset: str, known: Mapping[str, str], whose: str,
           kind: str) -> Table | None:
    """A row per model and defense, a column per quantity that any of them has."""
    leading = b.board.metric[dataset]
    found = {row: _values(b, clean, known)
             for row in b.board.live_rows(dataset) if (clean := b.board.clean(row)) is not None}
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    if not keys:
        return None
    digits = {key: _digits([v for values in found.values() for v in values.get(key, [])])
              for key in keys}
    rows, notes, absent = [], dict[str, int](), dict[str, None]()
    for row, values in found.items():
        clean = b.board.clean(row)
        assert clean is not None
        absent |= {f"no {metric}: {reason}": None for metric, reason in
                   (clean.first.facts.get("undefined") or {}).items()
                   if _base(metric) in known and _base(metric) not in {_base(m) for m, _ in keys}}
        flags = b.codes(row, None, ("small-groups",)) if known is USERS else ()
        rows.append([*b.names(row), *(_view(clean, key, values.get(key, []), notes, flags,
                                              digits[key]) for key in keys)])
    words = {_base(metric): known[_base(metric)] for metric, _ in keys if _base(metric) in known}
    words |= {f"{leading}-{end}": text for end, text in DERIVED.items()
              if any(metric.startswith(f"{leading}-{end}:") for metric, _ in keys)}
    return Table(f"{b.short['dataset'][dataset]}: fairness between {whose}, without attack",
                 ["model", "defense", *map(_header, keys)], rows, kind=kind,
                 notes=[*(f"{name}: {text}" for name, text in words.items()), SEEDS, *absent,
                        *(f"[{n}] {reason}" for reason, n in notes.items())])


def _base(metric: str) -> str:
    """The name of the metric that a value belongs to: "tpr" of "tpr@10-gap:gender"."""
    return metric.split(":")[0].split("@")[0]


def _header(key: Key) -> str:
    """ "parity@10 by gender", "gini@10 in popularity=head"."""
    metric, group = key
    name, _, attribute = metric.partition(":")
    return f"{name} by {attribute}" if attribute else name if group == "all" else \
        f"{name} in {group}"


def _values(b: Builder, clean: Entry, known: Mapping[str, str]) -> dict[Key, list[float]]:
    """The values of every quantity, one per seed."""
    made: dict[Key, list[float]] = {}
    for seed, cell in sorted(clean.ok.items()):
        several = Counter((metric, group.split("=")[0]) for metric, group in cell.values)
        for (metric, group), value in cell.values.items():
            base = _base(metric)
            whole = group == "all" and (known is ITEMS or ":" in metric)
            part = group != "all" and known is ITEMS and base in BY_GROUP and \
                several[metric, group.split("=")[0]] <= MOST_GROUPS
            if base in known and (whole or part):
                made.setdefault((metric, group), []).append(value)
        if known is USERS:
            for name, value in _derived(b, clean, seed):
                made.setdefault((name, "all"), []).append(value)
    return made


def _derived(b: Builder, clean: Entry, seed: int) -> list[tuple[str, float]]:
    """What follows from the leading metric's values by group. Of two groups all of it is a
    multiple of their gap, which has a table of its own, and is left to the long table."""
    leading, cell = b.board.metric[clean.row[0]], clean.ok[seed]
    shown = []
    for name, value in seed_derived(b.board, clean, seed):
        end, _, attribute = name.removeprefix(f"{leading}-").partition(":")
        if name.startswith(f"{leading}-") and end in DERIVED:
            groups = compared(cell.raw["values"], cell.facts, leading, attribute)
            if len(groups) > 2:
                shown.append((name, value))
    return shown


def _view(clean: Entry, key: Key, values: list[float], notes: dict[str, int],
          flags: tuple[str, ...], digits: int) -> View:
    """The mean over seeds; where there is none, a dash and the reason. No interval where all seeds
    give the same: a model that draws nothing says nothing of how sure it is."""
    there = [v for v in values if math.isfinite(v)]
    if not there:
        said: Mapping[str, str] = clean.first.facts.get("undefined") or {}
        reason = said.get(key[0]) or said.get(key[0].split(":")[0], "")
        note = notes.setdefault(reason, len(notes) + 1) if reason else 0
        return View(NONE, full=reason or "not measured", note=note)
    ends = stats.seed_interval(there) if max(there) > min(there) else (math.nan, math.nan)
    e = Estimate(float(np.mean(there)), *ends, len(there))
    return View(number(e.mean, digits), interval(e, digits), half=half(e) if digits == 4 else "",
                sort=e.mean, flags=flags,
                full=f"{len(there)} seeds" if len(there) > 1 else "one seed")


def _digits(values: list[float]) -> int:
    """Decimals that a column needs: parity and fpr are of the size of K / m."""
    there = [abs(v) for v in values if math.isfinite(v) and v]
    return 6 if there and max(there) < 0.01 else 4
