"""Attacks that look inside strike what a defense serves, or are not called adaptive."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench._cells import load
from bench._contracts_lab import (
    Lab,
    all_scores,
    biased,
    blocks,
    bprmf,
    fit,
    no_defense,
    trained_bprmf,
)
from bench._votes import Smoothed
from bench.api import Attack, Context, Dataset, EmbeddingAttack
from bench.attacks.feature_pgd import FeaturePGD
from bench.attacks.fgsm import FGSM
from bench.attacks.pgd import PGD
from bench.attacks.sequence_poisoning import SequencePoisoning
from bench.attacks.substitution import Substitution
from bench.attacks.torchattacks import SKIPPING, SUITABLE, TorchAttacks
from bench.box import UserScores
from bench.data import Interactions
from bench.defense import Defense
from bench.defenses.macr import Macr
from bench.defenses.randomised_smoothing import RandomisedSmoothing
from bench.errors import CannotActError
from bench.feature_margin import Margin
from bench.flags import find
from bench.leaderboard import build as build_board
from bench.models import recbole
from bench.models.base import Recommender, TorchRecommender, Wrapped, build, innermost
from bench.models.vbpr import VBPR
from bench.perturb import attack_batches, gradient, mean_loss
from bench.positions import Reader, padded
from bench.registry import Registry
from bench.run import run
from bench.served import Noisy, attackable, noise_of, soft_votes
from bench.stages import Prepared, under_attack
from bench.victim import Victim

REGISTRY = Registry()


class Undefended:
    def __init__(self, model: Recommender) -> None:
        self.model = model

    def undefended(self) -> Recommender:
        return self.model


def prepared(data: Dataset, served: Recommender) -> Prepared:
    return Prepared(data, data, served.data, None)


def struck(attack: Attack, served: Recommender, undefended: Recommender, data: Dataset,
           seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores served under the attack, and the vectors of users inside."""
    ctx = Context(seed, victim=Undefended(undefended))
    inside = innermost(served)
    assert isinstance(inside, TorchRecommender)
    with under_attack(attack, served, prepared(data, served), ctx) as found:
        key = next(k for k, t in inside.tables().items() if t.role in ("user", "item"))
        return all_scores(found.model), inside.tables()[key].rows().clone()


@pytest.fixture(scope="module")
def smoothed() -> Smoothed:
    made = fit(bprmf(), blocks(), 0, RandomisedSmoothing(sigma=1.0, relative=True, draws=200))
    assert isinstance(made, Smoothed)
    return made


# -- the expectation -----------------------------------------------------------------------------

def test_the_loss_is_the_mean_over_copies_and_its_slope_the_mean_slope(smoothed: Smoothed) -> None:
    base = smoothed.base
    noisy = attackable(smoothed, Context(5), 3)
    assert isinstance(noisy, Noisy)
    batches = attack_batches(base)
    delta = {"user": 0.1 * torch.ones_like(base.tables()["user"].rows()),
             "item": torch.zeros_like(base.tables()["item"].rows())}
    slope, loss = gradient(noisy, batches, ("user", "item"), delta)
    one_by_one = []
    for noise in noisy.noises:
        moved = {"user": delta["user"] + noise["user"], "item": delta["item"]}
        one_by_one.append(gradient(base, batches, ("user", "item"), moved))
    assert loss == pytest.approx(np.mean([v for _, v in one_by_one]), rel=1e-6)
    for key in slope:
        by_hand = torch.stack([g[key] for g, _ in one_by_one]).mean(dim=0)
        assert torch.allclose(slope[key], by_hand, atol=1e-7)
    assert not torch.allclose(slope["user"], gradient(base, batches, ("user",), None)[0]["user"])


def test_the_noise_is_as_wide_as_the_defense_s_and_not_its_own_draws(smoothed: Smoothed) -> None:
    base = smoothed.base
    (first, *_) = noise_of(base.tables(), smoothed.spreads, 2, base.ctx)  # the very same seed
    own = torch.randn(first["user"].shape, generator=base.ctx.torch_stream("smoothing", "user"))
    assert float(first["user"].std()) == pytest.approx(smoothed.spreads["user"], rel=0.1)
    assert abs(float(np.corrcoef(first["user"].flatten(), own.flatten())[0, 1])) < 0.1
    copies = noise_of(base.tables(), smoothed.spreads, 2, base.ctx)
    assert not torch.equal(copies[0]["user"], copies[1]["user"])


