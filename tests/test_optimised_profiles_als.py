"""pga-profiles and influence-profiles: gradients through ALS against finite differences, H⁻¹v
against a dense inverse, and what the attacks do to an ALS model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, vstack

from bench import als
from bench.als_influence import Factorised, conjugate_gradients, wmw
from bench.als_poison import FakeRows, Feedback, hybrid
from bench.api import ProfileAttack
from bench.attacks.influence_profiles import InfluenceProfiles
from bench.attacks.pga_profiles import PgaProfiles
from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import InputError
from bench.models.als import ALS
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.profile_attack import Profile
from bench.surrogates import clicks, target_hits

N, M, D, F = 20, 15, 4, 3


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=120, items=80, length=14).load()


def toy(alpha: float | None) -> tuple[FakeRows, Floats, Floats, Floats, Floats]:
    """The map, genuine vectors, which pairs are taken, fake rows and what of them is there."""
    rng = np.random.default_rng(0)
    taken = (rng.random((N, M)) < 0.4).astype(float)
    values = csr_matrix(taken if alpha else taken * rng.normal(size=(N, M)))
    users, items = als.fit(values, als.start(M, D, rng), 1.0, 5, alpha=alpha)
    there = (rng.random((F, M)) < 0.5).astype(float)
    x = rng.uniform(0.2, 0.8, (F, M)) * there
    return FakeRows(values, users, items, 1.0, Feedback(alpha)), users, taken, x, there


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("availability", [0.0, 0.7])
@pytest.mark.parametrize("through", [True, False])
def test_the_gradient_is_that_of_finite_differences(alpha: float | None, availability: float,
                                                    through: bool) -> None:
    """CATALOGUE B10: u fixed (through False), and with the fake user's own vector moving."""
    rows, users, taken, x, there = toy(alpha)
    clean, aim = users @ rows.before.T, np.zeros(M)
    aim[[2, 5]] = 1.0
    now = rows.at(x, there)
    fakes = None if through else now.fakes

    def utility(at: Floats) -> float:
        return hybrid(users, rows.at(at, there, fakes).items, clean, taken, aim, availability)[0]

    found = rows.slope(x, there, hybrid(users, now.items, clean, taken, aim, availability)[1],
                       through_fakes=through)
    for i, j in zip(*np.nonzero(there), strict=True):
        step = np.zeros_like(x)
        step[i, j] = 1e-5
        number = (utility(x + step) - utility(x - step)) / 2e-5
        assert found[i, j] == pytest.approx(number, rel=1e-4, abs=1e-8)
    if not through and not availability:  # with u fixed, fillers have no part in it
        assert not np.delete(found, [2, 5], axis=1).any()


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_one_round_is_that_of_als(alpha: float | None) -> None:
    rows, users, _, x, there = toy(alpha)
    x = there if alpha else x
    fake = csr_matrix(x)
    rng = np.random.default_rng(0)
    taken = (rng.random((N, M)) < 0.4).astype(float)
    values = csr_matrix(taken if alpha else taken * rng.normal(size=(N, M)))
    found = rows.at(x, there)
    own = als.solve_users(fake, rows.before, 1.0, alpha=alpha)
    assert np.allclose(found.fakes, own)
    wanted = als.solve_items(vstack([values, fake], format="csr"),
                             np.concatenate([users, own]), 1.0, alpha=alpha)
    assert np.allclose(found.items, wanted)


# -- influence ---------------------------------------------------------------------------------

def factorised() -> Factorised:
    rng = np.random.default_rng(1)
    x = (rng.random((9, 7)) < 0.4).astype(float)
    users, items = als.fit(csr_matrix(x), als.start(7, 2, rng), 0.5, 400, alpha=2.0)
    return Factorised(x, 1 + 2 * x, users, items, 0.5)


