"""What an attacker is handed, and where attacks enter: victims, static attacks, blind defenses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bench._cells import load
from bench.api import Attack, Context, Dataset, Defense, Struck, ThreatModel
from bench.attacks.pgd import PGD
from bench.attacks.random_profiles import RandomProfiles
from bench.context import Context as Plain
from bench.datasets.blocks import Blocks
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.none import NoDefense
from bench.errors import InputError
from bench.models.base import Recommender, TorchRecommender, Wrapped, build, innermost
from bench.models.bprmf import BPRMF
from bench.run import run
from bench.stages import Prepared, prepare, under_attack
from bench.victim import Lists, Victim

MODEL = BPRMF(dim=8, epochs=8, batch_size=512, learning_rate=0.03, patience=0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks().load()


def trained(data: Dataset, defense: Defense | None = None) -> TorchRecommender:
    made = build(MODEL, data, Context(0))
    made.fit(defense or NoDefense(), lambda event: None)
    assert isinstance(made, TorchRecommender)
    return made


def told(data: Dataset, defense: Defense | None = None) -> Context:
    return Plain(0, victim=Victim(MODEL, defense or NoDefense(), Context(0),
                                  lambda: trained(data)))


class Nosy(RandomProfiles):
    """Notes what it is handed."""

    name = "nosy"
    asks_victim = True

    def profiles(self, data: Dataset, targets: Any, lengths: Any, ctx: Context) -> Any:
        ctx.notes["seen"] = (data, ctx.victim)
        return super().profiles(data, targets, lengths, ctx)


@pytest.mark.parametrize(("knowledge", "kind"), [("gray", type(None)), ("white", Victim),
                                                 ("black", Lists)])
def test_no_attacker_is_handed_more_than_the_threat_model_says(
        data: Dataset, knowledge: str, kind: type) -> None:
    ctx = told(data)
    Nosy(knowledge=knowledge, known=0.25, budget=0.1).poison(data, ctx)
    seen, victim = ctx.notes["seen"]
    assert isinstance(victim, kind)
    assert not len(seen.test)
    assert not len(seen.valid)
    users = len(np.unique(seen.train.users))
    share = users / len(np.unique(data.train.users))
    assert share == pytest.approx(0.25 if knowledge == "black" else 1.0, abs=0.02)
    if knowledge == "black":  # neither who the others are, nor the pipeline that makes its lists
        assert not seen.user_attributes
        assert {n for n in vars(victim) if not n.startswith("_")} == {"asked"}


def test_a_static_attack_without_an_undefended_model_is_no_other_attack(data: Dataset) -> None:
    from bench.errors import PluginError

    prepared = Prepared(data, data, data, None)
    with pytest.raises(PluginError, match="undefended"), \
            under_attack(PGD(adaptive=False), trained(data), prepared, Context(0)):
        pass


def test_who_does_not_look_at_the_pipeline_is_not_called_white_box(data: Dataset) -> None:
    """Otherwise the static attack would count as the adaptive one."""
    with pytest.raises(InputError, match="whatever the pipeline is") as caught:
        RandomProfiles(knowledge="white")
    assert caught.value.key == "knowledge"
    assert RandomProfiles(knowledge="white", adaptive=True).is_adaptive
    assert not RandomProfiles(knowledge="black").is_adaptive


def test_what_shows_lists_holds_no_test_row_and_nothing_public(data: Dataset) -> None:
    lists = RandomProfiles(knowledge="black")._told(data, told(data)).victim
    assert not len(lists._data.test)
    assert {k for k in vars(lists) if not k.startswith("_")} == {"asked"}


def test_a_black_box_attacker_sees_the_lists_of_its_own_fakes(data: Dataset) -> None:
    ctx = told(data)
    attack = RandomProfiles(knowledge="black", budget=0.05)
    lists = attack._told(data, ctx).victim
    made = attack.profiles(data, np.array([1, 2]), np.array([6, 6, 6]), ctx)
    items, scores = lists.lists(made, 4)
    assert items.shape == scores.shape == (3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert not any(np.isin(items[n], p.items).any() for n, p in enumerate(made))
    assert ctx.notes["queries"] == 3


def test_a_static_attack_is_made_on_the_undefended_model(data: Dataset) -> None:
    defense = AdversarialTraining(eps=0.5)
    defended, bare = trained(data, defense), trained(data)
    prepared = Prepared(data, data, data, None)
    for adaptive, source in ((True, defended), (False, bare)):
        attack = PGD(eps=0.3, steps=3, adaptive=adaptive)
        with under_attack(attack, defended, prepared, told(data, defense)):
            moved = {k: t.rows().clone() for k, t in defended.tables().items()}
        clean = {k: t.rows() for k, t in defended.tables().items()}
        made = attack.perturbation(source, data, Context(0))
        for key, delta in made.items():
            assert torch.allclose(moved[key] - clean[key], delta, atol=1e-6)
    assert PGD(adaptive=False).unfit_defended(NoDefense(), MODEL, data)
    assert PGD(adaptive=False).unfit_defended(defense, MODEL, data) is None


def test_queries_are_counted_and_the_model_is_left_alone(data: Dataset) -> None:
    model, prepared = trained(data), Prepared(data, data, data, None)
    with under_attack(PGD(eps=0.3, steps=3), model, prepared, told(data)) as struck:
        pass
    rows = sum(len(b["users"]) for b in model.batches(0, 8192))
    assert struck.facts["queries"] == 4 * rows  # three slopes and a last loss
    with under_attack(Reads(), Doubled(model), prepared, told(data)) as struck:
        pass
    assert struck.facts["queries"] == 5  # once, though a wrapper passes the question on
    assert "loss" not in vars(model)
    assert "scores" not in vars(model)


class Reads(Attack):
    """Reads five users' lists."""

    name = "reads"
    threat = ThreatModel("output-query", "black", "infer")

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        model.scores(torch.arange(5))
        yield Struck(model, prepared.genuine)


