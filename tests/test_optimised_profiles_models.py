"""dl-attack-profiles, aush-profiles, leg-up-profiles and clear-profiles: their formulas by hand,
gradients at every parameter, and what the profiles look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.api import ModelPlugin, Profile, ProfileAttack
from bench.attacks.aush_profiles import AushProfiles
from bench.attacks.clear_profiles import ClearProfiles
from bench.attacks.dl_attack_profiles import DlAttackProfiles, likeness
from bench.attacks.leg_up_profiles import LegUpProfiles, leg_up_loss
from bench.attacks.random_profiles import RandomProfiles
from bench.context import Context
from bench.data import Dataset, Floats
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import CannotActError, InputError, PluginError
from bench.generators import Rounding, fillers, layers, learn, rated, step
from bench.graph_surrogate import Graph, LightGCN, above, flattened, top_share
from bench.models.als import ALS
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.models.rating_mf import RatingMF
from bench.profiles import RatingModel
from bench.surrogates import WMF, Adam, clicks, target_hits
from bench.unrolled import Inner

TARGETS = np.array([3, 11])
EIGHT = np.full(8, 12)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=120, items=80, length=18).load()


def rows_of(made: list[Profile], data: Dataset) -> Floats:
    found = np.zeros((len(made), data.n_items))
    for row, profile in zip(found, made, strict=True):
        row[profile.items] = 1.0
    return found


# -- dl-attack ---------------------------------------------------------------------------------

DL = DlAttackProfiles(dim=8, epochs=30, steps=8)


def test_without_diversity_profiles_are_identical_and_with_it_less_alike(data: Dataset) -> None:
    """CATALOGUE B12."""
    once = replace(DL, retrain=0, diversity=1.0)
    rows = rows_of(once.profiles(data, TARGETS, EIGHT, Context(0)), data)
    assert (rows == rows[0]).all()
    assert likeness(rows) == 1
    alike = [likeness(rows_of(replace(DL, retrain=0, diversity=d).profiles(
        data, TARGETS, EIGHT, Context(0)), data)) for d in (1.0, 0.9, 0.5)]
    assert alike[0] > alike[1] > alike[2]
    again = [likeness(rows_of(replace(DL, diversity=d).profiles(
        data, TARGETS, EIGHT, Context(0)), data)) for d in (1.0, 0.5)]
    assert again[0] > again[1] + 0.1  # trained anew for each fake user


def test_chances_begin_again_when_every_item_was_chosen(data: Dataset) -> None:
    """With δ all but 0 an item comes again only when all others have been there."""
    lengths = np.full(9, 2 + 26)  # 78 free items: three profiles take them all
    made = replace(DL, retrain=0, diversity=1e-9).profiles(data, TARGETS, lengths, Context(0))
    rows = np.delete(rows_of(made, data), TARGETS, axis=1)
    for first in (0, 3, 6):
        assert (rows[first:first + 3].sum(axis=0) == 1).all()
    assert (rows[0] == rows[3]).all()


def test_what_was_chosen_more_often_begins_again_with_the_rest(data: Dataset) -> None:
    """Two profiles of 40 take all 78 free items, the best two twice; after that all are alike, and
    the third profile is the first again."""
    made = replace(DL, retrain=0, diversity=1e-9).profiles(data, TARGETS, np.full(4, 2 + 40),
                                                           Context(0))
    rows = np.delete(rows_of(made, data), TARGETS, axis=1)
    assert np.sort(rows[:2].sum(axis=0)).tolist() == [1] * 76 + [2] * 2
    assert (rows[2:] == rows[:2]).all()


def test_the_poison_term_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.5, -1.0, 0.0, 3.0], [9.0, 1.0, 0.0, -1.0, 0.2],
                           [0.0, 1.0, 2.0, 3.0, 4.0]])
    x = torch.zeros(3, 5)
    x[0, 4] = 1  # taken: not in the list
    x[2, 3] = 1  # user 2 has the target
    attack = DlAttackProfiles(cutoff=2, margin=0.7)

    def log(s: float) -> float:
        return -np.log1p(np.exp(-s))

    # lists: user 0: items 0, 1; user 1: items 0, 1. Target 3, and target 0 which leads.
    wanted = max(log(0.5) - log(0.0), -0.7) + max(log(1.0) - log(-1.0), -0.7)
    found = attack.poison_loss(scores, x, np.array([3]))
    assert float(found) == pytest.approx(wanted / 2, rel=1e-5)
    led = attack.poison_loss(scores[1:2], x[1:2], np.array([0]))
    assert float(led) == pytest.approx(max(log(1.0) - log(9.0), -0.7), rel=1e-4)
    tight = replace(attack, margin=0.1).poison_loss(scores[1:2], x[1:2], np.array([0]))
    assert float(tight) == pytest.approx(-0.1)


def test_steps_of_the_poison_loss_raise_the_targets(data: Dataset) -> None:
    x, kind, adam = clicks(data), WMF(8, logistic=True), Adam(0.05)
    params = kind.start(len(x), data.n_items, torch.Generator().manual_seed(0))
    before, after = (target_hits(kind.scores(DL.poisoned(params, x, len(x), kind, adam, TARGETS, s),
                                             x), x, TARGETS, 10) for s in (0, 30))
    assert after > before


# -- exposure ----------------------------------------------------------------------------------

CHOICES = ALS(dim=4, reg=5.0)
RATINGS = RatingMF(dim=8, epochs=40, batch_size=256, learning_rate=0.02, patience=0)


def exposure(data: Dataset, attack: ProfileAttack, train: Dataset, seed: int,
             model: ModelPlugin = CHOICES) -> tuple[float, float]:
    """Hit rate at 10 of the attack's targets, and their mean place, with this data."""
    ctx = Context(seed)
    made = build(model, train, ctx)
    made.fit(NoDefense(), lambda event: None)
    x, targets = clicks(data), attack.pick(data, ctx)
    with torch.no_grad():
        scores = made.scores(torch.arange(data.n_genuine))
    return target_hits(scores, x, targets, 10), above(scores, x, torch.from_numpy(targets))


