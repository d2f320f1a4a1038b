"""The plan: which cells there are, which share a training, what is skipped and why."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from _runs import GRID

from bench.errors import InputError
from bench.grid import load_grid
from bench.plan import Plan, make_plan, show_plan
from bench.session import Session, select, selector


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def _plan(text: str = GRID) -> Plan:
    Path("grid.yaml").write_text(text)
    return make_plan(load_grid(Path("grid.yaml")))


def _names(plan: Plan, status: str | None = None) -> list[tuple[str, str, str, int]]:
    return [(c.model.name, c.defense.name, c.attack.label(), c.seed) for c in plan.cells
            if c.status == status]


def test_every_cell_is_there_once_and_in_order() -> None:
    plan = _plan(GRID.replace("seeds: [0]", "seeds: [0, 1]"))
    attacks = ["none", "noise(eps=0.1)", "noise", "random-profiles(budget=0.1, targets=2)"]
    assert [(c.model.name, c.attack.label(), c.seed) for c in plan.cells] == [
        (m, a, s) for m in ("pop", "bprmf") for a in attacks for s in (0, 1)]
    assert len({c.key for c in plan.cells}) == 16


def test_evasion_shares_the_clean_training_and_poison_has_its_own() -> None:
    plan = _plan()
    jobs = {(j.cells[0].model.name, tuple(c.attack.name for c in j.cells)) for j in plan.jobs}
    assert jobs == {("bprmf", ("none", "noise", "noise")), ("bprmf", ("random-profiles",)),
                    ("pop", ("none",)), ("pop", ("random-profiles",))}
    assert len({j.train_key for j in plan.jobs}) == 4
    assert all(c.train_key == j.train_key for j in plan.jobs for c in j.cells)


def test_what_does_not_fit_is_a_skipped_cell_with_its_reason() -> None:
    plan = _plan(GRID.replace("metrics:", "defenses: [adversarial-training]\nmetrics:"))
    skipped = [c for c in plan.cells if c.status == "skipped"]
    assert {(c.defense.name, c.attack.name) for c in skipped} == {
        ("none", "noise"), ("adversarial-training", "none"), ("adversarial-training", "noise"),
        ("adversarial-training", "random-profiles")}
    assert {c.model.name for c in skipped} == {"pop"}
    assert {c.reason for c in skipped} == {"pop exposes no embeddings and no gradients"}
    assert {c.key for c in skipped}.isdisjoint(c.key for j in plan.jobs for c in j.cells)


def test_exclude_leaves_no_cell_behind() -> None:
    plan = _plan(GRID + "exclude: [{model: pop, attack: noise}]\n")
    assert _names(plan, "skipped") == []
    assert len(plan.cells) == 6
    assert plan.excluded == 2


BAD_UNFIT = '''\
from bench.api import EmbeddingAttack


class Confused(EmbeddingAttack):
    """Cannot say whether it fits."""

    name = "confused"

    def unfit(self, model, data):
        return data.no_such_thing

    def delta(self, model, radii, data, ctx):
        return {}
'''


def test_a_mistake_in_unfit_fails_its_cells_alone() -> None:
    Path("mine").mkdir()
    Path("mine/confused.py").write_text(BAD_UNFIT)
    plan = _plan(GRID.replace("attacks: [", "plugins: [mine]\nattacks: [confused, "))
    failed = [c for c in plan.cells if c.status == "failed"]
    assert {c.attack.name for c in failed} == {"confused"}
    assert "no_such_thing" in failed[0].reason
    assert "mine/confused.py:10" in failed[0].reason
    assert len(plan.jobs) == 4


def test_a_mistake_in_unseen_fails_its_cells_alone() -> None:
    Path("mine").mkdir()
    Path("mine/confused.py").write_text(BAD_UNFIT.replace("unfit(self, model, data)",
                                                          "unseen(self, defense, data)"))
    plan = _plan(GRID.replace("attacks: [", "plugins: [mine]\nattacks: [confused, "))
    failed = [c for c in plan.cells if c.status == "failed"]
    assert {c.attack.name for c in failed} == {"confused"}
    assert "confused could not say what it sees of" in failed[0].reason
    assert len(plan.jobs) == 4


def test_who_does_not_meet_the_defense_is_not_called_adaptive() -> None:
    """substitution-training reads histories: the surrogate of who poisons profiles has none."""
    plan = _plan("""
