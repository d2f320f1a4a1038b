"""User-level DP-SGD: clipping, sensitivity, noise, accounting, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import dp
from bench.accounting import epsilon_of, gaussian_epsilon, gaussian_noise, noise_for
from bench.api import Context, Dataset, Defense
from bench.datasets.blocks import Blocks
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.none import NoDefense
from bench.dp_steps import PrivateSteps
from bench.errors import InputError, PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import Batch, build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.training import FitResult, Loop, make_optimizer


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def started(data: Dataset, seed: int = 0, **params: object) -> BprRecommender:
    model = build(BPRMF(**{"dim": 8, "init_std": 0.5, "batch_size": 64, "epochs": 2, **params}),
                  data, Context(seed))
    assert isinstance(model, BprRecommender)
    return model


def trained(data: Dataset, defense: Defense, epochs: int = 2, **params: object) -> tuple[
        dict[str, Tensor], Loop]:
    model = started(data, **params)
    with model.ctx.seeded("train"):
        loop = Loop(model, defense)
        run = defense.wrap(loop) or loop.run_epoch
        for epoch in range(1, epochs + 1):
            model.module.train()
            run(epoch)
    return model.state(), loop


def sample(model: BprRecommender, users: range | list[int], most: int = 6) -> tuple[
        dp.Coordinates, dict[str, Tensor], Tensor]:
    rows, counts = dp.UserRows(model, 1).take(torch.tensor(list(users)), 0, most)
    return dp.Coordinates(model), rows, counts


# -- what one user asks for --------------------------------------------------------------------

@pytest.mark.parametrize("params", [{}, {"bias": True, "reduction": "sum", "l2": 0.1},
                                    {"order": "users"}])
@pytest.mark.parametrize("clip", [0.3, math.inf])
def test_vectorised_gradients_agree_with_one_user_at_a_time(data, params, clip):
    model = started(data, **params)
    where, rows, counts = sample(model, [u for u in range(40) if u % 3 == 0])
    keep = counts > 0
    slow = dp.one_by_one(model, where, rows, counts[keep], clip)
    fast = dp.vectorised(model, where, rows, counts[keep], clip)
    assert slow.loss == pytest.approx(fast.loss, rel=1e-5)
    assert torch.allclose(slow.norms, fast.norms, rtol=1e-5)
    for kind in ("shared", "own"):
        for key, expected in getattr(slow, kind).items():
            assert torch.allclose(getattr(fast, kind)[key], expected, atol=1e-5), (kind, key)
    assert dp.choose(model, where, rows, counts[keep])[1] == "vectorised"


def test_chunks_change_nothing(data, monkeypatch):
    model = started(data)
    where, rows, counts = sample(model, range(40))
    whole = dp.vectorised(model, where, rows, counts, 0.3)
    monkeypatch.setattr(dp, "_FLOATS", 3 * 32 * 8)  # three users at a time
    parts = dp.vectorised(model, where, rows, counts, 0.3)
    assert torch.allclose(whole.shared["items.weight"], parts.shared["items.weight"], atol=1e-6)


@pytest.mark.parametrize("way", [dp.one_by_one, dp.vectorised])
def test_each_user_moves_the_sum_by_at_most_the_clip(data, way):
    """Brute force: the sum with everybody against the sum without user u, for every u. Rows of
    items that several of a user's interactions touch count once, in full."""
    model = started(data, init_std=2.0, bias=True)
    clip = 0.7
    where, rows, counts = sample(model, range(40), most=50)
    everybody = way(model, where, rows, counts, clip)
    assert int((everybody.norms > clip).sum()) == 40  # the clip is felt by all
    for user in range(40):
        mask = rows["users"] != user
        others = way(model, where, {k: v[mask] for k, v in rows.items()},
                     torch.cat([counts[:user], counts[user + 1:]]), clip)
        moved = math.sqrt(sum(float((everybody.shared[k] - others.shared[k]).pow(2).sum())
                              for k in everybody.shared))
        assert moved <= clip * (1 + 1e-4)
        assert moved >= clip * (1 - 1e-3)  # and the bound is used


def test_removing_a_user_leaves_what_the_others_bring(data):
    """Rows, negatives and the choice among them depend on nobody else."""
    smaller = data.replace(train=data.train[data.train.users != 5])
    for users in ([3, 4, 6], [30, 2]):
        _, with_five, _ = sample(started(data), users, most=4)
        _, without, _ = sample(started(smaller), users, most=4)
        assert all(torch.equal(with_five[k], without[k]) for k in with_five)


