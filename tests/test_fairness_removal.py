"""Removal of attributes: its loss and gradients by hand, and what a fresh probe still finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.adversary import Discriminator, Filter, Removal, user_tables, user_vectors
from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.attribute_removal import AttributeRemoval
from bench.defenses.none import NoDefense
from bench.errors import CannotActError, InputError
from bench.fairness import labels_of
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.pop import Pop
from bench.models.recbole import member
from bench.probe import attribute_labels, probe
from bench.training import Loop

CTX = Context(0)
MODEL = {"dim": 16, "epochs": 80, "batch_size": 1024, "learning_rate": 0.01, "patience": 0}


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Users of four tastes; gender goes with two of them, but for every seventh user."""
    data = Blocks(users=240, items=60, length=20, noise=0.3).load()
    female = (np.arange(240) % 4 // 2) ^ (np.random.default_rng(0).random(240) < 0.15)
    return data.replace(user_attributes=data.user_attributes | {
        "gender": np.where(female, "F", "M").astype(object)})


def removal(data: Dataset, **changes: object) -> Removal:
    made = build(BPRMF(dim=4, learning_rate=0.05, optimizer="sgd"), data, CTX)
    assert isinstance(made, TorchRecommender)
    settings = {"attributes": ("gender",), "weight": 0.7, "filters": "none", "bounded": False,
                "hidden": (8,), "dropout": 0.3, "steps": 2, "rate": 0.01}
    return Removal(Loop(made, NoDefense()), **settings | changes)


def test_the_model_descends_on_its_loss_minus_the_readers(data):
    run = removal(data)
    model = run.model
    batch = next(iter(model.batches(1, 200)))
    users = torch.unique(batch["users"])
    run.teach(users)
    run.steps = 0  # the readers as they are
    before = {k: p.detach().clone() for k, p in model.module.named_parameters()}
    weight = model.module.users.weight
    logits = run.readers["gender"].eval()(weight[users])
    labels = torch.tensor([0 if data.user_attributes["gender"][u] == "F" else 1 for u in users])
    expected = model.batch_loss(batch) - 0.7 * F.cross_entropy(logits, labels)
    slopes = torch.autograd.grad(expected, list(model.module.parameters()))
    value = run.step(batch, 1)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, p), slope in zip(model.module.named_parameters(), slopes, strict=True):
        assert torch.allclose(p.detach(), before[name] - 0.05 * slope, atol=1e-6), name


def test_the_readers_alone_learn_from_teaching(data):
    run = removal(data, steps=60)
    users = torch.arange(240)
    vectors = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
    vectors[:, 0] = 2.0 * run.labels["gender"] - 1
    with torch.no_grad():
        run.model.module.users.weight.copy_(vectors)
    before = {k: v.clone() for k, v in run.model.state().items()}
    start = float(run.read(users).detach())
    run.teach(users)
    assert float(run.read(users).detach()) < 0.5 * start
    assert all(torch.equal(v, run.model.state()[k]) for k, v in before.items())


def test_a_bounded_reading_earns_nothing_above_the_class_shares(data):
    for bounded in (True, False):
        run = removal(data, bounded=bounded)
        with torch.no_grad():  # a reader that is sure, and wrong for most
            run.readers["gender"].net[-1].bias.copy_(torch.tensor([9.0, -9.0]))
        users = torch.arange(240)
        worth = run.read(users)
        entropy = run._entropy("gender")
        share = float((run.labels["gender"] == 0).float().mean())
        assert entropy == pytest.approx(-share * math.log(share) - (1 - share)
                                        * math.log(1 - share))
        if bounded:
            assert float(worth.detach()) == pytest.approx(entropy)
        else:
            assert float(worth.detach()) > 5
        slope = torch.autograd.grad(worth, run.model.module.users.weight)[0]
        assert bool((slope != 0).any()) is not bounded


@pytest.mark.parametrize("filters", ["combined", "separate"])
def test_served_vectors_are_the_filtered_ones_and_the_gradient_passes_through(data, filters):
    run = removal(data, filters=filters, attributes=("gender", "age"))
    model, (raw,), (filter_,) = run.model, run.raw, run.filters
    assert len(filter_.parts) == (2 if filters == "combined" else 1)
    batch = next(iter(model.batches(1, 200)))
    assert torch.equal(model.module.users.weight, raw)  # it begins where it would without
    for _ in range(3):
        run.step(batch, 1)
    assert torch.allclose(model.module.users.weight, filter_(raw))
    assert not torch.allclose(model.module.users.weight, raw)
    run.steps = 0
    at = raw.detach().clone()
    expected = torch.autograd.grad(_whole(run, batch, filter_, raw), raw)[0]
    run.step(batch, 1)
    assert torch.allclose(raw.detach(), at - 0.05 * expected, atol=1e-6)


def _whole(run: Removal, batch, filter_: Filter, raw: torch.Tensor) -> torch.Tensor:
    """The objective as a function of the vectors before the filter."""
    served = filter_(raw)
    delta = {"user": served - served.detach()}  # a perturbation of value 0
    users = torch.unique(batch["users"])
    run.readers.eval()
    losses = run.cross_entropies(served[users], users)
    return run.model.loss(batch, delta) - run.weight * sum(losses.values())