def test_soft_votes_rise_with_the_scores_and_are_a_half_at_the_edge_of_the_list() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 1.0, 9.0]])
    known = torch.tensor([[False, False, False, False, True]])
    votes = soft_votes(scores, known, 2)  # the edge is halfway between 4 and 3
    spread = float(scores.std())
    assert votes[0, 1] == pytest.approx(torch.sigmoid(torch.tensor(0.5 / spread)))
    assert votes[0, 2] == pytest.approx(torch.sigmoid(torch.tensor(-0.5 / spread)))
    assert bool((votes[0, :4].diff() < 0).all())


def test_scores_of_user_vectors_are_the_shares_of_all_copies(smoothed: Smoothed) -> None:
    """The quick way for dot products against the model's own code, and by hand."""
    noisy: Any = attackable(smoothed, Context(0), 3)
    users = torch.arange(7)
    found = UserScores(noisy, users)
    assert found._linear is not None
    by_hand, known = [], smoothed.known(users, "test")
    for noise in noisy.noises:
        with smoothed.base.perturbed(noise):
            by_hand.append(soft_votes(smoothed.base.scores(users), known, smoothed.k))
    expected = torch.stack(by_hand).mean(dim=0)
    assert torch.allclose(found(found.vectors, users), expected, atol=1e-5)
    assert torch.allclose(noisy.scores(users), expected, atol=1e-5)
    found._linear = None
    assert torch.allclose(found(found.vectors, users), expected, atol=1e-5)


@pytest.mark.parametrize("make", [
    lambda adaptive: FGSM(eps=0.5, relative=True, adaptive=adaptive),
    lambda adaptive: PGD(eps=0.5, relative=True, steps=10, adaptive=adaptive)],
    ids=["fgsm", "pgd"])
def test_under_smoothing_the_adaptive_attack_is_another_and_a_worse_one(make: Any) -> None:
    """By the loss under noise that neither has seen, and by the lists that are served."""
    from bench._contracts_lab import ndcg

    data, lists = blocks(), dict[bool, list[float]]()
    for seed in (0, 1, 2):
        undefended = trained_bprmf(seed)
        served: Any = fit(bprmf(), data, seed,
                          RandomisedSmoothing(sigma=1.0, relative=True, draws=100))
        fresh = Noisy(served.base, served, noise_of(served.base.tables(), served.spreads, 100,
                                                    Context(1000 + seed)))
        batches, losses, rows = attack_batches(served.base), {}, {}
        for adaptive in (True, False):
            ctx = Context(seed, victim=Undefended(undefended))
            with under_attack(make(adaptive), served, prepared(data, served), ctx) as found:
                losses[adaptive] = mean_loss(fresh, batches)
                rows[adaptive] = served.base.tables()["user"].rows().clone()
                lists.setdefault(adaptive, []).append(ndcg(found.model, data))
        assert not torch.equal(rows[True], rows[False])
        assert losses[True] > losses[False] * 1.1
    assert np.mean(lists[True]) < np.mean(lists[False]) - 0.01


def test_more_copies_are_another_expectation(smoothed: Smoothed) -> None:
    rows = [struck(FGSM(eps=0.5, relative=True, copies=n), smoothed, smoothed.base, blocks())[1]
            for n in (1, 16, 16)]
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows[1], rows[2])


@pytest.mark.parametrize("name", sorted(SUITABLE))
def test_the_library_s_attacks_see_the_noise_or_say_why_not(smoothed: Smoothed, name: str) -> None:
    data, defense = blocks(), RandomisedSmoothing(sigma=1.0, relative=True)
    norm = SUITABLE[name][0][0]
    attack = TorchAttacks(attack=name, norm=norm, eps=0.5)
    if name in SKIPPING:
        assert "few noisy copies" in str(attack.unseen(defense, blocks()))
        assert attack.stand_in(smoothed, Context(0)) is smoothed.base
        return
    assert attack.unseen(defense, blocks()) is None
    made = [attack.perturbation(m, data, Context(0), {"user": 0.5})["user"]
            for m in (attackable(smoothed, Context(0), 4), smoothed.base)]
    assert not torch.equal(made[0], made[1])