def test_at_most_max_interactions_and_others_at_each_step(data):
    model = started(data)
    rows = dp.UserRows(model, 1)
    users = torch.arange(10)
    seen = set()
    for step in range(12):
        batch, counts = rows.take(users, step, 3)
        assert counts.tolist() == [3] * 10
        assert torch.bincount(batch["users"]).tolist() == [3] * 10
        mine = batch["items"][batch["users"] == 0].tolist()
        assert len(set(mine)) == 3
        seen.update(mine)
    assert seen == set(data.train.items[data.train.users == 0].tolist())


def test_a_model_that_reads_other_users_is_caught(data):
    class Leaky(BprRecommender):
        def batch_loss(self, batch: Batch) -> Tensor:
            return super().batch_loss(batch) + self.module.users.weight.mean() ** 2

    model = Leaky(BPRMF(dim=8), data, Context(0))
    where, rows, counts = sample(model, range(6))
    with pytest.raises(PluginError, match="another user's row"):
        dp.choose(model, where, rows, counts)


def test_losses_that_are_no_sum_over_rows_go_one_user_at_a_time(data):
    class Rooted(BprRecommender):
        def batch_loss(self, batch: Batch) -> Tensor:
            return super().batch_loss(batch) + self.module.items(batch["items"]).norm()

    class Branching(BprRecommender):
        def batch_loss(self, batch: Batch) -> Tensor:
            return super().batch_loss(batch) * (1 if int(batch["items"][0]) >= 0 else 2)

    for kind, reason in ((Rooted, "no sum over rows"), (Branching, "torch.func")):
        model = kind(BPRMF(dim=8, init_std=0.5), data, Context(0))
        where, rows, counts = sample(model, range(6))
        way, text = dp.choose(model, where, rows, counts)
        assert way is dp.one_by_one
        assert reason in text


# -- the steps ---------------------------------------------------------------------------------

def test_without_noise_and_clip_it_is_plain_descent_on_the_same_poisson_batches(data):
    defense = DpSgd(noise_multiplier=0.0, clip=1e9, sample_rate=0.2, max_interactions=100)
    private, _ = trained(data, defense, optimizer="sgd", learning_rate=0.05)

    model = started(data, optimizer="sgd", learning_rate=0.05)
    optimizer = make_optimizer(model, model.hyper)
    coins = model.ctx.torch_stream("dp-users")
    for epoch in (1, 2):
        pool = dp.UserRows(model, epoch)
        for _ in range(5):
            users = torch.nonzero(torch.rand(40, generator=coins) < 0.2)[:, 0]
            rows = torch.isin(pool.batch["users"], users)
            if rows.any():
                batch = {k: v[rows] for k, v in pool.batch.items()}
                optimizer.zero_grad()
                (model.batch_loss(batch) * int(rows.sum()) / (0.2 * 40)).backward()
                optimizer.step()
    for key, weight in model.state().items():
        assert torch.allclose(private[key], weight, atol=1e-5), key


@pytest.mark.parametrize("off", [{"epsilon": math.inf},
                                 {"noise_multiplier": 0.0, "clip": math.inf}])
