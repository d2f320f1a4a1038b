"""Membership and attribute inference: against brute force, against chance, and against DP."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset
from bench.attacks.attribute_inference import AttributeInference
from bench.attacks.lira import LiRA, likelihood_ratio
from bench.attacks.membership_scores import MembershipScores
from bench.attacks.shadow_user_membership import ShadowUserMembership
from bench.datasets.blocks import Blocks
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.none import NoDefense
from bench.errors import CannotActError
from bench.inference import _alike, held_out_pairs, matched_pairs
from bench.models.base import Recommender, build
from bench.models.bprmf import BPRMF
from bench.registry import Registry
from bench.roc import auc, clopper_pearson, highest_fpr, measured, tpr_at
from bench.serving import folded_in, released_scores, served
from bench.stages import Prepared, prepare, under_attack
from bench.victim import Victim

OVERFIT = BPRMF(dim=32, epochs=150, batch_size=256, learning_rate=0.05, patience=0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=80, items=120, length=20).load()


def context(data: Dataset, plugin: Any, defense: Any = None, seed: int = 0) -> Context:
    return Context(seed, victim=Victim(plugin, defense or NoDefense(), Context(seed),
                                       lambda: pytest.fail("not asked for")))


def trained(plugin: Any, data: Dataset, defense: Any = None, seed: int = 0) -> Recommender:
    made = build(plugin, data, Context(seed))
    made.fit(defense or NoDefense(), lambda event: None)
    return made


def attack(plugin: Any, victim: Any, data: Dataset, defense: Any = None, seed: int = 0
           ) -> dict[str, float]:
    ctx = context(data, victim, defense, seed)
    prepared = prepare(data, plugin if plugin.trains else None, defense or NoDefense(), ctx)
    model = trained(victim, prepared.train, defense, seed)
    with under_attack(plugin, model, prepared, ctx) as struck:
        return struck.privacy


# -- figures -----------------------------------------------------------------------------------

def test_auc_and_tpr_by_counting() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40) / 2, rng.integers(0, 9, 60) / 2
    by_hand = np.mean([(m > o) + 0.5 * (m == o) for m in members for o in others])
    assert auc(members, others) == pytest.approx(by_hand)
    for rate in (0.0, 0.05, 0.2, 1.0):
        best = max(float((members > c).mean()) for c in [-1.0, *others, *members]
                   if (others > c).mean() <= rate)
        assert tpr_at(members, others, rate)[0] == pytest.approx(best)


def test_clopper_pearson_by_the_binomial() -> None:
    from scipy.stats import binom

    for hits, n in ((0, 20), (3, 20), (20, 20)):
        low, high = clopper_pearson(hits, n)
        if hits:
            assert binom.sf(hits - 1, n, low) == pytest.approx(0.025, abs=1e-6)
        if hits < n:
            assert binom.cdf(hits, n, high) == pytest.approx(0.025, abs=1e-6)
    assert clopper_pearson(0, 20)[0] == 0.0


@pytest.mark.parametrize(("rate", "allowed"), [(0.001, 0), (0.01, 1), (0.0199, 2), (0.02, 3)])
def test_at_most_this_rate_is_no_more_than_it(rate: float, allowed: int) -> None:
    """Of 150 non-members .1 % is nobody, and 1 % one: a half does not become a whole."""
    others = np.arange(150.0)
    rate_of_members, cut = tpr_at(np.array([*(149.5, 148.5, 147.5, 146.5)]), others, rate)
    assert int((others > cut).sum()) == allowed
    assert allowed <= rate * 150 + 1e-9
    assert rate_of_members == min(1 + allowed, 4) / 4
    assert highest_fpr(rate, 150) == clopper_pearson(allowed, 150)[1]


def test_the_interval_covers_and_the_proven_epsilon_is_a_bound() -> None:
    rng = np.random.default_rng(1)
    is_member, owners = np.arange(600) % 2 == 0, np.arange(600) // 4
    covered, proven = 0, []
    for n in range(20):
        scores = rng.normal(size=600) + 0.5 * is_member
        found = measured(scores, is_member, owners, np.random.default_rng(n), draws=200)
        truth = 0.5 * (1 + math.erf(0.5 / 2))  # Φ(d′/√2)
        covered += found["mia-auc-low"] <= truth <= found["mia-auc-high"]
        blind = measured(rng.normal(size=600), is_member, owners, np.random.default_rng(n), 50)
        proven.append(blind["mia-epsilon"])
    assert covered >= 16
    assert max(proven) < 0.8  # nothing is proven about scores that know nothing


# -- candidates --------------------------------------------------------------------------------

def test_candidates_are_balanced_and_popularity_tells_nothing(data: Dataset) -> None:
    drawn, is_member = matched_pairs(data, 400, Context(0))
    assert abs(int(is_member.sum()) - int((~is_member).sum())) == 0
    rows = {(u, i) for part in (data.train, data.valid, data.test)
            for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)}
    train = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    pairs = list(zip(drawn.users.tolist(), drawn.items.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert all((p in train) == m for p, m in zip(pairs, is_member.tolist(), strict=True))
    assert all(m or p not in rows for p, m in zip(pairs, is_member.tolist(), strict=True))
    left = drawn.background.train
    assert not train & set(pairs) & set(zip(left.users.tolist(), left.items.tolist(),
                                            strict=True))
    popular = data.popularity[drawn.items] - is_member  # what others took
    assert abs(auc(popular[is_member].astype(float), popular[~is_member].astype(float)) - 0.5) < .08
    assert len(drawn.added(np.ones(len(pairs), bool)).train) == len(left) + len(pairs)


def rows_of(data: Dataset, users: list[int], items: list[int]) -> Dataset:
    """The data with these train rows alone."""
    n = len(users)
    rows = dataclasses.replace(data.train[np.zeros(n, int)], users=np.array(users),
                               items=np.array(items))
    return data.replace(train=rows, valid=data.valid[:0], test=data.test[:0])


@pytest.mark.parametrize("draw", [matched_pairs, held_out_pairs])
def test_who_judges_candidates_is_handed_no_test_row(data: Dataset, draw: Any) -> None:
    candidates, _ = draw(data, 100, Context(0))
    assert len(data.test)
    assert not len(candidates.background.test)
    assert len(candidates.background.valid) == len(data.valid)


def test_a_members_own_row_counts_in_no_popularity(data: Dataset) -> None:
    """Half of the items are taken by five users and half by four. A member that five took was
    taken by four others, and so its partner by four: never by five, of which its own user is
    none."""
    taken = [(user, item) for item in range(data.n_items)
             for user in np.random.default_rng(item).permutation(data.n_users)[:4 + item % 2]]
    even = rows_of(data, *map(list, zip(*taken, strict=True)))
    drawn, is_member = matched_pairs(even, 200, Context(0))
    assert set(even.popularity[drawn.items[is_member]]) == {4, 5}
    assert set(even.popularity[drawn.items[~is_member]]) == {4}


def test_users_who_are_judged_as_members_are_as_active_as_the_others(data: Dataset) -> None:
    """Each is the nearest of those still free, and none is among those held out."""
    rng = np.random.default_rng(0)
    active = rng.permutation(np.arange(data.n_users)) + 2
    uneven = rows_of(data, np.repeat(np.arange(data.n_users), active).tolist(),
                     np.concatenate([np.arange(n) for n in active]).tolist())
    outside = np.flatnonzero(active > 62)[:20]  # the most active: others are unlike them
    away = np.concatenate([outside, np.arange(5)])
    chosen = _alike(uneven, outside, away, Context(0))
    free = set(range(data.n_users)) - set(away.tolist())
    assert len(chosen) == len(outside)
    for user, partner in zip(outside, chosen.tolist(), strict=True):
        apart = {u: abs(int(active[u]) - int(active[user])) for u in free}
        assert apart[partner] == min(apart.values())
        free.remove(partner)


@pytest.mark.parametrize("plugin", [LiRA(shadows=2, candidates=60),
                                    ShadowUserMembership(held_out=0.4),
                                    ShadowUserMembership(held_out=0.4, reads="released")],
                         ids=["lira", "lists", "released"])
def test_no_training_of_an_attacker_sees_a_test_row(
        data: Dataset, monkeypatch: pytest.MonkeyPatch, plugin: Any) -> None:
    """Neither the model that it trains nor the defense that cleans its data; the data that it is
    handed to evaluate on has some."""
    import bench.models.base as base

    seen: dict[str, list[int]] = {"model": [], "defense": []}

    class Watching(NoDefense):
        """Notes what it is shown; no paper."""

        def clean(self, given, ctx):  # type: ignore[no-untyped-def]
            seen["defense"].append(len(given.test))
            return given

    victim = BPRMF(dim=4, epochs=1)
    ctx = context(data, victim, Watching())
    prepared = prepare(data, plugin if plugin.trains else None, NoDefense(), ctx)
    model = trained(victim, prepared.train)
    assert len(prepared.genuine.test)
    make = base.build

    def building(kind: Any, given: Dataset, ctx: Context) -> Recommender:
        seen["model"].append(len(given.test))
        return make(kind, given, ctx)

    monkeypatch.setattr(base, "build", building)
    with under_attack(plugin, model, prepared, ctx):
        pass
    assert seen["model"]
    assert set(seen["model"]) | set(seen["defense"]) == {0}


def test_the_victims_training_is_blind_whatever_it_is_given(data: Dataset) -> None:
    given: Any = context(data, OVERFIT).victim
    made: Any = given.trained(data, model=BPRMF(dim=4, epochs=1))
    assert len(data.test)
    assert not len(made.data.test)
    assert len(made.data.train) == len(data.train)


def test_order_of_the_candidates_says_nothing(data: Dataset) -> None:
    _, is_member = matched_pairs(data, 400, Context(0))
    place = np.arange(len(is_member)).astype(float)
    assert abs(auc(place[is_member], place[~is_member]) - 0.5) < 0.1


# -- attacks -----------------------------------------------------------------------------------

def test_overfit_models_tell_and_untrained_ones_do_not(data: Dataset) -> None:
    found = attack(MembershipScores(candidates=400), OVERFIT, data)
    assert found["mia-auc-low"] > 0.7
    still = build(OVERFIT, data, Context(0))
    prepared = Prepared(data, data, data, None)
    with under_attack(MembershipScores(candidates=400), still, prepared,
                      context(data, OVERFIT)) as struck:
        assert struck.privacy["mia-auc-low"] <= 0.5 <= struck.privacy["mia-auc-high"]


def test_rank_and_margin_agree_on_who_is_in(data: Dataset) -> None:
    assert attack(MembershipScores(candidates=400, statistic="rank"), OVERFIT,
                  data)["mia-auc"] > 0.7


def test_the_likelihood_ratio_by_hand() -> None:
    from scipy.stats import norm

    found = np.array([[1.0, 0.0], [3.0, 1.0], [-1.0, 4.0], [0.0, 6.0]])
    inside = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    observed = np.array([1.8, 0.7])
    sd_in = math.sqrt(((1 - 2)**2 + (3 - 2)**2 + (4 - 5)**2 + (6 - 5)**2) / 2)
    sd_out = math.sqrt((0.5**2 * 2 + 0.5**2 * 2) / 2)
    by_hand = [norm.logpdf(1.8, 2, sd_in) - norm.logpdf(1.8, -0.5, sd_out),
               norm.logpdf(0.7, 5, sd_in) - norm.logpdf(0.7, 0.5, sd_out)]
    assert likelihood_ratio(observed, found, inside) == pytest.approx(by_hand)
    assert by_hand[0] > 0 > by_hand[1]  # high means member


def test_lira_finds_members_and_is_not_misled_by_taste(data: Dataset) -> None:
    """Train on a random half of the candidates. The score alone ranks what a user likes above
    what was trained on; the likelihood ratio ranks by membership."""
    victim = BPRMF(dim=16, epochs=12, batch_size=512, learning_rate=0.03, patience=0)
    lira = LiRA(candidates=300, shadows=16)
    drawn, liked = matched_pairs(data, 300, Context(0))
    inside = np.random.default_rng(3).permutation(np.arange(len(liked)) < len(liked) // 2)
    model, ctx = trained(victim, drawn.added(inside)), context(data, victim)
    by_taste, by_membership = {}, {}
    for plugin in (MembershipScores(candidates=300), lira):
        scores = plugin.judge(model, drawn, ctx)
        by_taste[plugin.name] = auc(scores[liked], scores[~liked])
        by_membership[plugin.name] = auc(scores[inside], scores[~inside])
    assert by_membership["lira"] > by_membership["membership-scores"]
    assert by_membership["lira"] > 0.8
    assert abs(by_taste["lira"] - 0.5) < abs(by_taste["membership-scores"] - 0.5)


def test_each_candidate_is_in_half_of_the_shadows(data: Dataset,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Dataset] = []

    def shadow(self: Victim, data: Dataset, **more: Any) -> Recommender:
        seen.append(data)
        return build(OVERFIT, data, Context(int(more["seed"])))

    monkeypatch.setattr(Victim, "trained", shadow)
    attack(LiRA(candidates=60, shadows=6), OVERFIT, data)
    drawn, _ = matched_pairs(data, 60, Context(0))
    keys = drawn.users * data.n_items + drawn.items
    held = sum(np.isin(keys, d.train.users * data.n_items + d.train.items).astype(int)
               for d in seen)
    assert (held == 3).all()


def test_nothing_of_users_outside_is_trained_on(data: Dataset) -> None:
    """Nor do their validation rows decide when training stops."""
    plugin = ShadowUserMembership(held_out=0.4, dim=8, k=5)
    outside, _ = plugin._groups(data, Context(0))
    kept = plugin.before_training(data, Context(0))
    assert len(outside) >= 10
    assert np.isin(outside, data.valid.users).any()
    for part in (kept.train, kept.valid):
        assert len(part)
        assert not np.isin(part.users, outside).any()


def test_users_outside_are_told_by_popular_lists(data: Dataset) -> None:
    found = attack(ShadowUserMembership(held_out=0.5, dim=16, k=8), OVERFIT, data)
    assert found["mia-auc"] > 0.6


def test_folded_in_users_are_served_by_their_history() -> None:
    data = Blocks(users=80, items=60, length=12).load()
    plugin: Any = Registry().make("models", {"name": "EASE", "params": {}})
    assert ShadowUserMembership(serving="fold-in", held_out=0.5).unfit(plugin, data) is None
    away = np.zeros(data.n_users, bool)
    away[:30] = True
    model = trained(plugin, data.without_users(away))
    full = folded_in(model, plugin, data, Context(0))
    users = torch.arange(30)
    with torch.no_grad():
        inside, outside = full.scores(users, "valid"), model.scores(users, "valid")
    assert float(inside.std(dim=1).min()) > 0
    assert float(outside.abs().max()) == 0.0
    held = attack(ShadowUserMembership(held_out=0.5, dim=8, k=8, serving="fold-in"), plugin, data)
    shown = attack(ShadowUserMembership(held_out=0.5, dim=8, k=8), plugin, data)
    assert shown["mia-auc"] > held["mia-auc"] - 0.05


def test_a_model_without_histories_cannot_fold_in(data: Dataset) -> None:
    reason = ShadowUserMembership(serving="fold-in").unfit(OVERFIT, data)
    assert reason is not None
    assert "cannot serve" in reason
    assert "reads: released" in reason


@pytest.mark.parametrize("mode", ["oue", "k-rr"])
def test_members_are_what_users_took_and_not_what_a_defense_made_of_it(data: Dataset, mode: str
                                                                       ) -> None:
    """The model remembers every row that it was given, and these are answers at random."""
    noisy: Any = Registry().make("defenses", {"name": "randomised-response", "params": {
        "mode": mode, "answer_epsilon": 1.0}})
    found = attack(MembershipScores(candidates=400), OVERFIT, data, noisy)
    assert found["mia-auc"] < 0.65


def test_positives_held_out_are_told_by_membership_alone(data: Dataset) -> None:
    """A model that never saw a candidate tells what users like from what they do not, and tells
    nothing of candidates that were all liked."""
    drawn, is_member = held_out_pairs(data, 400, Context(0))
    pairs = list(zip(drawn.users.tolist(), drawn.items.tolist(), strict=True))
    train = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == 400
    assert set(pairs) <= train
    assert is_member.sum() == 200
    plugin = MembershipScores(candidates=400, non_members="held-out")
    assert plugin.trains
    kept = plugin.before_training(data, Context(0)).train
    left = set(zip(kept.users.tolist(), kept.items.tolist(), strict=True))
    assert all((p in left) == m for p, m in zip(pairs, is_member.tolist(), strict=True))
    assert len(kept) == len(data.train) - 200
    assert (np.bincount(drawn.users) <= data.activity[:len(np.bincount(drawn.users))] / 2).all()
    popular = data.popularity[drawn.items].astype(float)
    assert abs(auc(popular[is_member], popular[~is_member]) - 0.5) < 0.08

    unseen = trained(OVERFIT, drawn.background)
    scores = plugin.judge(unseen, drawn, context(data, OVERFIT))
    assert abs(auc(scores[is_member], scores[~is_member]) - 0.5) < 0.08
    free, liked = matched_pairs(data, 400, Context(0))
    blind = trained(OVERFIT, free.background)
    scores = plugin.judge(blind, free, context(data, OVERFIT))
    assert auc(scores[liked], scores[~liked]) > 0.58  # taste, without one member seen


def test_only_candidates_alike_prove_an_epsilon(data: Dataset) -> None:
    assert "mia-epsilon" not in attack(MembershipScores(candidates=400), OVERFIT, data)
    held = attack(MembershipScores(candidates=400, non_members="held-out"), OVERFIT, data)
    assert held["mia-epsilon"] > 1.0  # whoever promised 1 would be found out
    shown = attack(ShadowUserMembership(held_out=0.5, dim=8, k=8), OVERFIT, data)
    assert "mia-epsilon" not in shown  # it tells who was served popular items


def test_privacy_bounds_what_membership_finds_in_what_is_released(data: Dataset) -> None:
    """TPR ≤ e^ε · FPR + δ of the item vectors, and less than without privacy. The scores that a
    user is served are made with the user's own row, which the promise leaves out."""
    defense = DpSgd(epsilon=0.2, sample_rate=0.2, accountant="rdp")
    victim = BPRMF(dim=16, epochs=15, batch_size=512, learning_rate=0.03, patience=0)
    plugin = MembershipScores(candidates=800, non_members="held-out", reads="released")
    bare = attack(plugin, OVERFIT, data)
    assert bare["mia-auc-low"] > 0.5
    found = attack(plugin, victim, data, defense)
    for rate in (0.001, 0.01):
        low = found[f"mia-tpr@{100 * rate:g}%fpr-low"]
        assert low <= math.exp(0.2) * highest_fpr(rate, 400) + 1e-5
    assert found["mia-auc"] < bare["mia-auc"]
    assert found["mia-auc-low"] <= 0.5 + 0.05
    assert found["mia-epsilon"] <= 0.2
    served_by_it = attack(MembershipScores(candidates=800, non_members="held-out"), victim, data,
                          defense)
    assert served_by_it["mia-epsilon"] > 0.2


