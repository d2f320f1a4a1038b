"""Flags on models that read texts fire where they should and stay silent where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _flag_boards import NONE, attacks, board
from synthetic_run import PROFILES, SyntheticRun, spec

from bench._flags_common import Flag
from bench._flags_texts import exposure_ceiling, learned_poison, texts_cut
from bench.leaderboard import Board

Check = Callable[[Board], Iterator[Flag]]


@pytest.mark.parametrize(("before", "lift", "fires"), [
    (1.0, 0.0, True), (1.0, -0.3, False), (0.6, 0.4, False), (0.9, 0.0, False)])
def test_exposure_ceiling(tmp_path: Path, before: float, lift: float, fires: bool) -> None:
    found = board(tmp_path, attacks(spec("keyword-insertion"), threat=PROFILES), seeds=(0,),
                  lift=lambda m, d, a: lift)
    for entry in found.entries.values():
        if entry.attack != "none":
            for metric, was in entry.lifts.items():
                shift = before + lift - entry.exposure[metric].mean
                entry.exposure[metric] = type(was)(entry.exposure[metric].mean + shift, 0, 0)
                entry.lifts[metric] = type(was)(lift, 0, 0)
    flags = list(exposure_ceiling(found))
    assert bool(flags) is fires
    if fires:
        assert flags[0].attack == "keyword-insertion"
        assert flags[0].detail.endswith("is 1 with and without the attack")


def test_an_attack_that_pushes_nothing_has_no_ceiling(tmp_path: Path) -> None:
    found = board(tmp_path, attacks(spec("noise")), seeds=(0,))
    assert not list(exposure_ceiling(found))


def facts(tmp_path: Path, check: Check, served: str, **told: Any) -> list[Flag]:
    def make(run: SyntheticRun) -> None:
        run.add(spec("yes-no"), spec(served), NONE, facts=told)
    return list(check(board(tmp_path / served, make)))


def test_texts_cut(tmp_path: Path) -> None:
    assert not facts(tmp_path, texts_cut, "none", scoring={"answers": 3})
    assert not facts(tmp_path, texts_cut, "text-sanitizer", defense={"texts_cut": 0})
    found = facts(tmp_path, texts_cut, "perplexity-filter", scoring={"texts_cut": 4},
                  defense={"texts_cut": 2}, n_items=60)
    assert [f.detail for f in found] == [
        "4 of 60 items' texts, by the model; 2 of 60 items' texts, by perplexity-filter"]
    shorter = {"histories_cut": 3, "history_items_cut": 7}
    assert [f.detail for f in facts(tmp_path, texts_cut, "delimited-prompt", scoring=shorter)] == [
        "the 7 oldest items of 3 histories"]


def test_learned_poison(tmp_path: Path) -> None:
    judged = {"takes_for_genuine": "the texts of the training"}
    assert not facts(tmp_path, learned_poison, "a", defense=judged)
    assert not facts(tmp_path, learned_poison, "b", backdoor={"carriers": 3})
    found = facts(tmp_path, learned_poison, "perplexity-filter", defense=judged,
                  backdoor={"carriers": 3})
    assert [f.detail for f in found] == [
        "3 of the texts that perplexity-filter takes for genuine are the attack's"]


GRID = """\
name: texts
seeds: [0]
datasets: [{blocks: {users: 24, items: 24}}]
models: [{yes-no: {model: tiny-random, candidates: 4, history: 2}}]
attacks: [{backdoor-titles: {budget: 0.1, fakes: 0.1, targets: 2}},
          {keyword-insertion: {words: 1, targets: 2}}]
defenses: [text-sanitizer]
metrics: [ndcg@5, target-hr@2, target-hr@20]
"""


def test_what_cells_say_is_what_the_flags_read(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    from _runs import no_report

    from bench._cells import load
    from bench.leaderboard import build
    from bench.run import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    Path("grid.yaml").write_text(GRID)
    with no_report(monkeypatch):
        assert run("grid.yaml") == 0
    found = build(load(Path("results/texts")), draws=20)
    learned = {(f.row and f.row[2], f.attack) for f in learned_poison(found)}
    assert {(d, (a or "").split("(")[0]) for d, a in learned} == {
        ("text-sanitizer", "backdoor-titles")}
    ceiling = {((f.attack or "").split("(")[0], f.detail.split()[0])
               for f in exposure_ceiling(found)}
    # offered targets are among four candidates, who stand in every list of twenty
    assert ceiling == {(a, "target-hr@20") for a in ("backdoor-titles", "keyword-insertion")}