def test_neither_noise_nor_clip_is_none_bit_for_bit(data, off):
    plain, loop = trained(data, NoDefense())
    same, other = trained(data, DpSgd(**off))
    assert all(torch.equal(plain[k], same[k]) for k in plain)
    assert loop.early_stopping == other.early_stopping
    assert DpSgd(**off).spent(FitResult(notes=other.notes)) == {}


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
def test_rows_of_users_who_are_not_drawn_stay(data, optimizer):
    model = started(data, optimizer=optimizer, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    loop = Loop(model, DpSgd(noise_multiplier=1.0, sample_rate=0.1))
    private = PrivateSteps(DpSgd(noise_multiplier=1.0, sample_rate=0.1), loop)
    rows = dp.UserRows(model, 1)
    coins = model.ctx.torch_stream("dp-users")
    moved = 0
    for step in range(8):
        before = model.module.users.weight.detach().clone()
        drawn = torch.rand(40, generator=coins) < 0.1
        private.step(rows, step)
        changed = (model.module.users.weight.detach() != before).any(dim=1)
        assert torch.equal(changed, drawn)
        moved += int(changed.sum())
    assert moved > 0


def test_one_user_moves_the_released_parameters_by_no_more_than_the_bound(data):
    """From two adjacent data sets, with users among them whom an attacker injected, through one
    whole step to what is released: with sgd of size 1 it differs by at most the clip over the
    users expected, who are a share of all."""
    hyper = DpSgd(noise_multiplier=0.0, clip=0.5, sample_rate=0.5)
    poisoned, drawn = data.replace(n_fake=15), 0
    for user in range(12):
        released = []
        for world in (poisoned, poisoned.without_users(np.arange(40) == user)):
            model = started(world, optimizer="sgd", learning_rate=1.0)
            PrivateSteps(hyper, Loop(model, hyper)).step(dp.UserRows(model, 1), 0)
            released.append(model.module.items.weight.detach().double())
        moved = float((released[0] - released[1]).norm())
        assert moved <= 0.5 / (0.5 * 40) * 1.001
        drawn += moved > 0.5 / (0.5 * 40) * 0.95  # and the bound is used
    assert 0 < drawn < 12


def recorded(loop: Loop) -> list[dict[str, Tensor]]:
    """Filled with the gradients of every step to come."""
    seen: list[dict[str, Tensor]] = []
    loop.optimizer.register_step_pre_hook(lambda *_: seen.append(
        {k: p.grad.clone() for k, p in loop.model.module.named_parameters()}))
    return seen


def test_noise_has_the_stated_size_and_differs_between_steps(data):
    hyper = DpSgd(noise_multiplier=3.0, clip=0.5, sample_rate=0.2)
    model = started(data, bias=True)
    loop = Loop(model, hyper)
    seen = recorded(loop)
    run = hyper.wrap(loop)
    assert run is not None
    for epoch in range(1, 9):
        run(epoch)
    assert len(seen) == 40
    items = torch.stack([g["items.weight"] for g in seen]) * (0.2 * 40)  # (T, m, d)
    noise = items - items.mean(dim=0)  # the signal is at most .5 · 8 over 256 coordinates
    assert float(noise.std()) == pytest.approx(3.0 * 0.5, rel=0.03)
    flat = noise.flatten(1)
    between = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(between.abs().max()) < 0.35  # 256 numbers: 5 deviations of chance
    users = torch.stack([g["users.weight"] for g in seen])
    absent = users.abs().sum(dim=2) == 0
    assert float(absent.float().mean()) == pytest.approx(0.8, abs=0.05)  # no noise on own rows


def test_padding_rows_get_no_noise():
    data = Blocks(users=20, items=16).load()
    model = started(data)
    model.module.items = nn.Embedding(16, 8, padding_idx=0)
    where = dp.Coordinates(model)
    assert where.masks["items.weight"][0].item() == 0
    assert where.masks["items.weight"][1:].all()


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "FISM"])
def test_padding_rows_release_nothing_of_anybody(data, name):
    """A softmax over all rows has a gradient at the row of padding, which gets no noise."""
    model = recbole(name, data)
    where = dp.Coordinates(model)
    rows, counts = dp.UserRows(model, 1).take(torch.arange(5), 0, 20)
    found = dp.one_by_one(model, where, rows, counts, 1.0)
    tables = [k for k, mask in where.masks.items() if k not in where.own and not mask.all()]
    assert tables
    for key in tables:
        silent = where.masks[key].expand_as(found.shared[key]) == 0
        assert not found.shared[key][silent].any()
        assert found.shared[key].any()


def test_so_much_noise_leaves_nothing_to_learn(data):
    """Item vectors that are all noise rank the test items as chance would."""
    from bench.evaluate import evaluate

    values = []
    for seed in range(3):
        model = started(data, seed=seed, init_std=0.01, learning_rate=0.05, epochs=15)
        model.fit(DpSgd(noise_multiplier=1e4, sample_rate=0.25), lambda event: None)
        values.append(evaluate(model, data, ["auc"]).values[0][2])
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)
    larger = Blocks(users=200, items=60, length=20).load()
    quiet = started(larger, init_std=0.01, learning_rate=0.05, epochs=20)
    quiet.fit(DpSgd(noise_multiplier=0.0, sample_rate=0.25), lambda event: None)
    assert evaluate(quiet, larger, ["auc"]).values[0][2] > 0.65


