"""Federated training: what rounds compute, what leaves a client, what aggregation makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import _federation as fed
from bench import dp
from bench._aggregation import multi_krum, robust_sum
from bench._rounds import Rounds
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.federated import Federated
from bench.errors import CannotActError, InputError, PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import Batch, TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.pop import Pop
from bench.models.rating_mf import RatingMF
from bench.models.recbole import member
from bench.training import FitResult, Loop, make_optimizer


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def started(data: Dataset, **params: object) -> TorchRecommender:
    return made(BPRMF(**{"dim": 8, "init_std": 0.5, **params}), data)


def made(plugin: object, data: Dataset) -> TorchRecommender:
    model = build(plugin, data, Context(0))  # type: ignore[arg-type]
    assert isinstance(model, TorchRecommender)
    return model


def rounds(model: TorchRecommender, epochs: int = 3, **params: object) -> Rounds:
    """The model trained for some epochs; the rounds that did it."""
    with model.ctx.seeded("train"):
        made = Rounds(Federated(**params), Loop(model, Federated(**params)))
        for epoch in range(1, epochs + 1):
            model.module.train()
            made.run_epoch(epoch)
    return made


def central(plugin: object, data: Dataset, epochs: int = 3) -> dict[str, Tensor]:
    """Full-batch training in one place, on the very rows that the clients have."""
    model = made(plugin, data)
    optimizer = make_optimizer(model, model.hyper)
    with model.ctx.seeded("train"):
        for epoch in range(1, epochs + 1):
            pool = dp.UserRows(model, epoch)
            optimizer.zero_grad()
            model.batch_loss(pool.batch).backward()
            optimizer.step()
    return model.state()


# -- the same as training in one place ---------------------------------------------------------

PLUGINS = {
    "bprmf-sgd": BPRMF(dim=8, init_std=0.5, optimizer="sgd", learning_rate=5.0),
    "bprmf-sum": BPRMF(dim=8, init_std=0.5, optimizer="sgd", learning_rate=0.05, reduction="sum",
                       bias=True, l2=0.01),
    "bprmf-adam": BPRMF(dim=8, init_std=0.5, learning_rate=0.05),
    "fcf-sgd": FCF(dim=8, optimizer="sgd", learning_rate=0.001),
    "fcf-adam": FCF(dim=8, learning_rate=0.05),
    "rating-mf": RatingMF(dim=8, centre="scale", optimizer="sgd", learning_rate=0.5),
    "NeuMF": member("NeuMF")(mlp_hidden_size=[8], dropout_prob=0.0, mf_embedding_size=8,
                             mlp_embedding_size=8, optimizer="sgd", learning_rate=0.5)}


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=list(PLUGINS))
def test_all_clients_one_step_and_no_clip_are_full_batch_training(plugin):
    data = Blocks(users=40, items=32, explicit=True).load()
    model = made(plugin, data)
    rounds(model, clients=0, clip=math.inf)
    before = made(plugin, data).state()
    for key, expected in central(plugin, data).items():
        assert torch.allclose(model.state()[key], expected, atol=2e-6, rtol=1e-4), key
        if key in dict(model.module.named_parameters()):
            assert not torch.equal(model.state()[key], before[key]) or "mf_emb" in key


def test_rounds_of_few_clients_are_steps_on_their_rows_alone(data):
    """Brute force: round by round, a plain step on the rows of the round's clients; the rows of
    all others stay."""
    hyper = {"optimizer": "sgd", "learning_rate": 0.05, "reduction": "sum"}
    model = started(data, **hyper)
    seen: list[list[int]] = []
    engine = Rounds(Federated(clients=7, clip=math.inf), Loop(model, Federated()))
    one = engine.round
    engine.round = lambda rows, users, epoch: (  # type: ignore[method-assign]
        seen.append(users.tolist()), one(rows, users, epoch))[1]
    engine.run_epoch(1)
    assert sorted(u for group in seen for u in group) == list(range(40))
    assert [len(g) for g in seen] == [7, 7, 7, 7, 7, 5]
    reference = started(data, **hyper)
    optimizer = make_optimizer(reference, reference.hyper)
    pool = dp.UserRows(reference, 1)
    for group in seen:
        rows = torch.isin(pool.batch["users"], torch.tensor(group))
        optimizer.zero_grad()
        reference.batch_loss({k: v[rows] for k, v in pool.batch.items()}).backward()
        optimizer.step()
    for key, expected in reference.state().items():
        assert torch.allclose(model.state()[key], expected, atol=1e-6), key


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_who_is_not_asked_or_drops_out_keeps_its_vector(data, optimizer):
    model = started(data, optimizer=optimizer, learning_rate=0.1, momentum=0.9)
    engine = Rounds(Federated(clients=10, dropout=0.5), Loop(model, Federated()))
    rows = dp.UserRows(model, 1)
    dropped = 0
    for number in range(8):
        users = torch.arange(number * 5, number * 5 + 10) % 40
        before = model.module.users.weight.detach().clone()
        engine.round(rows, users, 1)
        moved = (model.module.users.weight.detach() != before).any(dim=1)
        assert not moved[~torch.isin(torch.arange(40), users)].any()
        dropped += 10 - int(moved.sum())
    assert engine._sums["dropped"] == dropped > 20


# -- FedAvg ------------------------------------------------------------------------------------

@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_several_local_steps_are_the_weighted_average_of_the_clients_models(data, reduction):
    """Brute force: each client descends on a copy, the server averages by rows."""
    hyper = {"optimizer": "sgd", "learning_rate": 0.1, "reduction": reduction}
    model = started(data, **hyper)
    rounds(model, epochs=1, clients=0, clip=math.inf, local_steps=3)
    pool = dp.UserRows(model, 1)
    total = torch.zeros(32, 8)
    for user in range(40):
        mine = started(data, **hyper)
        rows = pool.batch["users"] == user
        batch = {k: v[rows] for k, v in pool.batch.items()}
        optimizer = torch.optim.SGD(mine.module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            mine.batch_loss(batch).backward()
            optimizer.step()
        assert torch.allclose(model.module.users.weight[user], mine.module.users.weight[user],
                              atol=1e-6)
        change = mine.module.items.weight.detach() - started(data, **hyper).module.items.weight
        total += change * (int(rows.sum()) / len(pool.batch["users"])
                           if reduction == "mean" else 1)
    expected = started(data, **hyper).module.items.weight.detach() + total
    assert torch.allclose(model.module.items.weight, expected, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("steps", [1, 2])
def test_equal_weights_are_the_mean_over_clients(data, steps, reduction):
    """Brute force, for clients of unequal length: the mean of g_u / n_u, however the model adds
    up its loss."""
    unequal = data.replace(train=data.train[(data.train.users % 3 == 0)
                                            | (np.arange(len(data.train)) % 4 == 0)])
    rate = 0.5 if reduction == "mean" else 0.1
    hyper = {"optimizer": "sgd", "learning_rate": rate, "reduction": reduction}
    model = started(unequal, **hyper)
    rounds(model, epochs=1, clients=0, clip=math.inf, weights="equal", local_steps=steps)
    pool = dp.UserRows(model, 1)
    users = torch.nonzero(pool.count)[:, 0].tolist()
    assert len(set(pool.count[users].tolist())) == 3
    total = torch.zeros(32, 8)
    for user in users:
        mine = started(unequal, **hyper)
        rows = pool.batch["users"] == user
        optimizer = torch.optim.SGD(mine.module.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            mine.batch_loss({k: v[rows] for k, v in pool.batch.items()}).backward()
            optimizer.step()
        share = len(users) * (1 if reduction == "mean" else int(rows.sum()))
        total += (mine.module.items.weight.detach()
                  - started(unequal, **hyper).module.items.weight.detach()) / share
    expected = started(unequal, **hyper).module.items.weight.detach() + total
    assert torch.allclose(model.module.items.weight, expected, atol=1e-5)


def test_one_local_step_by_fedavg_is_fedsgd(data):
    """The way of one step, over its size, is the gradient."""
    model = started(data)
    pool = dp.UserRows(model, 1)
    where = fed.Layout(model, pool)
    batch, counts = pool.take(torch.arange(6), 0, 99)
    one = next(fed.vectorised(model, where, batch, counts, fed.Local(1)))
    way = next(fed.vectorised(model, where, batch, counts, fed.Local(2, 1e-4)))
    assert torch.allclose(way.shared["items.weight"] / 2, one.shared["items.weight"], atol=1e-2)


# -- clients -----------------------------------------------------------------------------------

@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("plugin", [PLUGINS["bprmf-sum"], PLUGINS["fcf-adam"],
                                    PLUGINS["NeuMF"], PLUGINS["rating-mf"]], ids=lambda p: p.name)
def test_vectorised_clients_agree_with_one_at_a_time(steps, plugin, monkeypatch):
    data = Blocks(users=40, items=32, explicit=True).load()
    model = made(plugin, data)
    model.module.eval()
    pool = dp.UserRows(model, 1)
    where = fed.Layout(model, pool)
    batch, counts = pool.take(torch.tensor([3, 9, 17, 30]), 0, 99)
    local = fed.Local(steps, 0.1)
    slow = list(fed.one_by_one(model, where, batch, counts, local))
    assert fed.choose(model, where, batch, counts, local)[1] == "vectorised"
    monkeypatch.setattr(fed, "_FLOATS", 1000)
    fast = list(fed.vectorised(model, where, batch, counts, local))
    assert len(fast) > 1  # chunks
    for kind in ("shared", "own"):
        for key in getattr(slow[0], kind):
            expected = torch.cat([getattr(part, kind)[key] for part in slow])
            found = torch.cat([getattr(part, kind)[key] for part in fast])
            assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4), (kind, key)
    assert torch.allclose(torch.cat([p.losses for p in fast]), torch.cat([p.losses for p in slow]))


def test_what_is_a_users_own_is_never_uploaded():
    explicit = Blocks(users=40, items=32, explicit=True).load()
    for plugin, own in ((PLUGINS["rating-mf"], ["user_bias", "users.weight"]),
                        (PLUGINS["NeuMF"], ["user_mf_embedding.weight",
                                            "user_mlp_embedding.weight"]),
                        (PLUGINS["fcf-adam"], [])):
        model = made(plugin, explicit)
        engine = rounds(model, epochs=1)
        assert engine.facts["never_uploaded"] == own
        assert not set(engine.facts["uploaded"]) & set(own)
    square = Blocks(users=32, items=32).load()  # a bias per item has as many rows as users
    engine = rounds(started(square, bias=True), epochs=1)
    assert engine.facts["never_uploaded"] == ["users.weight"]


def test_an_upload_depends_on_the_clients_own_rows_alone(data):
    """Other users' rows and vectors, changed, leave what a client uploads as it was."""
    rows = data.train.users == 5
    items = np.where(rows, data.train.items, (data.train.items + 3) % data.n_items)
    other = data.replace(train=type(data.train)(data.train.users, items, data.train.ratings,
                                                data.train.times, data.train.labels))
    found = []
    for world, shift in ((data, 0.0), (other, 1.0)):
        model = started(world)
        with torch.no_grad():
            model.module.users.weight[torch.arange(40) != 5] += shift
        pool = dp.UserRows(model, 1)
        batch, counts = pool.take(torch.tensor([5, 6]), 0, 99)
        made = next(fed.vectorised(model, fed.Layout(model, pool), batch, counts, fed.Local()))
        found.append(made.shared["items.weight"])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def test_a_model_that_reads_other_users_is_caught(data):
    class Leaky(BprRecommender):
        def batch_loss(self, batch: Batch) -> Tensor:
            return super().batch_loss(batch) + self.module.users.weight.mean() ** 2

    model = Leaky(BPRMF(dim=8), data, Context(0))
    with pytest.raises(PluginError, match="another user's row"):
        rounds(model, epochs=1)


