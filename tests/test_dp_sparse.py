"""DP-AdaFEST and DP-FEST: which rows are kept, what is noised there, and what it costs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import dp
from bench.accounting import epsilon_of
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.sparse_dp_sgd import SparseDpSgd, _SparseSteps
from bench.dp_lookups import lookups
from bench.dp_steps import PrivateSteps, PrivateTraining, step_rows
from bench.errors import InputError
from bench.models._bprmf import BprRecommender
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.training import Loop


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def started(data: Dataset, **params: object) -> BprRecommender:
    model = build(BPRMF(**{"dim": 8, "init_std": 0.5, "batch_size": 64, "epochs": 2,
                           "optimizer": "sgd", "learning_rate": 0.1, **params}), data, Context(0))
    assert isinstance(model, BprRecommender)
    return model


def steps(data: Dataset, defense: PrivateTraining, **params: object) -> PrivateSteps:
    return defense.steps(Loop(started(data, **params), defense))


def gradients(made: PrivateSteps, count: int) -> list[dict[str, Tensor]]:
    """The gradients of so many steps, times the expected users."""
    seen: list[dict[str, Tensor]] = []
    names = dict(made.model.module.named_parameters())
    made.loop.optimizer.register_step_pre_hook(lambda *_: seen.append(
        {k: p.grad * made.scale() for k, p in names.items()}))
    rows = dp.UserRows(made.model, 1)
    for number in range(count):
        made.step(rows, number)
    return seen


def drawn(model: BprRecommender, users: list[int], most: int = 6) -> tuple[
        dp.Coordinates, dict[str, Tensor], Tensor]:
    rows, counts = dp.UserRows(model, 1).take(torch.tensor(users), 0, most)
    return dp.Coordinates(model, maps=True), rows, counts


# -- gradients from lookups --------------------------------------------------------------------

@pytest.mark.parametrize("params", [{}, {"bias": True, "reduction": "sum", "l2": 0.1}])
@pytest.mark.parametrize("clip", [0.3, math.inf])
def test_lookups_give_what_one_user_at_a_time_gives(data, params, clip):
    model = started(data, **params)
    where, rows, counts = drawn(model, list(range(0, 40, 3)))
    slow = dp.one_by_one(model, where, rows, counts, clip)
    for way in (dp.vectorised, lookups):
        found = way(model, where, rows, counts, clip)
        assert torch.allclose(found.norms, slow.norms, rtol=1e-5)
        assert found.loss == pytest.approx(slow.loss, rel=1e-5)
        whole = dp.dense(found, slow.shared)
        assert all(torch.allclose(whole[k], slow.shared[k], atol=1e-5) for k in slow.shared)
        assert all(torch.allclose(found.own[k], slow.own[k], atol=1e-5) for k in slow.own)
        assert set(zip(*(x.tolist() for x in found.touched), strict=True)) == set(
            zip(*(x.tolist() for x in slow.touched), strict=True))
    assert dp.choose(model, where, rows, counts)[1] == "looked up"
    assert set(found.sparse) == {"items.weight"}


@pytest.mark.parametrize(("name", "way"), [("BPR", "looked up"), ("NeuMF", "looked up"),
                                           ("FISM", None), ("SASRec", None)])
def test_recbole_models_are_looked_up_where_that_is_right(data, name, way):
    from bench.models.recbole import member

    model = build(member(name)(), data, Context(0))
    where, rows, counts = drawn(model, [0, 5, 9, 11], most=5)
    chosen, text = dp.choose(model, where, rows, counts)
    assert (text == "looked up") == (way is not None), text
    with model.evaluating():
        slow = dp.one_by_one(model, where, rows, counts, 0.4)
        found = chosen(model, where, rows, counts, 0.4)
    whole = dp.dense(found, slow.shared)
    assert all(torch.allclose(whole[k], slow.shared[k], atol=1e-5) for k in slow.shared)


# -- which rows --------------------------------------------------------------------------------

def test_a_user_moves_the_contribution_map_by_at_most_its_clip(data):
    model = started(data)
    made = _SparseSteps(SparseDpSgd(map_clip=1.5, noise_multiplier=1.0), Loop(model, SparseDpSgd()))
    where, rows, counts = drawn(model, list(range(40)))
    slots, items = dp.one_by_one(model, where, rows, counts, 1.0).touched
    per_user = torch.bincount(slots)
    whole = made.counts(slots, items, 0.0, made.map_stream)
    for user in range(40):
        others = made.counts(slots[slots != user], items[slots != user], 0.0, made.map_stream)
        moved = float((whole - others).norm())
        assert moved == pytest.approx(min(1.5, math.sqrt(int(per_user[user]))), rel=1e-4)


def test_without_threshold_it_is_dp_sgd_of_the_second_noise(data):
    """With its noise at the first step; later the streams differ, so without."""
    sparse = steps(data, SparseDpSgd(threshold=-math.inf, noise_multiplier=2.0, noise_ratio=3.0))
    assert isinstance(sparse, _SparseSteps)
    plain = steps(data, DpSgd(noise_multiplier=sparse.row_noise))
    first, second = gradients(sparse, 1)[0], gradients(plain, 1)[0]
    assert torch.allclose(first["items.weight"], second["items.weight"], atol=1e-5)
    quiet = {"noise_multiplier": 0.0, "clip": 0.3, "sample_rate": 0.3}
    states = []
    for defense in (SparseDpSgd(**quiet), DpSgd(**quiet)):
        made = steps(data, defense, optimizer="adam", weight_decay=0.1)
        gradients(made, 12)
        states.append(made.model.state())
    assert all(torch.allclose(states[0][k], states[1][k], atol=1e-5) for k in states[0])


def test_fewer_rows_are_kept_as_the_threshold_rises(data):
    kept = []
    for threshold in (-math.inf, -1.0, 0.0, 1.0, 2.0, 4.0):
        made = steps(data, SparseDpSgd(threshold=threshold, noise_multiplier=1.0))
        gradients(made, 30)
        kept.append(made.facts["rows_kept"])
    assert kept[0] == 32
    assert all(a > b for a, b in itertools.pairwise(kept)), kept


def test_noise_is_on_kept_rows_alone_and_has_the_stated_size(data):
    made = steps(data, SparseDpSgd(noise_multiplier=2.0, noise_ratio=2.0, clip=0.5, threshold=1.0,
                                   sample_rate=1e-6))  # nobody comes: all that is there is noise
    assert isinstance(made, _SparseSteps)
    chosen: list[Tensor] = []
    inner = made.choose_rows
    made.choose_rows = lambda found: chosen.append(inner(found)) or chosen[-1]  # type: ignore
    seen = gradients(made, 200)
    values = []
    for grad, kept in zip(seen, chosen, strict=True):
        items = grad["items.weight"]
        mask = torch.zeros(32, dtype=torch.bool)
        mask[kept] = True
        assert not items[~mask].any()
        assert items[mask].ne(0).all()
        assert not grad["users.weight"].any()
        values.append(items[mask])
    flat = torch.cat(values)
    sigma_2 = 2.0 * math.sqrt(1 + 1 / 4)
    assert float(flat.std()) == pytest.approx(sigma_2 * 0.5, rel=0.03)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.0])
def test_rows_that_nobody_touched_are_kept_as_often_as_stated(data, threshold):
    made = steps(data, SparseDpSgd(threshold=threshold, noise_multiplier=1.0, map_clip=0.3,
                                   sample_rate=0.05))
    gradients(made, 300)
    expected = 0.5 * math.erfc(threshold / math.sqrt(2))
    assert made.facts["untouched_kept"] == pytest.approx(expected, abs=0.015)
    assert made.facts["untouched_kept"] > 0


def test_rows_that_users_share_are_kept_more_often(data):
    made = steps(data, SparseDpSgd(threshold=1.0, noise_multiplier=0.2, sample_rate=0.5))
    gradients(made, 20)
    assert made.facts["rows_kept"] > 20
    assert made.facts["untouched_kept"] is None or made.facts["untouched_kept"] < 0.4


def test_one_user_moves_a_step_by_at_most_the_clip_on_the_rows_kept(data):
    """Given the rows, which the map's noise pays for: Σ over kept rows of clipped gradients."""
    model = started(data, init_std=2.0)
    made = _SparseSteps(SparseDpSgd(noise_multiplier=0.0, clip=0.7), Loop(model, SparseDpSgd()))
    where, rows, counts = drawn(model, list(range(40)), most=50)
    kept = torch.arange(0, 32, 2)
    weight = model.module.items.weight

    def total(users: Tensor) -> Tensor:
        batch = {k: v[torch.isin(rows["users"], users)] for k, v in rows.items()}
        found = lookups(model, where, batch, counts[users], 0.7)
        return made.gradient(found, "items.weight", weight, kept)

    everybody = total(torch.arange(40))
    moved = [float((everybody - total(torch.tensor([u for u in range(40) if u != user]))).norm())
             for user in range(40)]
    assert max(moved) <= 0.7 * (1 + 1e-4)
    assert max(moved) > 0.4  # half of the rows carry a good part