def test_scores_of_what_is_released_read_no_row_of_a_user(data: Dataset) -> None:
    model = trained(OVERFIT, data)
    users = np.arange(data.n_genuine)
    made = released_scores(model, users, data)
    with torch.no_grad():
        next(t for t in model.tables().values() if t.role == "user").weight.normal_()
    assert np.array_equal(made, released_scores(model, users, data))
    took = np.zeros_like(made, bool)
    took[data.train.users, data.train.items] = True
    assert made[took].mean() > made[~took].mean() + made.std()


BY_VECTORS = ShadowUserMembership(held_out=0.6, reads="released")


@pytest.fixture(scope="module")
def many() -> Dataset:
    return Blocks(users=200, items=120, length=20).load()


def test_item_vectors_alone_tell_which_users_were_trained_on(many: Dataset) -> None:
    """Without privacy they do, and whoever promised ε 1 would be found out; of vectors that were
    never trained nothing can be read."""
    found = attack(BY_VECTORS, OVERFIT, many)
    assert found["mia-auc-low"] > 0.9
    assert found["mia-epsilon"] > 1.0
    frozen = dataclasses.replace(OVERFIT, epochs=1, learning_rate=1e-12)
    still = attack(BY_VECTORS, frozen, many)
    assert still["mia-auc-low"] <= 0.5 <= still["mia-auc-high"]
    assert still["mia-epsilon"] == 0.0


