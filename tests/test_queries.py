"""What profile attacks ask of the attacked pipeline is counted alike: users whose lists or scores
are read, and trainings. Models of the attacker's own are asked for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import adaptive
from bench._cells import load
from bench.api import Context, Dataset, ProfileAttack
from bench.attacks.probe_profiles import ProbeProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.attacks.rev_adv_profiles import RevAdvProfiles
from bench.attacks.sequence_poisoning import SequencePoisoning
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.models.bprmf import BPRMF
from bench.registry import Registry
from bench.run import run
from bench.victim import Victim

SIZE = {"dim": 4, "epochs": 1, "batch_size": 256, "learning_rate": 0.02, "patience": 0}
FACTORS = BPRMF(**SIZE)
SEQUENTIAL: Any = Registry().make("models", {"name": "SASRec", "params": {
    "epochs": 1, "patience": 0}})
LEARNED = RevAdvProfiles(steps=3, dim=4, epochs=4, unroll=1, tries=3, budget=0.1)
ORDERED = SequencePoisoning(epochs=1, targets=2, length=6, budget=0.1)
ADAPTS = RandomProfiles(adaptive=True, tries=3)
SILENT = {"queries": 0, "trainings": 0}


@pytest.fixture(scope="module")
def data() -> Dataset:
    """40 users with train rows, 4 without."""
    made = Blocks(users=44, items=30, length=10).load()
    return made.without_users(np.arange(44) >= 40)


@pytest.mark.parametrize(("attack", "how", "model", "expected"), [
    (ADAPTS, {"knowledge": "gray"}, FACTORS, SILENT),
    (ADAPTS, {"knowledge": "black", "known": 0.5}, FACTORS, SILENT),
    (ADAPTS, {"knowledge": "white"}, FACTORS, {"queries": 3 * 40, "trainings": 3}),
    (LEARNED, {"knowledge": "gray"}, FACTORS, SILENT),
    (LEARNED, {"knowledge": "white"}, FACTORS, None),
    (LEARNED, {"knowledge": "white", "adaptive": True}, FACTORS, None),
    # 4 fakes, 3 rounds
    (ProbeProfiles(budget=0.1, length=20, seeds=2), {}, FACTORS,
     {"queries": 4 * 3, "trainings": 3}),
    (ORDERED, {"knowledge": "gray"}, SEQUENTIAL, SILENT),
    # 4 fakes of 4 fillers, each found by one slope
    (ORDERED, {"knowledge": "white"}, SEQUENTIAL, {"queries": 4 * 4, "trainings": 1}),
], ids=lambda x: x.name if isinstance(x, ProfileAttack) else "")
def test_queries_and_trainings(data: Dataset, monkeypatch: pytest.MonkeyPatch, model: Any,
                               attack: ProfileAttack, how: dict[str, Any],
                               expected: dict[str, int] | None) -> None:
    monkeypatch.setattr(adaptive, "SURROGATE", {"name": "bprmf", "params": SIZE})
    made = type(attack).from_params(attack.params() | how)
    assert isinstance(made, ProfileAttack)
    ctx = Context(0, victim=Victim(model, NoDefense(), Context(0), lambda: pytest.fail("unasked")))
    made.poison(data, ctx)
    found = {k: ctx.notes.get(k, 0) for k in SILENT}
    if expected is None:  # candidates asked about, and disguises of the one taken
        count = len(ctx.notes["asked"]) + (made.tries if made.adaptive else 0)
        expected = {"queries": 40 * count, "trainings": count}
    assert found == expected


GRID = """
name: asking
seeds: [0]
datasets: [{blocks: {users: 30, items: 30, length: 10}}]
models: [{bprmf: {dim: 4, epochs: 1, patience: 0}}]
attacks: [{random-profiles: {targets: 2, adaptive: true, knowledge: white, tries: 3}}]
metrics: [ndcg@10]
"""


def test_they_reach_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    assert run(grid, results=tmp_path / "results") == 0
    cell = next(c for c in load(tmp_path / "results" / "asking").cells
                if c.attack.name == "random-profiles")
    assert cell.cost["queries"] == 3 * 30
    assert cell.facts["trainings"] == 3
