"""Leaderboards made up for the tests of flags, and what fired on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_run import EMBEDDING, PROFILES, SyntheticRun, embedding, spec

from bench._cells import load
from bench._flags_common import Flag
from bench.flags import find
from bench.leaderboard import Board, build

NONE = spec("none")
Make = Callable[[SyntheticRun], None]


def board(path: Path, make: Make, **run: Any) -> Board:
    made = SyntheticRun(path, users=30, **run)
    make(made)
    return build(load(made.finish()), draws=20)


def fired(found: Board, code: str) -> list[Flag]:
    return [f for f in find(found) if f.code == code]


def attacks(*made: dict[str, Any], **cell: Any) -> Make:
    def add(run: SyntheticRun) -> None:
        for attack in (NONE, *made):
            run.add(spec("BPR"), NONE, attack, **cell)
    return add


NOISE, FGSM = embedding("noise", eps=0.5), embedding("fgsm", eps=0.5)
PGD = embedding("pgd", eps=0.5, steps=10)


def losing(**losses: float) -> Callable[[str, str, str], float]:
    return lambda m, d, a: losses.get(a.split("(")[0], 0.0)


FEATURES = {**EMBEDDING, "stage": "test-input", "goal": "push"}
PUSH = {"eps": 0.1, "relative": True, "norm": "l2", "targets": 5, "stratum": "tail",
        "goal": "push"}


def pushing(name: str, **params: Any) -> dict[str, Any]:
    """An attack on features: parameters that all of them have, and its own."""
    made = spec(name, **params)
    return {**made, "params": {**PUSH, **params}}


def one_budget(*made: tuple[dict[str, Any], dict[str, Any]]) -> Make:
    """Attacks, each with a threat model of its own."""
    def add(run: SyntheticRun) -> None:
        run.add(spec("BPR"), NONE, NONE)
        for attack, threat in made:
            run.add(spec("BPR"), NONE, attack, threat)
    return add


def profiles(name: str, goal: str = "push", comparable: str = "1 %, 20 items", **params: Any
             ) -> tuple[dict[str, Any], dict[str, Any]]:
    return (spec(name, **{"adaptive": False, **params}),
            {**PROFILES, "goal": goal, "comparable": comparable})
