"""Certificates of voting ensembles: against all fake profiles, and against real attacks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from bench._contracts_defenses import neutral_is_none, runs
from bench._contracts_lab import Lab
from bench.api import Context, Dataset
from bench.attacks.bandwagon_profiles import BandwagonProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.certificates import binomial_bounds, certified_overlap, top_lists, untouched_share
from bench.datasets.blocks import Blocks
from bench.defense import Defense
from bench.defenses.subsample_ensemble import FAKES, SubsampleEnsemble
from bench.foldin import FoldIn, part
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.models.recbole import member

CTX = Context(0)


# -- the formula -------------------------------------------------------------------------------

@pytest.mark.parametrize(("n", "s", "e"), [(943, 300, 1), (10, 3, 4), (5, 5, 2), (7, 0, 3),
                                           (9, 4, 0)])
def test_the_share_of_subsets_without_a_fake_is_counted(n: int, s: int, e: int) -> None:
    assert untouched_share(n, s, e) == pytest.approx(math.comb(n, s) / math.comb(n + e, s))


def test_bounds_are_where_the_count_becomes_unlikely() -> None:
    lower, upper = binomial_bounds(30, 0.01)
    assert (lower[0], upper[30]) == (0, 1)
    for k in range(30):
        assert binom.cdf(k, 30, upper[k]) == pytest.approx(0.01)
        assert binom.sf(k, 30, lower[k + 1]) == pytest.approx(0.01)  # k + 1 or more


def largest_reach(outside: np.ndarray, c: int, picks: int, delta: float) -> float:
    """The most that the weakest of any c outsiders can have: by a linear program over where the
    poisoned members' votes go, for every choice of c outsiders."""
    from scipy.optimize import linprog

    best = -np.inf
    for chosen in itertools.combinations(outside, c):
        # maximise t with t ≤ δ p_j + (1 − δ) q_j, 0 ≤ q_j ≤ 1, Σ q ≤ picks
        rows = np.hstack([np.ones((c, 1)), -(1 - delta) * np.eye(c)])
        rows = np.vstack([rows, np.r_[0, np.ones(c)]])
        found = linprog(np.r_[-1, np.zeros(c)], A_ub=rows,
                        b_ub=np.r_[delta * np.array(chosen), picks],
                        bounds=[(None, None)] + [(0, 1)] * c)
        best = max(best, -found.fun)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_no_outsider_can_reach_more_by_linear_programming(seed: int) -> None:
    """The bound on the weakest of c outsiders is what an optimal distribution of votes attains."""
    rng = np.random.default_rng(seed)
    length, picks, delta = 3, int(rng.integers(1, 4)), float(rng.uniform(0.6, 0.95))
    outside = np.sort(rng.uniform(0, 0.4, 5))[::-1]
    inside = np.sort(rng.uniform(0, 1, 3))[::-1]
    expected = 0
    for r in range(1, length + 1):
        if delta * inside[r - 1] > largest_reach(outside, length - r + 1, picks, delta) + 1e-9:
            expected = r
    found = certified_overlap(inside[None], outside[None, :length], length, picks, delta)
    assert found[0] == expected


def test_without_fakes_the_whole_list_is_certain_where_it_is_strict() -> None:
    inside = np.array([[0.9, 0.5, 0.31], [0.9, 0.5, 0.3]])
    outside = np.array([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])
    assert certified_overlap(inside, outside, 3, 3, 1.0).tolist() == [3, 2]  # a tie is not strict


def test_where_there_are_too_few_others_nothing_can_push_out() -> None:
    inside = np.array([[0.2, 0.1, 0.0]])
    outside = np.array([[0.9, -1.0, -1.0]])  # one other item: two of three places are safe
    assert certified_overlap(inside, outside, 3, 3, 0.5).tolist() == [2]
    few = np.array([[0.9, -1.0, -1.0]])  # a set of one item
    assert certified_overlap(few, np.full((1, 3), 0.1), 3, 1, 0.99).tolist() == [1]


# -- all fake profiles on toys (CATALOGUE D10) ---------------------------------------------------

ITEMS, PICKS, LENGTH = 6, 2, 2
ALL = np.array(list(itertools.product([0, 1], repeat=ITEMS)))  # (64, items)


