"""FOCF: its quantities by hand, its gradient by differences, and what it closes on real ratings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.defenses.focf import Focf
from bench.defenses.none import NoDefense
from bench.errors import InputError, PluginError
from bench.fairness import KINDS, item_means, sides, unfairness
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.rating_mf import RatingMF

CTX = Context(0)
T = torch.tensor


def toy() -> Dataset:
    """Two users of one group each; item 0 and 1 rated by both, item 2 by the first alone."""
    train = Interactions(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1]),
                         np.array([5.0, 2.0, 4.0, 1.0, 4.0]))
    later = Interactions(np.array([0, 1]), np.array([3, 3]), np.array([4.0, 3.0]))
    return Dataset("toy", ("a", "b"), tuple("ijkl"), train, later[:0], later,
                   user_attributes={"gender": np.array(["F", "M"], object)},
                   rating_scale=(1.0, 5.0))


def slow(predicted, truth, items, side, kind):
    """The quantities written out item by item."""
    if kind == "non-parity":
        return abs(predicted[side == 1].mean() - predicted[side == 0].mean())
    found = []
    for j in np.unique(items):
        here = [(items == j) & (side == g) for g in (1, 0)]
        if not (here[0].any() and here[1].any()):
            continue
        y, r = ([x[rows].mean() for rows in here] for x in (predicted, truth))
        found.append({
            "value": abs((y[0] - r[0]) - (y[1] - r[1])),
            "absolute": abs(abs(y[0] - r[0]) - abs(y[1] - r[1])),
            "under": abs(max(0, r[0] - y[0]) - max(0, r[1] - y[1])),
            "over": abs(max(0, y[0] - r[0]) - max(0, y[1] - r[1]))}[kind])
    return float(np.mean(found))


@pytest.mark.parametrize(("kind", "expected"), [
    # item 0: errors −2 (F) and +1 (M); item 1: +1 and −1; item 2 has ratings of one group only
    ("value", (3 + 2) / 2), ("absolute", (1 + 0) / 2), ("under", (2 + 1) / 2),
    ("over", (1 + 1) / 2), ("non-parity", abs((3 + 3 + 5) / 3 - (2 + 3) / 2))])
def test_two_users_by_hand(kind, expected):
    data = toy()
    predicted = T([3.0, 3.0, 5.0, 2.0, 3.0])
    side = T(sides(data, "gender"))[T(data.train.users)]
    found = unfairness(predicted, T(data.train.ratings).float(), T(data.train.items), side, kind)
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_against_the_definition(kind):
    rng = np.random.default_rng(0)
    n = 200
    predicted, truth = rng.uniform(1, 5, n), rng.integers(1, 6, n).astype(float)
    items, side = rng.integers(0, 60, n), rng.integers(-1, 2, n)
    found = unfairness(T(predicted), T(truth), T(items), T(side), kind)
    kept = side >= 0
    assert float(found) == pytest.approx(
        slow(predicted[kept], truth[kept], items[kept], side[kept], kind))


def test_an_item_that_one_group_did_not_rate_counts_nowhere():
    """With a mean of 0 in its place, item 2 would add its whole error."""
    data = toy()
    side = T(sides(data, "gender"))[T(data.train.users)]
    r, items = T(data.train.ratings), T(data.train.items)
    base = r + T([1.0, 0, 0, 0, 0]).double()
    far = base + T([0, 0, 100.0, 0, 0]).double()
    assert float(unfairness(base, r, items, side, "value")) == pytest.approx(0.5)
    assert torch.equal(unfairness(base, r, items, side, "value"),
                       unfairness(far, r, items, side, "value"))
    assert unfairness(r[:3], r[:3], items[:3], side[:3], "value") is None
    assert unfairness(r[:3], r[:3], items[:3], side[:3], "non-parity") is None
    ours, theirs = item_means(r, items, side)
    assert (ours.tolist(), theirs.tolist()) == ([5, 2], [1, 4])


def test_the_smooth_quantity_is_half_the_square_below_one():
    data = toy()
    side = T(sides(data, "gender"))[T(data.train.users)]
    r, items = T(data.train.ratings), T(data.train.items)
    y = r + T([0.5, 3.0, 0, 0, 0]).double()  # gaps ½ and 3
    assert float(unfairness(y, r, items, side, "value", smooth=True)) == \
        pytest.approx((0.5 * 0.5**2 + 3 - 0.5) / 2)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_on_two_users_is_that_of_differences(kind, smooth):
    made = build(RatingMF(dim=2, init_std=0.5), toy(), CTX)
    made.module.double()
    plugin = Focf(measure=kind, weight=0.7, smooth=smooth)
    batch = {k: v.double() if k == "ratings" else v
             for k, v in next(iter(made.batches(1, 10))).items()}
    weights = [made.module.users.weight, made.module.items.weight, made.module.user_bias,
               made.module.item_bias]

    def loss() -> torch.Tensor:
        return plugin.loss(made, batch, made.loss(batch), 1)

    exact = torch.autograd.grad(loss(), weights)
    for weight, slope in zip(weights, exact, strict=True):
        flat = weight.detach().view(-1)
        for at in range(len(flat)):
            values = []
            for step in (1e-6, -1e-6):
                flat[at] += step
                values.append(float(loss().detach()))
                flat[at] -= step
            assert float(slope.view(-1)[at]) == \
                pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-5)
    plain = float(made.loss(batch).detach())
    side = sides(toy(), "gender")[batch["users"].numpy()]
    y = made.predict(batch["users"], batch["items"]).detach().numpy()
    if not smooth:
        assert float(loss().detach()) == pytest.approx(plain + 0.7 * slow(
            y, batch["ratings"].numpy(), batch["items"].numpy(), side, kind))


def test_a_summed_loss_counts_the_penalty_once_per_row():
    data = Blocks().load()
    totals = []
    for reduction in ("mean", "sum"):
        made = build(RatingMF(reduction=reduction), data, CTX)
        batch = next(iter(made.batches(1, 300)))
        clean = made.loss(batch)
        totals.append(float((Focf().loss(made, batch, clean, 1) - clean).detach()))
    assert totals[1] == pytest.approx(300 * totals[0], rel=1e-3)


def test_sides_and_refusals():
    data = Blocks().load()
    side = sides(data, "gender", "F")
    assert side[:3].tolist() == [0, 1, 0]
    fakes = Interactions(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([5.0]),
                         np.zeros(1))
    assert sides(data.with_fakes(fakes, 1), "gender")[-1] == -1
    with pytest.raises(InputError, match="no attribute 'height'"):
        sides(data, "height")
    assert "3 values" in Focf(attribute="age").unfit(RatingMF(), data)
    assert "gender=X" in Focf(value="X").unfit(RatingMF(), data)
    assert "predicts none" in Focf().unfit(BPRMF(), data)
    assert Focf().unfit(RatingMF(), data) is None
    one = data.replace(user_attributes={"gender": np.array(["F"] * 60, object)})
    assert "one side" in Focf(value="F").unfit(RatingMF(), one)


def test_it_refuses_batches_in_which_nothing_can_be_compared():
    made = build(RatingMF(epochs=1, batch_size=1), Blocks(users=10, items=8, length=6).load(), CTX)
    with pytest.raises(PluginError, match="batch_size"):
        made.fit(Focf(), lambda event: None)


def fitted(data: Dataset, defense: object, **params: object) -> TorchRecommender:
    made = build(RatingMF(**params), data, CTX)
    assert isinstance(made, TorchRecommender)
    made.fitted = made.fit(defense, lambda event: None)
    return made


def test_without_weight_it_equals_no_defense():
    data = Blocks().load()
    params = {"epochs": 3, "dim": 4, "patience": 0}
    plain, weighed = (fitted(data, d, **params) for d in (NoDefense(), Focf(weight=0.0)))
    assert all(torch.equal(v, weighed.state()[k]) for k, v in plain.state().items())


def unlike(share: float = 0.25, seed: int = 0) -> Dataset:
    """Ratings in which a minority likes the items that the others do not."""
    rng = np.random.default_rng(seed)
    data = Blocks(users=200, items=60, length=24, blocks=2, noise=0.4).load()
    minority = np.arange(200) < share * 200
    train = data.train
    odd = train.items % 2 == 1
    liked = odd ^ minority[train.users]
    ratings = np.clip(np.rint(rng.normal(np.where(liked, 4.0, 2.0), 0.7)), 1, 5)
    gender = np.array(["F" if m else "M" for m in minority], object)
    return data.replace(train=Interactions(train.users, train.items, ratings, train.times),
                        user_attributes={"gender": gender})


@pytest.mark.parametrize(("kind", "weight"), [("value", 3.0), ("absolute", 3.0), ("under", 3.0),
                                              ("over", 3.0), ("non-parity", 30.0)])
def test_the_quantity_asked_for_falls(kind, weight):
    """Over all train ratings; a model of one dimension learns the majority's taste first."""
    data = unlike()
    params = {"epochs": 60, "dim": 1, "patience": 0, "learning_rate": 0.05, "batch_size": 4096}
    rows, found = data.train, []
    side = T(sides(data, "gender"))[T(rows.users)]
    if kind == "non-parity":  # the means differ only where one side rates higher
        shift = np.where(side.numpy() == 1, 1.0, 0.0)
        rows = Interactions(rows.users, rows.items, np.clip(rows.ratings + shift, 1, 5),
                            rows.times)
        data = data.replace(train=rows)
    for defense in (NoDefense(), Focf(measure=kind, weight=weight, smooth=False)):
        made = fitted(data, defense, **params)
        with torch.no_grad():
            y = made.predict(T(rows.users), T(rows.items))
        found.append(float(unfairness(y, T(rows.ratings).float(), T(rows.items), side, kind)))
    assert found[1] < 0.7 * found[0], found
    assert made.fitted.notes["focf"]["items_compared_per_batch"] > 30


def _contracts() -> list:
    from bench import _contracts_common, _contracts_defenses

    return [check for check in _contracts_common.checks(Focf) + _contracts_defenses.checks(Focf)
            if check.__name__ != "spawned_worker"]


@pytest.mark.parametrize("check", _contracts(), ids=lambda c: c.__name__)
def test_the_contracts_of_defenses_hold_on_the_model_it_acts_on(check):
    """The suite's usual models predict no ratings, so it passes this defense by."""
    from bench._contracts_lab import Lab

    class RatingLab(Lab):
        def model_plugin(self):
            return RatingMF(epochs=5, dim=4, batch_size=256, learning_rate=0.02, patience=0)

    check(RatingLab("defenses", Focf))