# -- the optimiser -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_rows_that_are_left_out_neither_move_nor_are_forgotten(data, name):
    params = {"optimizer": name, "momentum": 0.9, "weight_decay": 0.1, "accumulator": 0.1}
    one, two = started(data, **params), started(data, **params)
    a, b = Loop(one, DpSgd()).optimizer, Loop(two, DpSgd()).optimizer
    rng = torch.Generator().manual_seed(0)
    weight, other = one.module.items.weight, two.module.items.weight
    rows = torch.tensor([1, 4, 5, 30])
    for _ in range(4):
        before = weight.detach().clone()
        grad = torch.randn(4, 8, generator=rng)
        step_rows(a, {"items.weight": (weight, rows, grad)})
        still = torch.ones(32, dtype=torch.bool)
        still[rows] = False
        assert torch.equal(weight.detach()[still], before[still])
        other.grad = torch.zeros_like(other)  # the whole table, for comparison
        other.grad[rows] = grad
        b.step()
        assert torch.allclose(weight.detach()[rows], other.detach()[rows], atol=1e-6)
    assert [id(p) for g in a.param_groups for p in g["params"]] == [
        id(p) for p in one.module.parameters()]


def test_kept_rows_alone_move(data):
    made = steps(data, SparseDpSgd(threshold=1.0, noise_multiplier=1.0), optimizer="adam")
    assert isinstance(made, _SparseSteps)
    rows = dp.UserRows(made.model, 1)
    inner, last = made.choose_rows, []
    made.choose_rows = lambda found: last.append(inner(found)) or last[-1]  # type: ignore
    for number in range(10):
        before = made.model.module.items.weight.detach().clone()
        made.step(rows, number)
        changed = (made.model.module.items.weight.detach() != before).any(dim=1)
        assert torch.nonzero(changed)[:, 0].tolist() == last[-1].tolist()