@pytest.mark.parametrize("attack", [
    DlAttackProfiles(budget=0.1, targets=2, dim=8, epochs=30),
    ClearProfiles(budget=0.1, targets=2, dim=8, epochs=30, cutoff=10, steps=3),
    AushProfiles(budget=0.1, targets=2, steps=10, hidden=16),
    LegUpProfiles(budget=0.1, targets=2, steps=3, pretrain=40, hidden=16, dim=8, epochs=20)])
def test_targets_rise(data: Dataset, attack: ProfileAttack) -> None:
    clean = [exposure(data, attack, data, seed)[1] for seed in (0, 1)]
    after = [exposure(data, attack, attack.poison(data, Context(s)), s)[1] for s in (0, 1)]
    assert np.mean(after) < np.mean(clean) - 0.03


# -- generators --------------------------------------------------------------------------------

def histograms(rows: Tensor) -> Floats:
    """Share of each rating 0 (none) to 5 for each item, (items, 6)."""
    return np.stack([(rows == r).double().mean(dim=0).numpy() for r in range(6)], axis=1)


def distances(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Total variation and Jensen–Shannon distance, means over items."""
    p, q = histograms(real), histograms(fake)
    middle = (p + q) / 2

    def divergence(a: Floats) -> Floats:
        ratio = np.divide(a, middle, out=np.ones_like(a), where=a > 0)
        found: Floats = (a * np.log(ratio)).sum(axis=1)
        return found

    return (float(np.abs(p - q).sum(axis=1).mean() / 2),
            float((divergence(p) + divergence(q)).mean() / 2))


def fake_ratings(data: Dataset, attack: ProfileAttack, seed: int) -> Tensor:
    poisoned = attack.poison(data, Context(seed))
    return rated(poisoned)[data.n_users:]


@pytest.mark.parametrize("attack", [
    AushProfiles(budget=0.5, targets=2, steps=10, hidden=16),
    LegUpProfiles(budget=0.5, targets=2, steps=3, hidden=16, dim=8, epochs=20)])
def test_profiles_are_closer_to_genuine_ones_than_random_ones(data: Dataset,
                                                              attack: ProfileAttack) -> None:
    """CATALOGUE B13: TVD and JS of the items' rating histograms."""
    real = rated(data)
    ours = distances(real, fake_ratings(data, attack, 0))
    random = distances(real, fake_ratings(data, RandomProfiles(budget=0.5, targets=2), 0))
    assert ours[0] < random[0]
    assert ours[1] < random[1]


@pytest.mark.parametrize(("attack", "margin"), [
    (AushProfiles(targets=2, steps=10, hidden=16), -0.03),
    (LegUpProfiles(targets=2, steps=20, hidden=16, dim=8), 0.05)])
def test_targets_fare_no_worse_than_with_the_templates_alone(data: Dataset, margin: float,
                                                             attack: ProfileAttack) -> None:
    """CATALOGUE B13, on a model of ratings: against the genuine rows that were copied, targets
    added, nothing learned. Leg-UP gains; AUSH, which optimises against no recommender, is even
    within what three seeds can tell."""
    ours, plain = [], []
    for seed in (0, 1, 2):
        ctx = Context(seed)
        targets = attack.pick(data, ctx)
        made = attack.profiles(data, targets, np.full(6, 14), ctx)
        bare = []
        for fake, profile in enumerate(made):
            if isinstance(attack, AushProfiles):  # without the selected items
                selected = attack.partners(data, targets, np.full(6, 14))
                keep = ~np.isin(profile.items, selected)
                assert profile.ratings is not None
                bare.append(Profile(profile.items[keep], profile.ratings[keep]))
            else:  # with the template's own ratings
                assert isinstance(attack, LegUpProfiles)
                row = attack.template(rated(data), targets, np.full(6, 14), ctx,
                                      RatingModel(data))[fake].double().numpy()
                row[targets] = 5.0
                bare.append(Profile(profile.items, row[profile.items]))
        for rates, profiles in ((ours, made), (plain, bare)):
            rates.append(exposure(data, attack, attack.with_profiles(data, profiles, ctx), seed,
                                  RATINGS)[0])
    assert np.mean(ours) >= np.mean(plain) + margin


def test_aush_selects_what_is_liked_with_the_targets(data: Dataset) -> None:
    chosen = AushProfiles(selected=0.25).partners(data, TARGETS, EIGHT)
    assert len(chosen) == 3
    assert not np.isin(chosen, TARGETS).any()
    assert (chosen % 4 == TARGETS[0] % 4).all()  # of the targets' block: items i and i + 4
    for length, count in ((3, 1), (4, 1), (40, 4)):  # one at least, even where no filler fits
        assert len(AushProfiles().partners(data, TARGETS, np.full(8, length))) == count


def test_aush_learns_where_a_profile_has_room_for_one_item(data: Dataset) -> None:
    ctx = Context(0)
    made = AushProfiles(steps=30, hidden=16, rate=0.05).profiles(data, TARGETS, np.full(4, 3), ctx)
    assert all(len(p.items) == 3 for p in made)
    assert ctx.notes["target_loss"]["taken"] < ctx.notes["target_loss"]["first"]
    assert "no room" in (AushProfiles(length=2, targets=2).unfit(RATINGS, data) or "")


def test_ratings_that_look_like_none_are_refused(data: Dataset) -> None:
    """0 means no rating in a generator's matrix: on a scale from 0, rows would vanish."""
    low = data.replace(rating_scale=(0.0, 5.0))
    for attack in (AushProfiles(), LegUpProfiles()):
        assert attack.unfit(RATINGS, data) is None
        assert "takes a rating of 0 or less for none" in (attack.unfit(RATINGS, low) or "")


def test_an_attacker_who_knows_nothing_to_learn_from_says_so(data: Dataset) -> None:
    nobody = data.train[:0]
    for attack in (AushProfiles(), LegUpProfiles(), ClearProfiles(), DL):
        with pytest.raises(CannotActError, match="knows nobody who liked anything"):
            attack.profiles(data.replace(train=nobody), TARGETS, EIGHT, Context(0))
    everybody = data.replace(train=replace(data.train, items=np.resize(TARGETS, len(data.train))))
    with pytest.raises(CannotActError, match="without the targets"):
        LegUpProfiles().profiles(everybody, TARGETS, EIGHT, Context(0))


def test_aush_rates_selected_items_higher_the_longer_it_learns(data: Dataset) -> None:
    """The shilling term pulls to r_max; fillers keep the genuine user's ratings."""
    losses, real = [], rated(data).numpy()
    for steps in (0, 3, 30):
        ctx = Context(0)
        made = AushProfiles(steps=steps, hidden=16).profiles(data, TARGETS, EIGHT, ctx)
        chosen = AushProfiles().partners(data, TARGETS, EIGHT)
        assert made[0].ratings is not None
        rates = np.concatenate([p.ratings[np.isin(p.items, chosen)] for p in made])
        losses.append(float(((5 - rates)**2).mean()))
        for profile in made:
            rest = ~np.isin(profile.items, [*TARGETS, *chosen])
            same = (real[:, profile.items[rest]] == profile.ratings[rest]).all(axis=1)
            assert same.any()
    assert losses[0] > losses[2]


def test_every_parameter_of_the_generators_gets_a_gradient(data: Dataset) -> None:
    """Through rounding, masking, the surrogate's training and L_RS, for leg-up; through the
    sigmoid and the loss, for aush. With the rounding detached, none comes."""
    scale, x = RatingModel(data), rated(data)
    attack = LegUpProfiles(hidden=16, dim=8, epochs=20, unroll=20)
    generator = attack.generator(data.n_items, scale)
    template = attack.template(x, TARGETS, EIGHT, Context(0), scale)
    kind = WMF(8, weight=1.0, other=0.0)
    start = kind.start(len(x) + 8, data.n_items, torch.Generator().manual_seed(0))
    inner = Inner(kind, start, 20, Adam(0.05), 20)

    def harm(fake: Tensor) -> Tensor:
        poisoned = torch.cat([x, fake]) / 5
        params = inner.trained(poisoned, 20)
        return leg_up_loss(5 * kind.scores(params, poisoned)[:len(x)], x, TARGETS)

    harm(generator(template) * (template > 0)).backward()  # type: ignore[no-untyped-call]
    for parameter in generator.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.1)
    with pytest.raises((PluginError, RuntimeError), match=r"no gradient|does not require grad"):
        learn(harm((generator(template) * (template > 0)).detach()), optimizer, "leg-up")
    small = layers([data.n_items, 16, data.n_items], nn.Sigmoid)
    ((5 - 5 * torch.sigmoid(small(x)))**2).mean().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.any()) for p in small.parameters())