def test_early_stopping_is_off_and_steps_are_counted(data):
    model = started(data, epochs=3, patience=1)
    fit = model.fit(DpSgd(epsilon=5.0, sample_rate=0.25, accountant="rdp"), lambda event: None)
    assert (fit.epochs, fit.history) == (3, [])
    assert fit.notes["dp"]["steps"] == 3 * 4
    assert fit.notes["dp"]["private_rows"] == ["users.weight"]
    assert fit.notes["dp"]["gradients"] == "vectorised"


# -- accounting --------------------------------------------------------------------------------

# (q, σ, steps) -> ε at δ 1e-5 by Opacus 1.6's RDP and PRV, dp_accounting's RDP and PLD
REFERENCE = [((0.01, 4.0, 10000), (1.0355, 0.957, 1.0355, 0.947)),
             ((256 / 60000, 1.1, 14062), (2.597, 2.392, 2.597, 2.382)),
             ((0.01, 1.0, 1000), (2.101, 1.838, 2.101, 1.828)),
             ((1.0, 1.0, 1), (4.729, 4.387, 4.729, 4.377))]


def renyi(q: float, sigma: float, steps: int, delta: float) -> float:
    """ε by Rényi divergences of whole orders, written out: Mironov et al. 2019, Eq. 3.3, and the
    conversion of Canonne et al. 2020, which Opacus and dp_accounting share."""
    found = []
    for order in range(2, 256):
        terms = [math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
                 + (k * math.log(q) if k else 0.0)
                 + ((order - k) * math.log1p(-q) if k < order else 0.0)
                 + k * (k - 1) / (2 * sigma**2)
                 for k in range(order + 1) if q < 1 or k == order]
        top = max(terms)
        divergence = steps * (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)
        found.append(divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return min(found)


@pytest.mark.parametrize(("setting", "expected"), REFERENCE)
def test_the_accountants_give_the_known_values(setting, expected):
    opacus_rdp, opacus_prv, rdp, pld = expected
    assert epsilon_of(*setting, 1e-5, "rdp") == pytest.approx(rdp, abs=1e-3)
    assert epsilon_of(*setting, 1e-5, "pld") == pytest.approx(pld, abs=1e-3)
    assert rdp == opacus_rdp  # the same orders and conversion
    assert renyi(*setting, 1e-5) == pytest.approx(opacus_rdp, rel=0.02)  # whole orders only
    assert renyi(*setting, 1e-5) >= opacus_rdp - 1e-3
    # PRV's ε is an upper estimate of PLD's, by its error of .01
    assert pld <= opacus_prv <= epsilon_of(*setting, 1e-5, "pld") + 0.0115


def test_the_analytic_gaussian_is_met():
    """σ = 3.7306 for ε 1 and δ 1e-5 (Balle and Wang 2018, Theorem 8, written out here)."""
    def delta(sigma: float, epsilon: float) -> float:
        def phi(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        return phi(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * phi(
            -0.5 / sigma - epsilon * sigma)

    assert gaussian_noise(1.0, 1e-5) == pytest.approx(3.7306, abs=5e-5)
    assert delta(3.7306, 1.0) == pytest.approx(1e-5, rel=1e-3)
    assert noise_for(1.0, 1.0, 1, 1e-5) == pytest.approx(3.7306, rel=2e-3)
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.377, abs=1e-3)
    assert gaussian_epsilon(0.0, 1e-5) == math.inf


def test_gaussians_add_up():
    """Nine of noise σ are one of σ/3, for the exact formula and for the accountants."""
    assert gaussian_epsilon(6.0, 1e-5, times=9) == pytest.approx(gaussian_epsilon(2.0, 1e-5))
    assert gaussian_noise(1.0, 1e-5, times=9) == pytest.approx(3 * gaussian_noise(1.0, 1e-5))
    assert epsilon_of(1.0, 6.0, 9, 1e-5, "pld") == pytest.approx(
        gaussian_epsilon(6.0, 1e-5, times=9), abs=2e-3)
    both = epsilon_of(1.0, 4.0, 1, 1e-5, "pld", once=4.0)
    assert both == pytest.approx(gaussian_epsilon(4.0, 1e-5, times=2), abs=2e-3)
    assert epsilon_of(0.1, 0.0, 0, 1e-5, "rdp", once=4.0) == pytest.approx(
        epsilon_of(1.0, 4.0, 1, 1e-5, "rdp"))


@pytest.mark.parametrize(("accountant", "expected"), [("rdp", 0.865), ("pld", 0.815)])
def test_noise_for_epsilon_three(accountant, expected):
    sigma = noise_for(3.0, 0.01, 1000, 1e-5, accountant)
    assert sigma == pytest.approx(expected, abs=3e-3)
    assert 2.97 < epsilon_of(0.01, sigma, 1000, 1e-5, accountant) <= 3.0


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [
    (1e-3, 0.05, 400), (1e-2, 0.05, 400), (1.0, 0.05, 400), (4.0, 0.001, 100_000),
    (1e-5, 0.1, 50), (1e3, 0.05, 400), (1e5, 0.05, 400), (1e5, 0.01, 1000),
    (1e4, 1e-4, 100_000), (1e6, 0.1, 100), (1e8, 0.05, 400),  # and by way of lone infinities:
    (4e3, 0.02, 200), (1e4, 0.02, 200), (7e3, 0.01, 1000), (1679.0, 0.033, 49)])
def test_the_noise_found_never_spends_more_than_was_asked(epsilon, rate, steps):
    """The grid of privacy losses is fine where ε is small, and coarse where it is huge: seconds
    each. A little less noise would spend more."""
    sigma = noise_for(epsilon, rate, steps, 1e-5)
    spent = epsilon_of(rate, sigma, steps, 1e-5)
    assert spent <= epsilon
    if epsilon <= 1e6:
        assert epsilon_of(rate, sigma * 0.994, steps, 1e-5) > epsilon
        assert spent > 0.98 * epsilon  # and that is no leap of the accountant's


def test_less_noise_never_spends_less():
    """Also where an exponential overflows on the way, around ε = 709: finite, below and above."""
    spent = [epsilon_of(0.033, sigma, 49, 1e-5) for sigma in
             (0.083, 0.0805, 0.079, 0.078, 0.077, 0.076, 0.075, 0.07)]
    assert spent == sorted(spent)
    assert spent[0] < 700 < 745 < spent[-1] < 1000


def test_who_is_in_every_sample_is_counted_exactly():
    """And whoever is in some loses no more than who is in all."""
    for sigma in (0.01, 0.3, 5.0, 300.0):
        exact = gaussian_epsilon(sigma, 1e-5, times=20)
        assert epsilon_of(1.0, sigma, 20, 1e-5) == pytest.approx(exact, rel=1e-9)
        assert epsilon_of(0.02, sigma, 20, 1e-5) <= exact


def test_small_epsilons_are_told_apart_or_refused():
    """Rényi divergences leap from 0.0035 to 0: noise for what lies between would be 60 times more
    than is needed, and an ε of 0 would be quoted where little was asked."""
    for epsilon in (1e-4, 1e-3, 3e-3):
        with pytest.raises(InputError, match=r"counts 0.0035 with a little less.*accountant: pld"):
            noise_for(epsilon, 0.1, 100, 1e-5, "rdp")
    assert 0.9 < epsilon_of(0.1, noise_for(4e-3, 0.1, 100, 1e-5, "rdp"), 100, 1e-5,
                            "rdp") / 4e-3 <= 1
    for accountant in ("rdp", "pld"):
        with pytest.raises(InputError, match=r"too small to be counted.*1e-05 or more"):
            noise_for(1e-8, 0.1, 100, 1e-5, accountant)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_zero_is_said_only_where_delta_alone_is_enough(accountant):
    """Where outputs differ by at most δ in total variation, which of N(0, σ²) and N(1, σ²) is
    2Φ(1/2σ) − 1."""
    zeros = 0
    for sigma in np.geomspace(1e3, 1e6, 13):
        if epsilon_of(1.0, float(sigma), 1, 1e-5, accountant) == 0:
            assert math.erf(0.5 / sigma / math.sqrt(2)) <= 1e-5
            zeros += 1
    assert zeros


def test_spent_is_at_most_what_was_asked(data):
    defense = DpSgd(epsilon=2.0, delta=1e-4, sample_rate=0.25, accountant="rdp")
    fit = started(data, epochs=4).fit(defense, lambda event: None)
    spent = defense.spent(fit)
    assert 1.9 < spent["epsilon"] <= 2.0
    assert spent["delta"] == 1e-4


def test_no_noise_promises_nothing(data):
    defense = DpSgd(noise_multiplier=0.0)
    fit = started(data).fit(defense, lambda event: None)
    assert defense.spent(fit) == {}
    assert epsilon_of(0.1, 0.0, 10, 1e-5) == math.inf


# -- what it refuses ---------------------------------------------------------------------------

def test_models_whose_guarantee_would_be_false_are_refused_with_the_reason(data):
    class Propagating(BPRMF):
        """Stands for a graph model."""

        name = "propagating"
        not_separable = "its layers mix users over the graph"
        gives = frozenset({"embeddings", "gradients"})  # type: ignore[assignment]

    reason = DpSgd().unfit(Propagating(), data)
    assert reason is not None
    assert "its layers mix users over the graph" in reason
    assert "not learned by gradient steps" in (DpSgd().unfit(Pop(), data) or "")
    assert DpSgd().unfit(BPRMF(), data) is None
    assert DpSgd(epsilon=math.inf).unfit(Propagating(), data) is None


def test_epochs_of_users_drawn_from_all_are_refused(data):
    """One user more changes which users an epoch holds, so the rows of all the others."""
    absent = np.arange(data.n_users) == 3
    pools = [dp.UserRows(started(d, order="users"), 1) for d in (data, data.without_users(absent))]
    others = np.flatnonzero(~absent)
    assert (pools[0].count[others] != pools[1].count[others]).any()
    assert "is drawn from all users" in (DpSgd().unfit(BPRMF(order="users"), data) or "")


def test_batch_normalisation_is_caught(data):
    model = started(data)
    model.module.norm = nn.BatchNorm1d(8)
    with pytest.raises(PluginError, match="normalises over batches"):
        model.fit(DpSgd(), lambda event: None)


def test_noise_needs_a_finite_clip():
    with pytest.raises(InputError, match="clip"):
        DpSgd(clip=math.inf)
    assert DpSgd(clip=math.inf, noise_multiplier=0.0).clip == math.inf


# -- RecBole's models --------------------------------------------------------------------------

def recbole(name: str, data: Dataset, **params: object):  # type: ignore[no-untyped-def]
    from bench.models.recbole import member

    return build(member(name)(**params), data, Context(0))


@pytest.mark.parametrize("name", ["BPR", "NeuMF"])
def test_vectorised_gradients_agree_for_recbole_models(data, name):
    model = recbole(name, data)
    where, rows, counts = sample(model, range(0, 40, 4))
    assert set(where.own) == {t.parameter for t in model.tables().values() if t.role == "user"}
    with model.evaluating():  # no dropout: it would differ
        slow = dp.one_by_one(model, where, rows, counts, 0.4)
        fast = dp.vectorised(model, where, rows, counts, 0.4)
    assert torch.allclose(slow.norms, fast.norms, rtol=1e-4)
    for kind in ("shared", "own"):
        for key, expected in getattr(slow, kind).items():
            assert torch.allclose(getattr(fast, kind)[key], expected, atol=1e-5), (kind, key)
    assert dp.choose(model, where, rows, counts)[1] == "vectorised"


def test_recbole_models_that_cannot_be_vectorised_still_train(data):
    model = recbole("MultiVAE", data, epochs=1)
    fit = model.fit(DpSgd(noise_multiplier=1.0, sample_rate=0.25), lambda event: None)
    assert fit.notes["dp"]["gradients"].startswith("one user at a time")
    assert fit.notes["dp"]["steps"] == 4


@pytest.mark.parametrize(("given", "said"), [
    ("sample_rate: 0.000001", "below"), ("learning_rate: 1.0e+38", "above")])
def test_a_million_steps_an_epoch_and_steps_beyond_floats_are_refused(given, said, tmp_path):
    from bench.grid import load_grid

    path = tmp_path / "grid.yaml"
    path.write_text(f"datasets: [blocks]\nmodels: [bprmf]\ndefenses: [{{dp-sgd: {{{given}}}}}]\n"
                    "attacks: [none]\nseeds: [0]\n")
    with pytest.raises(InputError, match=f"is {said}"):
        load_grid(path)


def test_graph_models_of_recbole_are_refused(data):
    from bench.models.recbole import member

    reason = DpSgd().unfit(member("LightGCN")(), data)
    assert reason is not None
    assert "would be claimed falsely" in reason


def test_more_steps_than_can_be_composed_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="20,000,000 steps") as error:
        noise_for(8.0, 1e-5, 20_000_000, 1e-5)
    assert "rdp" in str(error.value.hint)
    assert 0 < noise_for(8.0, 1e-5, 20_000_000, 1e-5, "rdp") < 2
