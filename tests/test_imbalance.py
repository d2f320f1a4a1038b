"""What is done about skewed data and uneven groups: histograms, weights and served scores."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import imbalance, rowloss
from bench.api import Context, Dataset, Defense, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.class_balanced import ClassBalanced
from bench.defenses.group_dro import GroupDro, _Weights
from bench.defenses.head_undersampling import HeadUndersampling
from bench.defenses.ips import Ips
from bench.defenses.logit_adjustment import LogitAdjustment
from bench.defenses.macr import Macr
from bench.defenses.none import NoDefense
from bench.defenses.popularity_negatives import PopularityNegatives
from bench.defenses.tail_oversampling import TailOversampling
from bench.errors import PluginError
from bench.evaluate import evaluate
from bench.models._bprmf import BprRecommender
from bench.models._macr import Macred
from bench.models.base import Batch, TorchRecommender, build, innermost
from bench.models.bprmf import BPRMF
from bench.models.fcf import FCF
from bench.models.rating_mf import RatingMF
from bench.models.recbole import member
from bench.training import Loop


def skewed(users: int = 300, items: int = 24) -> Dataset:
    """Item i is taken by about 0.9 · users / √(i + 1) users; each user has a test item."""
    rng = np.random.default_rng(0)
    base = Blocks(users=users, items=items, explicit=False).load()
    pairs = [(u, i) for u in range(users) for i in range(items)
             if rng.random() < 0.9 / (i + 1) ** 0.5] + [(u, u % items) for u in range(users)]
    pairs = sorted(set(pairs))
    u, i = (np.array(x, np.int64) for x in zip(*pairs, strict=True))
    gone = {(int(a), int(b)) for a, b in pairs}
    test = [(a, next(b for b in range(items) if (a, b) not in gone)) for a in range(users)]
    tu, ti = (np.array(x, np.int64) for x in zip(*test, strict=True))
    times = None if base.train.times is None else np.arange(len(u), dtype=np.float64)
    return base.replace(
        train=Interactions(u, i, times=times), valid=base.valid[:0],
        test=Interactions(tu, ti, times=None if times is None else np.full(users, 1e6)))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return skewed()


def made(data: Dataset, name: str = "bprmf", **params: object) -> TorchRecommender:
    if name == "bprmf":
        plugin = BPRMF(**{"dim": 8, "init_std": 0.3, "epochs": 2, "batch_size": 128,
                          "patience": 0, **params})
    else:
        plugin = member(name)(**{**member(name).test_params(), "patience": 0, **params})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    return model


def fitted(data: Dataset, defense: Defense, name: str = "bprmf",
           **params: object) -> TorchRecommender:
    model = made(defense.clean(data, Context(0)), name, **params)
    model.fit(defense, lambda event: None)
    return model


def same(a: TorchRecommender, b: TorchRecommender) -> bool:
    return all(torch.equal(v, b.state()[k]) for k, v in a.state().items())


class Recording(NoDefense):
    """Keeps the batches that are trained on."""

    name = "recording"
    seen: ClassVar[list[Batch]] = []

    def loss(self, model, batch, clean_loss, epoch):  # type: ignore[no-untyped-def]
        self.seen.append({k: v.clone() for k, v in batch.items()})
        return clean_loss


def shown(data: Dataset, defense: Defense, name: str = "bprmf", epochs: int = 1,
          **params: object) -> dict[str, Tensor]:
    """Everything that some epochs of training show the model."""
    model = made(data, name, **params)
    Recording.seen.clear()
    loop = Loop(model, Recording())
    run = defense.wrap(loop) or loop.run_epoch
    for epoch in range(1, epochs + 1):
        run(epoch)
    return {k: torch.cat([b[k] for b in Recording.seen]) for k in Recording.seen[0]}


def histogram(items: Tensor, data: Dataset) -> np.ndarray:
    return np.bincount(items.numpy(), minlength=data.n_items) / len(items)


@pytest.mark.parametrize(("name", "params"), [
    ("bprmf", {}), ("NeuMF", {}), ("SASRec", {"rows": "prefixes"}), ("LightGCN", {})])
@pytest.mark.parametrize(("neutral", "acting"), [
    (TailOversampling(gamma=0.0), TailOversampling()),
    (HeadUndersampling(gamma=0.0), HeadUndersampling()),
    (PopularityNegatives(gamma=0.0), PopularityNegatives()),
    (ClassBalanced(beta=0.0), ClassBalanced()), (LogitAdjustment(tau=0.0), LogitAdjustment()),
    (Ips(gamma=0.0), Ips()), (GroupDro(eta=0.0), GroupDro(eta=0.5))],
    ids=lambda d: d.name if isinstance(d, Defense) else "")
def test_neutral_parameters_equal_none_bit_for_bit(name, params, neutral, acting):
    data = skewed(users=50)
    if acting.unfit(type(made(data, name, **params).hyper)(**params), data):
        pytest.skip("it does not act on this model")
    plain = fitted(data, NoDefense(), name, **params)
    assert same(plain, fitted(data, neutral, name, **params))
    assert not same(plain, fitted(data, acting, name, **params))


# -- resampling (CATALOGUE D13) ------------------------------------------------------------------

@pytest.mark.parametrize("gamma", [0.5, 1.0])
@pytest.mark.parametrize("name", ["bprmf", "NeuMF"])
def test_the_histogram_after_oversampling(data, gamma, name):
    rows = shown(data, TailOversampling(gamma=gamma), name, epochs=30)
    positive = rows["labels"] > 0.5 if "labels" in rows else torch.ones(
        len(rows["items"]), dtype=torch.bool)
    counts = np.bincount(data.train.items, minlength=data.n_items).astype(float)
    right = counts ** (1 - gamma) * (counts > 0)
    right /= right.sum()
    assert np.abs(histogram(rows["items"][positive], data) - right).max() < 0.01
    assert positive.sum() == 30 * len(data.train)
    assert (~positive).sum() == (30 * len(data.train) if name == "NeuMF" else 0)
    known = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    assert all((u, i) in known for u, i in zip(rows["users"][positive].tolist(),
                                               rows["items"][positive].tolist(), strict=True))


def test_epochs_are_drawn_anew_and_repeat_with_the_seed(data):
    one, two = (shown(data, TailOversampling(), epochs=k)["items"] for k in (1, 2))
    assert torch.equal(two[:len(one)], one)
    assert not torch.equal(two[len(one):], one)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_the_histogram_after_undersampling(data, gamma):
    kept = np.zeros(data.n_items)
    for seed in range(20):
        cleaned = HeadUndersampling(gamma=gamma, quantile=0.5).clean(data, Context(seed))
        assert cleaned.test is data.test
        assert cleaned.valid is data.valid
        assert set(cleaned.train.users) == set(data.train.users)
        kept += np.bincount(cleaned.train.items, minlength=data.n_items) / 20
    counts = np.bincount(data.train.items, minlength=data.n_items).astype(float)
    threshold = np.quantile(counts[counts > 0], 0.5, method="lower")
    right = counts * np.minimum(1, (threshold / np.maximum(counts, 1)) ** gamma)
    rare = counts <= threshold
    assert np.allclose(kept[rare], counts[rare])
    assert np.allclose(kept[~rare], right[~rare], rtol=0.08)


def test_nobody_loses_every_row_and_the_rows_kept_nest(data):
    few, many = (HeadUndersampling(gamma=g, quantile=0.1).clean(data, Context(0)).train
                 for g in (1.0, 0.3))
    pairs = [set(zip(r.users.tolist(), r.items.tolist(), strict=True)) for r in (few, many)]
    assert len(pairs[0]) < len(pairs[1]) < len(data.train)
    assert np.bincount(few.users, minlength=data.n_users).min() >= 1


@pytest.mark.parametrize("name", ["bprmf", "NeuMF"])
def test_negatives_follow_popularity_and_are_nobodys_own(data, name):
    gamma = 0.5
    rows = shown(data, PopularityNegatives(gamma=gamma), name, epochs=8)
    users, items = (rows["users"], rows["negatives"]) if "negatives" in rows else (
        rows["users"][rows["labels"] < 0.5], rows["items"][rows["labels"] < 0.5])
    taken = np.zeros((data.n_users, data.n_items), bool)
    taken[data.train.users, data.train.items] = True
    assert not taken[users.numpy(), items.numpy()].any()
    weights = np.bincount(data.train.items, minlength=data.n_items) ** gamma
    odds = np.where(taken, 0, weights[None, :])
    odds = (odds / odds.sum(axis=1, keepdims=True))[users.numpy()].mean(axis=0)
    assert np.abs(histogram(items, data) - odds).max() < 0.006
    plain = shown(data, NoDefense(), name, epochs=8)
    assert torch.equal(plain["users"], rows["users"])
    if name == "NeuMF":
        assert torch.equal(plain["items"][plain["labels"] > 0.5],
                           rows["items"][rows["labels"] > 0.5])


def test_who_took_nearly_everything_gets_other_negatives_by_popularity_all_the_same():
    """One draw alone would meet an own item most of the time, and keep the uniform negative."""
    free, counts = [0, 1, 2], [60, 15, 5]
    rows = [(u, i) for i, n in zip(free, counts, strict=True) for u in range(100, 100 + n)]
    rows += [(u, i) for u in range(100) for i in range(3, 12)] + [(u, 11) for u in range(100, 160)]
    users, items = (np.array(x, np.int64) for x in zip(*sorted(rows), strict=True))
    base = Blocks(users=160, items=12).load()
    data = base.replace(train=Interactions(users, items, times=None if base.train.times is None
                                           else np.arange(len(users), dtype=np.float64)))
    shown_ = shown(data, PopularityNegatives(gamma=1.0), epochs=6)
    mine = shown_["users"] < 100
    found = np.bincount(shown_["negatives"][mine].numpy(), minlength=3) / int(mine.sum())
    missed = (1 - 80 / (80 + 900 + 60)) ** 16  # all attempts met own items: uniform then
    odds = np.array(counts) / 80 * (1 - missed) + missed / 3
    assert np.abs(found - odds).max() < 0.03


def test_injected_users_count_as_everybody_and_the_test_split_is_not_read(data):
    fakes = Interactions(np.zeros(5, np.int64), np.arange(10, 15), times=None if data.train.times
                         is None else np.arange(5.0))
    poisoned = data.with_fakes(fakes, 1)
    assert imbalance.item_counts(poisoned)[12] == imbalance.item_counts(data)[12] + 1
    told = imbalance.item_counts(poisoned.replace(n_fake=0))
    assert np.array_equal(imbalance.item_counts(poisoned), told)
    other = data.replace(test=dataclasses.replace(data.test, items=data.test.items[::-1].copy()))
    for defense in (TailOversampling(), ClassBalanced(), PopularityNegatives(), GroupDro()):
        assert same(fitted(data, defense), fitted(other, defense))


# -- weights -------------------------------------------------------------------------------------

def weighted_by_hand(model: TorchRecommender, batch: Batch, weights: np.ndarray) -> float:
    terms = rowloss.row_terms(model, batch)
    total = 0.0
    for loss, item, positive in zip(terms.losses.tolist(), terms.items.tolist(),
                                    terms.positive().tolist(), strict=True):
        total += loss * (weights[item] if positive else 1.0)
    return total / len(terms.losses)


@pytest.mark.parametrize("name", ["bprmf", "NeuMF", "SASRec"])
def test_class_balanced_weights_by_the_formula(data, name):
    model = made(data, name)
    batch = next(iter(model.batches(1, 64)))
    counts = np.bincount(data.train.items, minlength=data.n_items)
    beta = 0.99
    raw = np.array([(1 - beta) / (1 - beta**c) if c else 0.0 for c in counts])
    right = raw * (counts > 0).sum() / raw.sum()
    found = ClassBalanced(beta=beta).weights(data)
    assert np.allclose(found[counts > 0], right[counts > 0])
    with model.evaluating():
        loss = ClassBalanced(beta=beta).loss(model, batch, model.loss(batch), 1)
        assert loss.item() == pytest.approx(weighted_by_hand(model, batch, right), rel=1e-5)


def test_weights_of_the_effective_number_run_from_equal_to_inverse(data):
    counts = np.bincount(data.train.items, minlength=data.n_items)
    assert np.allclose(ClassBalanced(beta=0.0).weights(data), 1)
    inverse = ClassBalanced(beta=0.999999).weights(data) * counts
    assert np.allclose(inverse[counts > 0], inverse[0], rtol=1e-3)


@pytest.mark.parametrize("name", ["bprmf", "NeuMF", "SASRec"])
def test_propensity_weights_by_the_formula(data, name):
    model = made(data, name)
    batch = next(iter(model.batches(1, 64)))
    counts = np.maximum(np.bincount(data.train.items, minlength=data.n_items), 1)
    right = 1 / np.maximum((counts / counts.max()) ** 0.5, 0.6)
    assert np.allclose(Ips(clip=0.6).weights(data), right)
    assert right.max() == pytest.approx(1 / 0.6)  # some are clipped, some are not
    with model.evaluating():
        clean = model.loss(batch)
        loss = Ips(clip=0.6).loss(model, batch, clean, 1)
        assert loss.item() == pytest.approx(weighted_by_hand(model, batch, right), rel=1e-5)
        terms = rowloss.row_terms(model, batch)
        mean = right[terms.items[terms.positive()].numpy()].mean()
        loss = Ips(clip=0.6, normalise=True).loss(model, batch, clean, 1)
        assert loss.item() == pytest.approx(weighted_by_hand(model, batch, right / mean), rel=1e-5)


def test_inverse_propensities_are_unbiased_for_the_loss_over_all_pairs():
    """Rows seen with probability π, weighed by 1/π: the mean is that over all pairs."""
    rng = np.random.default_rng(1)
    losses, chance = rng.random((4000, 6)), np.array([0.9, 0.5, 0.3, 0.2, 0.1, 0.05])
    seen = rng.random(losses.shape) < chance
    assert (losses * seen / chance).mean() == pytest.approx(losses.mean(), rel=0.03)
    assert abs((losses * seen).sum() / seen.sum() - losses.mean()) < 0.03


def test_logit_adjustment_by_the_formula(data):
    model = made(data, l2=0.1)
    batch = next(iter(model.batches(1, 64)))
    counts = np.maximum(np.bincount(data.train.items, minlength=data.n_items), 1)
    prior = torch.as_tensor(np.log(counts / counts.sum()))
    m = model.module
    p, q, r = m.users(batch["users"]), m.items(batch["items"]), m.items(batch["negatives"])
    margin = (p * (q - r)).sum(1) + 1.5 * (prior[batch["items"]] - prior[batch["negatives"]])
    right = F.softplus(-margin).mean() + 0.05 * (p**2 + q**2 + r**2).sum(1).mean()
    found = LogitAdjustment(tau=1.5).loss(model, batch, model.loss(batch), 1)
    assert found.item() == pytest.approx(right.item(), rel=1e-5)


def test_logit_adjustment_takes_popularity_out_of_the_scores(data):
    counts = np.bincount(data.train.items, minlength=data.n_items)
    slopes = []
    for defense in (NoDefense(), LogitAdjustment(tau=1.0), LogitAdjustment(tau=2.0)):
        model = fitted(data, defense, bias=True, epochs=20, learning_rate=0.02)
        mean = model.scores(torch.arange(data.n_users)).mean(dim=0).numpy()
        slopes.append(np.polyfit(np.log(counts), mean, 1)[0])
    assert slopes[0] > slopes[1] + 0.3 > slopes[2] + 0.6


# -- group DRO (CATALOGUE E8) --------------------------------------------------------------------

def attributed(data: Dataset) -> Dataset:
    column = np.array(["a" if u % 4 else "b" for u in range(data.n_users)], object)
    column[:5] = ""
    return data.replace(user_attributes={"side": column})


@pytest.mark.parametrize("start", ["uniform", "shares"])
def test_group_weights_follow_algorithm_1(data, start):
    data = attributed(data)
    model, eta = made(data, l2=0.1), 0.7
    loop = Loop(model, GroupDro(groups="side", eta=eta, start=start))
    loop.defense.wrap(loop)
    names = ["a", "b", "none"]
    of = np.array([names.index(x or "none") for x in data.user_attributes["side"]])
    q = np.ones(3) / 3 if start == "uniform" else np.bincount(of[data.train.users]) / len(
        data.train)
    batches = list(model.batches(1, 64))[:4]
    for batch in batches:
        losses, penalties = model.row_parts(batch)
        mine = of[batch["users"].numpy()]
        mean = np.array([losses[torch.as_tensor(mine == g)].detach().double().mean().item()
                         if (mine == g).any() else 0.0 for g in range(3)])
        there = np.array([(mine == g).any() for g in range(3)])
        q = q * np.exp(eta * mean)
        q = q / q.sum()
        right = (q * there / (q * there).sum() * mean).sum() + penalties.mean().item()
        found = loop.defense.loss(model, batch, model.loss(batch), 1)
        assert found.item() == pytest.approx(right, rel=1e-5)
    for name, weight in zip(names, q, strict=True):
        assert loop.notes["group_dro"][name]["weight"] == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("start", ["uniform", "shares"])
@pytest.mark.parametrize("name", ["bprmf", "NeuMF"])
def test_weights_of_groups_of_items_begin_as_stated_and_sum_to_one(data, name, start):
    """Labelled negatives are a group where there are any: half of the rows, one of the groups."""
    model = made(data, name)
    loop = Loop(model, GroupDro(of="items", groups="popularity", eta=0.0, start=start))
    own = _Weights(loop.defense, loop)
    own.weights(rowloss.row_terms(model, next(iter(model.batches(1, 10**6)))))
    found = {k: v["weight"] for k, v in loop.notes["group_dro"].items()}
    names, of = imbalance.labels(data, "items", "popularity")
    shares = np.bincount(of[data.train.items]) / len(data.train)
    if start == "uniform":
        shares = np.ones(3) / 3
    if name == "NeuMF":
        names, shares = [*names, "labelled negatives"], np.r_[shares, 1.0] / 2
        shares = np.ones(4) / 4 if start == "uniform" else shares
    assert found == pytest.approx(dict(zip(names, shares, strict=True)))


def test_injected_users_are_in_groups_of_activity_like_all_others(data):
    """Who is injected is not told: the groups are those of data in which nobody is."""
    names, of = imbalance.labels(data, "users", "activity")
    blind, same = imbalance.labels(data.replace(n_fake=60), "users", "activity")
    assert blind == names
    assert "none" not in names
    assert (same == of).all()


def two_sides(data: Dataset) -> Dataset:
    """Four of five users take the first half of the items, the others the second."""
    few = np.arange(data.n_users) % 5 == 0
    first = np.arange(data.n_items) < data.n_items // 2
    chance = np.where(first[None, :] == ~few[:, None], 0.5, 0.05)
    users, items = np.nonzero(np.random.default_rng(0).random(chance.shape) < chance)
    times = None if data.train.times is None else np.arange(len(users), dtype=np.float64)
    return data.replace(train=Interactions(users, items, times=times), user_attributes={
        "side": np.where(few, "few", "many").astype(object)})


def test_the_worst_group_gains_weight_and_is_fitted_better(data):
    data, found = two_sides(data), {}
    few = data.user_attributes["side"] == "few"
    for defense in (NoDefense(), GroupDro(groups="side", eta=0.1)):
        model = fitted(data, defense, epochs=10, learning_rate=0.02, dim=4, l2=0.2, bias=True)
        with torch.no_grad():
            batch = next(iter(model.batches(0, 10**6)))
            losses = model.row_parts(batch)[0].numpy()
        own = few[batch["users"].numpy()]
        found[defense.name] = losses[own].mean(), losses[~own].mean()
    assert found["none"][0] > found["none"][1] + 0.1
    assert max(found["group-dro"]) < found["none"][0] - 0.05
    assert abs(np.subtract(*found["group-dro"])) < 0.05


def test_groups_of_items_and_what_is_refused(data):
    blocks = Blocks(users=40, items=32).load()
    names, of = imbalance.labels(data, "items", "popularity")
    counts = np.bincount(data.train.items, minlength=data.n_items)
    assert counts[of == names.index("head")].min() >= counts[of == names.index("tail")].max()
    model = made(data, "NeuMF")
    batch = next(iter(model.batches(1, 64)))
    loop = Loop(model, GroupDro(of="items", groups="popularity"))
    groups = _Weights(loop.defense, loop).groups(rowloss.row_terms(model, batch))
    negative = batch["labels"] < 0.5
    assert (groups[negative] == len(names)).all()
    assert torch.equal(groups[~negative], torch.as_tensor(of)[batch["items"][~negative]])
    assert "no attribute" in str(GroupDro(groups="shoe-size").unfit(BPRMF(), data))
    assert "fewer than two" in str(GroupDro().unfit(BPRMF(), blocks))
    many = blocks.replace(item_attributes={"genre": np.array(
        [("x", "y") if n % 2 else ("x",) for n in range(33)] + [None], object)[:32]})
    assert "several values" in str(GroupDro(of="items", groups="genre").unfit(BPRMF(), many))


# -- MACR (CATALOGUE E5) -------------------------------------------------------------------------

def branched(data: Dataset, **params: float) -> tuple[BprRecommender, Macr]:
    defense = Macr(**params)
    model = made(data)
    assert isinstance(model, BprRecommender)
    defense.wrap(Loop(model, defense))
    return model, defense


def test_macr_loss_by_its_formula(data):
    model, defense = branched(data, alpha=0.3, beta=0.2)
    batch = next(iter(model.batches(1, 40)))
    m = model.module
    total = 0.0
    for u, i, j in zip(*(batch[k].tolist() for k in ("users", "items", "negatives")),
                       strict=True):
        p = m.users.weight[u].tolist()
        y_u = sum(a * b for a, b in zip(p, m.beside["user"].tolist(), strict=True))
        for item, label in ((i, 1), (j, 0)):
            q = m.items.weight[item].tolist()
            y_k = sum(a * b for a, b in zip(p, q, strict=True))
            y_i = sum(a * b for a, b in zip(q, m.beside["item"].tolist(), strict=True))
            logistic = [1 / (1 + math.exp(-x)) for x in (y_i, y_u)]
            for weight, score in ((1, y_k * logistic[0] * logistic[1]), (0.3, y_i), (0.2, y_u)):
                chance = 1 / (1 + math.exp(-score))
                total -= weight * math.log(chance if label else 1 - chance)
    found = defense.loss(model, batch, model.loss(batch), 1)
    assert found.item() == pytest.approx(total / 40, rel=1e-4)
    slopes = torch.autograd.grad(found, [*m.beside.values(), m.users.weight, m.items.weight])
    assert all(s.abs().max() > 0 for s in slopes)


def test_macr_keeps_the_models_own_penalties(data):
    plain, defense = branched(data)
    model, batch = made(data, l2=0.3), next(iter(plain.batches(1, 40)))
    model.module.load_state_dict({k: v for k, v in plain.module.state_dict().items()
                                  if not k.startswith("beside")})
    model.module.beside = plain.module.beside
    losses = [defense.loss(m, batch, m.loss(batch), 1).item() for m in (model, plain)]
    m = plain.module
    own = sum((w[batch[k]] ** 2).sum().item() for w, k in (
        (m.users.weight, "users"), (m.items.weight, "items"), (m.items.weight, "negatives")))
    assert losses[0] - losses[1] == pytest.approx(0.5 * 0.3 * own / 40, rel=1e-3)


@pytest.mark.parametrize("c", [0.0, 0.7])
def test_what_macr_serves(data, c):
    model = fitted(data, Macr(c=c), epochs=2)
    served = Macr(c=c).harden(model, data, Context(0))
    users, m = torch.arange(5), model.module
    y_k = m.users.weight[:5] @ m.items.weight.T
    y_i, y_u = (torch.sigmoid(t.weight @ m.beside[k]) for t, k in ((m.items, "item"),
                                                                  (m.users, "user")))
    right = (y_k - c) * y_i[None, :] * y_u[:5, None]
    assert torch.allclose(served.scores(users), right, atol=1e-6)
    assert torch.allclose(model.scores(users), y_k, atol=1e-6)
    assert innermost(served) is model
    assert -1 <= Macr(c=c).served_facts(served)["branch_correlation"] <= 1


def test_the_branches_are_kept_with_the_model(data):
    model = fitted(data, Macr(c=1.0), epochs=2)
    first = Macred(model, 1.0).scores(torch.arange(5))
    again = made(data)
    again.load_state(model.state())
    assert torch.equal(Macr(c=1.0).harden(again, data, Context(0)).scores(torch.arange(5)), first)
    assert not any(k.startswith("beside") for k in made(data).state())


def test_macr_lets_the_item_branch_learn_popularity_and_c_takes_it_out(data):
    model = fitted(data, Macr(alpha=1.0), epochs=20, learning_rate=0.02, init_std=0.1)
    facts = Macr().served_facts(Macred(model, 0.0))
    assert facts["branch_correlation"] > 0.8
    popular = [next(v for m, g, v in evaluate(Macred(model, c), data, ["arp@5"]).values
                    if m == "arp@5" and g == "all") for c in (0.0, 3.0, 30.0)]
    assert popular[0] > popular[1] > popular[2]


# -- where they cannot act -----------------------------------------------------------------------

def test_reasons_where_a_model_has_no_such_rows(data):
    for defense in (ClassBalanced(), Ips(), TailOversampling(),
                    GroupDro(of="items", groups="popularity")):
        for learner in (member("MultiVAE")(), FCF()):
            assert "whole histories" in str(defense.unfit(learner, data))
    assert "whole histories" in str(LogitAdjustment().unfit(member("MultiVAE")(), data))
    # one that does not say so of itself is told to
    model = build(FCF(epochs=1, dim=4), data, Context(0))
    for defense in (ClassBalanced(), TailOversampling()):
        with pytest.raises(PluginError, match="let the model say whole_histories"):
            model.fit(defense, lambda event: None)
    assert "rows: prefixes" in str(TailOversampling().unfit(member("SASRec")(), data))
    assert TailOversampling().unfit(member("SASRec")(rows="prefixes"), data) is None
    assert "no negative items" in str(PopularityNegatives().unfit(member("SASRec")(), data))
    assert "no negative items" in str(PopularityNegatives().unfit(RatingMF(), data))
    assert PopularityNegatives().unfit(member("SASRec")(loss_type="BPR", rows="prefixes"),
                                       data) is None
    assert "keeps its scores" in str(LogitAdjustment().unfit(RatingMF(), data))
    assert "bprmf" in str(Macr().unfit(member("BPR")(), data))