def test_a_model_that_cannot_be_vectorised_still_trains(data):
    class Branching(BprRecommender):
        def batch_loss(self, batch: Batch) -> Tensor:
            return super().batch_loss(batch) * (1 if int(batch["items"][0]) >= 0 else 2)

    slow, fast = Branching(BPRMF(dim=8), data, Context(0)), started(data)
    slow.load_state(fast.state())
    engine = rounds(slow, epochs=1, clients=10)
    assert engine.facts["clients_computed"].startswith("one client at a time")
    rounds(fast, epochs=1, clients=10)
    for key, expected in fast.state().items():
        assert torch.allclose(slow.state()[key], expected, atol=1e-6), key


@pytest.mark.parametrize("steps", [1, 3])
def test_rows_are_clipped_each_by_itself(data, steps):
    model = started(data, bias=True)
    engine = Rounds(Federated(clip=0.05, local_steps=steps), Loop(model, Federated()))
    seen = []
    engine.aggregator.add = lambda clients, g: seen.append(g)  # type: ignore[method-assign]
    engine.aggregator.total = lambda: None  # type: ignore[method-assign]
    engine.run_epoch(1)
    rows = torch.cat([g["items.weight"] for g in seen]).norm(dim=2)  # (K, n_items)
    assert float(rows.max()) <= 0.05 * (1 + 1e-6)
    assert int((rows > 0.0499).sum()) > 400  # the bound is felt
    assert float(torch.cat([g["bias"] for g in seen]).abs().max()) <= 0.05 * (1 + 1e-6)
    assert engine.facts["clipped_share"] > 0.5