@pytest.mark.parametrize("name", ["dp-sgd", "sparse-dp-sgd", "dpals"])
def test_central_privacy_bounds_membership_of_whole_users(many: Dataset, name: str) -> None:
    """TPR ≤ e^ε FPR + δ, of whole users: what the promise of these is about."""
    victim: Any = BPRMF(dim=16, epochs=15, batch_size=512, learning_rate=0.03, patience=0)
    defense: Any = NoDefense()
    if name == "dpals":
        victim = Registry().make("models", {"name": "dpals", "params": {"epsilon": 0.2}})
    else:
        defense = Registry().make("defenses", {"name": name, "params": {
            "epsilon": 0.2, "sample_rate": 0.2, "accountant": "rdp"}})
    assert BY_VECTORS.unfit(victim, many) is None
    found = attack(BY_VECTORS, victim, many, defense)
    for rate in (0.001, 0.01):
        low = found[f"mia-tpr@{100 * rate:g}%fpr-low"]
        assert low <= math.exp(0.2) * highest_fpr(rate, 60) + 1e-5
    assert found["mia-auc-low"] <= 0.5 + 0.05
    assert found["mia-epsilon"] <= 0.2


class Liar(DpSgd):
    """Says what it spends and adds no noise."""

    name = "liar"

    def wrap(self, loop: Any) -> Any:
        run = super().wrap(loop)
        run.__self__.noise_like = lambda key, p: p.new_zeros(p.shape)
        return run


