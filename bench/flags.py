"""Warnings about the numbers themselves, shown beside them and never hidden.

Each flag is a small function over the leaderboard that says where it fires. A flag does not
change a number: it says why a reader should not lean on it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench._cells import Cell
from bench.leaderboard import Board, Entry, Row

BALL = ("eps", "relative", "norm", "tables")  # equal for attacks in the same ball
# the attack that every other in its ball must beat
CONTROLS = {"noise": BALL,
            "feature-noise": ("eps", "relative", "norm", "targets", "stratum", "goal")}
# those that every attack of the same budget must beat, if it may make the same changes of a
# history (None: it has none); to append is to insert at the end
BLIND: dict[str, frozenset[str] | None] = {
    "append-items": frozenset({"append", "insert"}), "replace-last": frozenset({"substitute"}),
    "random-substitution": frozenset({"substitute"}), "random-profiles": None}
TIES = 0.01
PRIVACY_TOLERANCE = 0.01


@dataclass(frozen=True)
class Flag:
    """One warning.

    Attributes:
        code: key of EXPLAINED.
        row: the row it concerns, or None for the whole run.
        attack: the attack's label, or None where it concerns the whole row.
        detail: the figures that made it fire.
    """

    code: str
    row: Row | None
    attack: str | None
    detail: str


EXPLAINED = {
    "weaker-than-noise": "the attack is no stronger than its control, which is noise, edits or "
                         "profiles at random, of the same size: it found nothing, or is broken",
    "pgd-weaker-than-fgsm": "PGD does less harm than one FGSM step in the same ball: look for "
                            "gradient masking or a bad step size (both climb the loss, so small "
                            "inversions of a ranking metric can occur)",
    "noise-floor": "the change lies inside the standard deviation between clean trainings with "
                   "other seeds: no finding",
    "more-steps-weaker": "more steps do less harm: a sign of gradient masking",
    "larger-eps-weaker": "a larger budget does less harm: the attack is not used up or is broken",
    "adaptive-weaker": "the adaptive attack does less harm than the static one: it searched "
                       "badly, and the defense may be weaker than it looks",
    "dp-bound": "a membership attack, on members and non-members that are alike but for that, is "
                "better than the privacy promised allows: the promise, or its implementation, is "
                "broken",
    "below-chance": "the membership attack is below chance: it reads the scores the wrong way "
                    "round, and the same scores read the other way give members away",
    "met-before": "the detector was trained with this very attack: what it finds says nothing of "
                  "attacks that it has not met",
    "static-only": "only attacks that do not know of the defense were tried; an adaptive one may "
                   "pass it",
    "epsilon-differs": "the privacy spent is not the privacy asked for",
    "missing-seeds": "not every seed asked for ran: the interval rests on fewer",
    "one-seed": "a single seed: the interval knows nothing of the spread between trainings",
    "exposure-floor": "no target reaches a list, attacked or not: the metric cannot see an "
                      "effect at this cut-off",
    "small-groups": "groups with too few users were left out of gap and worst group",
    "ties": "more than 1 % of the users have ties at the edge of their list (counted in "
            "expectation)",
    "not-above-pop": "the model is no better than popularity: its robustness says little",
    "failed": "the cell failed; its reason stands below the table",
}
MARKS = {code: chr(ord("a") + n) for n, code in enumerate(EXPLAINED)}

Check = Callable[[Board], Iterator[Flag]]


def find(board: Board) -> list[Flag]:
    """All flags of the leaderboard, in the order of EXPLAINED and of the tables."""
    return [flag for check in CHECKS for flag in check(board)]


def _ran(board: Board) -> Iterator[Entry]:
    return (e for e in board.entries.values() if e.ok)


def _mean(entry: Entry) -> float:
    return math.nan if entry.value is None else entry.value.mean


def _pair(board: Board, a: Entry, b: Entry, name: str = "") -> tuple[float, float]:
    """The two means of a metric, the leading one if not named, over the seeds that both have."""
    metric = (name or board.metric[a.row[0]], "all")
    both = [s for s in a.ok if s in b.ok and metric in a.ok[s].values and metric in b.ok[s].values]
    if not both:
        return math.nan, math.nan
    return (sum(a.ok[s].values[metric] for s in both) / len(both),
            sum(b.ok[s].values[metric] for s in both) / len(both))


def _ball(entry: Entry, keys: tuple[str, ...]) -> tuple[Any, ...] | None:
    params = entry.first.attack.params
    if any(key not in params for key in keys) or not params["eps"]:
        return None
    return (*(params[key] for key in keys), params.get("adaptive", True))


def _same_ball(board: Board, name: str, keys: tuple[str, ...] = BALL
               ) -> Iterator[tuple[Entry, Entry]]:
    """(entry, the entry of attack `name` in the same row and ball)."""
    by_ball = {(e.row, _ball(e, keys)): e for e in _ran(board)
               if e.first.attack.name == name and _ball(e, keys) is not None}
    for e in _ran(board):
        other = by_ball.get((e.row, _ball(e, keys)))
        if other is not None and other is not e:
            yield e, other


def _by_goal(board: Board, e: Entry, other: Entry) -> tuple[str, float, float, bool] | None:
    """What the attacks aim at, its two means over the seeds that both have, and whether more of
    it is more harm. None where the attack only reads, or nothing can be compared."""
    goal = e.first.threat.get("goal")
    names = [board.metric[e.row[0]]] if goal == "untargeted" else (
        [m for m in e.exposure if m in other.exposure] if goal in ("push", "nuke") else [])
    for name in names:
        mine, its = _pair(board, e, other, name)
        if not math.isnan(mine):
            return ("" if goal == "untargeted" else f"{name} "), mine, its, goal == "push"
    return None


def _controlled(board: Board) -> Iterator[tuple[Entry, Entry]]:
    """(entry, a control of the same budget in the same row) for all that have one."""
    for control, keys in CONTROLS.items():
        yield from _same_ball(board, control, keys)
    blind = [e for e in _ran(board) if e.first.attack.name in BLIND]
    for e in _ran(board):
        if e.first.attack.name not in BLIND:
            yield from ((e, other) for other in blind if _same_budget(e, other))


def _same_budget(e: Entry, blind: Entry) -> bool:
    """Whether an attack could have done what the blind one did, and knows no less."""
    mine, its = e.first.threat, blind.first.threat
    changes = BLIND[blind.first.attack.name]
    knowing = its.get("knowledge") != "none" and bool(blind.first.attack.params.get("adaptive"))
    return (e.row == blind.row and bool(mine.get("comparable"))
            and all(mine.get(key) == its.get(key) for key in ("stage", "goal", "comparable"))
            and (changes is None or bool(changes & changes_of(mine)))
            and (not knowing or bool(e.first.attack.params.get("adaptive"))))


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
        found = _by_goal(board, e, control)
        if found is None:
            continue
        name, mine, its, more_is_harm = found
        short = its - mine if more_is_harm else mine - its
        if short >= 0 and not mine == its == 0 and short >= worst.get(id(e), (0.0,))[0]:
            worst[id(e)] = short, Flag(
                "weaker-than-noise", e.row, e.attack,
                f"{name}{mine:.4g} against {its:.4g} by {control.attack}")
    yield from (flag for _, flag in worst.values())


def pgd_weaker_than_fgsm(board: Board) -> Iterator[Flag]:
    """PGD leaves more accuracy than FGSM in the same ball."""
    for e, one_step in _same_ball(board, "fgsm"):
        mine, fgsm = _pair(board, e, one_step)
        if e.first.attack.name == "pgd" and mine > fgsm:
            yield Flag("pgd-weaker-than-fgsm", e.row, e.attack, f"{mine:.4g} against {fgsm:.4g}")


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
    for e in _ran(board):
        clean, floor = board.clean(e.row), seed_floor(board, e.row)
        if clean is None or clean is e or e.first.attack.name in CONTROLS or math.isnan(floor):
            continue
        if e.first.threat.get("goal") == "infer":  # it changes nothing, and is not meant to
            continue
        before, after = _pair(board, clean, e)
        if abs(before - after) <= floor:
            yield Flag("noise-floor", e.row, e.attack,
                       f"change {before - after:+.2g}, floor {floor:.2g}")


def _ladders(board: Board, key: str) -> Iterator[tuple[Entry, Entry]]:
    """Neighbours (less, more) that differ in the parameter `key` alone."""
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for e in _ran(board):
        params = e.first.attack.params
        if isinstance(params.get(key), (int, float)):
            rest = tuple(sorted((k, repr(v)) for k, v in params.items() if k != key))
            found.setdefault((e.row, e.first.attack.name, rest), []).append(e)
    for group in found.values():
        group.sort(key=lambda e: float(e.first.attack.params[key]))
        yield from itertools.pairwise(group)


def _weaker_with_more(board: Board, key: str, code: str) -> Iterator[Flag]:
    for less, more in _ladders(board, key):
        found = _by_goal(board, more, less)
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
    for row in dict.fromkeys(e.row for e in _ran(board)):
        profile = [e for e in board.of(row) if e.first.threat.get("stage") == "train-poison"]
        cleans = any(c.facts.get("defense") for e in profile for c in e.ok.values())
        if profile and cleans and not any(_adaptive(e) for e in profile):
            names = ", ".join(dict.fromkeys(e.first.attack.name for e in profile))
            yield Flag("static-only", row, None, f"tried: {names}")


def _adaptive(entry: Entry) -> bool:
    attack = entry.first.attack
    return "adaptive" in attack.name or bool(attack.params.get("adaptive")) \
        or bool(entry.first.threat.get("adaptive"))


def adaptive_weaker(board: Board) -> Iterator[Flag]:
    """An attack that knows the defense does less harm than the same attack that does not."""
    for static, adaptive in board.static_and_adaptive():
        goal = adaptive.first.threat.get("goal")
        if goal == "untargeted":
            mine, other = _pair(board, adaptive, static)
            if mine > other:
                yield Flag("adaptive-weaker", adaptive.row, adaptive.attack,
                           f"{mine:.4g} left against {other:.4g}")
            continue
        for metric in adaptive.exposure:
            if metric in static.exposure:
                mine, other = adaptive.exposure[metric].mean, static.exposure[metric].mean
                if mine < other if goal == "push" else mine > other:
                    yield Flag("adaptive-weaker", adaptive.row, adaptive.attack,
                               f"{metric} {mine:.4g} against {other:.4g}")


def dp_bound(board: Board) -> Iterator[Flag]:
    """Even the lower end of the true-positive rate lies above e^ε times the upper end of the
    false-positive rate, plus δ. Only where nothing but membership tells the two sets apart:
    otherwise knowing what users like is enough to tell them, and no promise is broken. And only
    where the attack read what the promise covers."""
    for e in _ran(board):
        for cell in e.ok.values():
            epsilon, delta = cell.privacy.get("epsilon"), cell.privacy.get("delta", 0.0)
            others = cell.facts.get("non_members")
            if epsilon is None or not math.isfinite(epsilon) or not others \
                    or not cell.facts.get("exchangeable") or not _covered(cell):
                continue
            for name, low in cell.privacy.items():
                found = re.fullmatch(r"mia-tpr@([\d.]+)%fpr-low", name)
                if found is None:
                    continue
                from bench.roc import highest_fpr

                false = highest_fpr(float(found[1]) / 100, others)
                bound = math.exp(min(epsilon, 700.0)) * false + delta
                if low > bound:
                    yield Flag("dp-bound", e.row, e.attack, f"TPR of at least {low:.4g} at "
                               f"{found[1]} % FPR, which is at most {false:.4g}: allowed "
                               f"{bound:.4g} (seed {cell.seed})")


def _covered(cell: Cell) -> bool:
    """Whether the privacy promised is of what the attack read. A training that says what it
    releases promises nothing of the scores that a user is served: they are made with the user's
    own row or history."""
    said = [f for f in (cell.facts.get("training") or {}).values() if isinstance(f, dict)]
    return cell.facts.get("reads") == "released" or not any("released" in f for f in said)


def below_chance(board: Board) -> Iterator[Flag]:
    """The upper end of a membership attack's AUC lies under one half."""
    for e in _ran(board):
        highs = [c.privacy["mia-auc-high"] for c in e.ok.values() if "mia-auc-high" in c.privacy]
        if highs and max(highs) < 0.5:
            yield Flag("below-chance", e.row, e.attack, f"AUC at most {max(highs):.4g}")