def test_batch_normalisation_is_caught(data):
    model = started(data)
    model.module.norm = nn.BatchNorm1d(8)
    with pytest.raises(PluginError, match="normalises over batches"):
        rounds(model)


def test_what_is_exchanged_is_counted(data):
    engine = rounds(started(data), epochs=2, clients=10)
    facts = engine.loop.notes["federated"]
    assert (facts["rounds"], facts["clients_per_round"], facts["malicious_per_round"]) == (8, 10, 0)
    assert facts["bytes_down_per_client"] == 32 * 8 * 4
    pool = [dp.UserRows(engine.model, e).batch for e in (1, 2)]
    touched = np.mean([len(torch.unique(torch.cat([b["items"][b["users"] == u],
                                                   b["negatives"][b["users"] == u]])))
                       for b in pool for u in range(40)])
    assert facts["item_rows_per_upload"] == pytest.approx(touched, abs=0.01)
    assert facts["bytes_up_per_client"] == pytest.approx(touched * (8 * 4 + 4), abs=1)
    assert engine.seconds_per_round > 0
    assert "seconds" not in str(facts)


def test_users_without_rows_are_not_asked(data):
    absent = np.arange(40) < 10
    engine = rounds(started(data.without_users(absent)), epochs=1, clients=0)
    assert engine.facts["clients_per_round"] == 30