def test_a_promise_about_users_that_is_not_kept_is_flagged(many: Dataset, tmp_path: Path) -> None:
    from synthetic_run import SyntheticRun, spec

    from bench._cells import load
    from bench.flags import find
    from bench.leaderboard import build as built

    victim = BPRMF(dim=32, epochs=40, batch_size=256, learning_rate=0.05, patience=0)
    threat = {**dataclasses.asdict(BY_VECTORS.threat_model())}
    for cls, broken in ((DpSgd, False), (Liar, True)):
        defense = cls(epsilon=1.0, sample_rate=0.5, clip=100.0, accountant="rdp")
        ctx = context(many, victim, defense)
        prepared = prepare(many, BY_VECTORS, defense, ctx)
        model = build(victim, prepared.train, Context(0))
        fit = model.fit(defense, lambda event: None)
        with under_attack(BY_VECTORS, model, prepared, ctx) as struck:
            privacy = {**struck.privacy, **defense.spent(fit)}
            facts = {**struck.facts, "training": fit.notes}
        assert privacy["epsilon"] <= 1.0
        run = SyntheticRun(tmp_path / cls.name, users=30, seeds=(0,))
        run.add(spec("bprmf"), spec(cls.name, epsilon=1.0), spec("none"))
        run.add(spec("bprmf"), spec(cls.name, epsilon=1.0), spec("shadow-user-membership"),
                threat, facts=facts, privacy=privacy)
        fired = [f for f in find(built(load(run.finish()), draws=20)) if f.code == "dp-bound"]
        assert bool(fired) is broken, privacy