def met_before(board: Board) -> Iterator[Flag]:
    """A detector is judged on the attack that made its examples."""
    for e in _ran(board):
        seen = [c for c in e.ok.values()
                if (c.facts.get("defense") or {}).get("trained_on_evaluated_attack") is True]
        if seen:
            yield Flag("met-before", e.row, e.attack, f"trained with {e.first.attack.name}")


def epsilon_asked(cell: Cell) -> Any:
    """The ε that the defense was given, or else the model, which may be private by itself."""
    asked = cell.defense.params.get("epsilon")
    return cell.model.params.get("epsilon") if asked is None else asked


def epsilon_differs(board: Board) -> Iterator[Flag]:
    """The defense's epsilon parameter and the epsilon spent differ by more than 1 %."""
    for e in _ran(board):
        asked = epsilon_asked(e.first)
        if e.first.attack.name != "none" or not isinstance(asked, (int, float)) or not asked:
            continue
        off = {c.privacy["epsilon"] for c in e.ok.values() if "epsilon" in c.privacy
               and not abs(c.privacy["epsilon"] - asked) <= PRIVACY_TOLERANCE * asked}
        if off:
            spent = ", ".join(f"{v:.4g}" for v in sorted(off))
            yield Flag("epsilon-differs", e.row, None, f"asked {asked:g}, spent {spent}")


