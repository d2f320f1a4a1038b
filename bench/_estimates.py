"""The computations behind the leaderboard: accuracy, drops, gaps, tests, target exposure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import stats
from bench._cells import ACCURACY, Cell, Run
from bench.leaderboard import Board, Entry, Estimate, Gap, Row, Test, WorstCase
from bench.metrics.exposure import target_hr, target_rank
from bench.metrics.groups import compared, deviation, gap, mad, weighted_gap, worst

RANK = "target-rank"

Array = npt.NDArray[np.float64]


class _Values:
    """Per-user values of a dataset's entries, aligned on outside ids: (seeds, users) each."""

    def __init__(self, board: Board, dataset: str, attributes: Sequence[str]) -> None:
        self.run, self.metric = board.run, board.metric[dataset]
        self.seeds = list(board.run.seeds)
        self.attributes = attributes
        self.place: dict[Any, int] = {}
        self._last: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None = None
        self.groups: dict[str, dict[int, str]] = {a: {} for a in attributes}

    def read(self, entry: Entry) -> dict[int, tuple[npt.NDArray[np.int64], Array]]:
        """Seed -> (places of the users, their values), for the seeds that ran."""
        found = {}
        wanted = ["user", self.metric]
        if entry.first.attack.name == "none":
            wanted += [f"group:{a}" for a in self.attributes]
        for seed, cell in entry.ok.items():
            table = self.run.users(cell, wanted)
            if self.metric not in table or "user" not in table:
                continue
            at = self._places(table["user"])
            found[seed] = (at, table[self.metric].astype(np.float64))
            for a in self.attributes:
                if f"group:{a}" in table:
                    self.groups[a].update(zip(at.tolist(), map(str, table[f"group:{a}"]),
                                              strict=True))
        return found

    def _places(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if self._last is None or not np.array_equal(self._last[0], ids):
            at = [self.place.setdefault(u, len(self.place)) for u in ids.tolist()]
            self._last = (ids, np.array(at, np.int64))
        return self._last[1]


def accuracy(board: Board, dataset: str, draws: int) -> None:
    """Fill in the entries' means, drops, gaps and tests of one dataset."""
    metric = board.metric[dataset]
    entries = [e for e in board.entries.values() if e.row[0] == dataset and e.ok]
    attributes = sorted({g.split("=", 1)[0] for e in entries for c in e.ok.values()
                         for m, g in c.values if m == metric and "=" in g})
    values = _Values(board, dataset, attributes)
    read = {id(e): values.read(e) for e in entries}
    n_users = len(values.place)
    boot = stats.Bootstrap(len(values.seeds), n_users, draws) if n_users else None
    for model in dict.fromkeys(e.row[1] for e in entries):
        mine = [e for e in entries if e.row[1] == model]
        table = _Table([e for e in mine if read[id(e)] and len(read[id(e)]) == len(e.ok)],
                       read, values, boot, draws)
        for e in mine:
            own, n = e.seed_values(metric), table.at.get((e.row[2], e.attack))
            if own:
                ends = (stats.seed_interval(own) if n is None
                        else stats.interval(table.drawn[n]))
                e.value = Estimate(float(np.mean(own)), *ends, len(own),
                                   "seeds" if n is None else "users and seeds")
            if e.first.threat.get("goal") == "infer":
                continue  # it changes nothing that is recommended
            if e.first.attack.name != "none":
                _drop(board, e, table)
            elif n is not None:
                _gaps(e, values, table, n)
        _compare(table, binary=metric.startswith("hr@"))
        for row in dict.fromkeys(e.row for e in mine):
            board.worst_cases[row] = list(_worst_cases(row, table, values))


class _Table:
    """Values and resampled means of one model's entries: (entries, seeds, users)."""

    def __init__(self, entries: Sequence[Entry], read: Mapping[int, Any], values: _Values,
                 boot: stats.Bootstrap | None, draws: int) -> None:
        self.entries, self.boot = entries, boot
        self.at = {(e.row[2], e.attack): n for n, e in enumerate(entries)}
        n_users = 0 if boot is None else boot.n_users
        self.array = np.full((len(entries), len(values.seeds), n_users), np.nan)
        for n, e in enumerate(entries):
            for seed, (users, own) in read[id(e)].items():
                self.array[n, values.seeds.index(seed), users] = own
        self.drawn = self.means(self.array) if len(entries) else np.empty((0, draws))

    def means(self, array: Array) -> Array:
        assert self.boot is not None  # a table has entries only where users were stored
        return self.boot.means(array)

    def together(self, i: int, j: int) -> tuple[Array, Array]:
        """Resampled means of two entries over the seeds and users that both have."""
        there_i, there_j = ~np.isnan(self.array[i]), ~np.isnan(self.array[j])
        if (there_i == there_j).all():
            return self.drawn[i], self.drawn[j]
        means = self.means(np.where(there_i & there_j, self.array[[i, j]], np.nan))
        return means[0], means[1]


def before_after(run: Run, clean: Cell, cell: Cell, metric: str) -> tuple[float, float]:
    """The mean without and with the attack, over the same users: an attack on texts is measured
    on those alone whom the attacker never saw."""
    means = [c.values.get((metric, "all"), math.nan) for c in (clean, cell)]
    counts = [c.facts.get("users_evaluated") for c in (clean, cell)]
    if counts[0] != counts[1]:
        tables = [run.users(c, ["user", metric]) for c in (clean, cell)]
        if all(metric in t and "user" in t for t in tables):
            one, other = (dict(zip(t["user"].tolist(), t[metric].tolist(), strict=True))
                          for t in tables)
            shared = [u for u in other if u in one]
            if shared:
                means = [float(np.nanmean([v[u] for u in shared])) for v in (one, other)]
    return means[0], means[1]


def _drop(board: Board, e: Entry, table: _Table) -> None:
    """The relative drop from the row's clean entry, over the seeds both have."""
    clean, metric = board.clean(e.row), board.metric[e.row[0]]
    if clean is None:
        return
    pairs = [before_after(board.run, clean.ok[s], c, metric) for s, c in e.ok.items()
             if s in clean.ok]
    if not pairs:
        return
    before, after = np.array(pairs).mean(axis=0)
    n, base = table.at.get((e.row[2], e.attack)), table.at.get((e.row[2], "none"))
    if n is not None and base is not None:
        a, b = table.together(base, n)
        ends, basis = stats.interval(stats.relative_drop(a, b)), "users and seeds"
    else:
        ends = stats.seed_interval([float(stats.relative_drop(x, y)) for x, y in pairs])
        basis = "seeds"
    if before < stats.CLEAN_FLOOR:
        ends = (math.nan, math.nan)
    e.drop = Estimate(float(stats.relative_drop(before, after)), *ends, len(pairs), basis)


def _worst_cases(row: Row, table: _Table, values: _Values) -> Iterator[WorstCase]:
    """Per family of two or more attacks on accuracy: the least each user is left with."""
    base = table.at.get((row[2], "none"))
    families: dict[str, list[int]] = {}
    for n, e in enumerate(table.entries):
        threat = e.first.threat
        # poisonings are left out: between trainings a user's value moves without any attack
        if (e.row == row and threat.get("goal") == "untargeted" and threat.get("comparable")
                and threat.get("stage") not in ("train-poison", "model-poison")):
            oracle = ", test positives known" if e.oracle else ""
            families.setdefault(f"{threat.get('stage')}: {threat['comparable']}{oracle}",
                                []).append(n)
    for family, members in families.items():
        if len(members) < 2 or base is None:
            continue
        least = table.array[[base, *members]].min(axis=0)  # (seeds, users); NaN where one lacks
        there = ~np.isnan(least)
        if not there.any():
            continue
        clean = np.where(there, table.array[base], np.nan)
        worst, before = table.means(np.stack([least, clean]))
        seeds = {seed: float(np.nanmean(least[k])) for k, seed in enumerate(values.seeds)
                 if there[k].any()}
        mean = float(np.mean(list(seeds.values())))
        clean_mean = float(np.mean([np.nanmean(clean[k]) for k in range(len(clean))
                                    if there[k].any()]))
        yield WorstCase(
            family, tuple(table.entries[n].attack for n in members),
            Estimate(mean, *stats.interval(worst), len(seeds), "users and seeds"),
            Estimate(float(stats.relative_drop(clean_mean, mean)),
                     *stats.interval(stats.relative_drop(before, worst)), len(seeds),
                     "users and seeds"), seeds)


def _compare(table: _Table, binary: bool) -> None:
    """Each attack against none, each defense against none: paired over users."""
    for n, e in enumerate(table.entries):
        if e.first.threat.get("goal") == "infer":  # it changes nothing that is recommended
            continue
        for kind, base in (("against_clean", (e.row[2], "none")),
                           ("against_undefended", ("none", e.attack))):
            j = table.at.get(base)
            if j is None or j == n:
                continue
            mine, other = table.together(n, j)
            paired = stats.compare(table.array[n], table.array[j], binary=binary)
            if paired.users:
                setattr(e, kind, Test(paired, *stats.interval(mine - other)))


def _gaps(e: Entry, values: _Values, table: _Table, n: int) -> None:
    """Gap and worst group per attribute; the interval is that of the two groups named."""
    metric, own = values.metric, table.array[n]
    for attribute in values.attributes:
        prefix = f"{attribute}="
        small = {g for c in e.ok.values() for g in c.facts.get("small_groups") or ()}
        means = {g[len(prefix):]: float(np.mean(e.seed_values(metric, g)))
                 for g in sorted({g for c in e.ok.values() for m, g in c.values
                                  if m == metric and g.startswith(prefix)} - small)}
        means = {g: v for g, v in means.items() if math.isfinite(v)}
        if len(means) < 2:
            continue
        best, worst = max(means, key=lambda g: means[g]), min(means, key=lambda g: means[g])
        labels = [values.groups[attribute].get(u, "").split("|") for u in range(own.shape[1])]
        chosen = np.stack([np.where([g in label for label in labels], own, np.nan)
                           for g in (best, worst)])
        drawn = table.means(chosen)
        seeds = len(e.ok)
        e.gaps[attribute] = Gap(
            attribute, best, worst,
            Estimate(means[best] - means[worst], *stats.interval(drawn[0] - drawn[1]), seeds,
                     "users and seeds"),
            Estimate(means[worst], *stats.interval(drawn[1]), seeds, "users and seeds"))


def adjust(board: Board) -> None:
    """Holm over every test of the report."""
    adjusted = iter(stats.holm([t.paired.p for t in board.tests()]))
    for e in board.entries.values():
        for kind in ("against_clean", "against_undefended"):
            test = getattr(e, kind)
            if test is not None:
                setattr(e, kind, Test(test.paired, test.low, test.high, next(adjusted)))


# -- exposure ----------------------------------------------------------------------------------

def clean_exposure(run: Run, clean: Cell, targets: Sequence[str], cutoff: str) -> float:
    """Target exposure of the clean model for the same targets: as `target-hr` defines it, from
    the items table of the clean cell. NaN where the items were not stored."""
    return _of_targets(run, clean, targets, f"exposure@{cutoff}", target_hr)


def clean_rank(run: Run, clean: Cell, targets: Sequence[str]) -> float:
    """Mean rank of the same targets in the clean model, as `target-rank` defines it."""
    return _of_targets(run, clean, targets, "mean-rank", target_rank)


def _of_targets(run: Run, clean: Cell, targets: Sequence[str], column: str,
                mean: Callable[[Any, Any], float]) -> float:
    table = run.items(clean, ["item", column])
    if column not in table or not targets:
        return math.nan
    place = {item: n for n, item in enumerate(table["item"].tolist())}
    if any(t not in place for t in targets):
        return math.nan
    return mean(table[column], np.array([place[t] for t in targets], np.int64))


def exposures(board: Board, dataset: str) -> None:
    """Fill in target exposure and its lift over the row's clean entry."""
    for e in board.entries.values():
        clean = board.clean(e.row)
        if e.row[0] != dataset or clean is None or e.first.attack.name == "none":
            continue
        for metric in dict.fromkeys(m for c in e.ok.values() for m, g in c.values
                                    if m.startswith("target-hr@") and g == "all"):
            after = e.seed_values(metric)
            e.exposure[metric] = Estimate(float(np.mean(after)), *stats.seed_interval(after),
                                          len(after))
            lifts = list(seed_lifts(board, e, clean, metric).values())
            if lifts:
                e.lifts[metric] = Estimate(float(np.mean(lifts)), *stats.seed_interval(lifts),
                                           len(lifts))
        ranks, moves = e.seed_values(RANK), list(seed_lifts(board, e, clean, RANK).values())
        if ranks:
            e.rank = Estimate(float(np.mean(ranks)), *stats.seed_interval(ranks), len(ranks))
        if moves:
            e.rank_move = Estimate(float(np.mean(moves)), *stats.seed_interval(moves), len(moves))


def seed_lifts(board: Board, e: Entry, clean: Entry, metric: str) -> dict[int, float]:
    """Attacked minus clean exposure, or rank, of the same targets, per seed where both are
    known."""
    found = {}
    for seed, cell in e.ok.items():
        if seed in clean.ok and (metric, "all") in cell.values:
            own = cell.facts.get("clean_targets") or {}  # of the same users without the attack
            targets = cell.facts.get("targets") or ()
            if own:
                before = own.get(metric, math.nan)
            elif metric == RANK:
                before = clean_rank(board.run, clean.ok[seed], targets)
            else:
                before = clean_exposure(board.run, clean.ok[seed], targets, metric.split("@")[1])
            before = math.nan if before is None else before
            if math.isfinite(before):
                found[seed] = cell.values[metric, "all"] - before
    return found


# -- per seed, for the long table --------------------------------------------------------------

def seed_derived(board: Board, e: Entry, seed: int) -> list[tuple[str, float]]:
    """What follows from one cell and its clean partner: drops, lifts, and between groups
    gaps, mean absolute differences, deviations, gaps weighted by users, and the worst."""
    cell, clean = e.cells[seed], board.clean(e.row)
    if not cell.ok:
        return []
    found: list[tuple[str, float]] = []
    infers = e.first.threat.get("goal") == "infer"  # it changes nothing that is recommended
    partner = None if clean is None or clean is e or infers else clean.ok.get(seed)
    metrics = [m for m, g in cell.values if g == "all"]
    if partner is not None and clean is not None:
        for metric in metrics:
            if metric.startswith(ACCURACY) and (metric, "all") in partner.values:
                drop = stats.relative_drop(*before_after(board.run, partner, cell, metric))
                found.append((f"{metric}-drop", float(drop)))
        for metric in metrics:
            if metric.startswith("target-hr@"):
                lift = seed_lifts(board, e, clean, metric).get(seed)
                if lift is not None:
                    found.append((f"{metric}-lift", lift))
    for metric in metrics:
        attributes = dict.fromkeys(g.split("=", 1)[0] for m, g in cell.values
                                   if m == metric and "=" in g)
        for attribute in attributes if metric.startswith(ACCURACY) else ():
            by_group = compared(cell.raw["values"], cell.facts, metric, attribute)
            own = [math.nan if v is None else v for v in by_group.values()]
            if len(own) > 1:
                sizes = cell.facts.get("group_sizes") or {}
                found += [(f"{metric}-gap:{attribute}", gap(own)),
                          (f"{metric}-mad:{attribute}", mad(own)),
                          (f"{metric}-sd:{attribute}", deviation(own)),
                          (f"{metric}-weighted:{attribute}",
                           weighted_gap(own, [sizes.get(g, math.nan) for g in by_group])),
                          (f"{metric}-worst:{attribute}", worst(own))]
    return found
