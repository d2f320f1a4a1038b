"""User-oriented fairness: the program against HiGHS and brute force, and what it is solved on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.attacks.random_profiles import RandomProfiles
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.defenses.user_fairness import UserFairness
from bench.errors import PluginError
from bench.fairness import most_active
from bench.models._simple import RandomScores
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.rerank_fair import FairLists, solve, worth

CTX = Context(0)


def task(users: int = 60, n: int = 12, seed: int = 0):
    """Scores, best first, and gains that are larger for one side."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.random((users, n)), axis=1)
    side = np.where(np.arange(users) < users // 4, 1, 0)
    side[-3:] = -1
    gains = rng.random((users, n)) * np.where(side == 1, 0.2, 0.1)[:, None]
    return scores, gains * np.linspace(1, 0.2, n), side


def gap_of(places, gains, side):
    of = np.take_along_axis(gains, places, axis=1).sum(axis=1)
    return of[side == 1].mean() - of[side == 0].mean()


def highs(scores, gains, side, length, eps):
    """The relaxed program as a general solver has it: the optimum."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    users, n = scores.shape
    e = np.zeros(scores.shape)
    for which, sign in ((1, 1.0), (0, -1.0)):
        e[side == which] = sign * gains[side == which] / (side == which).sum()
    rows = csr_matrix((np.ones(users * n), (np.arange(users * n) // n, np.arange(users * n))))
    done = linprog(-scores.ravel(), A_ub=np.stack([e.ravel(), -e.ravel()]), b_ub=[eps, eps],
                   A_eq=rows, b_eq=np.full(users, length), bounds=(0, 1), method="highs")
    return None if done.status == 2 else -done.fun


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.05, 0.15, 1.0])
def test_the_optimum_is_that_of_a_general_solver_but_for_one_users_list(eps, seed):
    scores, gains, side = task(seed=seed)
    found = solve(scores, gains, side, 4, eps)
    best = highs(scores, gains, side, 4, eps)
    mine = np.take_along_axis(scores, found.places, axis=1).sum()
    assert best - 1.0 < mine < best + 0.05  # whole lists: one user's list is not mixed
    share = gains.max() / (side == 1).sum()
    assert abs(gap_of(found.places, gains, side)) <= max(eps, share if eps == 0 else eps) + 1e-12
    assert abs(found.after[0] - found.after[1]) == \
        pytest.approx(abs(gap_of(found.places, gains, side)))
    assert all(len(set(row)) == 4 for row in found.places.tolist())
    assert (np.diff(found.places, axis=1) > 0).all()  # in the order of the scores


def test_of_all_whole_lists_it_finds_one_of_the_best():
    """With an eps of half of what one exchange can change, as the bound asks."""
    for seed in range(3):
        scores, gains, side = task(users=5, n=5, seed=seed)
        side = np.array([1, 1, 0, 0, 0])
        eps = gains.max() / 2 / 2
        pairs = np.array(list(itertools.combinations(range(5), 2)))
        worths = [[of[u, pairs].sum(axis=1) for u in range(5)] for of in (scores, gains)]
        totals, gaps = (np.zeros(1), np.zeros(1))  # of all 10^5 choices
        for u in range(5):
            share = 1 / 2 if side[u] == 1 else -1 / 3
            totals = (totals[:, None] + worths[0][u]).ravel()
            gaps = (gaps[:, None] + share * worths[1][u]).ravel()
        allowed = totals[np.abs(gaps) <= eps]
        found = solve(scores, gains, side, 2, eps)
        assert abs(gap_of(found.places, gains, side)) <= eps
        mine = np.take_along_axis(scores, found.places, axis=1).sum()
        assert allowed.max() - 0.6 < mine <= allowed.max() + 1e-12


def test_within_eps_nothing_changes_and_users_of_no_group_never_do():
    scores, gains, side = task()
    plain = solve(scores, gains, side, 4, math.inf)
    assert (plain.places == np.arange(4)).all()
    assert plain.before == plain.after
    tight = solve(scores, gains, side, 4, 0.001)
    assert (tight.places[side == -1] == np.arange(4)).all()
    assert (tight.places != plain.places).any()


def test_a_gap_that_no_lists_close_is_refused():
    scores, gains, side = task()
    gains[side == 0] = 0.0
    assert highs(scores, gains, side, 4, 1e-4) is None
    with pytest.raises(PluginError, match="allow more candidates"):
        solve(scores, gains, side, 4, 1e-4)


def test_the_metric_is_linear_in_hits():
    hits = np.array([[1.0, 0, 1, 0, 0]])
    assert worth(hits, 5, np.array([3.0]), "precision").sum() == pytest.approx(2 / 5)
    assert worth(hits, 5, np.array([3.0]), "recall").sum() == pytest.approx(2 / 3)
    p, r = 2 / 5, 2 / 3
    assert worth(hits, 5, np.array([3.0]), "f1").sum() == pytest.approx(2 * p * r / (p + r))


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    """An advantaged fifth: they take what is popular in their block, with many rows."""
    data = Blocks(users=200, items=80, length=20, noise=0.3).load()
    keep = (data.train.users < 40) | (np.arange(len(data.train)) % 3 == 0)
    return data.replace(train=data.train[keep])


@pytest.fixture(scope="module")
def model(blocks) -> Recommender:
    made = build(BPRMF(dim=8, epochs=20, batch_size=256, learning_rate=0.02, patience=0), blocks,
                 CTX)
    made.fit(NoDefense(), lambda event: None)
    return made


def hardened(defense: UserFairness, model: Recommender, data: Dataset) -> FairLists:
    found = defense.harden(model, data.replace(test=data.test[:0]), CTX)
    assert isinstance(found, FairLists)
    return found


@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_the_constraint_holds_on_the_data_it_was_solved_on(blocks, model, metric):
    defense = UserFairness(share=0.2, eps=0.002, metric=metric, candidates=40)
    served = hardened(defense, model, blocks)
    facts = defense.served_facts(served)[f"expected_{metric}"]
    assert facts["gap"]["before"] > 0.01
    assert facts["gap"]["after"] <= 0.002
    places = served.solution().places
    assert places.shape == (200, 10)
    assert all(len(set(row)) == 10 for row in places.tolist())


def test_served_lists_are_the_solutions_and_new_to_their_users(blocks, model):
    served = hardened(UserFairness(share=0.2, candidates=40), model, blocks)
    scores = served.scores(torch.arange(200)).numpy().copy()
    known = blocks.known("test")
    scores[known.users, known.items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    items, _ = served._candidates("test")
    assert (top == np.take_along_axis(items, served.solution().places, axis=1)).all()


def test_test_labels_change_nothing(blocks, model):
    test = Interactions(blocks.test.users, (blocks.test.items + 7) % 80, blocks.test.ratings,
                        blocks.test.times)
    lists = [UserFairness(share=0.2).harden(model, data, CTX).solution().places
             for data in (blocks, blocks.replace(test=test), blocks.replace(test=test[:0]))]
    assert (lists[0] == lists[1]).all()
    assert (lists[0] == lists[2]).all()


def test_the_expected_metric_is_near_the_real_one_on_validation(blocks, model):
    """The regression is fitted there: it must know what each group gets."""
    from bench.evaluate import evaluate

    defense = UserFairness(share=0.2, eps=1e9, metric="precision")
    served = hardened(defense, model, blocks)
    found = evaluate(model, blocks, ["precision@10"], split="valid")
    side = defense.sides(blocks)[[blocks.user_ids.index(u) for u in found.users["user"]]]
    for which, said in zip((1, 0), served.solution("valid").before, strict=True):
        assert said == pytest.approx(found.users["precision@10"][side == which].mean(), rel=0.1)


def test_lists_are_made_anew_under_a_perturbation(blocks, model):
    served = hardened(UserFairness(share=0.2), model, blocks)
    before = served.scores(torch.arange(200))
    delta = {"user": torch.randn(200, 8, generator=torch.Generator().manual_seed(0))}
    with model.perturbed(delta):
        served.forget()
        assert not torch.equal(before, served.scores(torch.arange(200)))
    served.forget()
    assert torch.equal(before, served.scores(torch.arange(200)))


def test_groups_and_refusals(blocks):
    side = most_active(blocks, 0.2)
    assert (side == 1).sum() == 40
    assert (np.flatnonzero(side) == np.arange(40)).all()
    fakes = Interactions(np.repeat(np.arange(2), 30), np.tile(np.arange(30), 2),
                         np.full(60, 5.0), np.zeros(60))
    assert most_active(blocks.with_fakes(fakes, 2), 0.01).nonzero()[0].tolist() == [200, 201]
    assert UserFairness(share=0.2).unfit(Pop(), blocks) is None
    assert "3 values" in UserFairness(attribute="age").unfit(Pop(), blocks)
    assert "validation split" in UserFairness().unfit(Pop(), blocks.replace(
        valid=blocks.valid[:0]))
    neutral, model = UserFairness(eps=math.inf), RandomScores(blocks, CTX)
    assert neutral.unfit(Pop(), blocks.replace(valid=blocks.valid[:0])) is None
    assert neutral.harden(model, blocks, CTX) is model
    assert neutral.served_facts(model) == {}


def test_fakes_that_fill_the_group_leave_the_lists_as_they_are(blocks):
    """Nobody of it has a validation row, so that nothing says what its lists are worth."""
    defense = UserFairness(share=0.09, candidates=40)  # as many as there are fakes
    attack = RandomProfiles(budget=0.1, length=30)
    poisoned = attack.poison(blocks, CTX)
    plugin = BPRMF(dim=8, epochs=3, batch_size=256, learning_rate=0.02, patience=0)
    base = build(plugin, poisoned, CTX)
    base.fit(NoDefense(), lambda event: None)
    served = hardened(defense, base, poisoned)
    assert (served.side[blocks.n_genuine:] == 1).all()
    everybody = torch.arange(blocks.n_genuine)
    assert served.blank()
    lists = [served.best(m.scores(everybody).detach(), everybody, "test")[0][:, :10]
             for m in (base, served)]
    assert torch.equal(*lists)
    assert "nobody of one group" in defense.served_facts(served)["lists"]
    assert not hardened(UserFairness(share=0.3, candidates=40), base, poisoned).blank()