# -- hiding which rows are positives -----------------------------------------------------------

def positives_seen(engine: Rounds, data: Dataset) -> float:
    """Of the rows that a curious server would take for positives, the share that are: for bprmf, a
    positive's gradient points against the user's vector as all positives' do."""
    right = total = 0
    for user, upload in engine.heard:  # type: ignore[attr-defined]
        p = engine.model.module.users.weight[user].detach()  # type: ignore[union-attr,operator]
        guessed = torch.nonzero(upload @ p < 0)[:, 0].tolist()
        mine = set(data.train.items[data.train.users == user].tolist())
        right, total = right + len(mine & set(guessed)), total + len(guessed)
    return right / total


def listened(data: Dataset, **params: object) -> Rounds:
    model = started(data, optimizer="sgd", learning_rate=1e-6)
    engine = Rounds(Federated(clip=math.inf, **params), Loop(model, Federated()))
    engine.heard = []  # type: ignore[attr-defined]
    took = engine.aggregator.add

    def listen(clients, g):  # type: ignore[no-untyped-def]
        engine.heard.extend(zip(clients, g["items.weight"], strict=True))  # type: ignore
        took(clients, g)

    engine.aggregator.add = listen  # type: ignore[method-assign]
    engine.run_epoch(1)
    return engine


