"""Tables beyond the first ones: the worst case, what detectors found, privacy, what was inferred,
and what it all cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench._board_view import (
    NONE,
    Table,
    View,
    interval,
    number,
    percent,
    significant,
)
from bench._flags_privacy import epsilon_asked
from bench.leaderboard import Entry, Estimate

if TYPE_CHECKING:
    from bench._board_tables import Builder


def worst_cases(b: Builder, dataset: str) -> Table | None:
    """Each user at the attack that harms this user most, over attacks of one budget."""
    rows = []
    for row in b.board.live_rows(dataset):
        for case in b.board.worst_cases.get(row, ()):
            rows.append([*b.names(row), View(case.family),
                         View(number(case.value.mean), interval(case.value),
                              percent(-case.drop.mean), sort=case.value.mean),
                         View(str(len(case.attacks)), full=", ".join(case.attacks),
                              sort=len(case.attacks))])
    if not rows:
        return None
    name = f"{b.short['dataset'][dataset]}: {b.board.metric[dataset]}"
    return Table(f"{name} in the worst case over attacks of equal budget, per user",
                 ["model", "defense", "budget", "worst case", "attacks"], rows, fixed=3,
                 numeric_from=3, kind="worst-case",
                 notes=["per user the lowest value over these attacks and none, then the mean: "
                        "at most the lowest mean of one attack. A minimum gathers chance as well: "
                        "a user's list moves up and down under any change, and more attacks give a "
                        "lower minimum; compare rows with equally many attacks"])


POISONING = ("train-poison", "model-poison")
DETECTION = (("flagged", "flagged"), ("precision", "precision"), ("recall", "recall"),
             ("AUC", "auc"), ("genuine flagged", "false_positives"))


def detection(b: Builder, dataset: str) -> Table | None:
    """What detectors found, by the attack that injected the fakes."""
    rows, weighs = [], dict[str, None]()
    for (row, attack), e in b.board.entries.items():
        facts = [_detected(c.facts) for c in e.ok.values()]
        if row[0] != dataset or not facts or not any("recall" in f for f in facts):
            continue
        if attack != "none" and e.first.threat.get("stage") not in POISONING:
            continue  # there was nothing to detect: what it flagged stands in the line of `none`
        views = [*b.names(row), View(b.short["attack"].get(attack, attack), full=attack)]
        views[-1] = View(views[-1].text, full=attack, flags=b.codes(row, attack, ("met-before",)))
        views += [_mean([f.get(key) for f in facts]) for _, key in DETECTION]
        rows.append([*views, _worst_group(facts)])
        for f in facts:
            if f.get("taken_for_fakes"):
                weighs[f"{e.first.defense.name} weighs users and leaves nobody out: flagged are "
                       f"those it takes for fakes, {f['taken_for_fakes']}"] = None
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: what the detectors flagged",
                 ["model", "defense", "attack", *(name for name, _ in DETECTION),
                  "worst group flagged"], rows, fixed=3, numeric_from=3, kind="detection",
                 notes=["genuine flagged: share of genuine users taken for fakes; the last column "
                        "names the group of users it hits most, and its share", *weighs])


def _detected(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a detector found: before the training, or, who learns whom to trust, in it."""
    own: Mapping[str, Any] = facts.get("defense") or {}
    learned = [f for f in (facts.get("training") or {}).values()
               if isinstance(f, dict) and "recall" in f]
    return learned[0] if "recall" not in own and learned else own


def _worst_group(facts: Sequence[Any]) -> View:
    groups: dict[str, list[float]] = {}
    for f in facts:
        for group, value in (f.get("false_positives_by_group") or {}).items():
            if isinstance(value, (int, float)):
                groups.setdefault(group, []).append(float(value))
    if not groups:
        return View(NONE)
    means = {g: sum(v) / len(v) for g, v in groups.items()}
    worst = max(means, key=lambda g: means[g])
    return View(f"{worst}: {number(means[worst], 3)}", sort=means[worst])


def _mean(values: Sequence[Any]) -> View:
    found = [float(v) for v in values if isinstance(v, (int, float))]
    mean = sum(found) / len(found) if found else math.nan
    return View(significant(mean), sort=mean)


def privacy(b: Builder, dataset: str) -> Table | None:
    """Epsilon and delta asked and spent, between which data sets, and by whose account."""
    rows, adjacent = [], dict[str, int]()
    for row in b.board.live_rows(dataset):
        clean = b.board.clean(row)
        spent = [] if clean is None else [c.privacy for c in clean.ok.values() if c.privacy]
        why = None if clean is None else _promised(clean, "no_epsilon")
        if clean is None or not (spent or why):
            continue
        epsilon = [float(p["epsilon"]) for p in spent if "epsilon" in p]
        delta = [float(p["delta"]) for p in spent if "delta" in p]
        asked = epsilon_asked(clean.first)
        rows.append([
            *b.names(row),
            View(NONE if asked is None else f"{asked:g}"),
            View(significant(max(epsilon), 4) if epsilon else NONE,
                 sort=max(epsilon) if epsilon else None,
                 flags=b.codes(row, None, ("epsilon-differs",))),
            View(f"{max(delta):g}" if delta else NONE),
            View(str(_promised(clean, "accountant") or NONE)),
            _adjacency(_promised(clean, "adjacency"), adjacent)])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: privacy",
                 ["model", "defense", "ε asked", "ε spent", "δ", "accountant", "adjacency"], rows,
                 kind="privacy",
                 notes=["ε spent: the largest over the seeds; two ε compare only where adjacency "
                        "is the same", *(f"adjacency [{n}]: {text}" for text, n in
                                         adjacent.items())])