def test_the_share_of_lists_that_pgdl2_empties_is_larger_when_it_sees_the_noise() -> None:
    """The item that is served first leaves the list of more users."""
    data, left = blocks(), dict[bool, list[float]]()
    for seed in (0, 1):
        served: Any = fit(bprmf(), data, seed,
                          RandomisedSmoothing(sigma=0.5, relative=True, draws=100))
        users, undefended = torch.arange(data.n_genuine), trained_bprmf(seed)
        for adaptive in (True, False):
            attack = TorchAttacks(attack="PGDL2", norm="l2", eps=0.5, relative=True,
                                  adaptive=adaptive)
            stand = served.stand_in(Context(0), 1)
            chosen, masked = attack._chosen(stand, data, users)
            ctx = Context(seed, victim=Undefended(undefended))
            with under_attack(attack, served, prepared(data, served), ctx):
                left.setdefault(adaptive, []).append(
                    attack._in_list(stand, users, chosen, masked, {}))
    assert np.mean(left[True]) < np.mean(left[False])


# -- macr: what is served has slopes -------------------------------------------------------------

def test_the_loss_seen_under_macr_is_that_of_the_scores_served() -> None:
    served = fit(biased(), blocks(), 0, Macr(c=1.0))
    assert isinstance(served, Wrapped)
    seen = served.stand_in(Context(0), 1)
    assert seen is not None
    (batch, *_) = attack_batches(seen)
    scores = served.scores(batch["users"])
    margin = scores.gather(1, batch["items"][:, None]) - scores.gather(
        1, batch["negatives"][:, None])
    by_hand = float(torch.nn.functional.softplus(-margin).mean())
    assert seen.loss(batch).item() == pytest.approx(by_hand, rel=1e-5)
    slope, _ = gradient(seen, [batch], ("user", "item"))
    for key, (row, column) in (("user", (3, 2)), ("item", (5, 1))):
        step = {k: torch.zeros_like(v) for k, v in slope.items()}
        step[key][row, column] = 1e-2
        ahead, behind = (float(seen.loss(batch, {k: s * v for k, v in step.items()}))
                         for s in (1, -1))
        assert (ahead - behind) / 2e-2 == pytest.approx(float(slope[key][row, column]), rel=0.05,
                                                        abs=1e-5)


# -- features and histories ----------------------------------------------------------------------

def test_a_feature_attack_takes_its_margins_under_the_noise() -> None:
    data = blocks()
    model = build(VBPR(dim=16, epochs=5, batch_size=256, learning_rate=0.05, patience=0), data,
                  Context(0))
    assert isinstance(model, TorchRecommender)
    model.fit(no_defense(), lambda event: None)
    served = RandomisedSmoothing(sigma=2.0, relative=True, draws=5).harden(model, data, Context(0))
    noisy = attackable(served, Context(0), 2)
    assert isinstance(noisy, Noisy)
    targets, table = np.array([4, 9]), model.tables()["feature"]
    still = torch.zeros(2, table.rows().shape[1])
    both = Margin(noisy, table, targets, data, 5)
    each = []
    for noise in noisy.noises:
        with model.perturbed(noise):
            one = Margin(model, table, targets, data, 5)
            one.tau = both.tau
            each.append(one(still))
    assert torch.allclose(both(still), torch.stack(each).mean(dim=0), atol=1e-5)
    attack = FeaturePGD(eps=0.5, targets=2, steps=3)
    made = [attack.perturbation(m, targets, 0.5, data, Context(0)) for m in (noisy, model)]
    assert not torch.equal(made[0], made[1])


def test_a_history_attack_takes_its_slopes_under_the_noise() -> None:
    data = blocks()
    model: Any = build(recbole.member("SASRec")(max_length=8, epochs=2, patience=0,
                                                hidden_size=16, inner_size=32), data, Context(0))
    model.fit(no_defense(), lambda event: None)
    served = RandomisedSmoothing(sigma=1.0, relative=True, tables="item", draws=5).harden(
        model, data, Context(0))
    noisy: Any = attackable(served, Context(0), 3)
    assert isinstance(noisy, Noisy)
    own, aim, users = model.histories(), np.array([5]), torch.arange(4)
    with model.evaluating():
        reader = Reader(noisy, aim, own, Context(0))
        asked = users, *padded(own[:4], reader.width, "cpu")
        slope, gain = reader.slopes(*asked), reader.gain(*asked)
        each = []
        for noise in noisy.noises:
            with model.perturbed(noise):
                one = Reader(model, aim, own, Context(0))
                each.append((one.slopes(*asked), one.gain(*asked)))
    assert torch.allclose(slope, torch.stack([s for s, _ in each]).mean(dim=0), atol=1e-7)
    assert torch.allclose(gain, torch.stack([g for _, g in each]).mean(dim=0))
    assert reader.ctx.notes["queries"] == 2 * 3 * 4
    edit = Substitution(similarity=-1.0, edits=2, copies=3)
    told = edit._told(served, Context(0))
    assert isinstance(told, Noisy)
    with model.evaluating():
        made = [edit.edit(m, [h.copy() for h in own], np.zeros(0, np.int64), data, Context(0))
                for m in (told, model)]
    assert any(not np.array_equal(a, b) for a, b in zip(*made, strict=True))