def test_cover_rows_look_like_positives_and_teach_no_user():
    data = Blocks(users=40, items=200, length=20).load()
    bare, hidden = listened(data), listened(data, cover=2)
    assert positives_seen(bare, data) > 0.95
    assert positives_seen(hidden, data) < 0.45  # one true in three
    for user, upload in hidden.heard:  # type: ignore[attr-defined]
        mine = data.train.items[data.train.users == user]
        assert bool(upload[mine].any(dim=1).float().mean() > 0.8)
    assert torch.allclose(bare.model.module.users.weight,  # type: ignore[union-attr,operator]
                          hidden.model.module.users.weight)  # type: ignore[union-attr]
    assert hidden.facts["item_rows_per_upload"] > 1.5 * bare.facts["item_rows_per_upload"]


def test_cover_of_ratings_says_the_users_mean():
    rows = {"users": torch.tensor([0, 0, 1]), "items": torch.tensor([1, 2, 3]),
            "ratings": torch.tensor([1.0, 5.0, 4.0])}
    drawn = torch.tensor([[7, 8], [9, 10], [11, 12]])
    found = fed.covered(rows, 2, drawn, torch.tensor([3.0, 4.0]))
    assert found["users"].tolist() == [0] * 6 + [1] * 3
    assert found["items"].tolist() == [1, 7, 8, 2, 9, 10, 3, 11, 12]
    assert found["ratings"].tolist() == [1, 3, 3, 5, 3, 3, 4, 4, 4]
    points = {"users": torch.tensor([0, 0]), "items": torch.tensor([1, 2]),
              "labels": torch.tensor([1.0, 0.0])}
    found = fed.covered(points, 1, drawn[:2, :1], None)
    assert found["items"].tolist() == [1, 7, 2]
    assert found["labels"].tolist() == [1, 1, 0]


def test_cover_where_no_row_has_an_item_is_a_reason_to_skip(data):
    with pytest.raises(CannotActError, match="set cover: 0"):
        rounds(made(FCF(dim=4), data), epochs=1, cover=1)


# -- robust aggregation ------------------------------------------------------------------------

def test_the_median_of_a_row_counts_those_who_uploaded_it():
    g = torch.zeros(5, 3, 1)  # clients, items, width
    g[:3, 0, 0] = torch.tensor([1.0, 2.0, 90.0])
    g[4, 1, 0] = 7.0
    found = robust_sum(g, "median", 0.1, by_row=True)
    assert found.flatten().tolist() == [6.0, 7.0, 0.0]  # 3 · 2, 1 · 7, nobody
    g[3, 0, 0] = 4.0
    assert robust_sum(g, "median", 0.1, by_row=True)[0].item() == 4 * 3.0  # even: mean of two


def test_the_trimmed_mean_against_sorting_by_hand():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(20, 6))
    expected = np.sort(g, axis=0)[2:18].mean(axis=0) * 20
    found = robust_sum(torch.tensor(g), "trimmed-mean", 0.1, by_row=False)
    assert np.allclose(found.numpy(), expected)
    plain = robust_sum(torch.tensor(g), "trimmed-mean", 0.0, by_row=False)
    assert np.allclose(plain.numpy(), g.sum(axis=0))