def objective(model: Factorised, theta: torch.Tensor) -> torch.Tensor:
    n = len(model.users)
    u, v = theta[:n], theta[n:]
    c, x = torch.from_numpy(model.c), torch.from_numpy(model.x)
    return (c * (x - u @ v.T).square()).sum() + model.reg * theta.square().sum()


def dense(model: Factorised) -> tuple[torch.Tensor, Floats]:
    theta = torch.from_numpy(np.concatenate([model.users, model.items]))
    hessian = torch.autograd.functional.hessian(lambda t: objective(model, t), theta)
    return theta, hessian.reshape(theta.numel(), theta.numel()).numpy()


def test_conjugate_gradients_give_the_dense_inverse() -> None:
    model = factorised()
    _, hessian = dense(model)
    rng = np.random.default_rng(0)
    for _ in range(3):
        v = rng.standard_normal((16, 2))
        assert np.allclose(model.product(v).ravel(), hessian @ v.ravel(), atol=1e-9)
        found = conjugate_gradients(lambda w: model.product(w) + 0.1 * w, v, 200)
        wanted = np.linalg.solve(hessian + 0.1 * np.eye(32), v.ravel())
        assert np.allclose(found.ravel(), wanted, rtol=1e-5, atol=1e-8)


def test_influence_is_the_formula() -> None:
    """−∇sᵀ H⁻¹ ∇ℓ_k with every part by autograd, and the inverse dense."""
    model = factorised()
    theta, hessian = dense(model)
    weights = np.zeros(7)
    weights[[1, 4]] = 0.5
    theta.requires_grad_()
    score = ((theta[:9] @ theta[9:].T) @ torch.from_numpy(weights)).mean()
    (up,) = torch.autograd.grad(score, theta)
    assert np.allclose(up.numpy(), model.score_slope(weights))
    solved = np.linalg.solve(hessian + 0.01 * np.eye(32), up.numpy().ravel())
    c, x = torch.from_numpy(model.c), torch.from_numpy(model.x)
    found = model.influence(weights, 0.01, most=300)
    for k in range(9):
        part = (c[k] * (x[k] - theta[k] @ theta[9:].T).square()).sum()
        (own,) = torch.autograd.grad(part, theta)
        assert found[k] == pytest.approx(-solved @ own.numpy().ravel(), rel=1e-5, abs=1e-9)