# -- everything that wraps a model ---------------------------------------------------------------

def test_white_poisoned_sequences_are_made_on_what_is_served_or_are_not_called_adaptive() -> None:
    data = blocks()
    model: Any = recbole.member("SASRec")(max_length=8, epochs=2, patience=0, hidden_size=16,
                                          inner_size=32)
    attack = SequencePoisoning(budget=0.1, knowledge="white", length=12)

    def fakes(name: str, **params: Any) -> tuple[list[int], str | None]:
        defense: Any = REGISTRY.make("defenses", {"name": name, "params": params})
        ctx = Context(0, victim=Victim(model, defense, Context(0), lambda: pytest.fail("unasked")))
        made = attack.poison(data, ctx)
        return (made.train.items[made.train.users >= made.n_genuine].tolist(),
                attack.unseen(defense, data))

    plain, none = fakes("none")
    noisy, seen = fakes("randomised-smoothing", sigma=1.0, relative=True, tables="item", draws=5)
    assert (none, seen) == (None, None)
    assert noisy != plain
    for name in ("retrieval-purifier", "popularity-rerank"):
        same, unseen = fakes(name)
        assert same == plain
        assert unseen
    asking = dataclasses.replace(attack, adaptive=True)  # its disguises meet what is served
    rerank: Any = REGISTRY.make("defenses", {"name": "popularity-rerank"})
    assert asking.unseen(rerank, data) is None


def serving() -> list[str]:
    return [name for name in REGISTRY.names("defenses")
            if REGISTRY.get("defenses", name).harden is not Defense.harden]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", serving())
def test_every_defense_that_serves_is_struck_as_it_serves_or_nothing_is_called_adaptive(
        name: str) -> None:
    cls: Any = REGISTRY.get("defenses", name)
    defense, data, lab = cls.from_params(cls.test_params()), blocks(), Lab("defenses", cls)
    attack = PGD(eps=0.3, steps=3)
    served = lab.model(defense)
    follows = not isinstance(served, Wrapped) or served.stand_in(Context(0), 1) is not None
    assert follows == (attack.unseen(defense, blocks()) is None)
    inside = innermost(served)
    if lab.model_plugin().name == "bprmf" and isinstance(inside, TorchRecommender):
        seen, plain = (struck(a, served, inside, data)[1]
                       for a in (attack, Inside(eps=0.3, steps=3)))
        assert torch.equal(seen, plain) == (not follows or served is inside)
    neutral = cls.neutral_params()
    if neutral is not None:
        assert attack.unseen(cls.from_params(cls.test_params() | neutral), data) is None


class Inside(PGD):
    """PGD on the model inside, whatever is served."""

    name = "inside"

    def stand_in(self, source: Recommender, ctx: Context) -> Recommender:
        return innermost(source)


def test_only_who_looks_inside_an_adaptive_attack_is_asked() -> None:
    rerank: Any = REGISTRY.make("defenses", {"name": "popularity-rerank"})
    assert "one by one" in PGD().unseen(rerank, blocks())  # type: ignore[operator]
    assert PGD(adaptive=False).unseen(rerank, blocks()) is None
    for name, params in (("noise", {}), ("history-insertion", {}), ("append-items", {}),
                         ("random-profiles", {})):
        attack: Any = REGISTRY.make("attacks", {"name": name, "params": params})
        assert attack.unseen(rerank, blocks()) is None


class Frozen(Wrapped):
    """Serves what it kept."""

    def __init__(self, base: Recommender) -> None:
        super().__init__(base)
        self.kept = all_scores(base)

    def scores(self, users: torch.Tensor, split: str = "test") -> torch.Tensor:
        return self.kept[users]


def test_vectors_that_nothing_served_follows_from_are_no_target() -> None:
    served = Frozen(trained_bprmf(0))
    with pytest.raises(CannotActError, match="was made before"):
        struck(FGSM(), served, served.base, blocks())


# -- what serving masks --------------------------------------------------------------------------