def test_krum_leaves_out_those_who_lie_apart():
    g = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    g[[3, 11]] += 20.0
    assert multi_krum(g, 0.1).tolist() == [u for u in range(20) if u not in (3, 11)]
    assert len(multi_krum(g, 0.0)) == 20
    scores = []  # by hand: K = 20, f = 4, sums over the nearest 14
    for u in range(20):
        far = sorted(float((g[u] - g[v]).pow(2).sum()) for v in range(20) if v != u)
        scores.append(sum(far[:14]))
    kept = sorted(np.argsort(scores, kind="stable")[:16].tolist())
    assert multi_krum(g, 0.2).tolist() == kept


def test_krum_counts_the_nearest_k_minus_f_minus_two():
    """By hand, on uploads where counting all but f would keep others."""
    decided = 0
    for seed in range(20):
        g = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed))
        far = (g[:, None] - g[None]).pow(2).sum(dim=2).sort(dim=1).values[:, 1:]  # without itself
        kept, other = (sorted(far[:, :near].sum(dim=1).argsort()[:11].tolist())
                       for near in (20 - 9 - 2, 20 - 9))
        assert multi_krum(g, 0.45).tolist() == kept
        decided += kept != other
    assert decided


@pytest.mark.parametrize("how", ["median", "trimmed-mean", "krum"])
def test_robust_rounds_train(data, how):
    from bench.evaluate import evaluate

    larger = Blocks(users=120, items=60, length=20).load()
    model = started(larger, init_std=0.1, learning_rate=0.05)
    rounds(model, epochs=10, clients=40, aggregation=how)
    model.module.eval()
    assert evaluate(model, larger, ["auc"]).values[0][2] > 0.6


# -- noise of the clients' own -------------------------------------------------------------------

NOISY = {"weights": "equal", "user_clip": 0.01, "noise_multiplier": 1.5, "clients": 8}


def summed(model: TorchRecommender, epochs: int = 1,
           **params: object) -> tuple[Rounds, list[Tensor], list[Tensor]]:
    """Rounds at a standstill; the sum of each, and what the uploads were without noise, summed:
    (items, width) each."""
    defense = Federated(**{**NOISY, **params})
    engine = Rounds(defense, Loop(model, defense))
    totals, exact = [], [torch.zeros(0)]
    begin, total = engine.aggregator.begin, engine.aggregator.total
    shares = type(engine.shares).__call__

    def began(clients, arriving):  # type: ignore[no-untyped-def]
        exact.append(torch.zeros(32, 8, dtype=torch.float64))
        begin(clients, arriving)

    def ended():  # type: ignore[no-untyped-def]
        found = total()
        totals.append(found["items.weight"].double())
        return {k: torch.zeros_like(g) for k, g in found.items()}

    def shared(self, uploads, *rest, **more):  # type: ignore[no-untyped-def]
        from bench._federated_noise import shortened

        exact[-1] += shortened(uploads, self.clip)["items.weight"].double().sum(dim=0)
        return shares(self, uploads, *rest, **more)

    engine.aggregator.begin = began  # type: ignore[method-assign]
    engine.aggregator.total = ended  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.shares), "__call__", shared)
        for epoch in range(1, epochs + 1):
            engine.run_epoch(epoch)
    return engine, totals, exact[1:]


def test_no_noise_and_no_bound_change_nothing(data):
    states = []
    for params in ({}, {"user_clip": 1e9}, {"honest": 0.3, "delta": 0.1}):
        model = started(data)
        engine = rounds(model, weights="equal", clients=7, **params)
        assert engine.hyper.spent(FitResult(notes=engine.loop.notes)) == {}
        assert "adjacency" not in engine.facts
        states.append(model.state())
    for other in states[1:]:
        assert all(torch.equal(other[k], v) for k, v in states[0].items())