def shares(taken: np.ndarray, user: np.ndarray, subset: int) -> np.ndarray:
    """Exact p of every item for a user, over all subsets: the base scores an item by who took
    it, weighed by what they share with the user. taken (..., users, items) -> (..., items)."""
    n = taken.shape[-2]
    members = np.array([np.bincount(c, minlength=n)
                        for c in itertools.combinations(range(n), subset)])  # (subsets, users)
    weighed = (taken @ user)[..., None] * taken  # (..., users, items)
    scores = members @ weighed - 1e-3 * np.arange(ITEMS) - 1e3 * user  # (..., subsets, items)
    top = np.argsort(-scores, axis=-1)[..., :PICKS]
    votes = (top[..., None] == np.arange(ITEMS)).any(axis=-2)
    return votes.mean(axis=-2)


def worst_overlap(p: np.ndarray, kept: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Items of the list still in the top N after poisoning, ties against them: (profiles,)."""
    handicap = np.isin(np.arange(ITEMS), kept) * 1e-9 + 10 * user
    top = np.argsort(-(p - handicap), axis=-1)[..., :LENGTH]
    return np.isin(top, kept).sum(axis=-1)


def toy(seed: int, structured: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if structured:  # everybody has the user's items and the same two others
        taken = np.tile([1, 1, 1, 1, 0, 0], (30, 1))
        taken[:2, 2:] = rng.integers(0, 2, (2, 4))
        return taken, np.array([1, 1, 0, 0, 0, 0])
    taken = (rng.random((10, ITEMS)) < 0.5).astype(int)
    user = np.zeros(ITEMS, int)
    user[rng.choice(ITEMS, 2, replace=False)] = 1
    return taken, user


def certify(p: np.ndarray, user: np.ndarray, delta: float) -> tuple[int, np.ndarray]:
    eligible = np.flatnonzero(user == 0)
    order = eligible[np.argsort(-p[eligible], kind="stable")]
    kept, others = order[:LENGTH], order[LENGTH:]
    return int(certified_overlap(p[kept][None], p[others][None], LENGTH, PICKS, delta)[0]), kept


def brute_force(seeds: range, structured: bool, fakes: int, subset: int,
                delta: float | None = None) -> tuple[list[int], int]:
    """The certified number of each toy, and how often a profile beats one."""
    profiles = ALL if fakes == 1 else ALL[np.random.default_rng(0).integers(0, 64, (400, fakes))]
    profiles = profiles.reshape(-1, fakes, ITEMS)
    sure, violations = [], 0
    for seed in seeds:
        taken, user = toy(seed, structured)
        n = len(taken)
        p = shares(taken, user, subset)
        r, kept = certify(p, user, untouched_share(n, subset, fakes) if delta is None else delta)
        poisoned = np.concatenate([np.broadcast_to(taken, (len(profiles), *taken.shape)),
                                   profiles], axis=1)
        left = worst_overlap(shares(poisoned, user, subset), kept, user)
        sure.append(r)
        violations += int((left < r).sum())
    return sure, violations


def test_no_fake_profile_of_all_64_beats_the_certificate() -> None:
    """e = 1, N = 2; that it certifies something on these toys, and that all of the toys where
    everybody agrees are certified, shows that zero violations say something."""
    sure, violations = brute_force(range(150), False, 1, 2)
    assert violations == 0
    assert min(np.bincount(sure, minlength=3)) > 5  # r = 0, 1 and 2 all occur
    sure, violations = brute_force(range(20), True, 1, 2)
    assert violations == 0
    assert sure == [2] * 20


def test_no_pair_of_fake_profiles_beats_it() -> None:
    sure, violations = brute_force(range(12), False, 2, 2)
    assert violations == 0
    assert max(sure) > 0


def test_without_the_share_of_touched_subsets_profiles_do_beat_it() -> None:
    """Negative control: δ taken for 1, as if no fake user were ever drawn."""
    assert brute_force(range(40), False, 1, 2, delta=1.0)[1] > 0


# -- lists -------------------------------------------------------------------------------------

def test_equal_scores_are_ranked_by_the_order_given() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    assert top_lists(scores, 3).tolist() == [[3, 0, 1], [0, 1, 2]]
    assert top_lists(scores, 3, torch.tensor([2, 3, 0, 1])).tolist() == [[3, 2, 0], [0, 1, 2]]


# -- members score users they have not met -------------------------------------------------------

FOLDING = {"EASE": {}, "ItemKNN": {"k": 10}, "SLIMElastic": {}, "ADMMSLIM": {"k": 5},
           "MultiDAE": {"epochs": 2}, "MultiVAE": {"epochs": 2}, "RecVAE": {"epochs": 1}}


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Blocks(explicit=False).load()


@pytest.mark.parametrize("name", FOLDING)
def test_a_member_scores_its_own_users_as_the_model_trained_on_them(name: str,
                                                                    blocks: Dataset) -> None:
    plugin = member(name)(**FOLDING[name])
    users = np.arange(3, 60, 2)
    alone = build(plugin, part(blocks, users), CTX)
    alone.fit(Defense(), lambda event: None)
    folded = FoldIn(plugin, blocks, CTX).member(users, CTX)
    assert torch.allclose(folded.scores(torch.as_tensor(users)),
                          alone.scores(torch.arange(len(users))), atol=1e-5)


@pytest.mark.parametrize("name", FOLDING)
def test_a_member_knows_a_stranger_by_history_alone(name: str, blocks: Dataset) -> None:
    """Two strangers with the same rows get the same scores, which differ from another's; what
    other strangers did changes nothing."""
    plugin = member(name)(**FOLDING[name])
    users = np.arange(20, 60)
    rows = blocks.train
    twin = rows[rows.users == 1]
    twin = twin.__class__(users=np.zeros_like(twin.users), items=twin.items, times=twin.times)
    data = blocks.replace(train=rows[rows.users != 0].plus(twin))
    asked = torch.tensor([0, 1, 2])
    found = FoldIn(plugin, data, CTX).member(users, CTX).scores(asked).clone()
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert not torch.allclose(found[0], found[2])
    gone = data.replace(train=data.train[(data.train.users < 3) | (data.train.users >= 20)])
    again = FoldIn(plugin, gone, CTX).member(users, CTX).scores(asked)
    assert torch.allclose(found, again, atol=1e-6)


def test_who_cannot_is_refused_with_a_reason(blocks: Dataset) -> None:
    ask = SubsampleEnsemble(users=20).unfit
    assert "BPR is not known to do that" in ask(member("BPR")(), blocks)
    assert "not known" in ask(BPRMF(), blocks)
    assert "users that were trained on" in ask(member("ItemKNN")(knn_method="user"), blocks)
    assert "cannot be drawn" in SubsampleEnsemble(users=61).unfit(member("EASE")(), blocks)
    assert ask(member("EASE")(), blocks) is None
    assert SubsampleEnsemble(members=0).unfit(BPRMF(), blocks) is None


# -- the defense -------------------------------------------------------------------------------

def trained(data: Dataset, name: str = "EASE") -> Recommender:
    model = build(member(name)(), data, CTX)
    model.fit(Defense(), lambda event: None)
    return model


def test_scores_are_shares_of_members_lists(blocks: Dataset) -> None:
    """Against a slow recount: each member trained apart, its best unknown items counted."""
    defense = SubsampleEnsemble(members=6, users=25, picks=4)
    served = defense.harden(trained(blocks), blocks, CTX)
    found = served.scores(torch.arange(60)).numpy()
    folding = FoldIn(member("EASE")(), blocks, CTX)
    known = blocks.known("test")
    expected = np.zeros((60, 48))
    for b in range(6):
        one = folding.member(defense.subset(60, b, CTX), CTX).scores(torch.arange(60)).numpy()
        for u in range(60):
            one[u, known.items[known.users == u]] = -np.inf
            expected[u, np.argsort(-one[u])[:4]] += 1 / 6
    assert np.allclose(found, expected)
    assert np.allclose(found.sum(axis=1), 4)


def test_subsets_are_of_the_size_asked_and_added_users_change_few() -> None:
    defense = SubsampleEnsemble(users=30)
    before, after = defense.subset(100, 3, CTX), defense.subset(101, 3, CTX)
    assert len(before) == len(set(before.tolist())) == 30
    assert len(np.intersect1d(before, after)) >= 29
    counts = np.bincount(np.concatenate([defense.subset(40, b, CTX) for b in range(400)]))
    assert abs(counts / 400 - 0.75).max() < 0.12  # everybody is drawn equally often


@pytest.fixture(scope="module")
def crowd() -> Dataset:
    return Blocks(users=150, items=24, noise=0.02, length=6, explicit=False).load()


ROBUST = SubsampleEnsemble(members=150, users=20, picks=1, length=3)


def ensemble(data: Dataset) -> object:
    return ROBUST.harden(trained(data), data.replace(test=data.test[:0]), CTX)


def served_lists(model: object, data: Dataset) -> np.ndarray:
    """Items served to the genuine users: bool (users, items)."""
    return model.served(torch.arange(data.n_genuine), 3)[1].numpy()  # type: ignore[attr-defined]


def test_attacks_never_beat_the_certificate(crowd: Dataset) -> None:
    """Fake profiles are added and all members trained again: whoever keeps fewer items than
    were certified would refute it."""
    from bench.certificates import ranked

    clean = ensemble(crowd)
    users = torch.arange(crowd.n_genuine)
    votes, chosen, known = clean.served(users, 3)
    lower, upper = clean.bounds
    before = served_lists(clean, crowd)
    for fakes in (1, 4):
        sure = certified_overlap(ranked(lower[votes], chosen, 3),
                                 ranked(upper[votes], ~chosen & ~known, 3), 3, 1,
                                 untouched_share(150, 20, fakes))
        assert sure.mean() > 0.3  # it says something
        for attack in (RandomProfiles, BandwagonProfiles):
            poisoned = attack(budget=fakes / 150, targets=2).poison(crowd, CTX)
            assert poisoned.n_fake == fakes
            after = served_lists(ensemble(poisoned), poisoned)
            assert ((before & after).sum(axis=1) >= sure).all()


def test_facts_fall_with_fakes_and_stay_below_what_is_served(crowd: Dataset) -> None:
    from bench.evaluate import evaluate

    served = ensemble(crowd)
    facts = ROBUST.served_facts(served)
    assert (facts["members"], facts["users_each"], facts["users_of"]) == (150, 20, 150)
    values = {m: v for m, _, v in evaluate(served, crowd, ["hr@3", "recall@3"]).values}
    for key, most in (("certified_items", 3.0), ("certified_hr@3", values["hr@3"]),
                      ("certified_recall@3", values["recall@3"])):
        by_fakes = list(facts[key].values())
        assert list(facts[key]) == [str(e) for e in FAKES]
        assert by_fakes == sorted(by_fakes, reverse=True)
        assert 0 < by_fakes[0] <= most
    blind = served.base.data
    served.base.data = blind.replace(test=blind.test[:0])
    try:
        assert "certified_hr@3" not in ROBUST.served_facts(served)
    finally:
        served.base.data = blind


def test_the_certificate_by_hand_on_data_that_are_poisoned_already(crowd: Dataset) -> None:
    """What is inside counts by its lower bound, what is outside by its upper, and subsets are of
    all users at hand."""
    data = RandomProfiles(budget=0.1, targets=2).poison(crowd, CTX)
    assert data.n_users == 165
    served = ensemble(data)
    votes = served.votes(torch.arange(150), "test")  # type: ignore[attr-defined]
    lower, upper = (bound.numpy() for bound in served.bounds)  # type: ignore[attr-defined]
    chosen, taken = served_lists(served, data), data.known("test")
    known = np.zeros((165, 24), bool)
    known[taken.users, taken.items] = True
    facts = served.certificate((0, 2), 3)  # type: ignore[attr-defined]
    for e in (0, 2):
        delta = math.comb(165, 20) / math.comb(165 + e, 20)
        sure = []
        for u in range(150):
            inside = np.sort(lower[votes[u, chosen[u]]])[::-1]
            outside = np.sort(upper[votes[u, ~chosen[u] & ~known[u]]])[::-1][:3]
            sure.append(certified_overlap(inside[None], outside[None], 3, 1, delta)[0])
        assert facts["certified_items"][str(e)] == pytest.approx(np.mean(sure))
    assert 0 < facts["certified_items"]["2"] < facts["certified_items"]["0"]


def test_without_members_the_model_itself_is_served(blocks: Dataset) -> None:
    model = trained(blocks)
    none = SubsampleEnsemble(members=0)
    assert none.harden(model, blocks, CTX) is model
    assert none.served_facts(model) == {}


def test_another_split_hides_what_is_known_there_alone(blocks: Dataset) -> None:
    defense = SubsampleEnsemble(members=4, users=25, picks=48)
    served = defense.harden(trained(blocks), blocks, CTX)
    users = torch.arange(60)
    for split in ("valid", "test"):
        known = blocks.known(split)
        scores = served.scores(users, split)
        assert (scores[known.users, known.items] == 0).all()
        assert int((scores == 0).sum()) == len(known)  # everything else is picked


class EaseLab(Lab):
    """The contracts' bench with a model that this defense can act on."""

    def model_plugin(self):  # type: ignore[no-untyped-def]
        return member("EASE")()


@pytest.mark.parametrize("check", [neutral_is_none, runs])
def test_contracts_hold_on_a_model_that_folds_in(check) -> None:  # type: ignore[no-untyped-def]
    check(EaseLab("defenses", SubsampleEnsemble))