@pytest.mark.parametrize("attack", [
    AushProfiles(steps=2, hidden=8),
    LegUpProfiles(steps=4, pretrain=1, turn=2, judge_steps=1, hidden=8, dim=4, epochs=12)])
def test_generator_and_discriminator_pull_opposite_ways(data: Dataset, attack: ProfileAttack,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """D tells genuine profiles (up) from generated ones (down); G has its own go up. What each
    loss wants of what D said is seen in its slope."""
    said: list[Tensor] = []
    wants = {"judge": set[float](), "generator": set[float]()}

    def recorded(sizes: list[int], activation: type[nn.Module]) -> nn.Sequential:
        made = layers(sizes, activation)
        if sizes[-1] == 1:
            made.register_forward_hook(lambda _, __, out: said.append(out))
        return made

    def learning(loss: Tensor, optimizer: torch.optim.Optimizer, who: str) -> float:
        key = "judge" if len(said) == 2 else "generator"
        for number, out in enumerate(said):
            (slope,) = torch.autograd.grad(loss, out, retain_graph=True)
            signs = slope.sign().unique().tolist()
            assert signs == ([1.0] if key == "judge" and number else [-1.0])
            wants[key].update(signs)
        said.clear()
        return learn(loss, optimizer, who)

    monkeypatch.setattr("bench.generators.layers", recorded)
    monkeypatch.setattr("bench.generators.learn", learning)
    attack.profiles(data, TARGETS, EIGHT, Context(0))
    assert wants == {"judge": {1.0, -1.0}, "generator": {-1.0}}


def test_a_parameter_without_gradient_is_an_error() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([used, unused], lr=0.1)
    with pytest.raises(PluginError, match="parameter 1 of shape \\(3,\\) gets no gradient"):
        learn(used.sum(), optimizer, "mine")
    learn(used.sum() + unused.sum(), optimizer, "mine")


def test_rounding_counts_thresholds_and_learns_them() -> None:
    rounding = Rounding(3, 1.0, 1.0, 5)
    assert torch.allclose(rounding.thresholds(), torch.tensor([1.0, 2, 3, 4]).expand(3, 4),
                          atol=1e-3)
    values = torch.tensor([[0.2, 1.5, 4.7], [2.4, 3.3, -1.0]])
    assert rounding(values).tolist() == [[1, 2, 5], [3, 4, 1]]
    rounding(values).sum().backward()  # type: ignore[no-untyped-call]
    assert rounding.first.grad is not None
    assert (rounding.first.grad < 0).all()  # a higher threshold, a lower rating
    half = Rounding(1, 0.5, 0.5, 10)
    assert half(torch.tensor([[0.0], [0.7], [9.0]])).flatten().tolist() == [0.5, 1.0, 5.0]


def test_the_step_is_hard_and_its_gradient_that_of_tanh() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 0.3], requires_grad=True)
    made = step(x, 2.0)
    assert made.tolist() == [0, 0, 0, 1]
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.allclose(x.grad, 1 - torch.tanh(2 * x.detach())**2, atol=1e-5)


