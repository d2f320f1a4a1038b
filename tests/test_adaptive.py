"""Profiles made against the defended pipeline: which disguise is kept, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from bench import adaptive
from bench.api import Context, Dataset, Defense, Profile
from bench.attacks.co_visitation_profiles import CoVisitationProfiles
from bench.attacks.love_hate_profiles import LoveHateProfiles
from bench.attacks.probe_profiles import ProbeProfiles
from bench.attacks.random_profiles import RandomProfiles
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.none import NoDefense
from bench.defenses.pca_filter import PcaFilter
from bench.errors import PluginError
from bench.models.als import ALS
from bench.models.base import Recommender
from bench.registry import Registry
from bench.stages import without_test
from bench.victim import Victim

VICTIM = ALS(dim=8, iterations=4, reg=1.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=80, items=60, length=14).load()


@pytest.fixture(autouse=True)
def small_surrogates(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SURROGATE", "RATING_SURROGATE"):
        known = getattr(adaptive, name)
        monkeypatch.setattr(adaptive, name, known | {"params": {
            "dim": 4, "epochs": 3, "batch_size": 256, "learning_rate": 0.02, "patience": 0}})


@dataclass(frozen=True)
class Watched(Victim):
    """A victim that notes what was trained."""

    def trained(self, data: Dataset, **how: Any) -> Recommender:
        self.ctx.notes.setdefault("trained", []).append((data, how))
        return super().trained(data, **how)


def context(defense: Defense | None = None, seed: int = 0) -> Context:
    def never() -> Recommender:
        raise AssertionError("nobody asked for the undefended model")

    return Context(seed, victim=Watched(VICTIM, defense or NoDefense(), Context(seed), never))


def trainings(ctx: Context) -> list[tuple[Dataset, dict[str, Any]]]:
    found: list[tuple[Dataset, dict[str, Any]]] = ctx.victim.ctx.notes["trained"]
    return found


def fakes(poisoned: Dataset) -> list[tuple[int, ...]]:
    n = poisoned.n_genuine
    return [tuple(poisoned.train.items[poisoned.train.users == u])
            for u in range(n, poisoned.n_users)]


@pytest.mark.parametrize("attack", [
    RandomProfiles(budget=0.1, adaptive=True, knowledge="white", tries=3),
    RandomProfiles(budget=0.1, adaptive=True, tries=3),
    LoveHateProfiles(budget=0.1, adaptive=True, tries=3)], ids=lambda a: a.label())
def test_the_best_of_those_tried_is_injected(data: Dataset, attack: RandomProfiles) -> None:
    ctx = context(PcaFilter())
    poisoned, targets = attack.poison(data, ctx), attack.pick(data, ctx)
    tried = [made for made, _ in trainings(ctx)]
    assert len(tried) == 3
    assert len({tuple(fakes(made)) for made in tried}) == 3
    ranks = [adaptive.standing(Victim.trained(ctx.victim, made, **how), tried[0], targets)
             for made, how in trainings(ctx)[:3]]
    assert len(set(ranks)) > 1
    best = int(np.argmin(ranks) if attack.goal == "push" else np.argmax(ranks))
    assert fakes(poisoned) == fakes(tried[best])
    assert list(ctx.notes["disguise"]["rank"].values()) == ranks
    assert ctx.notes["disguise"]["share"] == best / 2
    static = replace(attack, adaptive=False, knowledge="gray").poison(data, context())
    assert fakes(static) == fakes(tried[0])  # share 0 is the attack as it is
    assert [len(f) for f in fakes(poisoned)] == [len(f) for f in fakes(static)]


def test_a_gray_box_attacker_trains_a_surrogate_with_the_defense_and_never_the_model(
        data: Dataset) -> None:
    for attack, surrogate in ((RandomProfiles(adaptive=True, tries=2), "bprmf"),
                              (RandomProfiles(adaptive=True, tries=2, goal="nuke"), "rating-mf")):
        ctx = context(PcaFilter())
        attack.poison(data, ctx)
        assert [(how["model"].name, how["defended"]) for _, how in trainings(ctx)] == [
            (surrogate, True)] * 2
    ctx = context(PcaFilter())
    RandomProfiles(adaptive=True, tries=2, knowledge="white").poison(data, ctx)
    assert [how for _, how in trainings(ctx)] == [{"as_attacked": True}] * 2


class Cleans(Defense):
    """Drops fakes by name, on the attacked model alone."""

    name = "cleans"

    def unfit(self, model, data):  # type: ignore[no-untyped-def]
        return None if model.name == "als" else "it stands on als"

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        assert ctx.victim is None
        return data.without_users(np.arange(data.n_users) >= data.n_genuine)


def test_a_defense_that_the_surrogate_cannot_have_still_cleans(data: Dataset) -> None:
    ctx = context(Cleans())
    RandomProfiles(adaptive=True, tries=2).poison(data, ctx)
    for made, how in trainings(ctx):
        assert not how["defended"]
        assert (made.train.users < data.n_genuine).all()
    shares = ctx.notes["disguise"]
    assert shares["share"] == 0  # nothing helps: the least disguised
    assert len(set(shares["rank"].values())) == 1


class Serves(Defense):
    """Cleans nothing, and stands on the attacked model alone."""

    name = "serves"

    def unfit(self, model, data):  # type: ignore[no-untyped-def]
        return None if model.name == "als" else "it stands on als"


def test_who_meets_nothing_of_the_defense_is_not_called_adaptive(data: Dataset) -> None:
    """Where the surrogate can have nothing of it, the disguises are those without a defense."""
    attack = RandomProfiles(budget=0.1, adaptive=True, tries=3)
    assert fakes(attack.poison(data, context(Serves()))) == fakes(attack.poison(data, context()))
    assert "it stands on als" in str(attack.unseen(Serves(), data))
    for met in (NoDefense(), PcaFilter(), Cleans()):  # on the surrogate, or on the data
        assert attack.unseen(met, data) is None
    for other in (RandomProfiles(), RandomProfiles(adaptive=True, knowledge="white"),
                  ProbeProfiles(adaptive=True)):  # means not to; asks the pipeline; reads its lists
        assert other.unseen(Serves(), data) is None


@pytest.mark.parametrize("knowledge", ["gray", "black"])
def test_called_adaptive_is_who_trains_with_the_defense(data: Dataset, knowledge: str) -> None:
    """Of every defense that fits: what is said beforehand is what then happens, on what this
    attacker sees, who has no validation rows and, in black box, no attributes of users."""
    from bench.defense import Defense as Base

    registry, genders = Registry(), np.array(["f", "m"])[np.arange(data.n_users) % 2]
    whole = data.replace(user_attributes={"gender": genders})
    attack = RandomProfiles(budget=0.05, adaptive=True, tries=2, knowledge=knowledge, known=0.5)
    own: dict[str, Any] = {"group-dro": {"groups": "gender"},
                           "attribute-removal": {"attributes": ["gender"]}}
    surrogate, unmet = adaptive._surrogate_plugin(attack), set()
    for name in registry.names("defenses"):
        cls: Any = registry.get("defenses", name)
        params = {**cls.test_params(), **own.get(name, {})}
        defense: Any = registry.make("defenses", {"name": name, "params": params})
        if defense.unfit(surrogate, whole) is not None or cls.clean is not Base.clean:
            continue
        ctx = context(defense)
        reason = attack.unseen(defense, whole)
        if name not in ("user-fairness", "group-dro", "attribute-removal", "none"):
            assert reason is None, name  # asked, not trained: it looks at nothing that is hidden
            continue
        attack.poison(whole, ctx)
        assert [how["defended"] for _, how in trainings(ctx)] == [reason is None] * 2, name
        unmet |= {name} if reason else set()
    hidden = {"group-dro", "attribute-removal"} if knowledge == "black" else set()
    assert unmet == {"user-fairness"} | hidden


def test_who_knows_the_pipeline_lacks_its_validation_rows(data: Dataset) -> None:
    fair: Any = Registry().make("defenses", {"name": "user-fairness", "params": {"share": 0.3}})
    attack, bprmf = RandomProfiles(adaptive=True, knowledge="white"), adaptive._surrogate_plugin(
        RandomProfiles())
    assert fair.unfit(bprmf, data) is None
    assert "on train rows alone" in str(attack.unfit_defended(fair, bprmf, data))
    assert attack.unfit_defended(NoDefense(), bprmf, data) is None


@pytest.mark.parametrize("attack", [RandomProfiles(adaptive=True, tries=2, knowledge="white"),
                                    ProbeProfiles(adaptive=True, tries=2, rounds=1, known=0.3)],
                         ids=lambda a: a.name)
def test_nothing_but_what_is_seen_is_used(data: Dataset, attack: RandomProfiles) -> None:
    ctx = context()
    found = fakes(attack.poison(data, ctx))
    seen = attack._seen(data, ctx)
    asked = trainings(ctx)[-2:]  # the two disguises; a probe has trained before
    for made, _ in asked:
        real = made.train.users < data.n_genuine
        np.testing.assert_array_equal(made.train.items[real], seen.train.items)
        assert not len(made.valid) + len(made.test)
    swapped = data.replace(valid=data.test, test=data.valid)
    if attack.knowledge == "white":
        assert fakes(attack.poison(swapped, context())) == found
    else:  # the standing is that among known users, not among those without a row
        assert 0 < (seen.activity > 0).sum() < data.n_genuine / 2


def test_standing_by_hand(data: Dataset) -> None:
    class Fixed:
        ctx = Context(0)

        def evaluating(self):  # type: ignore[no-untyped-def]
            return torch.no_grad()

        def scores(self, users, split):  # type: ignore[no-untyped-def]
            assert split == "valid"
            made = torch.zeros(len(users), data.n_items)
            made[:, :6] = torch.tensor([5.0, 4, 3, 3, 1, 0])
            made[users == 0, 2] = 9.0
            return made

    rows = data.train[np.isin(data.train.users, [0, 1, 2, 3]) & (data.train.items > 5)]
    held = rows.plus(replace(rows[:1], users=np.array([3]), items=np.array([2])))
    some = data.replace(train=held)
    assert set(held.users) == {0, 1, 2, 3}
    # user 0: nothing above; users 1, 2: two above, one equal, itself equal; user 3 has it; all
    # others have no train row
    n = data.n_items
    expected = (0.5 / n + 2 * (2 + 0.5 * 2) / n) / 3
    assert adaptive.standing(Fixed(), some, np.array([2])) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_disguise_keeps_length_places_and_targets(data: Dataset, ordered: bool) -> None:
    rng, targets = np.random.default_rng(0), np.array([3, 50])
    items = np.r_[3, rng.choice(np.setdiff1d(np.arange(60), targets), 9, replace=False), 50]
    profile = Profile(items, rng.integers(1, 6, 11).astype(float), ordered)
    before = profile.items.copy(), profile.ratings.copy()
    seen, changed = data.replace(valid=data.valid[:0], test=data.test[:0]), []
    rated = {(u, i): r for u, i, r in zip(data.train.users, data.train.items,
                                          data.train.ratings, strict=True)}
    for share in (0.0, 1 / 3, 2 / 3, 1.0):
        made = adaptive._disguise(profile, share, seen, targets, Context(5), 0)
        assert len(np.unique(made.items)) == 11
        assert made.items[[0, 10]].tolist() == [3, 50]
        assert made.ordered is ordered
        moved = made.items != items
        np.testing.assert_array_equal(made.ratings[~moved], profile.ratings[~moved])
        changed.append({(int(i), float(r)) for i, r in zip(made.items[moved],
                                                           made.ratings[moved], strict=True)})
        owners = [u for u in range(80) if all(rated.get((u, i)) == r for i, r in changed[-1])]
        assert owners if changed[-1] else share == 0
    for some, more in pairwise(changed):
        assert some <= more
    rows = data.train[data.train.users == owners[0]]
    assert len(owners) == 1
    made = adaptive._disguise(profile, 1.0, seen, targets, Context(5), 0)
    assert np.isin(np.delete(made.items, [0, 10]), rows.items).all()  # nothing but a genuine user
    np.testing.assert_array_equal(profile.items, before[0])
    np.testing.assert_array_equal(profile.ratings, before[1])


def test_a_history_too_short_leaves_fillers(data: Dataset) -> None:
    profile = Profile(np.arange(40), np.full(40, 3.0))
    made = adaptive._disguise(profile, 1.0, data, np.array([0, 1]), Context(1), 0)
    assert len(np.unique(made.items)) == 40
    nobody = data.replace(train=data.train[:0])
    assert adaptive._disguise(profile, 1.0, nobody, np.array([0]), Context(1), 0) is profile


def test_order_survives_a_disguise(data: Dataset) -> None:
    attack = CoVisitationProfiles(length=10, adaptive=True, tries=2, budget=0.1)
    ctx = context()
    made = attack.poison(data, ctx)
    targets = attack.pick(data, ctx)
    rows = made.train[made.train.users >= data.n_genuine]
    for u in range(data.n_genuine, made.n_users):
        own = rows[rows.users == u]
        assert (np.diff(own.times) >= 0).all()
        assert np.isin(own.items, targets).tolist() == [False, True] * 5


def test_the_pipeline_must_be_known(data: Dataset) -> None:
    with pytest.raises(PluginError, match="attacked pipeline"):
        RandomProfiles(adaptive=True).poison(data, Context(0))


def test_pca_filter_stops_static_random_profiles_and_not_adaptive_ones() -> None:
    """On MovieLens-100K: of 28 fakes all are filtered, and none once the attacker has met it."""
    data, left = ML100K().load(), {}
    ctx = context(PcaFilter(), seed=0)
    for adapts in (False, True):
        attack = RandomProfiles(budget=0.03, adaptive=adapts, tries=2,
                                knowledge="white" if adapts else "gray")
        cleaned = PcaFilter().clean(without_test(attack.poison(data, ctx)), Context(0))
        left[adapts] = len(np.unique(cleaned.train.users[cleaned.train.users >= 943]))
    assert left == {False: 0, True: 28}
    assert ctx.notes["disguise"]["share"] == 1.0