def missing_seeds(board: Board) -> Iterator[Flag]:
    """Some, not all, of the seeds asked for ran."""
    asked = len(board.run.seeds)
    for e in _ran(board):
        if len(e.ok) < asked:
            detail = f"{len(e.ok)} of {asked} seeds"
            yield Flag("missing-seeds", e.row, e.attack,
                       f"{detail}: {e.reason}" if e.reason else detail)


def one_seed(board: Board) -> Iterator[Flag]:
    """The run has one seed."""
    if len(board.run.seeds) == 1:
        yield Flag("one-seed", None, None, f"seed {board.run.seeds[0]}")


def exposure_floor(board: Board) -> Iterator[Flag]:
    """Target exposure is 0 for every attack on the row."""
    for row in dict.fromkeys(e.row for e in _ran(board)):
        entries = board.of(row)
        for metric in dict.fromkeys(m for e in entries for m in e.exposure):
            seen = [e.exposure[metric].mean for e in entries if metric in e.exposure]
            if seen and max(seen) <= 0:
                yield Flag("exposure-floor", row, None, f"{metric} is 0 for all attacks")


def small_groups(board: Board) -> Iterator[Flag]:
    """Groups that the evaluation left out because they are too small."""
    for e in _ran(board):
        left = e.first.facts.get("small_groups")
        if e.first.attack.name == "none" and left:
            yield Flag("small-groups", e.row, None,
                       ", ".join(f"{name} ({size} users)" for name, size in left.items()))


