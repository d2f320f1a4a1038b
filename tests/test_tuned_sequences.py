"""Sequence models whose encoder learns from the sequences: where it begins, which slopes reach it,
and whose vectors are old when. Everything on two layers of random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset
from bench.models.base import build
from bench.models.text_sasrec import TextSASRec
from bench.models.unisrec import UniSRec
from bench.registry import Registry
from bench.text.encode import hidden_states, pool, rows_of
from bench.text.sequential import SequenceRecommender
from bench.text.tuning import WAYS
from bench.training import Loop, make_optimizer

REGISTRY = Registry()
SMALL: dict[str, Any] = {
    "model": "tiny-random", "dtype": "float32", "dim": 16, "inner": 32, "layers": 1,
    "dropout": 0.0, "attention_dropout": 0.0, "max_length": 6, "epochs": 2, "batch_size": 8,
    "learning_rate": 0.01, "patience": 0, "tune": "lora", "lora_dropout": 0.0, "bottleneck": 4,
    "virtual_tokens": 3, "encoder_rate": 0.02}
BOTH = [TextSASRec, UniSRec]
LEARNING = [w for w in WAYS if w != "none"]


@cache
def data() -> Dataset:
    made: Any = REGISTRY.make("datasets", {"name": "blocks", "params": {"users": 20, "items": 24}})
    loaded: Dataset = made.load()
    return loaded


def make(cls: Any, on: Dataset | None = None, **params: Any) -> Any:
    if cls is UniSRec:
        params = {"experts": 3, "expert_dropout": 0.0, **params}
    return build(cls(**{**SMALL, **params}), on or data(), Context(0))


def fit(model: Any) -> Any:
    return model.fit(REGISTRY.make("defenses", {"name": "none"}), lambda event: None)


def stirred(model: Any) -> Any:
    """The same, its tuned weights no longer nothing; without dropout."""
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.tuning.learned().values():
            p.add_(torch.randn(p.shape, generator=stream) * 0.3)
    model.relearned()
    for part in model.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def one_batch(model: Any, size: int = 3) -> Any:
    return next(iter(model.batches(1, size)))


def touched(batch: Any) -> Tensor:
    held = torch.cat([v.flatten() for k, v in batch.items() if k in (
        "histories", "targets", "items")])
    return torch.unique(held[held >= 0])


def encoded(model: Any) -> Tensor:
    """All texts, one at a time."""
    lm = model.encoder.language
    return torch.cat([pool(hidden_states(lm, *lm.batch([r])), torch.ones(1, len(r)), "mean")
                      for r in rows_of(lm, model.texts)])


# -- where it begins -------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("tune", ["lora", "adalora", "ia3", "adapters", "full"])
def test_before_training_it_is_the_frozen_model(cls: Any, tune: str) -> None:
    users = torch.arange(data().n_genuine)
    frozen = make(cls, tune="none")
    assert type(frozen) is SequenceRecommender
    assert torch.equal(make(cls, tune=tune).scores(users), frozen.scores(users))
    assert not torch.allclose(stirred(make(cls, tune=tune)).scores(users), frozen.scores(users))


# -- slopes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("encode", ["touched", "all"])
@pytest.mark.parametrize("rows", ["windows", "prefixes"])
def test_slopes_are_those_of_a_slow_reference(cls: Any, encode: str, rows: str) -> None:
    """Every text encoded by itself; where not all are, those of other items are constants."""
    model = stirred(make(cls, encode=encode, rows=rows))
    batch = one_batch(model)
    model.module.train()
    m, own = model.module, touched(batch)
    assert 2 < len(own) < data().n_items
    vectors = encoded(model)
    if encode == "touched":
        inside = torch.zeros(len(vectors), 1, dtype=torch.bool)
        inside[own] = True
        vectors = torch.where(inside, vectors, vectors.detach())
    if cls is UniSRec:
        m.adapt.eval()  # whose gates are noisy in training
    items = m.adapt(vectors)
    losses = []
    for n, history in enumerate(batch["histories"].tolist()):
        known = [i for i in history if i >= 0]
        wanted = [t for t in batch["targets"][n].tolist() if t >= 0] if rows == "windows" else \
            [int(batch["items"][n])]
        for place, target in enumerate(wanted):
            seen = known[:place + 1] if rows == "windows" else known
            hidden = m.read(items[torch.tensor(seen)][None])[0, -1]
            scores = F.cosine_similarity(hidden[None], items) / 0.07 if cls is UniSRec \
                else items @ hidden
            losses.append(scores.logsumexp(0) - scores[target])
    weights = list(model.trained().values())
    slow = torch.autograd.grad(torch.stack(losses).mean(), weights, allow_unused=True)
    loss = model.batch_loss(batch)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    wanted_loss = float(torch.stack(losses).mean().detach())
    assert float(loss.detach()) == pytest.approx(wanted_loss, abs=1e-4)
    some = 0
    for name, a, b in zip(model.trained(), found, slow, strict=True):
        if b is None:  # the spread of gates that make no noise
            assert a is None
            continue
        assert torch.allclose(a, b, atol=2e-4 * float(b.abs().max()) + 1e-6), name
        some += name.startswith("language.") and bool(b.any())
    assert some > 2


def test_where_a_batch_touches_everything_touched_is_all() -> None:
    found = []
    for encode in ("touched", "all"):
        model = stirred(make(TextSASRec, encode=encode))
        batch = one_batch(model, 1000)
        assert len(touched(batch)) == data().n_items
        found.append(torch.autograd.grad(model.batch_loss(batch), list(model.trained().values())))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_passes_of_few_texts_give_the_slopes_of_one() -> None:
    found, texts = [], [f"{t}{' and more' * (n % 5)}" for n, t in enumerate(data().item_text or ())]
    for at_once in (256, 5):
        model = stirred(make(TextSASRec, data().replace(item_text=texts), encode_at_once=at_once))
        model.module.train()
        found.append(torch.autograd.grad(model.batch_loss(one_batch(model, 8)),
                                         list(model.trained().values())))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("cls", BOTH)
def test_a_perturbed_table_moves_items_that_are_encoded_too(cls: Any) -> None:
    model = stirred(make(cls))
    batch, table = one_batch(model), model.tables()["feature"]
    own = touched(batch)
    delta = torch.zeros_like(table.rows()).requires_grad_()
    (slope,) = torch.autograd.grad(model.loss(batch, {"feature": delta}), delta)
    assert bool((slope[own] != 0).any(dim=1).all())
    step = torch.randn(delta.shape, generator=torch.Generator().manual_seed(2))
    step = step * torch.zeros(len(step), 1).index_fill(0, own, 1.0)  # of touched items alone
    with torch.no_grad():
        ahead, back = (float(model.loss(batch, {"feature": s * 1e-2 * step})) for s in (1, -1))
    assert (ahead - back) / 2e-2 == pytest.approx(float((slope * step).sum()), rel=0.02)


@pytest.mark.parametrize(("cls", "defense", "params"), [
    (TextSASRec, "none", {}), (UniSRec, "none", {}), (TextSASRec, "amr", {}), (UniSRec, "amr", {}),
    (UniSRec, "adversarial-training", {"transductive": True})])
def test_adaloras_penalty_counts_once_whatever_a_defense_evaluates(
        cls: Any, defense: str, params: dict[str, Any]) -> None:
    """With no perturbation to speak of, L(θ) + 2 L(θ + δ) is three times the loss."""
    model = stirred(make(cls, tune="adalora", optimizer="sgd", **params))
    model.module.eval()  # neither dropout nor noisy gates
    batch, weights = one_batch(model), list(model.tuning.learned().values())
    penalty = model.tuning.penalty()
    assert float(penalty.detach()) > 0.1
    own = SequenceRecommender.batch_loss(model, batch)
    loss = (1 if defense == "none" else 3) * own + penalty
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    made: Any = REGISTRY.make("defenses", {"name": defense, "params": {} if defense == "none" else {
        "eps": 1e-9, "weight": 2.0}})
    assert made.unfit(model.hyper, data()) is None
    loop = Loop(model, made)
    assert loop.step(batch, 1) == pytest.approx(float(loss.detach()), rel=1e-5)
    for weight, slope in zip(weights, slopes, strict=True):
        if slope is not None:
            assert weight.grad is not None
            assert torch.allclose(weight.grad, slope, atol=1e-4 * float(slope.abs().max()))


# -- whose vectors are old -------------------------------------------------------------------------

def test_others_are_of_the_epoch_s_beginning_and_scores_of_the_weights_as_they_are() -> None:
    model = stirred(make(TextSASRec))
    model.refresh()
    with model.ctx.seeded("train"):
        loop = Loop(model, REGISTRY.make("defenses", {"name": "none"}))
        model.module.train()
        batches = list(model.batches(1, 3))
        before = model.module.vectors.clone()
        assert torch.allclose(before, encoded(model).detach(), atol=1e-5)
        loop.step(batches[0], 1)
        loop.step(batches[1], 1)
        assert torch.equal(model.module.vectors, before)
        assert not torch.allclose(encoded(model).detach(), before, atol=1e-4)
        next(iter(model.batches(2, 3)))  # the next epoch begins
        assert torch.allclose(model.module.vectors, encoded(model).detach(), atol=1e-5)
        loop.step(batches[2], 2)
    model.module.eval()
    model.scores(torch.arange(2))
    assert torch.allclose(model.module.vectors, encoded(model).detach(), atol=1e-5)


# -- what is learned -------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("tune", LEARNING)
def test_every_way_learns_and_comes_back(cls: Any, tune: str) -> None:
    model = make(cls, tune=tune, encoder_rate=0.001 if tune == "full" else 0.02)
    batch, users = one_batch(model, 1000), torch.arange(6)
    with torch.no_grad():
        before = float(model.batch_loss(batch))
    start = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    result = fit(model)
    with torch.no_grad():
        assert float(model.batch_loss(batch)) < before
    moved = {n for n, p in model.module.named_parameters() if not torch.equal(p, start[n])}
    assert any(n.startswith("language.") for n in moved)
    assert moved <= set(model.trained())
    tuned = [v for k, v in model.state().items() if k.startswith("tuned.")]
    assert sum(v.numel() for v in tuned) == result.notes["learned_parameters"]
    assert not any(k.startswith("language.") for k in model.state())
    again = make(cls, tune=tune)
    other = again.scores(users)
    again.load_state(model.state())
    assert torch.equal(again.scores(users), model.scores(users))
    assert not torch.allclose(other, again.scores(users))
    state = model.state()
    state.pop(next(k for k in state if k.startswith("tuned.")))
    with pytest.raises(KeyError, match="differ"):
        again.load_state(state)


def test_the_best_epoch_comes_back_with_its_vectors() -> None:
    model = make(TextSASRec, patience=1, epochs=6, encoder_rate=0.2)  # a step that is too long
    result = fit(model)
    assert result.best_epoch < result.epochs
    assert torch.allclose(model.module.vectors, encoded(model).detach(), atol=1e-5)
    shorter = make(TextSASRec, epochs=result.best_epoch, encoder_rate=0.2)
    fit(shorter)
    users = torch.arange(5)
    assert torch.allclose(model.scores(users), shorter.scores(users), atol=1e-4)


def test_after_pre_training_it_is_tuned_from_there() -> None:
    model = make(TextSASRec, pretrain="mlm", pretrain_rate=0.01)
    assert model.tuning is None
    users, plain = torch.arange(5), make(TextSASRec)
    fit(model)
    fit(plain)
    assert not torch.allclose(model.scores(users), plain.scores(users))
    for again in (make(TextSASRec, pretrain="mlm", pretrain_rate=0.01), model):
        again.load_state(model.state())
        assert torch.allclose(again.scores(users), model.scores(users), atol=1e-5)
    assert any(k.startswith("language.") for k in model.state())


def test_encoder_and_the_rest_have_step_sizes_of_their_own() -> None:
    model = make(TextSASRec, encoder_rate=0.003)
    rest, encoder = make_optimizer(model, model.hyper).param_groups
    assert (rest["lr"], encoder["lr"]) == (0.01, 0.003)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.tuning.learned().values()}
    assert {id(p) for p in [*rest["params"], *encoder["params"]]} == {
        id(p) for p in model.trained().values()}


@pytest.mark.parametrize("cls", BOTH)
def test_texts_under_attack_are_read_by_the_tuned_encoder(cls: Any) -> None:
    model, users = make(cls), torch.arange(data().n_genuine)
    fit(model)
    before, table = model.scores(users), model.module.vectors.clone()
    changed = ["title 3 genre2 changed" if n == 3 else t for n, t in enumerate(model.texts)]
    with model.reading_texts(changed):
        assert not torch.allclose(model.scores(users)[:, 3], before[:, 3])
        assert torch.allclose(model.module.vectors, encoded(model).detach(), atol=1e-5)
    assert torch.equal(model.module.vectors, table)
    assert torch.equal(model.scores(users), before)


def test_other_features_keep_their_scale_and_no_privacy_is_promised() -> None:
    images = data().replace(item_features={"image": np.random.default_rng(0).normal(
        size=(data().n_items, 5)).astype(np.float32)})
    model = make(TextSASRec, images, features="image")
    model.refresh()
    before = model.module.vectors[:, model.width:].clone()
    fit(model)
    assert torch.equal(model.module.vectors[:, model.width:], before)
    assert "user-separable" not in model.hyper.gives
    for name in ("dp-sgd", "dp-lora"):
        defense: Any = REGISTRY.make("defenses", {"name": name})
        assert "user by user" in str(defense.unfit(model.hyper, images))
    lora: Any = REGISTRY.make("defenses", {"name": "dp-lora"})
    assert "dp-sgd" in str(lora.unfit(TextSASRec(**{**SMALL, "tune": "none"}), images))
