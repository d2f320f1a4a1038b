"""What an attacker trains is not the attacked model: other weights before and after training, other
noise of its defense; but for the system's own answers and white-box attackers."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from bench import adaptive
from bench.api import Context, Dataset, Defense
from bench.attack import Attack
from bench.attacks.model_extraction import ModelExtraction
from bench.attacks.pollution import Pollution
from bench.attacks.probe_profiles import ProbeProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.attacks.rev_adv_profiles import RevAdvProfiles
from bench.attacks.sequence_poisoning import SequencePoisoning
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import PluginError
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.registry import Registry
from bench.stages import Prepared, under_attack, without_test
from bench.victim import Victim

SIZE = {"dim": 4, "epochs": 2, "batch_size": 256, "learning_rate": 0.02, "patience": 0}
FACTORS = BPRMF(**SIZE)
LENGTH = 5  # of the made-up histories, and what the sequential victim reads

State = dict[str, torch.Tensor]


def sequential(**params: Any) -> Any:
    return Registry().make("models", {"name": "SASRec", "params": {
        "epochs": 1, "patience": 0, **params}})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=30, length=10).load()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Recommender, State]]:
    """Every model that is built: its name, itself, and its weights before training."""
    made = []

    def noting(plugin: Any, data: Dataset, ctx: Context) -> Recommender:
        model = build(plugin, data, ctx)
        made.append((plugin.name, model, weights(model)))
        return model

    monkeypatch.setattr("bench.models.base.build", noting)
    monkeypatch.setattr(adaptive, "SURROGATE", {"name": "bprmf", "params": SIZE})
    return made


def weights(model: Recommender) -> State:
    return {k: v.detach().clone() for k, v in model.state().items()}


def shared(one: State, other: State) -> list[str]:
    """Learned tables whose rows of genuine users and items agree, in part or in all."""
    return [k for k, v in one.items() if v.ndim == 2 and torch.equal(v[:20], other[k][:20])]


def attacked(plugin: Any, data: Dataset) -> tuple[State, State, Recommender]:
    """The attacked model's weights before and after training."""
    model = build(plugin, without_test(data), Context(0))
    before = weights(model)
    model.fit(NoDefense(), lambda event: None)
    return before, weights(model), model


def strike(attack: Attack, plugin: Any, model: Recommender, data: Dataset,
           defense: Defense | None = None) -> Context:
    ctx = Context(0, victim=Victim(plugin, defense or NoDefense(), Context(0), lambda: model))
    if attack.trains:
        attack.before_training(data, ctx)
    else:
        with under_attack(attack, model, Prepared(data, data, data, attack.aims(data, ctx)), ctx):
            pass
    return ctx


@pytest.mark.parametrize(("attack", "victim"), [
    (SequencePoisoning(epochs=1, targets=2, length=6), sequential()),
    (SequencePoisoning(epochs=1, targets=2, length=6, knowledge="black", known=0.5), sequential()),
    (ModelExtraction(sequences=4, length=LENGTH, epochs=1, k=5), sequential(max_length=LENGTH)),
    (Pollution(sequences=4, length=LENGTH, epochs=1, k=5), sequential(max_length=LENGTH)),
    (RandomProfiles(adaptive=True, tries=2), FACTORS),
    (RandomProfiles(adaptive=True, tries=2, knowledge="black", known=0.5), FACTORS),
], ids=lambda x: x.label() if isinstance(x, Attack) else "")
def test_what_gray_and_black_attackers_train_begins_and_ends_elsewhere(
        data: Dataset, trained: list[Any], attack: Attack, victim: Any) -> None:
    before, after, model = attacked(victim, data)
    trained.clear()
    strike(attack, victim, model, data)
    assert [name for name, _, _ in trained][:1] == [victim.name]
    for _, made, begun in trained:
        items = {k for k, v in before.items() if v.ndim == 2 and v.shape == begun[k].shape}
        assert any("item" in k for k in items)  # what is compared can be compared
        assert not shared({k: before[k] for k in items}, begun)
        assert not shared({k: after[k] for k in items}, weights(made))


@pytest.mark.parametrize("attack", [
    RandomProfiles(adaptive=True, tries=2, knowledge="white"),
    RevAdvProfiles(steps=1, dim=4, epochs=4, unroll=1, tries=2, knowledge="white"),
    ProbeProfiles(rounds=1, known=0.5, seeds=2, targets=2),  # here the system itself answers
], ids=lambda a: a.name)
def test_white_box_attackers_and_the_systems_answers_have_its_own_seed(
        data: Dataset, trained: list[Any], attack: Attack) -> None:
    before, after, model = attacked(FACTORS, data)
    trained.clear()
    strike(attack, FACTORS, model, data)
    assert trained
    for _, made, begun in trained:
        assert shared(before, begun) == [k for k, v in before.items() if v.ndim == 2]
        assert not shared(after, weights(made))  # of other rows


class Noisy(Defense):
    """Notes the noise of its cleaning; stands on `stands` alone."""

    name = "noisy"
    stands: ClassVar[str] = ""
    drawn: ClassVar[list[float]] = []

    def unfit(self, model: Any, data: Dataset) -> str | None:
        return None if not self.stands or model.name == self.stands else "not on this"

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        self.drawn.append(float(ctx.stream("noise").random()))
        return data


@pytest.mark.parametrize("stands", ["", "als"])
@pytest.mark.parametrize("knowledge", ["gray", "black", "white"])
def test_the_noise_of_a_defense_is_its_own(data: Dataset, trained: list[Any], knowledge: str,
                                           stands: str) -> None:
    defense = type("Made", (Noisy,), {"stands": stands, "drawn": []})()
    _, _, model = attacked(FACTORS, data)
    strike(RandomProfiles(adaptive=True, tries=2, knowledge=knowledge), FACTORS, model, data,
           defense)
    own = float(Context(0).stream("noise").random())
    assert len(defense.drawn) == 2
    assert len(set(defense.drawn)) == 1  # the same for every candidate: compared as equals
    assert (defense.drawn[0] == own) is (knowledge == "white")


def test_who_wants_the_attacked_seed_has_to_say_so(data: Dataset) -> None:
    victim = Victim(FACTORS, NoDefense(), Context(7), lambda: pytest.fail("not needed"))
    blind = without_test(data)
    real = build(FACTORS, blind, Context(7))
    real.fit(NoDefense(), lambda event: None)
    assert all(torch.equal(v, real.state()[k])
               for k, v in victim.trained(data, as_attacked=True).state().items())
    assert not shared(weights(real), weights(victim.trained(data)))
    assert not shared(weights(victim.trained(data)), weights(victim.trained(data, seed=3)))
    with pytest.raises(PluginError, match="not both"):
        victim.trained(data, seed=3, as_attacked=True)
    seeds = {Context(s).apart(*names).seed for s in range(50) for names in ((), ("a",), ("b",))}
    assert len(seeds) == 150
    assert not seeds & set(range(50))


def test_a_context_apart_has_no_victim_and_notes_of_its_own() -> None:
    ctx = Context(0, victim="v", notes={"queries": 3})
    assert ctx.apart("a").victim is None
    assert ctx.apart("a").notes == {}
    again, other = ctx.apart("a"), ctx.apart("b")
    assert again == ctx.apart("a") != other