def ties(board: Board) -> Iterator[Flag]:
    """More than 1 % of the users have ties at the edge of their list."""
    for e in _ran(board):
        if e.first.threat.get("goal") == "infer":  # nothing of what it reads is a list's edge
            continue
        share = max(float(c.facts.get("tie_share") or 0.0) for c in e.ok.values())
        if share > TIES:
            yield Flag("ties", e.row, e.attack, f"{share:.1%} of the users")


def not_above_pop(board: Board) -> Iterator[Flag]:
    """A model whose clean accuracy is not above that of `pop` on the same data."""
    floors = {e.row[0]: _mean(e) for e in _ran(board)
              if e.first.model.name == "pop" and e.row[2] == "none"
              and e.first.attack.name == "none"}
    for e in _ran(board):
        if e.first.attack.name != "none" or e.first.model.name in ("pop", "random"):
            continue
        if _mean(e) <= floors.get(e.row[0], -math.inf):
            yield Flag("not-above-pop", e.row, None,
                       f"{_mean(e):.4g} against {floors[e.row[0]]:.4g}")


def failed(board: Board) -> Iterator[Flag]:
    """Cells of which no seed ran, for another reason than being skipped."""
    for e in board.entries.values():
        if e.status in ("failed", "timeout"):
            yield Flag("failed", e.row, e.attack, e.reason)


CHECKS: tuple[Check, ...] = (
    weaker_than_noise, pgd_weaker_than_fgsm, noise_floor, more_steps_weaker, larger_eps_weaker,
    adaptive_weaker, dp_bound, below_chance, met_before, static_only, epsilon_differs,
    missing_seeds, one_seed, exposure_floor, small_groups, ties, not_above_pop, failed)