def test_leg_ups_loss_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 1.0, 1.0, 1.0], [0.0, 0.0, 9.0, 0.0]])
    x = torch.zeros(3, 4)
    x[2, 2] = 4.0  # user 2 has the target
    wanted = [np.log(np.exp(3) + np.exp(2)) - 2,  # items scored below the target do not count
              np.log(np.exp(5) + 3 * np.exp(1)) - 1]
    assert float(leg_up_loss(scores, x, np.array([2]))) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_fillers_are_of_the_row_and_not_barred() -> None:
    rows = (torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) < 0.4).float() * 3
    made = fillers(rows, TARGETS, 7, np.random.default_rng(0))
    assert (made.sum(dim=1) == 7).all()
    assert not bool(made[rows == 0].any())
    assert not bool(made[:, torch.from_numpy(TARGETS)].any())
    everything = fillers(rows, TARGETS, 40, np.random.default_rng(0))
    assert (everything.sum(dim=1) < 40).all()


def test_budgets_where_no_genuine_user_is_as_long(data: Dataset) -> None:
    for attack in (AushProfiles(steps=1, hidden=8), LegUpProfiles(steps=1, hidden=8, dim=4,
                                                                   pretrain=1)):
        made = attack.profiles(data, TARGETS, np.array([40, 12]), Context(0))
        assert [len(p.items) for p in made] == [40, 12]
        assert all(np.isin(TARGETS, p.items).all() for p in made)
    implicit = Blocks(explicit=False).load()
    assert "needs ratings" in (AushProfiles().unfit(BPRMF(), implicit) or "")
    with pytest.raises(InputError, match="more than the 5 epochs"):
        LegUpProfiles(epochs=5)