name: unmet
seeds: [0]
datasets: [blocks]
models: [SASRec]
defenses: [substitution-training, popularity-rerank]
attacks: [{random-profiles: {adaptive: true}}]
metrics: [ndcg@10]
""")
    threats = {c.defense.name: c.header()["threat"] for c in plan.cells}
    assert not threats["substitution-training"]["adaptive"]
    assert "surrogate without it" in threats["substitution-training"]["unseen"]
    assert threats["popularity-rerank"]["adaptive"]
    assert "unseen" not in threats["popularity-rerank"]


BAD_DATA = '''\
from bench.api import DatasetPlugin


class Torn(DatasetPlugin):
    """Fails to load."""

    name = "torn"

    def load(self):
        return {}["rows"]
'''


def test_a_dataset_that_does_not_load_stops_everything_beforehand(capsys) -> None:
    Path("mine").mkdir()
    Path("mine/torn.py").write_text(BAD_DATA)
    with pytest.raises(InputError, match=r"dataset torn cannot be loaded: KeyError: 'rows' "
                                         r"\(mine/torn\.py:10\)"):
        _plan(GRID.replace("datasets: [", "plugins: [mine]\ndatasets: [torn, "))
    assert show_plan("grid.yaml") == 2
    assert "grid.yaml:4 [datasets: torn]: dataset torn cannot be loaded" in capsys.readouterr().err


def test_jobs_are_json() -> None:
    plan = _plan()
    for job in plan.jobs:
        made = plan.job_json(job, cache=Path("c"), results=Path("r"))
        assert json.loads(json.dumps(made)) == made
        poison = made["poison"]
        assert (poison is None) == (job.cells[0].attack.name != "random-profiles")
        assert [c["header"]["key"] for c in made["cells"]] == [c.key for c in job.cells]


# -- choosing ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("only", "count"), [
    ([], 8), (["model=pop"], 4), (["model=pop", "model=bprmf"], 8), (["attack=noise"], 4),
    (["model=bprmf", "attack=noise"], 2), (["attack=noise(eps=0.1)"], 2), (["attack=no*"], 6),
    (["model=b*", "attack=*profiles*", "seed=0"], 1), (["dataset=blocks", "defense=none"], 8)])
def test_only_matches_names_and_labels(only: list[str], count: int) -> None:
    assert len(select(_plan(), only)) == count


@pytest.mark.parametrize(("only", "message"), [
    (["modl=pop"], "did you mean 'model'"), (["pop"], "no key=pattern"),
    (["model="], "no key=pattern"), (["model=EASE"], "leaves no cell.*bprmf")])
def test_only_refuses_what_means_nothing(only: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(_plan(), only)


def test_only_is_checked_before_the_grid_is_read() -> None:
    with pytest.raises(InputError, match="knows no key"):
        Session.open("no-such-grid.yaml", only=["x=y"])
    assert callable(selector(["seed=0"]))


# -- in words ----------------------------------------------------------------------------------

def test_the_plan_in_words_runs_nothing(capsys) -> None:
    Path("grid.yaml").write_text(GRID)
    assert show_plan("grid.yaml", engine="processes", workers=3) == 0
    text = capsys.readouterr().out
    assert "tiny: 8 cells = 1 dataset × 2 models × 1 defense × 4 attacks × 1 seed" in text
    assert "cells: 6 to run, 2 skipped" in text
    assert "trainings needed: 4" in text
    assert "24 users, 24 items, 216 train rows" in text
    assert "pop · none · noise(eps=0.1), noise · seed 0: pop exposes no embeddings" in text
    assert "processes, 3 workers" in text
    assert not Path("results").exists()


def test_bad_input_is_status_2_and_one_line(capsys) -> None:
    Path("grid.yaml").write_text(GRID.replace("noise", "noize"))
    assert show_plan("grid.yaml") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: grid.yaml:5")
    assert "did you mean 'noise'" in error
    assert show_plan("nowhere.yaml") == 2
    Path("grid.yaml").write_text(GRID)
    assert show_plan("grid.yaml", engine="cloud") == 2
    assert "known: inline, processes" in capsys.readouterr().err


def test_the_threat_model_says_who_sees_test_positives() -> None:
    """Every attack that has such a parameter, under it and without it."""
    from bench.registry import Registry

    registry = Registry()
    found = set()
    for entry in registry.entries("attacks"):
        if entry.error or entry.family:
            continue
        plugin = registry.get("attacks", entry.name)()
        assert not plugin.sees_test, entry.name
        found |= {entry.name for f in dataclasses.fields(plugin)
                  if "test" in (f.metadata.get("choices") or ())}
    assert found == {"fgsm", "pgd", "mim", "msap-published", "torchattacks"}
    plan = _plan(GRID.replace(
        "attacks: [", "attacks: [{fgsm: {source: [train, test]}}, "))
    said = {c.attack.label(): c.header()["threat"]["oracle"] for c in plan.cells}
    assert said["fgsm(source=test)"] is True
    assert said["fgsm"] is False


def test_a_parameter_that_happens_to_say_test_makes_no_oracle() -> None:
    """A trigger word, a segment and an attribute may be called so."""
    from bench.registry import Registry

    registry = Registry()
    for name, params in (("backdoor-titles", {"trigger": "test"}),
                         ("segment-profiles", {"by": "test"}),
                         ("attribute-inference", {"attribute": "test"})):
        made = registry.make("attacks", {"name": name, "params": params})
        assert not made.sees_test, name  # type: ignore[attr-defined]
