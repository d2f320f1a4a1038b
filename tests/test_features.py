"""Feature vectors: the model that reads them, the attack in closed form, AMR, SMOTE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset
from bench.attacks.feature_pgd import FeaturePGD
from bench.attacks.pgd import PGD
from bench.datasets.blocks import Blocks
from bench.datasets.ml_100k import ML100K
from bench.defenses.amr import AMR
from bench.defenses.feature_smote import FeatureSmote
from bench.defenses.none import NoDefense
from bench.feature_margin import Margin
from bench.item_features import feature_matrix
from bench.models._vbpr import VbprRecommender
from bench.models.base import build
from bench.models.vbpr import VBPR
from bench.stages import Prepared, under_attack
from bench.training import Loop

HYPER: dict[str, Any] = {"dim": 8, "epochs": 15, "batch_size": 512, "learning_rate": 0.03,
                         "patience": 0, "init_std": 0.1}


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(5)
    blocks = Blocks().load()
    return blocks.replace(item_features={
        "picture": rng.normal(size=(blocks.n_items, 6)).astype(np.float32)})


def fitted(data: Dataset, defense: Any = None, **changes: Any) -> VbprRecommender:
    made = build(VBPR(**{**HYPER, **changes}), data, Context(0))
    assert isinstance(made, VbprRecommender)
    made.fit(defense or NoDefense(), lambda event: None)
    return made


@pytest.fixture(scope="module")
def model(data: Dataset) -> VbprRecommender:
    return fitted(data)


def test_attributes_become_columns() -> None:
    data = Blocks().load()
    made = feature_matrix(data)
    assert made.shape == (data.n_items, 4)
    assert (made.sum(axis=1) == 1).all()
    with pytest.raises(KeyError):
        feature_matrix(data, "picture")
    reason = VBPR(features="picture").unfit(data)
    assert reason is not None
    assert "it has attributes" in reason


def test_films_have_genres_and_years() -> None:
    data = ML100K().load()
    made = feature_matrix(data, "attributes")
    genres = {g for v in data.item_attributes["genre"] for g in v}
    assert made.shape == (data.n_items, len(genres) + 1)
    year = made[:, np.ptp(made, axis=0) > 1.5][:, 0]
    assert abs(float(year.mean())) < 1e-4
    assert float(year.std()) == pytest.approx(1.0, abs=1e-3)


def test_scores_by_hand(model: VbprRecommender) -> None:
    m = model.module
    u, i = 3, 7
    whole = m.items.weight[i] + sum(m.features[i, k] * m.project[k] for k in range(6))
    by_hand = float((m.users.weight[u] * whole).sum().detach())
    assert float(model.scores(torch.tensor([u]))[0, i]) == pytest.approx(by_hand, rel=1e-5)
    batch = next(iter(model.batches(0, 64)))
    assert float(model.row_losses(batch).mean()) == pytest.approx(float(model.loss(batch)))


def test_the_slope_of_a_score_by_its_features_is_the_projected_user(model: VbprRecommender
                                                                    ) -> None:
    """∂s_ut/∂f_t = E p_u (CATALOGUE A5)."""
    table, targets = model.tables()["feature"], np.array([4])
    margin = Margin(model, table, targets, model.data, 5)
    margin.blocks = [({}, torch.tensor([9]), torch.zeros(1, 1),
                      torch.ones(1, 1, dtype=torch.bool))]
    margin.tau = 1e3  # far from the clip
    at = torch.zeros(1, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(margin(at).sum(), at)
    m = model.module
    by_hand = (m.project @ m.users.weight[9]).detach() / 1e3
    assert torch.allclose(slope[0], by_hand, atol=1e-7)


def test_the_margin_is_the_distance_to_the_kth_best_rival(model: VbprRecommender) -> None:
    """By sorting, user by user: above zero exactly for those who have the target in their list."""
    targets, data, k = np.array([4, 11]), model.data, 5
    margin, known = Margin(model, model.tables()["feature"], targets, data, k), data.known("test")
    found = (margin.tau * margin(torch.zeros(2, 6))).detach()
    scores = model.scores(torch.arange(data.n_genuine))
    for n, target in enumerate(targets.tolist()):
        above = []
        for user in range(data.n_genuine):
            has = set(known.items[known.users == user].tolist())
            if target not in has:
                rivals = [float(scores[user, i]) for i in range(data.n_items)
                          if i not in has and i != target]
                above.append(float(scores[user, target]) - sorted(rivals)[-k])
        assert float(found[n]) == pytest.approx(np.mean(above), abs=1e-5)


@pytest.mark.parametrize("goal", ["push", "nuke"])
def test_the_optimum_of_a_linear_scorer_in_closed_form(model: VbprRecommender, goal: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """δ* = ±ε E Σ p_u / ‖·‖ over users without the target, where no clip is active."""
    monkeypatch.setattr("bench.feature_margin.CLIP", 1e6)
    targets, data = np.array([4, 11]), model.data
    attack = FeaturePGD(eps=0.3, relative=False, goal=goal, steps=5)
    made = attack.perturbation(model, targets, 0.3, model.data, Context(0))
    m, known = model.module, data.known("test")
    for target in targets:
        free = np.setdiff1d(np.arange(data.n_genuine), known.users[known.items == target])
        way = (m.project @ m.users.weight[torch.from_numpy(free)].sum(dim=0)).detach()
        best = 0.3 * way / way.norm() * (1 if goal == "push" else -1)
        assert torch.allclose(made[target], best, atol=1e-4)


def test_targets_rise_for_users_without_them_and_the_model_comes_back(model: VbprRecommender
                                                                      ) -> None:
    data = model.data
    prepared = Prepared(data, data, data, None)
    users = torch.arange(data.n_genuine)
    clean = model.scores(users)
    with under_attack(FeaturePGD(eps=1.0, targets=2, stratum="tail"), model, prepared,
                      Context(0)) as struck:
        assert struck.targets is not None
        targets, under = struck.targets, model.scores(users)
    assert torch.equal(model.scores(users), clean)
    others = np.setdiff1d(np.arange(data.n_items), targets)
    assert torch.equal(under[:, others], clean[:, others])
    assert float((under - clean)[:, targets].mean()) > 0


def test_more_targets_reach_lists_than_by_noise(data: Dataset) -> None:
    """A mean of scores is raised and no list changes: the margin must count users at the edge."""
    from bench.attacks.feature_noise import FeatureNoise
    from bench.evaluate import evaluate

    data = Blocks().load()  # by attributes, of which no single one is good for all users
    reached: dict[str, float] = {"feature-noise": 0.0, "feature-pgd": 0.0}
    for seed in range(3):
        model = build(VBPR(**{**HYPER, "init_std": 0.01}), data, Context(seed))
        model.fit(NoDefense(), lambda event: None)
        for attack in (FeatureNoise(eps=0.5), FeaturePGD(eps=0.5, k=5)):
            with under_attack(attack, model, Prepared(data, data, data, None),
                              Context(seed)) as struck:
                found = evaluate(struck.model, data, ["target-hr@5"], targets=struck.targets)
            reached[attack.name] += next(v for m, g, v in found.values
                                         if (m, g) == ("target-hr@5", "all"))
    assert reached["feature-pgd"] > 1.2 * reached["feature-noise"]


def test_where_every_user_is_lost_the_step_is_that_of_the_mean(model: VbprRecommender) -> None:
    targets = np.array([4, 11])
    attack = FeaturePGD(eps=0.3, relative=False, steps=1, temperature=1e-9)
    plain = FeaturePGD(eps=0.3, relative=False, steps=1, temperature=1e9)
    made = [a.perturbation(model, targets, 0.3, model.data, Context(0)) for a in (attack, plain)]
    assert bool((made[0][targets] != 0).any(dim=1).all())
    assert torch.allclose(made[0][targets], made[1][targets], atol=1e-6)


def test_every_scoring_of_the_attack_is_a_query(model: VbprRecommender) -> None:
    """Once to see the lists, and per step once for the slope and once for where it led."""
    data, steps = model.data, 3
    with under_attack(FeaturePGD(targets=2, steps=steps), model, Prepared(data, data, data, None),
                      Context(0)) as struck:
        assert struck.facts["queries"] == data.n_genuine * (1 + 2 * steps)


def test_attacks_on_embeddings_leave_features_alone(model: VbprRecommender) -> None:
    made = PGD(eps=0.3, steps=2).perturbation(model, model.data, Context(0))
    assert set(made) == {"user", "item"}


# -- AMR ---------------------------------------------------------------------------------------

def test_amr_by_hand(model: VbprRecommender) -> None:
    """L + λ L(f + ε g/‖g‖), with g by finite differences on one coordinate."""
    batch = next(iter(model.batches(1, 128)))
    clean = model.loss(batch)
    total = AMR(eps=0.2, weight=0.7, relative=False).loss(model, batch, clean, 1)
    still = torch.zeros_like(model.module.features).requires_grad_()
    (slope,) = torch.autograd.grad(model.loss(batch, {"feature": still}), still)
    nudge = torch.zeros_like(still)
    nudge[int(batch["items"][0]), 2] = 1e-2
    ahead, behind = (float(model.loss(batch, {"feature": s * nudge})) for s in (1, -1))
    assert (ahead - behind) / 2e-2 == pytest.approx(float(slope[int(batch["items"][0]), 2]),
                                                    rel=5e-2, abs=1e-5)
    lengths = slope.norm(dim=1, keepdim=True)
    delta = torch.where(lengths > 0, 0.2 * slope / lengths.clamp_min(1e-30), 0.0)
    assert float(total) == pytest.approx(
        float(clean) + 0.7 * float(model.loss(batch, {"feature": delta})), rel=1e-5)
    assert float(model.loss(batch, {"feature": delta})) > float(clean)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_amr_counts_eps_in_median_norms_of_the_features(model: VbprRecommender, norm: str) -> None:
    """Unless told otherwise; the norm is that of the ball."""
    features = model.module.features
    lengths = [max(map(abs, row)) if norm == "linf" else sum(x * x for x in row) ** 0.5
               for row in features.tolist()]
    median = sorted(lengths)[(len(lengths) - 1) // 2]  # of an even number the lower one
    batch = next(iter(model.batches(1, 128)))
    clean = model.loss(batch)
    still = torch.zeros_like(features).requires_grad_()
    (slope,) = torch.autograd.grad(model.loss(batch, {"feature": still}), still)
    way = slope.sign() if norm == "linf" else torch.nn.functional.normalize(slope, eps=1e-30)

    def whole(radius: float) -> float:
        return float(clean) + 0.7 * float(model.loss(batch, {"feature": radius * way}))

    found = float(AMR(eps=0.2, weight=0.7, norm=norm).loss(model, batch, clean, 1))
    assert found == pytest.approx(whole(0.2 * median), rel=1e-5)
    for other in (0.2, 0.2 * median / 1.1, 0.2 * median * 1.1):
        assert found != pytest.approx(whole(other), rel=1e-4)


def test_amr_holds_features_better(data: Dataset) -> None:
    """At equal ε in median norms, the trained margin under attack falls less."""
    def fall(defense: Any) -> float:
        model = fitted(data, defense, epochs=40)
        targets = np.arange(0, data.n_items, 5)
        table = model.tables()["feature"]
        attack = FeaturePGD(eps=0.5, goal="nuke", targets=5)
        delta = attack.perturbation(model, targets, attack.radius(model), model.data,
                                    Context(0))
        margin = Margin(model, table, targets, model.data, 10)
        still = torch.zeros(len(targets), 6)
        return float((margin(still) - margin(delta[targets])).mean())
    assert fall(AMR(eps=0.5)) < fall(None)


# -- SMOTE -------------------------------------------------------------------------------------

def test_smote_stays_between_neighbours_of_the_minority(data: Dataset) -> None:
    model = build(VBPR(**HYPER), data, Context(0))
    assert isinstance(model, VbprRecommender)
    loop = Loop(model, NoDefense())
    from bench.defenses.feature_smote import _Synthetic

    made = _Synthetic(FeatureSmote(tail=0.3, neighbours=3), loop)
    counts, minority = torch.from_numpy(data.popularity), made.minority
    assert float(counts[minority].sum()) <= 0.3 * float(counts.sum())
    assert int(counts[minority].max()) <= int(counts[~minority].min())
    delta = made.moved()
    assert not bool(delta[~minority].any())
    features = model.module.features
    for item in torch.nonzero(minority).flatten().tolist():
        ways = features[made.nearest[item]] - features[item]  # (3, width)
        shares = (delta[item] * ways).sum(dim=1) / (ways**2).sum(dim=1)
        on_line = (delta[item] - shares[:, None] * ways).norm(dim=1) < 1e-5
        assert bool((on_line & (shares >= 0) & (shares <= 1)).any())
        apart = (features[minority] - features[item]).norm(dim=1).sort().values
        assert float(ways.norm(dim=1).max()) <= float(apart[3]) + 1e-5
    assert not torch.equal(delta, made.moved())  # a stream kept, not started over


def test_the_moved_rows_count_as_often_as_there_are_rows_of_the_minority(data: Dataset) -> None:
    """L(batch) + weight · (minority rows / rows) · L(minority rows, moved)."""
    from bench.defenses.feature_smote import _Synthetic

    model = build(VBPR(**HYPER), data, Context(0))
    assert isinstance(model, VbprRecommender)
    own = _Synthetic(FeatureSmote(tail=0.3, neighbours=3, weight=2.0), Loop(model, NoDefense()))
    batch = next(iter(model.batches(1, 200)))
    delta = own.moved()
    own.moved = lambda: delta  # type: ignore[method-assign]
    rows = own.minority[batch["items"]]
    assert 0 < int(rows.sum()) < 100
    part = {k: v[rows] for k, v in batch.items()}
    moved = float(model.loss(part, {own.key: delta}).detach())
    expected = float(model.loss(batch).detach()) + 2.0 * float(rows.double().mean()) * moved
    assert own.step(batch, 1) == pytest.approx(expected, rel=1e-5)


def test_smote_touches_no_row_outside_training(data: Dataset) -> None:
    model = fitted(data, FeatureSmote(weight=1.0))
    assert torch.equal(model.module.features, torch.from_numpy(data.item_features["picture"]))
    plain = fitted(data)
    assert not torch.equal(model.module.items.weight, plain.module.items.weight)
