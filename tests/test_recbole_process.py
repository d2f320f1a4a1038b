"""What the RecBole adapter leaves alone, repeats and learns."""

from __future__ import annotations

import logging
import os
import random
import sys

import numpy as np
import pytest
import torch
from recbole_toy import CTX, data, plugin, scores, trained

from bench.context import Context
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.models.base import build


def test_building_and_training_leave_the_process_as_it_was(
        tmp_path: object, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["bench", "--learning_rate=7", "run"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = logging.getLogger()
    handlers, level, argv = list(root.handlers), root.level, list(sys.argv)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for name in ("SGL", "SINE", "ItemKNN", "KGCN"):
        trained(name, data())
    assert root.handlers == handlers
    assert root.level == level
    assert sys.argv == argv
    assert os.listdir(".") == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert "torch_scatter" not in sys.modules
    assert not torch.is_anomaly_enabled()  # importing SINE switches it on for the process
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["BPR", "SGL", "KGCN", "BERT4Rec", "RecVAE"])
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    first, second = trained(name, data()), trained(name, data())
    assert torch.equal(scores(first), scores(second))
    other = build(plugin(name), data(), Context(1))
    assert not torch.equal(scores(build(plugin(name), data(), CTX)), scores(other))


def test_scatter_functions_equal_a_loop() -> None:
    from bench.models._recbole_compat import scatter_mean, scatter_softmax

    src = torch.randn(9, 2, generator=CTX.torch_stream("scatter"))
    index = torch.tensor([0, 2, 2, 0, 4, 2, 4, 4, 0])
    mean, soft = scatter_mean(src, index, dim_size=6), scatter_softmax(src, index)
    assert mean.shape == (6, 2)
    for group in range(6):
        rows = src[index == group]
        expected = rows.mean(dim=0) if len(rows) else torch.zeros(2)
        torch.testing.assert_close(mean[group], expected)
        torch.testing.assert_close(soft[index == group], rows.softmax(dim=0))


def test_learning_helps() -> None:
    """BPR finds the blocks: its ranking beats that of popularity."""
    from bench.evaluate import evaluate

    on = Blocks(users=60, items=48).load()
    made = {}
    for name, given in (("BPR", {"epochs": 60, "patience": 0}), ("Pop", {})):
        model = build(plugin(name, **given), on, CTX)
        model.fit(NoDefense(), lambda event: None)
        made[name] = next(v for m, g, v in evaluate(model, on, ("ndcg@10",)).values
                          if (m, g) == ("ndcg@10", "all"))
    assert made["BPR"] > 1.3 * made["Pop"]


def test_pop_counts_every_row() -> None:
    made = trained("Pop", data())
    counts = np.bincount(data().train.items, minlength=24)
    assert scores(made)[3].tolist() == counts.tolist()
    assert counts.max() > 2


@pytest.mark.parametrize("name", ["MacridVAE", "LINE"])
def test_a_loss_does_not_depend_on_how_often_it_was_asked_for(name: str) -> None:
    """MacridVAE counts its steps and LINE walks along a list: neither in attacks, which see the
    same loss before and after one another, and after loading."""
    from bench.models.base import TorchRecommender
    from bench.perturb import attack_batches, gradient

    fresh = trained(name, data())
    loaded = build(plugin(name), data(), CTX)
    loaded.load_state(fresh.state())
    found = []
    for model in (fresh, loaded, fresh):
        assert isinstance(model, TorchRecommender)
        found.append(gradient(model, attack_batches(model), list(model.tables()))[0])
    for key, slope in found[0].items():
        assert all(torch.equal(other[key], slope) for other in found[1:]), key


def test_the_adversarial_pass_does_not_count_as_a_step() -> None:
    from bench.models.base import TorchRecommender

    model = build(plugin("MacridVAE"), data(), CTX)
    assert isinstance(model, TorchRecommender)
    model.module.train()
    batch = next(iter(model.batches(1, 64)))
    for _ in range(3):
        model.loss(batch)
    model.loss(batch, {k: torch.zeros_like(t.rows()) for k, t in model.tables().items()})
    assert model.module.update == 3
    assert int(model.state()["counted:update"]) == 3