def test_a_clients_whole_upload_is_shortened():
    from bench._federated_noise import shortened

    torch.manual_seed(0)
    g = {"a": torch.randn(5, 4, 3), "b": torch.randn(5, 2)}
    g = {k: v * torch.tensor([0.01, 1, 2, 3, 0]).reshape(-1, *[1] * (v.dim() - 1))
         for k, v in g.items()}
    found = shortened(g, 1.5)
    for k in range(5):
        before = math.sqrt(sum(float(v[k].square().sum()) for v in g.values()))
        after = math.sqrt(sum(float(v[k].square().sum()) for v in found.values()))
        assert after == pytest.approx(min(before, 1.5), rel=1e-5)
        for key in g:  # the way stays
            assert torch.allclose(found[key][k] * max(before, 1e-9), g[key][k] * after, atol=1e-5)
    assert min(before, after) == 0.0


@pytest.mark.parametrize("secure", ["none", "masks", "encrypted"])
@pytest.mark.parametrize("honest", [1.0, 0.5])
def test_the_sum_has_the_stated_noise(data, secure, honest):
    """Of 8 clients, each adds N(0, (z C)²/h): z C on the sum where all 8 count on each other,
    √2 as much where 4 do. No two rounds have the same noise."""
    if secure == "encrypted":
        pytest.importorskip("tenseal")
    engine, totals, exact = summed(started(data), epochs=4, honest=honest, secure=secure)
    noise = torch.stack([t - e for t, e in zip(totals, exact, strict=True)]).flatten(1)
    assert len(noise) == 20  # rounds
    expected = 1.5 * 0.01 * math.sqrt(1 / honest)
    assert float(noise.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * noise.numel()))
    assert abs(float(noise.mean())) < 4 * expected / math.sqrt(noise.numel())
    alike = torch.corrcoef(noise)
    assert float((alike - torch.eye(20)).abs().max()) < 0.3
    assert max(float(e.norm()) for e in exact) <= 8 * 0.01
    assert max(float(e.norm()) for e in exact) > 4 * 0.01 * 0.3  # the bound is felt
    assert engine.facts["least_noise"] == 1.0


def test_under_masks_the_sum_is_the_plain_one_up_to_rounding(data):
    sums = {}
    for secure in ("none", "masks"):
        engine, sums[secure], _ = summed(started(data), secure=secure)
    step = engine.facts["step"]
    for one, other in zip(sums["none"], sums["masks"], strict=True):
        # each client's upload is cut by less than a step, its noise rounded by half of one
        assert float((one - other).abs().max()) <= 8 * 1.5 * step
        assert not torch.equal(one, other)
    assert 8 * 1.5 * step < 1e-4 * 1.5 * 0.01
    _, totals, exact = summed(started(data), secure="masks", clients=37)  # the last has 3
    assert [round(float((t - e).std()) / 0.015, 0) for t, e in zip(totals, exact, strict=True)] \
        == [1.0, 1.0]


def test_one_user_moves_a_sum_by_no_more_than_the_bound(data):
    """With that user's history and without, all else equal: the same clients in the same rounds,
    and the same others' uploads."""
    absent = np.arange(40) == 3
    found = [summed(started(world), noise_multiplier=1e-9)[1]
             for world in (data, data.without_users(absent))]
    moved = [float((a - b).norm()) for a, b in zip(*found, strict=True)]
    assert sum(m > 1e-6 for m in moved) == 1  # a user is in one round of an epoch
    assert 0.005 < max(moved) <= 0.01 * 1.0001


def test_one_user_moves_the_released_parameters_by_no_more_than_the_bound(data):
    """From two adjacent data sets through one whole round to what is released: a step of sgd of
    size 1 differs by at most user_clip over the number of users, half of whom have no row."""
    released = []
    hyper = {"optimizer": "sgd", "learning_rate": 1.0, "reduction": "sum"}
    for absent in (np.arange(40) % 2 == 0, (np.arange(40) % 2 == 0) | (np.arange(40) == 3)):
        model = started(data.without_users(absent), **hyper)
        rounds(model, epochs=1, **{**NOISY, "noise_multiplier": 1e-12, "clients": 0})
        released.append(model.module.items.weight.detach().double())
    moved = float((released[0] - released[1]).norm())
    assert moved <= 0.01 / 40 * 1.01
    assert moved > 0.01 / 40 * 0.9  # and the bound is used