@pytest.mark.parametrize(("name", "covered"), [("MultiVAE", True), ("SASRec", True),
                                               ("EASE", False)])
def test_lists_of_models_without_users_rows_are_made_of_what_is_released(
        name: str, covered: bool) -> None:
    """EASE releases nothing by steps that could be noised; what it is no promise covers."""
    small = Blocks(users=60, items=40, length=12).load()
    settings = {"epochs": 1, "patience": 0} if covered else {}
    plugin: Any = Registry().make("models", {"name": name, "params": settings})
    for serving in ("fold-in", "popular"):
        made = ShadowUserMembership(held_out=0.5, dim=8, k=5, serving=serving)
        ctx = context(small, plugin)
        prepared = prepare(small, made, NoDefense(), ctx)
        with under_attack(made, trained(plugin, prepared.train), prepared, ctx) as struck:
            assert struck.facts["reads"] == (
                "released" if covered and serving == "fold-in" else "own")


def test_item_vectors_are_judged_without_any_row_of_a_user(many: Dataset) -> None:
    ctx = context(many, OVERFIT)
    prepared = prepare(many, BY_VECTORS, NoDefense(), ctx)
    model = trained(OVERFIT, prepared.train)
    with under_attack(BY_VECTORS, model, prepared, ctx) as struck:
        one, facts = struck.privacy, struck.facts
    with torch.no_grad():
        next(t for t in model.tables().values() if t.role == "user").weight.normal_()
    with under_attack(BY_VECTORS, model, prepared, ctx) as struck:
        assert struck.privacy == one
    assert facts["members"] == facts["non_members"] == 60
    assert facts["exchangeable"]
    assert BY_VECTORS.threat_model().knowledge == "white"
    reason = BY_VECTORS.unfit(Registry().make("models", {"name": "EASE", "params": {}}), many)
    assert "no vectors of items" in (reason or "")