class Doubled(Wrapped):
    """Twice the scores, kept between calls."""

    kept: torch.Tensor | None = None

    def scores(self, users: torch.Tensor, split: str = "test") -> torch.Tensor:
        if self.kept is None:
            everybody = torch.arange(self.data.n_users)
            self.kept = 2 * self.base.scores(everybody, split)
        return self.kept[users]

    def forget(self) -> None:
        super().forget()
        self.kept = None


def test_attacks_reach_the_vectors_inside_a_wrapper(data: Dataset) -> None:
    base = trained(data)
    model, users = Doubled(base), torch.arange(5)
    clean = model.scores(users).clone()
    prepared = Prepared(data, data, data, None)
    with under_attack(PGD(eps=0.3, steps=2), model, prepared, told(data)):
        inside = model.scores(users).clone()
        assert torch.allclose(inside, 2 * base.scores(users), atol=1e-6)  # of fewer rows
        assert not torch.equal(inside, clean)
    assert torch.equal(model.scores(users), clean)
    assert innermost(model) is base


class Peeks(Defense):
    """Notes the splits that each hook sees."""

    name = "peeks"
    seen: ClassVar[dict[str, int]] = {}

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        self.seen["clean"] = len(data.test)
        return data

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        self.seen["harden"] = len(data.test)
        return model

    def rerank(self, scores: torch.Tensor, users: torch.Tensor, data: Dataset) -> torch.Tensor:
        self.seen["rerank"] = len(data.test)
        return scores


def test_no_hook_of_a_defense_sees_a_test_row(data: Dataset) -> None:
    from bench.evaluate import evaluate
    from bench.stages import harden

    defense = Peeks()
    prepared = prepare(data, None, defense, Context(0))
    assert len(prepared.train.test) == len(data.test)
    model = harden(trained(data), prepared, defense, Context(0))
    evaluate(model, data, ["ndcg@10"], defense=defense)
    assert defense.seen == {"clean": 0, "harden": 0, "rerank": 0}


GRID = """
name: threats
seeds: [0]
datasets: [blocks]
models: [{bprmf: {dim: 8, epochs: 6, batch_size: 512, learning_rate: 0.03, patience: 0}}]
attacks: [{pgd: {eps: 0.3, steps: 3, adaptive: [true, false]}}, {fgsm: {eps: 0.3}},
          {random-profiles: {budget: 0.05, targets: 2, adaptive: [true, false], tries: 2}}]
defenses: [{adversarial-training: {eps: 0.3}}, pca-filter]
metrics: [ndcg@10, target-hr@10]
"""


def test_static_and_adaptive_attacks_run_from_a_grid(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    assert run(grid, results=tmp_path / "results") == 0
    found = load(tmp_path / "results" / "threats")
    by = {(c.defense.name, c.attack.label): c for c in found.cells}
    static = [c for (d, a), c in by.items() if c.attack.params.get("adaptive") is False
              and c.attack.name == "pgd"]
    assert {c.status for c in static if c.defense.name == "none"} == {"skipped"}
    defended = [c for c in static if c.defense.name == "adversarial-training"]
    assert [c.status for c in defended] == ["ok"]
    assert defended[0].threat["adaptive"] is False
    adaptive = [c for c in found.cells if c.attack.name == "random-profiles" and c.ok
                and c.attack.params["adaptive"]]
    assert adaptive
    assert all("disguise" in c.facts for c in adaptive)
    assert all(c.cost["queries"] > 0 for c in found.cells if c.ok and c.attack.name == "fgsm")