def test_influence_foretells_what_more_weight_does() -> None:
    """A user who counts a little more, trained to the end, moves the score as I(k) says."""
    model, weights = factorised(), np.array([0, 1.0, 0, 0, 0, 0, 0])
    found = model.influence(weights, 1e-6, most=500)

    def score(k: int, extra: float) -> float:
        theta = torch.from_numpy(np.concatenate([model.users, model.items])).requires_grad_()
        c, x = torch.from_numpy(model.c), torch.from_numpy(model.x)
        newton = torch.optim.LBFGS([theta], max_iter=400, tolerance_grad=1e-12,
                                   tolerance_change=1e-15, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            newton.zero_grad()
            loss = objective(model, theta) + extra * (
                c[k] * (x[k] - theta[k] @ theta[9:].T).square()).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        newton.step(closure)  # type: ignore[no-untyped-call]
        at = theta.detach().numpy()
        return float((at[:9] @ at[9:].T @ weights).mean())

    for k in (0, 3, 7):
        change = (score(k, 1e-3) - score(k, -1e-3)) / 2e-3
        assert found[k] == pytest.approx(change, rel=0.02, abs=1e-5)


def test_wmw_and_its_gradient() -> None:
    rng = np.random.default_rng(2)
    users, items = rng.normal(size=(5, 3)), rng.normal(size=(8, 3))
    taken = (rng.random((5, 8)) < 0.25).astype(float)
    taken[0, 2] = 1.0  # user 0 has a target: no pair of it counts
    aim = np.zeros(8)
    aim[[2, 6]] = 1.0
    loss, pull = wmw(users, items, taken, aim, 3, 0.3)
    by_hand = 0.0
    for u in range(5):
        said = items @ users[u]
        free = [i for i in np.argsort(-said) if not taken[u, i] and not aim[i]][:3]
        for t in (2, 6):
            if not taken[u, t]:
                by_hand += sum(1 / (1 + np.exp(-(said[i] - said[t]) / 0.3)) for i in free)
    assert loss == pytest.approx(by_hand)
    for j, d in ((2, 0), (6, 1), (0, 2), (4, 0)):
        step = np.zeros_like(items)
        step[j, d] = 1e-6
        number = (wmw(users, items + step, taken, aim, 3, 0.3)[0]
                  - wmw(users, items - step, taken, aim, 3, 0.3)[0]) / 2e-6
        assert pull[j, d] == pytest.approx(number, rel=1e-4, abs=1e-7)


def test_a_user_who_has_taken_everything_leaves_the_lists_of_others_as_they_are() -> None:
    rng = np.random.default_rng(3)
    users, items, aim = rng.normal(size=(6, 3)), rng.normal(size=(8, 3)), np.eye(8)[2]
    taken = (rng.random((6, 8)) < 0.2).astype(float)
    taken[0], taken[1, :6] = 1.0, 1.0  # one has nothing left, one two items of three
    taken[1, 2] = 0.0
    loss, pull = wmw(users, items, taken, aim, 3, 0.3)
    parts = [wmw(users[[u]], items, taken[[u]], aim, 3, 0.3) for u in range(6)]
    assert loss > 1.0
    assert loss == pytest.approx(sum(part[0] for part in parts))
    np.testing.assert_allclose(pull, sum(part[1] for part in parts), atol=1e-12)
    assert parts[0][0] == 0.0
    said = items @ users[1]
    assert parts[1][0] == pytest.approx(sum(1 / (1 + np.exp((said[2] - said[i]) / 0.3))
                                            for i in (6, 7)))


def test_the_most_influential_are_chosen(data: Dataset) -> None:
    taken = clicks(data).double().numpy()
    users, items = als.fit(csr_matrix(taken), als.start(80, 4, np.random.default_rng(0)), 1.0, 10,
                           alpha=1.0)
    aim = np.zeros(80)
    aim[10] = 1.0
    attack = InfluenceProfiles(share=0.25, dim=4, reg=1.0)
    chosen = attack.influential(taken, users, items, aim)
    assert len(chosen) == 30
    assert taken[chosen, 10].mean() > taken[:, 10].mean()  # who has the target raises it


TINY = InfluenceProfiles(dim=2, reg=1.0, rounds=30, steps=0, cutoff=2, width=0.3, share=0.25)


def tiny() -> tuple[Dataset, Floats, Ints, Floats, Floats]:
    """Data, who took what, two targets, and the surrogate's vectors without fakes."""
    data, targets = Blocks(users=12, items=9, blocks=3, length=7, explicit=False).load(), [3, 7]
    taken = np.zeros((12, 9))
    taken[data.train.users, data.train.items] = 1.0
    begin = als.start(9, 2, Context(0).stream("surrogate"))
    return data, taken, np.array(targets), *als.fit(csr_matrix(taken), begin, 1.0, 30, alpha=1.0)


def most_influential(taken: Floats, users: Floats, items: Floats, targets: Ints) -> list[int]:
    """All users, the most influential first: every part by autograd, and the inverse dense."""
    model = Factorised(taken, 1 + taken, users, items, 1.0)
    theta, hessian = dense(model)
    theta.requires_grad_()
    (up,) = torch.autograd.grad((theta[:12] @ theta[12:].T).mean(dim=0)[targets].mean(), theta)
    solved = np.linalg.solve(hessian + np.eye(theta.numel()), up.numpy().ravel())
    found = []
    for k in range(12):
        part = ((1 + torch.from_numpy(taken[k])) * (
            torch.from_numpy(taken[k]) - theta[k] @ theta[12:].T).square()).sum()
        found.append(-solved @ torch.autograd.grad(part, theta)[0].numpy().ravel())
    return np.argsort(found)[::-1].tolist()


def lost(whose: list[int], taken: Floats, fakes: Floats, targets: Ints) -> float:
    """Σ over these users, their 2 best free items and their targets of g(s_ui − s_ut)."""
    begin = als.start(9, 2, Context(0).stream("surrogate"))
    users, items = als.fit(csr_matrix(np.concatenate([taken, fakes])), begin, 1.0, 30, alpha=1.0)
    total = 0.0
    for u in whose:
        said = items @ users[u]
        free = [i for i in np.argsort(-said) if not taken[u, i] and i not in targets]
        total += sum(1 / (1 + np.exp((said[t] - said[i]) / 0.3))
                     for i in free[:2] for t in targets if not taken[u, t])
    return total


def rows_of(profiles: list[Profile]) -> Floats:
    made = np.zeros((len(profiles), 9))
    for row, profile in zip(made, profiles, strict=True):
        row[profile.items] = 1.0
    return made


@pytest.mark.parametrize(("share", "count"), [(0.25, 3), (0.5, 6), (1.0, 12)])
def test_the_loss_is_that_of_the_share_most_influential(
        share: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Σ over u ∈ S in what is reported, and in every step of the optimisation."""
    data, taken, targets, users, items = tiny()
    order = most_influential(taken, users, items, targets)
    chosen = sorted(order[:count])
    assert count == 12 or chosen != list(range(count))
    (first,) = replace(TINY, share=share).candidates(data, targets, np.array([4, 4]), Context(0))
    fakes = rows_of(first.profiles)
    assert first.loss == pytest.approx(lost(chosen, taken, fakes, targets))
    for other in (order[-count:], order[:count + 1], list(range(12))):
        if len(other) != count or set(other) != set(chosen):
            assert first.loss != pytest.approx(lost(other, taken, fakes, targets), rel=1e-3)

    fits: list[tuple[Floats, Floats]] = []
    heard = 0
    fit = als.fit

    def fitting(*given: Any, **more: Any) -> tuple[Floats, Floats]:
        fits.append(fit(*given, **more))
        return fits[-1]

    def listening(u: Floats, v: Floats, has: Floats, *rest: Any) -> Any:
        nonlocal heard
        heard += 1
        assert np.array_equal(u, fits[-1][0][chosen])
        assert np.array_equal(has, taken[chosen])
        return wmw(u, v, has, *rest)

    monkeypatch.setattr(als, "fit", fitting)
    monkeypatch.setattr("bench.als_influence.wmw", listening)
    list(replace(TINY, share=share, steps=2).candidates(data, targets, np.array([4, 4]),
                                                         Context(0)))
    assert heard == 2 + 2 * 3  # both candidates; of each fake user two steps and where they end


def test_the_next_fake_user_is_optimised_given_the_former(monkeypatch: pytest.MonkeyPatch) -> None:
    stood: list[Floats] = []

    class Watched(FakeRows):
        def __init__(self, values: Any, *rest: Any) -> None:
            stood.append(values.toarray())
            super().__init__(values, *rest)

    monkeypatch.setattr("bench.als_poison.FakeRows", Watched)
    data, taken, targets, users, items = tiny()
    attack, lengths, aim = replace(TINY, steps=6), [5, 5, 5], np.isin(np.arange(9), targets) * 1.0
    first, last = attack.candidates(data, targets, np.array(lengths), Context(0))
    made = rows_of(last.profiles)
    chosen = np.sort(most_influential(taken, users, items, targets)[:3])
    assert last.loss == pytest.approx(lost(chosen.tolist(), taken, made, targets))
    assert len(stood) == 3 * 6  # every gradient's matrix
    for n, rows in enumerate(stood):
        assert np.array_equal(rows, np.concatenate([taken, made[:n // 6]]))

    def in_turn(seen: bool) -> Floats:
        """Each with the former fake users' rows, or as if none existed."""
        there, at = taken, items
        for length, row in zip(lengths, rows_of(first.profiles), strict=True):
            now = csr_matrix(there if seen else taken)
            one, at = attack.learned(now, at, chosen, taken, aim, row[None], length)
            there = np.concatenate([there, one])
        return there[12:]

    assert np.array_equal(made, in_turn(True))
    assert (in_turn(False)[1] != in_turn(True)[1]).any()


# -- what the attacks do -----------------------------------------------------------------------

def standing(data: Dataset, attack: ProfileAttack, model: ALS, seed: int) -> tuple[float, float]:
    """Hit rate at 10 of the targets, and their mean score, after the attack."""
    ctx = Context(seed)
    made = build(model, attack.poison(data, ctx), ctx)
    made.fit(NoDefense(), lambda event: None)
    scores, targets = made.scores(torch.arange(data.n_genuine)), attack.pick(data, ctx)
    return target_hits(scores, clicks(data), targets, 10), float(scores[:, targets].mean())


SMOOTH = ALS(dim=4, reg=5.0)
RATED = ALS(dim=8, reg=1.0, feedback="explicit")


def test_sparsity_pulls_each_entry_towards_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that gains a little takes the place of one that gains nothing and is there."""
    taken = (np.random.default_rng(0).random((12, 9)) < 0.4).astype(float)
    aim, first = np.eye(9)[0], np.isin(np.arange(9), [0, 1, 2]).astype(float)[None]
    asked = []

    def slope(self: FakeRows, row: Floats, *rest: Any) -> Floats:
        asked.append(row)
        return -0.3 * np.eye(9)[[5]]

    monkeypatch.setattr(FakeRows, "slope", slope)
    start = als.start(9, 3, np.random.default_rng(1))
    for sparsity in (0.5, 2.0):
        asked.clear()
        InfluenceProfiles(steps=2, sparsity=sparsity, rate=0.1).learned(
            csr_matrix(taken), start, np.arange(12), taken, aim, first, 3)
        assert np.flatnonzero(asked[0]).tolist() == [0, 1, 2]
        assert np.flatnonzero(asked[1]).tolist() == [0, 1, 5]


@pytest.mark.parametrize(("attack", "model"), [
    (PgaProfiles(budget=0.1, targets=2, dim=4, reg=5.0, feedback="implicit"), SMOOTH),
    (InfluenceProfiles(budget=0.1, targets=2, dim=4, reg=5.0, steps=10), SMOOTH),
    (PgaProfiles(budget=0.1, targets=2, dim=8, reg=1.0, steps=20), RATED)])
def test_they_push_more_than_what_they_begin_with(data: Dataset, attack: Any,
                                                  model: ALS) -> None:
    hits = [[standing(data, replace(attack, steps=steps), model, seed)[0] for seed in (0, 1)]
            for steps in (0, attack.steps)]
    assert np.mean(hits[1]) > 1.2 * np.mean(hits[0])


def test_pga_nukes_by_low_ratings(data: Dataset) -> None:
    attack = PgaProfiles(goal="nuke", budget=0.1, targets=2, stratum="head", dim=8, reg=1.0)
    clean = build(RATED, data, Context(0))
    clean.fit(NoDefense(), lambda event: None)
    before = clean.scores(torch.arange(data.n_genuine))[:, attack.pick(data, Context(0))].mean()
    found, start = (standing(data, replace(attack, steps=s), RATED, 0) for s in (20, 0))
    assert found[1] < before - 0.1
    assert found[0] <= start[0]
    poisoned = attack.poison(data, Context(0))
    fake = poisoned.train[poisoned.train.users >= data.n_users]
    assert fake.ratings is not None
    assert (fake.ratings[np.isin(fake.items, attack.pick(data, Context(0)))] == 1).all()


def test_pga_steps_as_often_and_as_far_as_published() -> None:
    """T 10, s 0.2 and a width of 8 to 32; λ is not 0.05, and the docstring says why."""
    attack = PgaProfiles()
    assert (attack.steps, attack.rate) == (10, 0.2)
    assert 8 <= attack.dim <= 32
    assert attack.reg == ALS().reg
    assert "λ 0.05" in (PgaProfiles.__doc__ or "")


def test_where_pga_cannot_act(data: Dataset) -> None:
    implicit = Blocks(explicit=False).load()
    assert "has none" in (PgaProfiles(feedback="explicit").unfit(BPRMF(), implicit) or "")
    assert "low ratings" in (PgaProfiles(goal="nuke", feedback="implicit").unfit(BPRMF(), data)
                             or "")
    assert "low ratings" in (PgaProfiles(goal="nuke").unfit(BPRMF(), implicit) or "")
    with pytest.raises(InputError, match="cannot nuke"):
        InfluenceProfiles(goal="nuke")


def test_the_availability_utility_is_climbed(data: Dataset) -> None:
    """With it all but alone, what other items' scores drift by more than doubles."""
    for seed in (0, 1):
        ctx = Context(seed)
        PgaProfiles(budget=0.1, targets=1, dim=4, reg=5.0, availability=100.0).poison(data, ctx)
        losses = ctx.notes["target_loss"]
        assert losses["taken"] < 2 * losses["first"] < 0


@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_what_is_rated_low_is_taken_too(data: Dataset, feedback: str,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The availability utility runs over pairs outside of what the surrogate learned from. Users
    who dislike all that they rated are there as well."""
    ratings = data.train.ratings.copy()  # type: ignore[union-attr]
    ratings[data.train.users < 5] = 1.0
    rows = replace(data.train, ratings=ratings, labels=(ratings >= 3).astype(np.int8))
    split = {s: replace(getattr(data, s), labels=np.ones(len(getattr(data, s)), np.int8))
             for s in ("valid", "test")}
    seen = []

    def recording(users: Floats, items: Floats, clean: Floats, taken: Floats, *rest: Any) -> Any:
        seen.append(taken)
        return hybrid(users, items, clean, taken, *rest)

    monkeypatch.setattr("bench.als_poison.hybrid", recording)
    PgaProfiles(steps=1, dim=4, availability=1.0, feedback=feedback).poison(
        data.replace(train=rows, threshold=3.0, **split), Context(0))
    used = rows if feedback == "explicit" else rows.positives()
    wanted = np.zeros((data.n_users, data.n_items), bool)
    wanted[used.users, used.items] = True
    assert ((seen[0] > 0) == wanted[np.unique(rows.users)]).all()


def test_a_white_box_pga_takes_the_victims_parameters(data: Dataset) -> None:
    from bench.victim import Victim

    attack = PgaProfiles(knowledge="white", dim=5, reg=2.0, alpha=3.0)
    for model, wanted in ((ALS(dim=7, reg=4.0, alpha=6.0), (7, 4.0, 6.0)),
                          (BPRMF(), (5, 2.0, 3.0))):
        victim = Victim(model, NoDefense(), Context(0), lambda: pytest.fail("not needed"))
        assert attack._settings(Context(0, victim=victim), False) == wanted
    assert replace(attack, knowledge="gray")._settings(Context(0, victim=None), False)[0] == 5


def test_budgets_and_black_box(data: Dataset) -> None:
    for attack in (PgaProfiles(budget=0.05, length=9, targets=3, steps=2, dim=4, knowledge="black"),
                   InfluenceProfiles(budget=0.05, length=9, targets=3, steps=2, dim=4,
                                     knowledge="black")):
        poisoned = attack.poison(data, Context(0, victim=None))
        fake = poisoned.train[poisoned.train.users >= data.n_users]
        assert (np.bincount(fake.users - data.n_users) == 9).all()