# -- clear -------------------------------------------------------------------------------------

def graph_model(data: Dataset) -> tuple[LightGCN, Graph, Tensor]:
    x = clicks(data)
    rng = torch.Generator().manual_seed(0)
    model, graph = LightGCN(len(x), data.n_items, 8, 2, rng), Graph(x)
    model.train(graph, 40, 0.05, rng)
    return model, graph, x


def test_the_graph_surrogate_is_lightgcn(data: Dataset) -> None:
    model, graph, x = graph_model(data)
    adjacency = torch.zeros(200, 200)
    adjacency[:120, 120:] = x
    adjacency += adjacency.clone().T
    degree = adjacency.sum(dim=1)
    adjacency = adjacency / (degree[:, None] * degree[None]).sqrt().clamp_min(1e-12)
    at = torch.cat([model.users, model.items])
    whole = (at + adjacency @ at + adjacency @ adjacency @ at) / 3
    p, q = model.vectors(graph)
    assert torch.allclose(torch.cat([p, q]), whole, atol=1e-5)
    popular = torch.argsort(x.sum(dim=0), descending=True)[:10]
    scores = (p @ q.T).detach()
    assert target_hits(scores, torch.zeros_like(x), popular.numpy(), 20) > 0.2
    own = (torch.arange(120)[:, None] % 4 == torch.arange(80)[None] % 4).float()
    assert (scores * own).sum() / own.sum() > (scores * (1 - own)).sum() / (1 - own).sum()


def test_sfa_takes_the_top_direction_away() -> None:
    rng = torch.Generator().manual_seed(0)
    h = torch.randn(50, 6, generator=rng) @ torch.diag(torch.tensor([20.0, 2, 2, 1, 1, 1]))
    g = torch.randn(6, generator=torch.Generator().manual_seed(3))
    r = h.T @ h @ g
    wanted = h - h @ torch.outer(r, r) / (r @ r)
    found = flattened(h, torch.Generator().manual_seed(3))
    assert torch.allclose(found, wanted, atol=1e-3)
    assert top_share(found) < 0.6 * top_share(h)