def _adjacency(text: Any, numbers: dict[str, int]) -> View:
    """The number of the note that says what is added or removed."""
    if not text:
        return View(NONE)
    number = numbers.setdefault(str(text), len(numbers) + 1)
    return View(f"[{number}]", full=str(text))


def _promised(e: Entry, key: str) -> Any:
    """A fact of the privacy promised, from the training or from the defense's own facts."""
    for cell in e.ok.values():
        for place in (cell.facts.get("training") or {}, {"own": cell.facts.get("defense") or {}}):
            for facts in place.values():
                if isinstance(facts, dict) and facts.get(key):
                    return facts[key]
    return None


def cost(b: Builder, dataset: str) -> Table | None:
    """Seconds, throughput and memory of the row without attack, averaged over seeds."""
    columns = (("train s", "train_seconds"), ("defense s", "defense_seconds"),
               ("train rows/s", "train_samples_per_s"),
               ("users scored/s", "score_users_per_s"), ("peak MB", "peak_memory_mb"))
    rows = []
    for row in b.board.live_rows(dataset):
        clean = b.board.clean(row)
        costs = [] if clean is None else [c.cost for c in clean.ok.values()]
        if not costs:
            continue
        views = b.names(row)
        for _, key in columns:
            found = [float(c[key]) for c in costs
                     if isinstance(c.get(key), (int, float)) and math.isfinite(c[key])]
            mean = sum(found) / len(found) if found else math.nan
            views.append(View(significant(mean), sort=mean))
        devices = dict.fromkeys(str(c.get("device") or NONE) for c in costs)
        rows.append([*views, View(", ".join(devices))])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: cost without attack, mean over seeds",
                 ["model", "defense", *(c for c, _ in columns), "device"], rows, kind="cost")


def inference(b: Builder, dataset: str) -> Table | None:
    """What attacks on privacy read out of the model."""
    attacks = b.board.inferences(dataset)
    found = [(row, a, b.board.entries[row, a]) for row in b.board.live_rows(dataset)
             for a in attacks if (row, a) in b.board.entries]
    names = [n for n in dict.fromkeys(k for _, _, e in found for c in e.ok.values()
                                      for k in c.privacy)
             if n not in ("epsilon", "delta") and not n.endswith(("-low", "-high"))]
    if not names:
        return None
    rows, notes = [], dict[str, int]()
    for row, attack, e in found:
        views = [*b.names(row), View(b.short["attack"][attack], full=attack)]
        if not e.ok:
            if e.status != "skipped":
                rows.append([*views, b.missing(e, notes), *(View(NONE) for _ in names[1:])])
            continue
        flags = b.codes(row, attack, ("dp-bound", "below-chance", "missing-seeds"))
        made = [_inferred(e, name) for name in names]
        rows.append([*views, View(made[0].text, made[0].interval, sort=made[0].sort, flags=flags),
                     *made[1:]])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: what can be inferred",
                 ["model", "defense", "attack", *names], rows, fixed=3, numeric_from=3,
                 kind="inference",
                 notes=[*(f"[{n}] {reason}" for reason, n in notes.items()),
                        "0.5 is chance for an AUC; a floor is what permuted labels give; "
                        "mia-epsilon is proven of what the attack reads, and a promise about what "
                        "is released does not cover the scores that a user is served"])


def _inferred(e: Entry, name: str) -> View:
    """The mean over seeds; the interval is the widest of the seeds'."""
    values = [c.privacy[name] for c in e.ok.values() if isinstance(c.privacy.get(name),
                                                                   (int, float))]
    if not values:
        return View(NONE)
    ends = [[float(c.privacy[f"{name}-{end}"]) for c in e.ok.values()
             if isinstance(c.privacy.get(f"{name}-{end}"), (int, float))]
            for end in ("low", "high")]
    low, high = (min(ends[0]), max(ends[1])) if all(ends) else (math.nan, math.nan)
    mean = float(sum(values) / len(values))
    return View(number(mean), interval(Estimate(mean, low, high)), sort=mean)


def attack_cost(b: Builder, dataset: str) -> Table | None:
    """Seconds, queries and memory of each attack on each row."""
    columns = (("attack s", "attack_seconds"), ("queries", "queries"),
               ("train s", "train_seconds"), ("peak MB", "peak_memory_mb"))
    rows = []
    for (row, attack), e in b.board.entries.items():
        if row[0] == dataset and e.ok and e.first.attack.name != "none":
            rows.append([*b.names(row), View(b.short["attack"][attack], full=attack),
                         *(_mean([c.cost.get(key) for c in e.ok.values()])
                           for _, key in columns)])
    if not rows:
        return None
    return Table(f"{b.short['dataset'][dataset]}: cost of each attack, mean over seeds",
                 ["model", "defense", "attack", *(name for name, _ in columns)], rows, fixed=3,
                 numeric_from=3, kind="attack-cost",
                 notes=["attack s: making it, on this row; queries: users whose lists the attack "
                        "read and rows whose loss it differentiated, of the attacked model",
                        "peak MB: of the attack and the evaluation under it, and of the training "
                        "only where the attack has one of its own; on a CPU the whole process, "
                        "with all that earlier work left in it"])
