"""From the cells of a run to the leaderboard's numbers: means, intervals, tests, worst cases."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bench import stats
from bench._cells import Cell, Run, Spec, primary_metric
from bench.results import AXES

Row = tuple[str, str, str]  # labels of dataset, model, defense


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        basis: what was resampled: "users and seeds", or "seeds" (t interval) for what is not a
            mean over users.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    basis: str = "seeds"


@dataclass(frozen=True)
class Test:
    """A paired comparison with p adjusted by Holm over all tests of the report."""

    paired: stats.Paired
    low: float
    high: float
    holm: float = math.nan


@dataclass(frozen=True)
class Gap:
    """The distance of the best from the worst group of one attribute, both named."""

    attribute: str
    best: str
    worst: str
    gap: Estimate
    worst_value: Estimate


@dataclass(frozen=True)
class WorstCase:
    """Each user at the attack that harms this user most, then averaged, as AutoAttack does for
    images (Croce and Hein, ICML 2020): over the attacks of equal budget, and no attack.

    Attributes:
        family: the budget that they share.
        attacks: their labels.
        seeds: seed -> the mean over users.
    """

    family: str
    attacks: tuple[str, ...]
    value: Estimate
    drop: Estimate
    seeds: dict[int, float]


@dataclass
class Entry:
    """One row and attack, over its seeds."""

    row: Row
    attack: str
    cells: dict[int, Cell]
    value: Estimate | None = None
    drop: Estimate | None = None
    lifts: dict[str, Estimate] = field(default_factory=dict)
    exposure: dict[str, Estimate] = field(default_factory=dict)
    rank: Estimate | None = None  # of the targets, under the attack
    rank_move: Estimate | None = None  # against the same targets without it
    gaps: dict[str, Gap] = field(default_factory=dict)
    against_clean: Test | None = None
    against_undefended: Test | None = None

    @property
    def first(self) -> Cell:
        return self.cells[min(self.cells)]

    @property
    def oracle(self) -> bool:
        """Whether the attack sees test positives, which no attacker has."""
        known = self.first.threat.get("oracle")  # older results do not say
        return "test" in self.first.attack.params.values() if known is None else bool(known)

    @property
    def adaptive(self) -> bool:
        """Whether the attack was made against the defended pipeline: it may be asked to be by
        `adaptive`, or be by what it knows (white-box profiles)."""
        known = self.first.threat.get("adaptive")  # older results do not say
        return bool(self.first.attack.params.get("adaptive") if known is None else known)

    @property
    def ok(self) -> dict[int, Cell]:
        """Seeds that ran."""
        return {s: c for s, c in self.cells.items() if c.ok}

    @property
    def status(self) -> str:
        """ok if any seed ran; else failed, timeout or skipped."""
        found = [c.status for c in self.cells.values()]
        return next((s for s in ("ok", "failed", "timeout") if s in found), "skipped")

    @property
    def reason(self) -> str:
        """Why what did not run did not, each reason once."""
        reasons = [c.reason or "no reason given" for c in self.cells.values() if not c.ok]
        return "; ".join(dict.fromkeys(reasons))

    def seed_values(self, metric: str, group: str = "all") -> list[float]:
        """The metric of each seed that ran and has it."""
        return [c.values[metric, group] for _, c in sorted(self.ok.items())
                if (metric, group) in c.values]


@dataclass
class Board:
    """The leaderboard. `entries` is keyed by row and attack label, in the order of the tables."""

    run: Run
    metric: dict[str, str]
    entries: dict[tuple[Row, str], Entry]
    specs: dict[str, dict[str, Spec]]
    worst_cases: dict[Row, list[WorstCase]] = field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        return list(self.specs["dataset"])

    def rows(self, dataset: str) -> list[Row]:
        return list(dict.fromkeys(row for row, _ in self.entries if row[0] == dataset))

    def live_rows(self, dataset: str) -> list[Row]:
        """The rows in which something ran or failed: what tables show line by line."""
        live = {row for (row, _), e in self.entries.items() if e.status != "skipped"}
        return [row for row in self.rows(dataset) if row in live]

    def idle_rows(self, dataset: str) -> dict[Row, list[str]]:
        """Rows in which every cell was skipped, with the different reasons."""
        live = set(self.live_rows(dataset))
        idle: dict[Row, list[str]] = {}
        for (row, _), e in self.entries.items():
            if row[0] == dataset and row not in live:
                reasons = idle.setdefault(row, [])
                if e.reason and e.reason not in reasons:
                    reasons.append(e.reason)
        return idle

    def attacks(self, dataset: str) -> list[str]:
        """Labels of the attacks tried on the dataset that change what is recommended: `none`,
        and those that only read (goal infer), left out."""
        return [a for a in self._tried(dataset) if not self.infers(a)]

    def inferences(self, dataset: str) -> list[str]:
        """Labels of the attacks that read private facts out of the model."""
        return [a for a in self._tried(dataset) if self.infers(a)]

    def _tried(self, dataset: str) -> list[str]:
        seen = {a for row, a in self.entries if row[0] == dataset}
        return [a for a, spec in self.specs["attack"].items() if a in seen and spec.name != "none"]

    def infers(self, attack: str) -> bool:
        """Whether the attack's goal is to infer."""
        return any(e.first.threat.get("goal") == "infer"
                   for (_, a), e in self.entries.items() if a == attack)

    def clean(self, row: Row) -> Entry | None:
        """The row without attack."""
        return self.entries.get((row, "none"))

    def undefended(self, row: Row, attack: str) -> Entry | None:
        """The same model and attack without defense."""
        return self.entries.get(((row[0], row[1], "none"), attack))

    def of(self, row: Row) -> list[Entry]:
        """The row's attacked entries that ran."""
        return [e for (r, _), e in self.entries.items()
                if r == row and e.ok and e.first.attack.name != "none"]

    def worst(self, row: Row, oracle: bool = False) -> Entry | None:
        """The entry with the lowest mean accuracy among attacks that aim at accuracy.

        Args:
            oracle: among those that see test positives, and not among those that do not.
        """
        return min(self.aimed(row, oracle), key=lambda e: e.value.mean,  # type: ignore[union-attr]
                   default=None)

    def aimed(self, row: Row, oracle: bool = False) -> list[Entry]:
        """The attacks on accuracy that `worst` is over."""
        return [e for e in self.of(row) if e.first.threat.get("goal") == "untargeted"
                and e.oracle == oracle and e.value is not None and math.isfinite(e.value.mean)]

    def worst_exposure(self, row: Row, metric: str, goal: str = "push") -> Entry | None:
        """The entry that comes nearest to its goal: among pushes the one that lifts its targets
        most, among nukes the one whose targets fall most."""
        found = [e for e in self.of(row) if metric in e.lifts
                 and e.first.threat.get("goal") == goal and math.isfinite(e.lifts[metric].mean)]
        most = min if goal == "nuke" else max
        return most(found, key=lambda e: e.lifts[metric].mean) if found else None

    def static_and_adaptive(self) -> list[tuple[Entry, Entry]]:
        """The same attack with the same budget, made without and with knowledge of the defense,
        in rows that have one. Several may know it, each in its way; each is paired."""
        static: dict[tuple[Row, str, str], Entry] = {}
        knowing: list[tuple[tuple[Row, str, str], Entry]] = []
        for e in self.entries.values():
            if not e.ok or e.first.attack.name == "none" or e.first.defense.name == "none":
                continue
            key = (e.row, e.first.attack.name, _but_for_knowledge(e))
            if e.adaptive:
                knowing.append((key, e))
            elif not e.first.threat.get("unseen"):  # meant to know, and made otherwise than static
                static[key] = e
        return [(static[key], e) for key, e in knowing if key in static]

    def tests(self) -> list[Test]:
        """All tests the report shows: the family of Holm's correction."""
        return [t for e in self.entries.values()
                for t in (e.against_clean, e.against_undefended) if t is not None]