def test_lists_hold_nothing_that_the_user_took(data: Dataset) -> None:
    """A list longer than what is left of the catalogue ends there."""
    model, rows = trained(OVERFIT, data), data.train
    users = np.arange(20)
    lists = served(model, OVERFIT, data, users, users >= 10, "popular", data.n_items, Context(0))
    took = set(zip(rows.users.tolist(), rows.items.tolist(), strict=True))
    assert not any((u, i) in took for u in users.tolist() for i in lists[u].tolist())
    prepared = Prepared(data, data, data, None)
    shown = AttributeInference(source="lists", k=data.n_items)._features(model, prepared, users)
    assert not any((u, i) in took for u, i in zip(*(x.tolist() for x in shown.nonzero()),
                                                  strict=True))


# -- attributes --------------------------------------------------------------------------------

def test_what_is_in_the_history_is_found_and_what_is_not_is_not(data: Dataset) -> None:
    block = np.array([f"b{u % 4}" for u in range(data.n_genuine)], object)
    rng = np.random.default_rng(0)
    told = data.replace(user_attributes={**data.user_attributes, "block": block,
                                         "coin": rng.permutation(np.repeat(["x", "y"], 40))})
    for source in ("vectors", "lists", "history"):
        found = attack(AttributeInference(attribute="block", source=source, permutations=3),
                       OVERFIT, told)
        assert found["attribute-auc-low"] > 0.8, source
        assert abs(found["attribute-floor"] - 0.5) < 0.1
    rare = told.replace(user_attributes={"rare": np.array(["x"] * 75 + ["y"] * 5, object)})
    with pytest.raises(CannotActError, match="fewer than two groups by rare"):
        attack(AttributeInference(attribute="rare"), OVERFIT, rare)
    coin = attack(AttributeInference(attribute="coin", permutations=3), OVERFIT, told)
    assert coin["attribute-auc-low"] < 0.6
    reason = AttributeInference(attribute="shoe size").unfit(OVERFIT, data)
    assert reason is not None
