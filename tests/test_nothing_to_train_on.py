"""Defenses that take over the epochs refuse what the plain loop refuses: nothing to learn from,
and losses that are no numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench import stages
from bench.api import Context, Dataset, Defense
from bench.datasets.blocks import Blocks
from bench.defenses.feature_smote import FeatureSmote
from bench.defenses.head_undersampling import HeadUndersampling
from bench.defenses.neighbourhood_sampling import NeighbourhoodSampling
from bench.defenses.none import NoDefense
from bench.defenses.popularity_negatives import PopularityNegatives
from bench.defenses.substitution_training import SubstitutionTraining
from bench.defenses.tail_oversampling import TailOversampling
from bench.errors import TrainingError
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.recbole import member
from bench.models.vbpr import VBPR
from bench.registry import Registry
from bench.training import Loop

CTX = Context(0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    made = Blocks(users=30, items=24).load()
    picture = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    return made.replace(item_features={"picture": picture})


def plugin(name: str):  # type: ignore[no-untyped-def]
    if name == "vbpr":
        return VBPR(dim=4, epochs=2, batch_size=64, patience=0)
    if name == "bprmf":
        return BPRMF(dim=4, epochs=2, batch_size=64, patience=0)
    return member(name)(epochs=1, max_length=6, patience=0)


@pytest.mark.parametrize(("defense", "name"), [
    (NoDefense(), "bprmf"), (HeadUndersampling(), "bprmf"), (PopularityNegatives(), "bprmf"),
    (TailOversampling(), "bprmf"), (FeatureSmote(), "vbpr"), (NeighbourhoodSampling(), "SASRec"),
    (SubstitutionTraining(), "SASRec")], ids=lambda x: getattr(x, "name", x))
def test_no_train_row_is_said_and_not_a_loss_of_zero(data: Dataset, defense: Defense,
                                                     name: str) -> None:
    bare = data.replace(train=data.train[:0])
    cleaned = defense.clean(bare, CTX)
    with pytest.raises(TrainingError, match=r"nothing to train on.*: take users with more"):
        stages.train(build(plugin(name), cleaned, CTX), defense, lambda event: None)


@pytest.mark.parametrize(("name", "params"), [
    ("tallrec", {"tune": "full"}), ("p5", {}), ("text-sasrec", {}), ("unisrec", {}),
    ("dual-encoder", {})])
def test_users_with_one_row_teach_no_reader_of_histories(data: Dataset, name: str,
                                                         params: dict[str, Any]) -> None:
    _, first = np.unique(data.train.users, return_index=True)
    short = data.replace(train=data.train[np.sort(first)], valid=data.valid[:0])
    made = Registry().make("models", {"name": name, "params": {
        "model": "tiny-random", "epochs": 1, "patience": 0} | params})
    with pytest.raises(TrainingError, match=r"liked an item before it.*\(k_core: 5\).*\(split\)"):
        stages.train(build(made, short, CTX), NoDefense(), lambda event: None)


@pytest.mark.parametrize(("kind", "said"), [
    ("contrastive-pairs", r"train rows of one user.*\(k_core: 5\).*another pretrain"),
    ("contrastive-dropout", "all items have the same; fill texts in")])
def test_what_an_encoder_cannot_be_pretrained_on_is_said(data: Dataset, kind: str,
                                                         said: str) -> None:
    _, first = np.unique(data.train.users, return_index=True)
    bare = data.replace(train=data.train[np.sort(first)]) if "pairs" in kind else \
        data.replace(item_text=["a film"] * data.n_items)
    made = Registry().make("models", {"name": "text-sasrec", "params": {
        "model": "tiny-random", "epochs": 1, "patience": 0, "pretrain": kind}})
    with pytest.raises(TrainingError, match=f"nothing to pretrain on by {kind}: .*{said}"):
        stages.train(build(made, bare, CTX), NoDefense(), lambda event: None)


def test_synthetic_rows_do_not_teach_what_is_no_number(data: Dataset) -> None:
    """They step by themselves, and are held to what the plain loop is held to."""
    model = build(plugin("vbpr"), data, CTX)
    assert isinstance(model, TorchRecommender)
    defense = FeatureSmote(tail=0.5)
    loop = Loop(model, defense)
    run_epoch = defense.wrap(loop)
    assert run_epoch is not None
    assert np.isfinite(run_epoch(1))
    assert loop.steps == sum(1 for _ in loop.batches(1))  # counted as the plain loop counts
    before = {k: v.clone() for k, v in model.state().items()}
    with torch.no_grad():
        model.module.features[:] = torch.nan
    with pytest.raises(TrainingError, match="the loss became nan in epoch 2; lower"):
        run_epoch(2)
    assert all(torch.equal(v, before[k]) for k, v in model.state().items() if k != "features")


@pytest.mark.parametrize(("name", "params", "lower"), [
    ("none", {}, r"lower learning_rate \(0\.01\)$"),
    ("adversarial-training", {"eps": 1e38, "weight": 2.0},
     r"learning_rate \(0\.01\) or eps \(1e\+38\) of adversarial-training or weight \(2\) of "
     r"adversarial-training$"),
    ("popularity-rerank", {}, r"lower learning_rate \(0\.01\)$")])
def test_a_loss_that_is_no_number_names_all_that_may_be_too_large(
        data: Dataset, name: str, params: dict[str, object], lower: str) -> None:
    """What a defense does when serving is no cause of it."""
    model = build(BPRMF(dim=4, learning_rate=0.01), data, CTX)
    assert isinstance(model, TorchRecommender)
    from bench.registry import Registry

    loop = Loop(model, Registry().make("defenses", {"name": name, "params": params}))
    with torch.no_grad():
        model.module.items.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=lower):
        loop.step(next(iter(loop.batches(1))), 1)