@pytest.mark.parametrize("z", [0.8, 3.0])
def test_epsilon_is_that_of_a_gaussian_for_each_epoch(data, z):
    from bench.accounting import epsilon_of, gaussian_epsilon

    defense = Federated(**{**NOISY, "noise_multiplier": z, "delta": 1e-4})
    model = started(data, epochs=3, patience=2)
    fit = model.fit(defense, lambda event: None)
    assert fit.history == []  # no validation score is looked at
    spent = defense.spent(fit)
    assert spent == {"delta": 1e-4, "epsilon": gaussian_epsilon(z, 1e-4, 3)}
    # as the accountant of dp-sgd counts for users who are in every step
    assert spent["epsilon"] == pytest.approx(epsilon_of(1.0, z, 3, 1e-4), rel=0.01)
    assert fit.notes["federated"]["rounds_per_user"] == 3
    assert fit.notes["federated"]["adjacency"].startswith("one user's whole history")
    assert "against everybody but the server" in fit.notes["federated"]["adjacency"]
    assert defense.spent(FitResult(notes=fit.notes, history=[0.1])) == {}


@pytest.mark.parametrize(("honest", "dropout", "quoted"), [
    (1.0, 0.0, True), (1.0, 0.3, False), (0.3, 0.3, True)])
def test_where_noise_is_missing_nothing_is_quoted(data, honest, dropout, quoted):
    engine, totals, exact = summed(started(data), epochs=2, honest=honest, dropout=dropout)
    fit = FitResult(notes=engine.loop.notes)
    assert bool(engine.hyper.spent(fit)) is quoted
    assert (engine.facts["rounds_short_of_noise"] == 0) is quoted
    noise = torch.stack([t - e for t, e in zip(totals, exact, strict=True)])
    least = min(float(n.std()) for n in noise)
    assert (least > 0.015 * 0.85) is quoted  # what is quoted is there


def test_who_has_no_row_is_asked_all_the_same(data):
    few = data.without_users(np.arange(40) % 2 == 0)
    engine, totals, exact = summed(started(few))
    assert engine.facts["clients_per_round"] == 8.0
    assert engine.facts["rounds"] == 5
    assert float((torch.stack(totals) - torch.stack(exact)).std()) == pytest.approx(0.015, rel=0.1)


# -- what it refuses ---------------------------------------------------------------------------

def test_models_that_clients_cannot_train_are_refused(data):
    assert Federated().unfit(BPRMF(), data) is None
    assert Federated().unfit(FCF(), data) is None
    assert "no client could compute" in (Federated().unfit(member("LightGCN")(), data) or "")
    assert "not learned by gradient" in (Federated().unfit(Pop(), data) or "")
    assert "one table" in (Federated().unfit(member("FM")(), data) or "")
    assert Federated().spent(FitResult()) == {}


@pytest.mark.parametrize(("params", "key"), [
    ({"secure": "masks", "clip": math.inf}, "clip"),
    ({"secure": "masks", "aggregation": "median"}, "aggregation"),
    ({"secure": "encrypted", "clients": 0}, "clients"),
    ({"secure": "masks", "cover": 1}, "cover"),
    ({**NOISY, "user_clip": math.inf}, "user_clip"),
    ({**NOISY, "weights": "rows"}, "weights"),
    ({**NOISY, "aggregation": "median"}, "aggregation"),
    ({**NOISY, "cover": 1}, "cover")])
def test_contradictions_are_refused(params, key):
    with pytest.raises(InputError) as caught:
        Federated(**params)
    assert caught.value.key == key
