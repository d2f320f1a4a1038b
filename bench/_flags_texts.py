"""Flags on models that read texts: what an exposure cannot show, what a defense was taught, and
what of the texts was not read."""

from __future__ import annotations

from collections.abc import Iterator

from bench._flags_common import Flag, ran
from bench.leaderboard import Board

FULL = 1.0 - 1e-9


def exposure_ceiling(board: Board) -> Iterator[Flag]:
    """A pushed item stands in every list before the attack and after it: so long a list holds all
    of a re-ranker's candidates, and the targets are among them."""
    for e in ran(board):
        if e.first.threat.get("goal") != "push":
            continue
        for metric, found in e.exposure.items():
            lift = e.lifts.get(metric)
            if lift is not None and found.mean >= FULL and found.mean - lift.mean >= FULL:
                yield Flag("exposure-ceiling", e.row, e.attack,
                           f"{metric} is 1 with and without the attack")


def learned_poison(board: Board) -> Iterator[Flag]:
    """A defense whose measure of a genuine text are the texts of the training, under an attack
    that wrote some of them."""
    for e in ran(board):
        for cell in e.ok.values():
            wrote = (cell.facts.get("backdoor") or {}).get("carriers")
            if wrote and (cell.facts.get("defense") or {}).get("takes_for_genuine"):
                yield Flag("learned-poison", e.row, e.attack,
                           f"{wrote} of the texts that {e.first.defense.name} takes for genuine "
                           "are the attack's")
                break


def texts_cut(board: Board) -> Iterator[Flag]:
    """Texts of items that a model, or a defense's own, did not read to their ends; histories
    whose oldest items a prompt had no room for."""
    for e in ran(board):
        said: dict[str, int] = {}
        prompts, items = (max((int((c.facts.get("scoring") or {}).get(k) or 0)
                               for c in e.ok.values()), default=0)
                          for k in ("histories_cut", "history_items_cut"))
        for cell in e.ok.values():
            for who, place in (("the model", "scoring"), (e.first.defense.name, "defense")):
                cut = (cell.facts.get(place) or {}).get("texts_cut")
                if isinstance(cut, (int, float)) and cut:
                    said[who] = max(said.get(who, 0), int(cut))
        parts = [f"{n} of {e.first.facts.get('n_items', '?')} items' texts, by {who}"
                 for who, n in said.items()]
        if prompts:
            of = f"the {items} oldest items" if items else "the oldest items"
            parts.append(f"{of} of {prompts} histories")
        if parts:
            yield Flag("texts-cut", e.row, e.attack, "; ".join(parts))