def test_the_items_and_masks_are_those_of_genuine_rows_whatever_was_trained_on() -> None:
    """A defense that cleans the data takes rows out of the training, not out of the masks."""
    data = blocks()
    cleaned = data.replace(train=data.train[data.train.users >= 5])  # five users lose all rows
    model = fit(bprmf(), cleaned)
    assert isinstance(model, TorchRecommender)
    attack, users = TorchAttacks(attack="PGDL2", norm="l2", eps=0.3), torch.arange(data.n_genuine)
    seen: list[Dataset] = []

    class Looks(EmbeddingAttack):
        name = "looks"

        def delta(self, model, radii, data, ctx):  # type: ignore[no-untyped-def]
            seen.append(data)
            return {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}

    with under_attack(Looks(), model, Prepared(data, data, cleaned, None), Context(0)):
        pass
    assert seen[0].train is data.train
    assert seen[0].valid is data.valid
    assert not len(seen[0].test)
    with under_attack(attack, model, Prepared(data, data, cleaned, None), Context(0)) as found:
        assert found.facts["item_in_list"] == 1.0
    chosen, masked = attack._chosen(model, data, users)
    known = data.known("test")
    assert bool(masked[known.users, known.items].all())
    assert int(masked.sum()) == len(set(zip(known.users.tolist(), known.items.tolist(),
                                            strict=True)))
    best = model.scores(users).clone()
    best[known.users, known.items] = -torch.inf
    assert torch.equal(chosen, best.argmax(dim=1))


def test_margins_leave_out_who_has_the_target_in_genuine_rows() -> None:
    data = blocks()
    empty = data.replace(train=data.train[:1], valid=Interactions.empty())
    model = build(VBPR(dim=4, epochs=1, patience=0), empty, Context(0))
    assert isinstance(model, TorchRecommender)
    targets, known = np.array([4, 9]), data.known("test")
    margin = Margin(model, model.tables()["feature"], targets, data, 5)
    free = torch.cat([f for *_, f in margin.blocks])
    for n, target in enumerate(targets):
        assert not bool(free[known.users[known.items == target], n].any())
        assert int((~free[:, n]).sum()) == len(set(known.users[known.items == target].tolist()))


def test_what_a_history_attack_takes_for_recommended_is_not_known() -> None:
    data = blocks()
    cleaned = data.replace(train=data.train[::2])
    model: Any = build(recbole.member("SASRec")(max_length=8, epochs=1, patience=0,
                                                hidden_size=16, inner_size=32), cleaned, Context(0))
    own, nothing = model.histories(), np.zeros(0, np.int64)
    known = data.known("test")
    taken = set(zip(known.users.tolist(), known.items.tolist(), strict=True))
    with model.evaluating():
        found = [Reader(model, nothing, own, Context(0), d).wanted[:, 0].tolist()
                 for d in (data, None)]
    assert not any(pair in taken for pair in enumerate(found[0]))
    assert any(pair in taken for pair in enumerate(found[1]))


GRID = """
name: served
seeds: [0]
datasets: [blocks]
models: [{bprmf: {dim: 8, epochs: 4, batch_size: 512, learning_rate: 0.03, patience: 0}}]
attacks: [{pgd: {eps: 0.3, steps: 2, adaptive: [true, false]}}, {noise: {adaptive: [true, false]}}]
defenses: [popularity-rerank, {randomised-smoothing: {sigma: 0.5, draws: 10}}]
metrics: [ndcg@10]
"""


def test_the_table_says_where_there_is_no_adaptive_attack(tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "grid.yaml").write_text(GRID)
    assert run(tmp_path / "grid.yaml", results=tmp_path / "results") == 0
    found = load(tmp_path / "results" / "served")
    cells = {(c.defense.name, c.attack.name, c.attack.params.get("adaptive")): c
             for c in found.cells}
    reranked, smooth = (cells[d, "pgd", True] for d in ("popularity-rerank",
                                                        "randomised-smoothing"))
    assert reranked.threat["adaptive"] is False
    assert "one by one" in reranked.threat["unseen"]
    assert smooth.threat["adaptive"] is True
    assert "unseen" not in smooth.threat
    assert smooth.values != cells["randomised-smoothing", "pgd", False].values
    assert smooth.cost["queries"] > cells["randomised-smoothing", "pgd", False].cost["queries"]
    assert cells["popularity-rerank", "noise", True].threat["adaptive"] is False
    assert cells["popularity-rerank", "noise", False].status == "skipped"
    flags = [f for f in find(build_board(found, draws=20)) if f.code in (
        "not-adaptive", "adaptive-equals-static")]
    assert [(f.code, f.row[2]) for f in flags if f.row] == [("not-adaptive", "popularity-rerank")]