def test_tables_of_a_model_are_read_side_by_side(data):
    made = build(member("NeuMF")(epochs=1), data, CTX)
    assert isinstance(made, TorchRecommender)
    assert AttributeRemoval().unfit(member("NeuMF")(), data) is None
    tables = [t for t in made.tables().values() if t.role == "user"]
    assert len(tables) == 2
    assert torch.equal(user_vectors(made, torch.tensor([3])),
                       torch.cat([t.rows()[3:4] for t in tables], dim=1))
    before = [t.rows().clone() for t in tables]
    made.fit(AttributeRemoval(hidden=(8,), adversary_steps=1), lambda event: None)
    assert all(not torch.equal(b, t.rows()) for b, t in zip(before, tables))


def found(data: Dataset, defense: object) -> tuple[float, float, TorchRecommender]:
    made = build(BPRMF(**MODEL), data, CTX)
    assert isinstance(made, TorchRecommender)
    made.fit(defense, lambda event: None)
    users, labels = attribute_labels(data, "gender")
    seen = probe(user_vectors(made, torch.as_tensor(users)).detach().numpy(), labels, CTX,
                 permutations=20, draws=0)
    return seen.auc, seen.floor_auc_high, made


def test_a_fresh_probe_falls_to_the_floor_of_permuted_labels(data):
    from bench.evaluate import evaluate

    plain, _, undefended = found(data, NoDefense())
    freed, floor, served = found(data, AttributeRemoval())
    assert plain > 0.75
    assert freed <= floor < 0.65, (freed, floor)
    ndcg = [evaluate(m, data, ["ndcg@10"]).values[0][2] for m in (undefended, served)]
    assert ndcg[1] > 0.7 * ndcg[0]


def test_what_is_stored_is_what_is_served_and_what_is_probed(data):
    made = build(BPRMF(dim=4, epochs=2), data, CTX)
    defense = AttributeRemoval(hidden=(8,))
    made.fit(defense, lambda event: None)
    facts = defense.served_facts(made)
    assert set(facts) == {"probe:gender:logistic", "probe:gender:mlp"}
    users, labels = attribute_labels(data, "gender")
    again = probe(made.module.users.weight.detach().numpy()[users], labels, CTX, draws=0,
                  name="probe gender", permutations=0)
    assert facts["probe:gender:logistic"]["auc"] == pytest.approx(again.auc)
    assert 0.5 < facts["probe:gender:logistic"]["majority"] < 0.6
    fresh = build(BPRMF(dim=4, epochs=2), data, CTX)
    fresh.load_state(made.state())
    assert torch.equal(made.scores(torch.arange(9)), fresh.scores(torch.arange(9)))


def test_the_last_epoch_is_kept_unless_asked_otherwise(data):
    for early in (False, True):
        made = build(BPRMF(dim=4, epochs=4, patience=1), data, CTX)
        result = made.fit(AttributeRemoval(hidden=(8,), early_stopping=early), lambda event: None)
        assert bool(result.history) is early
        assert set(result.notes["attribute-removal"]["gender"]) == {"cross_entropy",
                                                                    "of_class_shares"}


def test_users_without_the_attribute_are_nobodys_lesson(data):
    column = data.user_attributes["gender"].copy()
    column[::2] = ""
    labels, names = labels_of(data.replace(user_attributes={"gender": column}), "gender")
    assert names == ["F", "M"]
    assert (labels[::2] == -1).all()
    fakes = Interactions(np.zeros(2, np.int64), np.arange(2), np.array([5.0, 5.0]), np.zeros(2))
    assert labels_of(data.with_fakes(fakes, 1), "gender")[0][-1] == -1
    run = removal(data.replace(user_attributes={"gender": column}))
    assert float(run.read(torch.arange(0, 240, 2)).detach()) == 0.0


def test_refusals(data):
    assert "no embeddings" in AttributeRemoval().unfit(Pop(), data)
    assert "history" in AttributeRemoval().unfit(member("SASRec")(), data)
    assert "history" in AttributeRemoval().unfit(FCF(), data)
    assert "vector per user" in AttributeRemoval().unfit(member("FISM")(), data)
    with pytest.raises(CannotActError, match="no vectors of users"):
        user_tables(build(FCF(dim=4), data, Context(0)))
    assert "graph" in AttributeRemoval().unfit(member("LightGCN")(), data)
    assert "no attribute 'height'" in AttributeRemoval(attributes=("height",)).unfit(BPRMF(), data)
    with pytest.raises(InputError, match="each once"):
        AttributeRemoval(attributes=("gender", "gender"))
    assert Discriminator(4, (), 3, 0.0)(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("hidden", [[-5], [0], [64, 0], [10**9]])
def test_layers_that_cannot_be_built_are_refused(hidden):
    with pytest.raises(InputError, match="between 1 and 4096 units"):
        AttributeRemoval.from_params({"hidden": hidden})
