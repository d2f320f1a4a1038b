"""The leaderboard as plain tables, before any of them is drawn for a medium."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench._board_defended import adaptive, crossed
from bench._board_fairness import between_items, between_users
from bench._board_more import (
    attack_cost,
    cost,
    detection,
    inference,
    privacy,
    worst_cases,
)
from bench._board_order import CONTROL, FIRST_ORDER, by_order
from bench._board_view import (
    NONE,
    Table,
    View,
    half,
    interval,
    number,
    p_value,
    percent,
    short_labels,
    signed,
)
from bench._flags_common import ADAPTIVE_FLAGS, Flag
from bench.flags import EXPLAINED, MARKS
from bench.leaderboard import Board, Entry, Estimate, Row, Test

LEVEL = 0.05
ABOUT = (
    "Values are means; [low, high] is the 95 % interval: users and seeds resampled, users the "
    "same in all seeds and cells. Exposure and what is not a mean over users has Student's "
    "interval over the seeds alone.",
    "Percentages are relative changes of the mean against the same row without attack, over the "
    "same users (attacks on texts are measured on users whom the attacker never saw).",
    "* differs from the row without attack, † from the same cell without defense: paired over "
    "users, p < 0.05 after Holm's correction over all tests of this report.",
    "Different attacks have different budgets (see the threat model): a column is comparable "
    "down the rows, two columns only where their budgets are.",
    "Worst: the lowest accuracy among attacks that aim at it, the largest lift among those that "
    "push, the largest fall among those that nuke; the interval is that of the attack named. "
    "Attacks that see test positives are a worst of their own, and natural noise, which nobody "
    "aims, is in none.",
)


def _numbered(notes: Mapping[str, int]) -> list[str]:
    return [f"[{n}] {reason}" for reason, n in notes.items()]


class Builder:
    """Makes the tables of one board."""

    def __init__(self, board: Board, flags: Sequence[Flag]) -> None:
        self.board, self.flags = board, flags
        self.short = {kind: short_labels(specs) for kind, specs in board.specs.items()}
        self._at: dict[tuple[Row | None, str | None], list[str]] = {}
        for flag in flags:
            self._at.setdefault((flag.row, flag.attack), []).append(flag.code)

    def tables(self) -> list[Table]:
        """All tables, in the order they are read."""
        made = []
        for dataset in self.board.datasets:
            made += [t for t in (self.accuracy(dataset), self.attacked(dataset, False),
                                 self.attacked(dataset, True), self.exposure(dataset),
                                 by_order(self, dataset), worst_cases(self, dataset),
                                 adaptive(self, dataset), crossed(self, dataset),
                                 detection(self, dataset),
                                 self.fairness(dataset), between_users(self, dataset),
                                 between_items(self, dataset), privacy(self, dataset),
                                 inference(self, dataset), cost(self, dataset),
                                 attack_cost(self, dataset)) if t is not None]
        return [*made, *([self.threats()] if any(map(self.board.attacks, self.board.datasets))
                         else [])]

    # -- parts -----------------------------------------------------------------------------

    def codes(self, row: Row, attack: str | None, only: Iterable[str] = ()) -> tuple[str, ...]:
        found = dict.fromkeys(self._at.get((row, attack), []))
        return tuple(c for c in found if not only or c in only)

    def names(self, row: Row) -> list[View]:
        """The row's leading cells: model and defense, with flags of the whole row."""
        return [View(self.short["model"][row[1]], full=row[1],
                     flags=self.codes(row, None, ("not-above-pop",))),
                View(self.short["defense"][row[2]], full=row[2],
                     flags=tuple(c for c in self.codes(row, None) if c in (
                         "static-only", "epsilon-differs")))]

    def missing(self, entry: Entry | None, notes: dict[str, int]) -> View:
        """A cell that did not run: what happened, and the number of the reason."""
        if entry is None:
            return View(NONE, status="absent", full="not in the grid")
        word = {"skipped": "skipped", "timeout": "timeout"}.get(entry.status, "FAILED")
        reason = f"{entry.status}: {entry.reason}"
        flags = self.codes(entry.row, entry.attack)
        return View(word, status=entry.status, full=reason, flags=flags,
                    note=notes.setdefault(reason, len(notes) + 1))

    def accuracy(self, dataset: str) -> Table:
        """Clean value, the worst over attacks, the largest lift of the targets that are pushed,
        and the largest fall of those that are nuked."""
        metric, notes, rows = self.board.metric[dataset], dict[str, int](), []
        live = self.board.live_rows(dataset)
        moved = [(m, goal) for m in self.lifted(dataset) for goal in ("push", "nuke")
                 if any(self.board.worst_exposure(row, m, goal) for row in live)]
        oracles = any(self.board.worst(row, oracle=True) for row in live)
        for row in live:
            views = [*self.names(row), self._value(self.board.clean(row), notes),
                     *(self._worst(self.board.worst(row, oracle))
                       for oracle in (False, True)[:1 + oracles])]
            rows.append([*views, *(self._furthest(row, m, goal) for m, goal in moved)])
        headers = ["model", "defense", "clean", "worst",
                   *["worst, test positives known"] * oracles,
                   *(f"largest {m} {'lift' if goal == 'push' else 'fall'}"
                     for m, goal in moved)]
        return Table(f"{self.short['dataset'][dataset]}: {metric or 'accuracy'} and its worst "
                     "under attack", headers, rows, kind="accuracy", fixed=2,
                     notes=[*_numbered(notes), *self._budgets(live), *self._idle(dataset)])

    def _budgets(self, rows: Sequence[Row]) -> list[str]:
        """A line where `worst` is over attacks that may spend different amounts: the one named
        may be the worst because it may do more."""
        found: dict[str, list[str]] = {}
        mixed = False
        for row in rows:
            for oracle in (False, True):
                spent = [(str(e.first.threat.get("comparable") or e.first.threat.get("budget")),
                          self.short["attack"][e.attack]) for e in self.board.aimed(row, oracle)]
                mixed |= len({budget for budget, _ in spent}) > 1
                for budget, attack in spent:
                    if attack not in found.setdefault(budget, []):
                        found[budget].append(attack)
        if not mixed:
            return []
        listed = "; ".join(f"{budget}: {', '.join(attacks)}" for budget, attacks in found.items())
        return [f"worst is over attacks of different budgets, and who may do more may be it for "
                f"that alone. By budget: {listed}. Of equal budgets there is a table of its own "
                "where several attacks share one"]

    def attacked(self, dataset: str, poisoned: bool) -> Table | None:
        """The value under each attack on the training data, or under each of the others. Rows
        that none of them could act on stand below the table."""
        metric, notes, rows = self.board.metric[dataset], dict[str, int](), []
        attacks = [a for a in self.board.attacks(dataset) if poisoned == (
            self._threat(a).get("stage") == "train-poison")]
        skipped: dict[Row, list[str]] = {}
        for row in self.board.live_rows(dataset):
            found = [self.board.entries.get((row, a)) for a in attacks]
            there = [e for e in found if e is not None]
            if any(e.status != "skipped" for e in there):
                clean = self.board.clean(row)
                value = None if clean is None else clean.value
                rows.append([*self.names(row), View(NONE) if value is None else
                             View(number(value.mean), sort=value.mean),
                             *(self._value(e, notes) for e in found)])
            elif there:
                skipped[row] = list(dict.fromkeys(e.reason for e in there))
        if not rows:
            return None
        what = "after poisoned training" if poisoned else "under attacks on the trained model"
        return Table(f"{self.short['dataset'][dataset]}: {metric or 'accuracy'} {what}",
                     ["model", "defense", "clean", *(self.short["attack"][a] for a in attacks)],
                     rows, kind="attacked", fixed=2,
                     notes=[*_numbered(notes), *self.reasons("skipped", skipped)])

    def _threat(self, attack: str) -> Mapping[str, Any]:
        return next(e for (_, a), e in self.board.entries.items() if a == attack).first.threat

    def _idle(self, dataset: str) -> list[str]:
        """Lines for the rows that are in the grid and in no table."""
        return self.reasons("skipped whole", self.board.idle_rows(dataset))

    def reasons(self, head: str, rows: Mapping[Row, Sequence[str]]) -> list[str]:
        """One line per reason, whichever model it was given for."""
        grouped: dict[str, dict[str, list[str]]] = {}
        for row, reasons in rows.items():
            spec = self.board.specs["model"][row[1]]
            text = "; ".join(reasons)
            for name in dict.fromkeys((row[1], spec.name)):
                text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "the model", text)
            grouped.setdefault(text, {}).setdefault(self.short["defense"][row[2]], []).append(
                self.short["model"][row[1]])
        return [f"{head}: " + "; ".join(f"{', '.join(models)} with {defense}"
                                        for defense, models in found.items()) + f": {text}"
                for text, found in grouped.items()]

    def _value(self, e: Entry | None, notes: dict[str, int]) -> View:
        if e is None or e.value is None:
            return self.missing(e, notes)
        change = ""
        if e.drop is not None:
            change = percent(-e.drop.mean) if not math.isnan(e.drop.mean) else NONE
        codes = self.codes(e.row, e.attack)
        return View(number(e.value.mean), interval(e.value), change,
                    "" if change else half(e.value), self._stars(e), codes, self._sentence(e),
                    e.value.mean)

    def _worst(self, e: Entry | None) -> View:
        if e is None or e.value is None:
            return View(NONE, full="no such attack that aims at accuracy ran")
        change = "" if e.drop is None else percent(-e.drop.mean)
        change = f"{change} by {self.short['attack'][e.attack]}".strip()
        return View(number(e.value.mean), interval(e.value), change, stars=self._stars(e),
                    full=f"by {e.attack}", sort=e.value.mean)

    @staticmethod
    def _stars(e: Entry) -> str:
        def sure(test: Test | None) -> bool:
            return test is not None and test.holm < LEVEL
        return ("*" if sure(e.against_clean) else "") + ("†" if sure(e.against_undefended) else "")

    @staticmethod
    def _sentence(e: Entry) -> str:
        assert e.value is not None
        parts = [f"{e.value.mean:.6g} {interval(e.value, 5)} over {e.value.seeds} seeds "
                 f"({e.value.basis})"]
        if e.drop is not None:
            parts.append(f"drop {percent(e.drop.mean)} [{percent(e.drop.low)}, "
                         f"{percent(e.drop.high)}]")
        for what, test in (("none", e.against_clean), ("no defense", e.against_undefended)):
            if test is not None:
                parts.append(f"against {what}: {test.paired.difference:+.4g}, d_z "
                             f"{test.paired.effect:+.2f}, {test.paired.test}, Holm p "
                             f"{p_value(test.holm)}")
        return "; ".join(parts)

    def lifted(self, dataset: str) -> list[str]:
        """The metrics of target exposure that were measured."""
        return list(dict.fromkeys(m for (r, _), e in self.board.entries.items()
                                  if r[0] == dataset for m in e.exposure))

    def _furthest(self, row: Row, metric: str, goal: str) -> View:
        worst = self.board.worst_exposure(row, metric, goal)
        if worst is None:
            return View(NONE)
        lift = worst.lifts[metric]
        return View(signed(lift.mean), interval(lift), full=f"by {worst.attack}", sort=lift.mean,
                    aside=f"by {self.short['attack'][worst.attack]}",
                    flags=self.codes(row, None, ("exposure-floor",)))

    def exposure(self, dataset: str) -> Table | None:
        """Target exposure under each attack or control that has targets, and its lift over
        clean."""
        attacks = [a for a in self.board.attacks(dataset)
                   if any(e.exposure or e.rank or e.first.threat.get("goal") in ("push", "nuke")
                          for (r, x), e in self.board.entries.items()
                          if x == a and r[0] == dataset)]
        metrics = self.lifted(dataset)
        if any(e.rank is not None for (r, _), e in self.board.entries.items()
               if r[0] == dataset):
            metrics = [*metrics, "target-rank"]
        if not metrics:
            return None
        notes, rows, skipped = dict[str, int](), [], dict[Row, list[str]]()
        for metric in metrics:
            for row in self.board.live_rows(dataset):
                found = [self.board.entries.get((row, a)) for a in attacks]
                there = [e for e in found if e is not None]
                if all(e.status == "skipped" for e in there):
                    if there:
                        skipped[row] = list(dict.fromkeys(e.reason for e in there))
                    continue
                views = [*self.names(row), *([View(metric)] if len(metrics) > 1 else [])]
                rows.append([*views, *(self._exposed(e, metric, notes) for e in found)])
        headers = ["model", "defense", *(["metric"] if len(metrics) > 1 else []),
                   *(self.short["attack"][a] for a in attacks)]
        name = metrics[0] if len(metrics) == 1 else "target exposure"
        return Table(f"{self.short['dataset'][dataset]}: {name} of the attacked items, and its "
                     "lift", headers, rows, kind="exposure", fixed=2 + (len(metrics) > 1),
                     notes=[*_numbered(notes), *self.reasons("skipped", skipped), *(
                         ["target-rank: mean rank of the targets among all items that can be "
                          "recommended, 1 is best: an attack that pushes lowers it"]
                         if "target-rank" in metrics else []), *(
                         [FIRST_ORDER] if any(self.board.specs["attack"][a].name == CONTROL
                                              for a in attacks) else [])])

    def _exposed(self, e: Entry | None, metric: str, notes: dict[str, int]) -> View:
        if e is None or not e.ok:
            return self.missing(e, notes)
        flags = self.codes(e.row, e.attack, (
            "missing-seeds", "weaker-than-noise", "more-steps-weaker", "larger-eps-weaker",
            *ADAPTIVE_FLAGS, "not-adaptive", "exposure-ceiling"))
        if metric == "target-rank":
            if e.rank is None:
                return View(NONE)
            move = e.rank_move
            # flags stand once: with the cut-offs where there are any
            return View(number(e.rank.mean), "" if move is None else interval(move),
                        NONE if move is None else signed(move.mean), sort=e.rank.mean,
                        flags=() if e.exposure else flags,
                        full="mean rank under attack; its change over the same targets without "
                             "attack, and the change's interval over seeds")
        if metric not in e.exposure:
            return View(NONE)
        lift = e.lifts.get(metric)
        return View(number(e.exposure[metric].mean), "" if lift is None else interval(lift),
                    NONE if lift is None else signed(lift.mean),
                    full="exposure under attack; its lift over the same targets without attack, "
                         "and the lift's interval over seeds",
                    flags=flags,
                    sort=e.exposure[metric].mean)

    def fairness(self, dataset: str) -> Table | None:
        """Gap and worst group per user attribute, without attack."""
        attributes = sorted({a for (r, _), e in self.board.entries.items() if r[0] == dataset
                             for a in e.gaps})
        if not attributes:
            return None
        rows = []
        for row in self.board.live_rows(dataset):
            clean, views = self.board.clean(row), self.names(row)
            for attribute in attributes:
                gap = None if clean is None else clean.gaps.get(attribute)
                if gap is None:
                    views += [View(NONE), View(NONE)]
                    continue
                views.append(View(number(gap.gap.mean), interval(gap.gap), half=half(gap.gap),
                                  sort=gap.gap.mean,
                                  full=f"{gap.best} minus {gap.worst}",
                                  flags=self.codes(row, None, ("small-groups",))))
                views.append(View(f"{gap.worst}: {number(gap.worst_value.mean)}",
                                  interval(gap.worst_value), half=half(gap.worst_value),
                                  sort=gap.worst_value.mean))
            rows.append(views)
        headers = ["model", "defense"]
        for attribute in attributes:
            headers += [f"gap by {attribute}", f"worst {attribute}"]
        return Table(f"{self.short['dataset'][dataset]}: {self.board.metric[dataset]} by group of "
                     "users, without attack", headers, rows, kind="fairness",
                     notes=["gap: best minus worst group by their means; the interval is of the "
                            "difference between these two groups, so it may reach below 0"])

    def threats(self) -> Table:
        """Who each attacker is and what he may spend."""
        rows = []
        for label, spec in self.board.specs["attack"].items():
            if spec.name == "none":
                continue
            e = next(e for (_, a), e in self.board.entries.items() if a == label)
            threat = e.first.threat
            real = threat.get("realisable")
            rows.append([View(self.short["attack"][label], full=label),
                         View(str(threat.get("budget") or NONE)),
                         View(str(threat.get("stage") or NONE)),
                         View(str(threat.get("knowledge") or NONE)
                              + ", test positives" * e.oracle),
                         View(str(threat.get("goal") or NONE)),
                         View(NONE if real is None else "realisable" if real else "probe")])
        return Table("Threat model of each attack",
                     ["attack", "budget", "stage", "knowledge", "goal", "realisable"], rows,
                     fixed=1, numeric_from=9, kind="threats",
                     notes=["probe: measures stability; no attacker could carry it out as it is"])

    def tests(self) -> Table | None:
        """Every test of the family, with effect and interval."""
        rows = []
        for e in self.board.entries.values():
            for versus, test in (("no attack", e.against_clean),
                                 ("no defense", e.against_undefended)):
                if test is None:
                    continue
                t = test.paired
                ends = Estimate(t.difference, test.low, test.high)
                rows.append([
                    View(self.short["model"][e.row[1]], full=e.row[1]),
                    View(self.short["defense"][e.row[2]], full=e.row[2]),
                    View(self.short["attack"][e.attack], full=e.attack), View(versus),
                    View(signed(t.difference), interval(ends), sort=t.difference),
                    View(number(t.effect, 2), sort=t.effect), View(p_value(t.p), sort=t.p),
                    View(p_value(test.holm), sort=test.holm), View(f"{t.test}, {t.users} users")])
        if not rows:
            return None
        return Table("Paired tests", ["model", "defense", "attack", "against", "difference",
                                      "effect d_z", "p", "p (Holm)", "test"], rows, fixed=4,
                     numeric_from=4, kind="tests")

    def flag_lines(self, most: int = 0) -> list[str]:
        """One line per kind of flag: its letter, what it means, where it fired (`most` rows;
        0: all)."""
        lines = []
        for code, meaning in EXPLAINED.items():
            rows: dict[Row | None, list[Flag]] = {}
            for flag in self.flags:
                if flag.code == code:
                    rows.setdefault(flag.row, []).append(flag)
            shown = list(rows)[:most] if most and len(rows) > most + 1 else list(rows)
            where = [f"{self._name(row)}: {self._fired(rows[row])}" for row in shown]
            if len(shown) < len(rows):
                where.append(f"and {len(rows) - len(shown)} more rows")
            if rows:
                lines.append(f"[{MARKS[code]}] {meaning}. {'; '.join(where)}.")
        return lines

    def _name(self, row: Row | None) -> str:
        if row is None:
            return "the whole run"
        parts = [self.short["model"][row[1]], self.short["defense"][row[2]]]
        if len(self.board.datasets) > 1:
            parts.insert(0, self.short["dataset"][row[0]])
        return "/".join(parts)

    def _fired(self, flags: Sequence[Flag]) -> str:
        """The attacks concerned, and the figures: once where they are the same for all."""
        names = ["" if f.attack is None else self.short["attack"][f.attack] for f in flags]
        if len({f.detail for f in flags}) == 1:
            listed = ", ".join(n for n in names if n)
            return f"{listed} ({flags[0].detail})" if listed else flags[0].detail
        return ", ".join(f"{n} ({f.detail})" for n, f in zip(names, flags, strict=True))