# -- cost --------------------------------------------------------------------------------------

def test_both_noises_together_cost_what_one_gaussian_costs(data):
    made = steps(data, SparseDpSgd(noise_multiplier=1.3, noise_ratio=4.0, accountant="rdp"))
    assert isinstance(made, _SparseSteps)
    assert made.map_noise == pytest.approx(4.0 * made.row_noise)
    assert (made.map_noise**-2 + made.row_noise**-2)**-0.5 == pytest.approx(1.3)
    spent = []
    for defense in (SparseDpSgd(noise_multiplier=1.3, accountant="rdp"),
                    DpSgd(noise_multiplier=1.3, accountant="rdp")):
        spent.append(defense.spent(started(data).fit(defense, lambda event: None)))
    assert spent[0] == spent[1]
    assert spent[0]["epsilon"] == pytest.approx(epsilon_of(0.05, 1.3, 40, 1e-5, "rdp"))


def test_a_noisy_choice_of_rows_once_is_paid_for(data):
    asked = {"epsilon": 3.0, "accountant": "rdp", "sample_rate": 0.2}
    fit = started(data).fit(SparseDpSgd(rows="noisy-top", keep=9, selection_noise=3.0, **asked),
                            lambda event: None)
    spent = SparseDpSgd(rows="noisy-top", **asked).spent(fit)
    assert 2.97 < spent["epsilon"] <= 3.0
    free = started(data).fit(DpSgd(**asked), lambda event: None)
    assert fit.notes["dp"]["noise_multiplier"] > free.notes["dp"]["noise_multiplier"]
    assert fit.notes["dp"]["rows_kept"] == 9
    with pytest.raises(InputError, match="selection alone spends"):
        started(data).fit(SparseDpSgd(rows="noisy-top", selection_noise=0.5, **asked),
                          lambda event: None)


def test_the_noisy_choice_finds_popular_items_with_little_noise(data):
    pairs = np.unique(data.train.users * 32 + data.train.items)
    length = np.bincount(pairs // 32)
    votes = np.bincount(pairs % 32, weights=1 / np.sqrt(length[pairs // 32]))
    quiet = steps(data, SparseDpSgd(rows="noisy-top", keep=8, selection_noise=1e-6,
                                    noise_multiplier=1.0))
    assert isinstance(quiet, _SparseSteps)
    assert set(quiet.fixed.tolist()) == set(np.argsort(-votes, kind="stable")[:8].tolist())
    loud = steps(data, SparseDpSgd(rows="noisy-top", keep=8, selection_noise=1e6,
                                   noise_multiplier=1.0))
    assert isinstance(loud, _SparseSteps)
    assert set(loud.fixed.tolist()) != set(quiet.fixed.tolist())


def test_public_numbers_choose_without_cost(data):
    made = data.replace(item_attributes={"year": np.arange(32, dtype=np.float64)})
    defense = SparseDpSgd(rows="public", public="year", keep=5, noise_multiplier=1.0,
                          sample_rate=0.2, accountant="rdp")
    assert defense.unfit(BPRMF(), made) is None
    assert "no numeric item attribute 'year'" in (defense.unfit(BPRMF(), data) or "")
    fit = started(made).fit(defense, lambda event: None)
    assert fit.notes["dp"]["rows_kept"] == 5
    assert defense.spent(fit)["epsilon"] == pytest.approx(epsilon_of(0.2, 1.0, 10, 1e-5, "rdp"))
    with pytest.raises(InputError, match="item attribute"):
        SparseDpSgd(rows="public")


def test_models_without_item_vectors_are_refused(data):
    assert "no item vectors" in (SparseDpSgd().unfit(Pop(), data) or "")
    assert SparseDpSgd(epsilon=math.inf).unfit(Pop(), data) is None
