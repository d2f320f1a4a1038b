"""Private fine-tuning of language models: one user's part is bounded, steps are plain ones without
noise, and what cannot be private is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import dp
from bench.accounting import epsilon_of
from bench.context import Context
from bench.data import Dataset
from bench.models.base import build
from bench.registry import Registry
from bench.text.private import user_gradients
from bench.training import Loop, make_optimizer, rate_scale

REGISTRY = Registry()
BOTH = ["tallrec", "dual-encoder"]
SMALL: dict[str, dict[str, Any]] = {
    "tallrec": {"retriever": "tfidf", "candidates": 4, "shots": 0},
    "dual-encoder": {"negatives": 2, "temperature": 0.2}}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", users=12, items=16).load()
    return made


def asked(name: str, **params: Any) -> Any:
    given = {"model": "tiny-random", "dtype": "float32", "tune": "lora", "history": 2,
             "lora_dropout": 0.0, "epochs": 2, "patience": 0, "optimizer": "sgd",
             "learning_rate": 0.1, "warmup": 0.5, **SMALL[name]} | params
    return plugin("models", name, **given)


def fresh(data: Dataset, name: str, stirred: bool = True, **params: Any) -> Any:
    """An untrained model without dropout; its added weights do something where `stirred`."""
    model: Any = build(asked(name, **params), data, Context(0))
    for part in model.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if stirred:
        stream = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.trained().values():
                p.add_(torch.randn(p.shape, generator=stream) * 0.1)
    return model


def rows_of(model: Any, users: list[int], most: int = 6) -> tuple[Any, dict[str, Tensor], Tensor]:
    rows, counts = dp.UserRows(model, 1).take(torch.tensor(users), 0, most)
    return dp.Coordinates(model), rows, counts


# -- one user's part -------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("clip", [0.05, math.inf])
def test_gradients_in_passes_are_those_of_one_user_at_a_time(data: Dataset, name: str,
                                                             clip: float) -> None:
    model = fresh(data, name)
    where, rows, counts = rows_of(model, [0, 3, 4])
    slow = dp.one_by_one(model, where, rows, counts, clip)
    for at_once in (1, 4, 100):
        found = user_gradients(model, where, rows, counts, clip, at_once)
        assert found.loss == pytest.approx(slow.loss, rel=1e-4)
        assert torch.allclose(found.norms, slow.norms, rtol=1e-3)
        for key, expected in slow.shared.items():
            assert torch.allclose(found.shared[key], expected, atol=1e-4 * float(
                expected.abs().max()) + 1e-7), key


@pytest.mark.parametrize("name", BOTH)
def test_each_user_moves_the_clipped_sum_by_at_most_the_clip(data: Dataset, name: str) -> None:
    """From data without that user: what is drawn, sampled and read is drawn anew."""
    users, clip = list(range(6)), 0.05
    model = fresh(data, name)
    where, rows, counts = rows_of(model, users)
    everybody = user_gradients(model, where, rows, counts, clip, 8)
    assert bool((everybody.norms > clip).all())  # the clip is felt
    for left in (0, 2, 5):
        gone = np.zeros(data.n_users, bool)
        gone[left] = True
        smaller = fresh(data.without_users(gone), name)
        others = [u for u in users if u != left]
        where_, rows_, counts_ = rows_of(smaller, others)
        for key, value in rows_.items():
            assert torch.equal(value, rows[key][rows["users"] != left]), key
        found = user_gradients(smaller, where_, rows_, counts_, clip, 8)
        moved = math.sqrt(sum(float((everybody.shared[k] - found.shared[k]).pow(2).sum())
                              for k in found.shared))
        assert clip * 0.99 <= moved <= clip * 1.001


def test_rows_come_as_one_batch_so_that_no_bound_depends_on_others(
        data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, gone = fresh(data, "tallrec", negatives=2), np.zeros(data.n_users, bool)
    gone[0] = True
    smaller = fresh(data.without_users(gone), "tallrec", negatives=2)
    assert len(dp.UserRows(model, 1).batch["users"]) > 0

    def same() -> bool:
        pairs = [dp.UserRows(m, 1).take(torch.arange(1, 12), 3, 2)[0] for m in (model, smaller)]
        return all(torch.equal(pairs[0][k], pairs[1][k]) for k in pairs[0])

    assert same()
    monkeypatch.setattr(dp, "_ALL", 7)  # as on data of many rows, were batches bounded
    assert not same()


def test_a_row_s_loss_with_sampled_negatives_knows_no_other_row(data: Dataset) -> None:
    model = fresh(data, "dual-encoder")
    batch = next(iter(model.batches(1, 9)))
    own = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    slow = []
    for n in range(9):
        user, item = int(batch["users"][n]), int(batch["items"][n])
        drawn = batch["negatives"][n].tolist()
        assert not {(user, i) for i in drawn} & own
        history = batch["histories"][n, :int(batch["lengths"][n])].tolist()
        read = model.encoder([model.user_text(history), *model.item_texts([item, *drawn])])
        cosines = F.cosine_similarity(read[:1], read[1:]) / 0.2
        slow.append(float(cosines.logsumexp(0) - cosines[0]))
    with torch.no_grad(), model.evaluating():
        assert float(model.batch_loss(batch)) == pytest.approx(np.mean(slow), abs=1e-4)


# -- the steps -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("tune", ["lora", "adapters", "prefix"])
def test_without_noise_and_clipping_steps_are_plain_ones_on_the_same_users(
        data: Dataset, name: str, tune: str) -> None:
    defense = plugin("defenses", "dp-lora", noise_multiplier=0.0, clip=1e9, sample_rate=0.5,
                     rows_at_once=3, max_interactions=4)
    more = {"tune": tune, "virtual_tokens": 3, "bottleneck": 3}
    private = fresh(data, name, **more)
    result = private.fit(defense, lambda event: None)
    facts = result.notes["dp"]
    assert (facts["steps"], facts["clipped_share"]) == (4, 0.0)
    assert defense.spent(result) == {}

    plain = fresh(data, name, **more)
    weights, optimizer = list(plain.trained().values()), make_optimizer(plain, plain.hyper)
    coins, step = plain.ctx.torch_stream("dp-users"), 0
    for epoch in (1, 2):
        rows = dp.UserRows(plain, epoch)
        for _ in range(2):
            users = torch.nonzero(torch.rand(data.n_users, generator=coins) < 0.5)[:, 0]
            users = users[rows.count[users] > 0]
            batch, _ = rows.take(users, step, 4)
            step += 1
            optimizer.param_groups[0]["lr"] = 0.1 * rate_scale(step, 4, 0.5, "constant")
            loss = plain.batch_loss(batch) * len(batch["users"]) / (0.5 * data.n_users)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b, start in zip(private.trained().values(), weights,
                           fresh(data, name, **more).trained().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert not torch.equal(a, start)


def test_noise_is_that_of_the_accountant_and_on_every_tuned_weight(data: Dataset) -> None:
    model = fresh(data, "tallrec", tune="adapters", bottleneck=4, epochs=3)
    frozen = {n: p.clone() for n, p in model.module.named_parameters() if not p.requires_grad}
    start = {n: p.detach().clone() for n, p in model.trained().items()}
    defense = plugin("defenses", "dp-lora", epsilon=2.0, delta=1e-3, sample_rate=0.5, clip=1e-3,
                     learning_rate=1.0, accountant="rdp", max_interactions=2)
    result = model.fit(defense, lambda event: None)
    facts, spent = result.notes["dp"], defense.spent(result)
    assert spent["epsilon"] <= 2.0
    assert spent["epsilon"] == epsilon_of(0.5, facts["noise_multiplier"], 6, 1e-3, "rdp")
    assert "pre-trained" in facts["public"]
    moved = torch.cat([(p - start[n]).flatten() for n, p in model.trained().items()]).detach()
    rates = [rate_scale(s, 6, 0.5, "constant") for s in range(1, 7)]
    unit = facts["noise_multiplier"] * 1e-3 / (0.5 * data.n_users)
    assert float(moved.std()) == pytest.approx(unit * math.hypot(*rates), rel=0.1)
    assert float((moved != 0).float().mean()) > 0.999
    for n, p in model.module.named_parameters():
        assert n not in frozen or torch.equal(p, frozen[n])
    assert model.scores(torch.arange(3)).isfinite().all()


def test_with_a_wide_budget_it_learns(data: Dataset) -> None:
    def loss(model: Any) -> float:
        with torch.no_grad(), model.evaluating():
            return float(model.batch_loss(next(iter(model.batches(1, 10**6)))))

    given = {"optimizer": "adam", "learning_rate": 0.02, "epochs": 20, "warmup": 0.0}
    model = fresh(data, "dual-encoder", stirred=False, **given)
    before = loss(model)
    model.fit(plugin("defenses", "dp-lora", epsilon=1000.0, sample_rate=0.5, accountant="rdp",
                     rows_at_once=64, max_interactions=6), lambda event: None)
    assert loss(model) < 0.9 * before


# -- what is refused -------------------------------------------------------------------------------

def test_what_cannot_be_private_is_refused_with_the_reason(data: Dataset) -> None:
    def why(name: str, **params: Any) -> str:
        defense = plugin("defenses", "dp-lora")
        found = asked(name, **params) if name in SMALL else plugin("models", name, **params)
        return str(defense.unfit(found, data))

    assert why("tallrec") == why("dual-encoder") == "None"
    assert why("tallrec", tune="full") == "None"
    assert why("tallrec", candidates=0, retriever="pop") == "None"
    assert "set shots to 0" in why("tallrec", shots=16)
    assert "candidates come from pop" in why("tallrec", retriever="pop")
    assert "text-cosine" in why("tallrec", retriever="text-cosine(model=tiny-random, "
                                "pretrain=contrastive-pairs)")
    assert "set negatives to 1 or more" in why("dual-encoder", negatives=0)
    assert "adalora" in why("tallrec", tune="adalora")
    assert "nothing is tuned" in why("dual-encoder", tune="none")
    assert "is not checked" in why("p5", model="tiny-random")
    assert "dp-sgd is for other models" in why("bprmf")
    assert "dp-lora" in str(plugin("defenses", "dp-sgd").unfit(asked("tallrec"), data))
    off = plugin("defenses", "dp-lora", epsilon=math.inf)
    assert off.unfit(plugin("models", "bprmf"), data) is None
    assert off.wrap(Loop(fresh(data, "tallrec"), off)) is None