def _but_for_knowledge(e: Entry) -> str:
    """The attack's parameters, without those that only say whether it knows the defense."""
    params = dict(e.first.attack.params)
    params.pop("adaptive", None)
    if e.first.threat.get("stage") == "train-poison":
        params.pop("tries", None)  # disguises, which only a knowing attacker tries
        if params.get("knowledge") != "black":
            params.pop("known", None)  # of the rows, a gray attacker sees all
            params["knowledge"] = "rows"  # and a white one as many: it also has the pipeline
    return repr(sorted(params.items()))


def build(run: Run, draws: int = stats.DRAWS) -> Board:
    """Everything the tables show, from a run.

    Args:
        draws: resamples of the bootstrap.
    """
    from bench import _estimates

    specs: dict[str, dict[str, Spec]] = {}
    for kind in AXES:
        seen = {getattr(c, kind).label: getattr(c, kind) for c in run.cells}
        placed = sorted((run.place(kind, spec), label) for label, spec in seen.items())
        specs[kind] = {label: seen[label] for _, label in placed}
    ranks = {kind: {label: n for n, label in enumerate(found)} for kind, found in specs.items()}
    cells = sorted(run.cells, key=lambda c: (
        *(ranks[kind][getattr(c, kind).label] for kind in AXES), c.seed))
    entries: dict[tuple[Row, str], Entry] = {}
    for cell in cells:
        row = (cell.dataset.label, cell.model.label, cell.defense.label)
        entry = entries.setdefault((row, cell.attack.label), Entry(row, cell.attack.label, {}))
        entry.cells[cell.seed] = cell
    metric = {d: primary_metric([c for c in cells if c.dataset.label == d])
              for d in specs["dataset"]}
    board = Board(run, metric, entries, specs)
    for dataset in board.datasets:
        _estimates.accuracy(board, dataset, draws)
        _estimates.exposures(board, dataset)
    _estimates.adjust(board)
    return board