def test_the_spectrum_of_items_is_flatter_after_the_steps(data: Dataset) -> None:
    """CATALOGUE B14: the top singular value's share falls, and with the term more than without."""
    model, graph, x = graph_model(data)
    before = top_share(model.vectors(graph)[1])
    shares = []
    for dispersal in (0.0, 2.0, 5.0):
        attack = ClearProfiles(outer=10, dispersal=dispersal, learning_rate=0.01, cutoff=10)
        copy = attack.dispersed(model, graph, x, torch.from_numpy(TARGETS),
                                torch.Generator().manual_seed(0))
        shares.append(top_share(copy.vectors(graph)[1]))
    assert shares[1] < before
    assert shares[2] < shares[1] < shares[0]
    assert top_share(model.vectors(graph)[1]) == before  # the surrogate itself is left alone


def test_clear_judges_all_rounds_alike(data: Dataset) -> None:
    """By a surrogate trained from the start with their rows; the rank breaks ties of hits alone."""
    attack, x = ClearProfiles(dim=8, epochs=30, cutoff=10, steps=3), clicks(data)
    for number, made in enumerate(attack.candidates(data, TARGETS, EIGHT, Context(0))):
        graph = Graph(torch.cat([x, torch.from_numpy(rows_of(made.profiles, data)).float()]))
        model = attack.surrogate(graph, Context(0))
        p, q = (part.detach() for part in model.vectors(graph))
        scores = p[:len(x)] @ q.T
        pairs = int((x[:, torch.from_numpy(TARGETS)] == 0).sum())
        hits = round(target_hits(scores, x, TARGETS, 10) * pairs)
        assert made.loss == pytest.approx(attack.judged(model, graph, x, TARGETS), abs=1e-6)
        assert -hits / pairs <= made.loss < (-hits + 1) / pairs, number


def test_clear_fine_tunes_at_a_tenth_of_the_rate(data: Dataset,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by how far weights move: Adam's first step is the learning rate in every entry."""
    train, moved = LightGCN.train, []

    def watched(self: LightGCN, *how: Any) -> None:
        before = [w.detach().clone() for w in self.parameters()]
        train(self, *how)
        moved.append(max(float((w.detach() - b).abs().max())
                         for w, b in zip(self.parameters(), before, strict=True)))

    monkeypatch.setattr(LightGCN, "train", watched)
    attack = ClearProfiles(dim=4, epochs=1, inner=1, steps=2, cutoff=10, learning_rate=0.05)
    list(attack.candidates(data, TARGETS, EIGHT, Context(0)))
    # the surrogate, then in each round its fine-tuning and a judge
    assert moved == pytest.approx([0.05, 0.005, 0.05, 0.005, 0.05], rel=1e-3)


def test_a_user_with_few_items_left_shortens_no_other_list(data: Dataset) -> None:
    """The tail that targets are to beat is that of each user's own list."""
    attack, rng = ClearProfiles(cutoff=10, dispersal=0.0), np.random.default_rng(0)
    p, q = (torch.from_numpy(rng.normal(size=(n, 4))) for n in (3, 20))
    x, scores = torch.zeros(3, 20), (p @ q.T).numpy()
    x[2, 4:] = 1.0  # four items left, two of them targets
    others = []
    for user, held in enumerate((10, 10, 4)):
        free = np.flatnonzero(x[user].numpy() == 0)
        listed = free[np.argsort(-scores[user, free])][:held]
        others += [scores[user, listed[-1]] - scores[user, 0],
                   scores[user, listed[-2]] - scores[user, 1]]
    found = attack.harm(p, q, x, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(np.mean(others))


def test_the_copys_steps_lower_the_harm(data: Dataset) -> None:
    model, graph, x = graph_model(data)
    aim = torch.from_numpy(TARGETS)
    attack = ClearProfiles(outer=5, cutoff=10, dispersal=0.0)
    rng = torch.Generator().manual_seed(0)
    copy = attack.dispersed(model, graph, x, aim, rng)
    was, now = (float(attack.harm(*m.vectors(graph), x, aim, rng).detach())
                for m in (model, copy))
    assert now < was


def test_the_place_of_targets_by_hand() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 2.0, 0.0], [9.0, 8.0, 7.0, 6.0]])
    x = torch.zeros(3, 4)
    x[0, 0] = 1
    x[2, 2] = 1
    # user 0: item 1 of the two others is above; user 1: a tie of three others; user 2 has it
    assert above(scores, x, torch.tensor([2])) == pytest.approx((1 / 2 + 0.5 / 3) / 2)
