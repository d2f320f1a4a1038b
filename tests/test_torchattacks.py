"""torchattacks on user vectors: the exact radius, the budget, and the library's known traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset
from bench.attacks.torchattacks import SUITABLE, UNSUITABLE, USED_BY, TorchAttacks
from bench.box import Box, BoxScorer, UserScores, square_side
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.errors import CannotActError, InputError
from bench.models._bprmf import BprRecommender
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.oracle import leave_radius

K = 3
FAST = {"steps": 8, "k": K, "n_queries": 60}
# How often the library scores each user in eight steps. VMI and VNI average the slopes of five
# neighbours, EOTPGD two; SPSA asks on both sides of 64 directions; the others ask the fooled less.
PASSES = {**dict.fromkeys(("BIM", "PGD", "PGDL2", "MIFGSM", "NIFGSM", "RFGSM", "UPGD", "Jitter"),
                          8),
          "FGSM": 1, "FFGSM": 1, "VMIFGSM": 48, "VNIFGSM": 48, "EOTPGD": 16, "SPSA": 1024}
EVERY = [(name, norm) for name, (norms, _, _) in SUITABLE.items() for norm in norms]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks().load()


@pytest.fixture(scope="module")
def model(data: Dataset) -> BprRecommender:
    made = build(BPRMF(dim=8, epochs=25, batch_size=512, learning_rate=0.03, bias=True,
                       patience=0), data, Context(0))
    assert isinstance(made, BprRecommender)
    made.fit(NoDefense(), lambda event: None)
    return made


def fast(name: str, **more: Any) -> dict[str, Any]:
    """Quick settings, of the parameters that the attack has."""
    return {key: value for key, value in {**FAST, **more}.items()
            if name in USED_BY.get(key, (name,))}


def attacked(model: TorchRecommender, name: str, eps: float, norm: str, **more: Any
             ) -> tuple[torch.Tensor, dict[str, Any], TorchAttacks]:
    ctx = Context(3)
    plugin = TorchAttacks(attack=name, eps=eps, norm=norm, **fast(name, **more))
    delta = plugin.perturbation(model, model.data, ctx)
    return delta["user"], ctx.notes, plugin


def radii(model: BprRecommender, plugin: TorchAttacks, norm: str) -> torch.Tensor:
    """The exact lower bound of each user's radius, with the history masked as in lists."""
    users = torch.arange(model.data.n_genuine)
    chosen, masked = plugin._chosen(model, model.data, users)
    m = model.module
    return leave_radius(m.users.weight[users].detach(), m.items.weight.detach(), chosen, plugin.k,
                        None if m.bias is None else m.bias.detach(), norm, masked)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_budget_and_exact_radius(model: BprRecommender, name: str, norm: str) -> None:
    """Inside the ball, and nobody loses the item below the radius that mathematics allows."""
    eps = 0.8
    delta, notes, plugin = attacked(model, name, eps, norm)
    users = torch.arange(model.data.n_genuine)
    lengths = delta[users].norm(dim=1) if norm == "l2" else delta[users].abs().amax(dim=1)
    assert float(lengths.max()) <= eps * (1 + 1e-6)
    assert float(lengths.max()) > 0.5 * eps or name in ("CW", "FAB")
    chosen, masked = plugin._chosen(model, model.data, users)
    with model.perturbed({"user": delta}):
        scores = model.scores(users).masked_fill(masked, -torch.inf)
    above = (scores > scores.gather(1, chosen[:, None])).sum(dim=1)
    needed = radii(model, plugin, norm)
    assert not bool(((above >= plugin.k) & (needed > eps * (1 + 1e-4))).any())
    assert notes["item_in_list"] == 1.0
    left = float((above < plugin.k).double().mean())
    assert notes["item_in_list_attacked"] == pytest.approx(left, abs=1e-9)
    if name in PASSES:  # after the clean scores, and a look whether they are a dot product
        assert notes["queries"] == model.data.n_genuine * (2 + PASSES[name])
    else:
        assert notes["queries"] > 2 * model.data.n_genuine


@pytest.mark.parametrize(("name", "norm"), [("PGDL2", "l2"), ("APGD", "l2"), ("APGD", "linf"),
                                            ("APGDT", "l2"), ("PGD", "linf")])
def test_strong_attacks_reach_what_the_bound_allows(model: BprRecommender, name: str, norm: str
                                                    ) -> None:
    plugin = TorchAttacks(attack=name, norm=norm, **fast(name))
    eps = float(radii(model, plugin, norm).quantile(0.75))
    _, notes, _ = attacked(model, name, eps, norm, steps=20)
    share = float((radii(model, plugin, norm) < eps).double().mean())
    assert 1 - notes["item_in_list_attacked"] >= 0.7 * share


def test_autoattack_is_at_least_its_parts(model: BprRecommender) -> None:
    plugin = TorchAttacks(norm="l2", **fast("APGD"))
    eps = float(radii(model, plugin, "l2").median())
    kept = {name: attacked(model, name, eps, "l2")[1]["item_in_list_attacked"]
            for name in ("APGD", "APGDT", "AutoAttack")}
    assert kept["AutoAttack"] <= min(kept.values()) + 1 / model.data.n_genuine


def test_spsa_moves_as_far_as_eps_allows(model: BprRecommender) -> None:
    """The library's own defaults move 0.01 whatever eps is."""
    delta, _, _ = attacked(model, "SPSA", 2.0, "linf")
    assert float(delta.abs().max()) > 1.5


def test_eps_zero_changes_no_bit(model: BprRecommender) -> None:
    users = torch.arange(model.data.n_genuine)
    clean = model.scores(users)
    delta, _, _ = attacked(model, "APGD", 0.0, "l2")
    with model.perturbed({"user": delta}):
        assert torch.equal(clean, model.scores(users))


def test_the_generators_and_the_mode_are_left_alone(model: BprRecommender) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    model.module.train()
    attacked(model, "AutoAttack", 0.5, "linf")
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.module.training
    model.module.eval()


def test_reordered_examples_keep_their_own_context(model: BprRecommender) -> None:
    """One user at a time gives what all users together give: no context by place in a batch."""
    both, _, plugin = attacked(model, "APGD", 0.8, "l2")
    users = torch.arange(model.data.n_genuine)
    chosen, masked = plugin._chosen(model, model.data, users)
    box = Box(model.tables()["user"], 0.8)
    scorer = BoxScorer(UserScores(model, users), box, chosen, masked, K).eval()
    seed = Context(3).number("torchattacks", "APGD") % 2**31
    clean = scorer.pictures(scorer.scores.vectors)
    for row in (0, 7, 40):
        with scorer.pinned(row), torch.random.fork_rng(), torch.enable_grad():
            made = plugin._library(scorer, box.radius, seed + row)(
                clean[row:row + 1], scorer.labels()[row:row + 1])
        alone = scorer.vectors(made.detach()) - scorer.vectors(clean[row:row + 1])
        assert torch.allclose(both[row], alone[0], atol=1e-5)


def test_misclassified_means_out_of_the_list(model: BprRecommender) -> None:
    users = torch.arange(model.data.n_genuine)
    plugin = TorchAttacks(norm="l2", **fast("APGD"))
    chosen, masked = plugin._chosen(model, model.data, users)
    scorer = BoxScorer(UserScores(model, users), Box(model.tables()["user"], 1.0), chosen, masked,
                       K)
    moved = scorer.scores.vectors + 0.7 * torch.randn(
        scorer.scores.vectors.shape, generator=torch.Generator().manual_seed(0))
    logits = scorer(scorer.pictures(moved))
    m = model.module
    scores = (moved @ m.items.weight.T + m.bias).masked_fill(masked, -torch.inf)
    rank = (scores > scores.gather(1, chosen[:, None])).sum(dim=1)
    assert torch.equal(logits.argmax(dim=1) == 0, rank < K)
    assert float(logits.min()) >= 1.0  # CW fills with zeros: logits stay above


def test_other_models_are_scored_with_their_own_code(data: Dataset) -> None:
    """LightGCN is no dot product of its tables: its propagation is differentiated."""
    from bench.registry import Registry

    plugin: Any = Registry().make("models", {"name": "LightGCN", "params": {
        "epochs": 3, "patience": 0, "embedding_size": 8}})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    model.fit(NoDefense(), lambda event: None)
    users = torch.arange(6)
    with model.evaluating():
        scores = UserScores(model, users)
        assert scores._linear is None
        vectors = scores.vectors.clone().requires_grad_()
        found = scores(vectors, torch.arange(6))
        assert torch.allclose(found, scores.clean, atol=1e-5)
        step = torch.zeros_like(vectors)
        step[2, 1] = 1e-2
        (slope,) = torch.autograd.grad(found[2, 5], vectors)
        with torch.no_grad():
            ahead = scores(vectors + step, torch.arange(6))[2, 5]
            behind = scores(vectors - step, torch.arange(6))[2, 5]
    assert float(ahead - behind) / 2e-2 == pytest.approx(float(slope[2, 1]), rel=2e-2)


@pytest.mark.parametrize(("params", "words"), [
    ({"attack": "TIFGSM"}, "cannot be right on vectors"),
    ({"attack": "GN"}, "no bound"),
    ({"attack": "PGD", "norm": "l2"}, "has no l2 ball"),
    ({"attack": "PGDL2", "norm": "linf"}, "its norm is l2")])
def test_what_cannot_be_right_is_refused_with_the_reason(params: dict[str, Any], words: str
                                                         ) -> None:
    with pytest.raises(InputError, match=words):
        TorchAttacks.from_params(params)


def test_the_whole_library_is_accounted_for() -> None:
    import torchattacks

    known = {n for n in dir(torchattacks) if isinstance(getattr(torchattacks, n), type)
             and issubclass(getattr(torchattacks, n), torchattacks.attack.Attack)}
    known -= {"Attack", "LGV", "MultiAttack"}  # LGV needs a training set of pictures; a list
    assert known == set(SUITABLE) | set(UNSUITABLE)


def test_a_model_without_one_user_table_is_skipped(data: Dataset) -> None:
    from bench.registry import Registry

    plugin: Any = Registry().make("models", {"name": "NeuMF", "params": {"epochs": 1,
                                                                         "patience": 0}})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    with pytest.raises(CannotActError, match="one vector per example"):
        UserScores(model, torch.from_numpy(np.arange(3)))


@pytest.fixture(scope="module")
def wide(data: Dataset) -> BprRecommender:
    """Vectors as long as in use: what is right at eight coordinates may not be at 64."""
    made = build(BPRMF(dim=64, epochs=15, batch_size=512, learning_rate=0.03, patience=0), data,
                 Context(0))
    assert isinstance(made, BprRecommender)
    made.fit(NoDefense(), lambda event: None)
    return made


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_square_searches_long_vectors(wide: BprRecommender, norm: str) -> None:
    """Its blocks are taller than a flat picture of 64 coordinates."""
    eps = 2.0 if norm == "l2" else 0.3
    delta, notes, _ = attacked(wide, "Square", eps, norm)
    moved = float((delta != 0).any(dim=1)[:wide.data.n_genuine].double().mean())
    assert moved > 0.2  # who is not fooled stays
    assert notes["item_in_list_attacked"] == pytest.approx(1 - moved, abs=0.05)


@pytest.mark.parametrize("width", [1, 8, 25, 32, 50, 64, 100, 128, 144, 200, 300, 500])
def test_square_starts_on_a_picture_of_any_width(width: int) -> None:
    import torchattacks

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(1, 2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), -1).sum(dim=1, keepdim=True) * self.w

    side = square_side(width)
    assert side * side >= width
    picture, label = torch.full((1, 1, side, side), 0.5), torch.tensor([3])
    with torch.random.fork_rng():
        for norm in ("L2", "Linf"):
            made = torchattacks.Square(Linear().eval(), norm=norm, eps=0.01, n_queries=3, seed=0)
            assert torch.isfinite(made(picture, label)).all()


def test_cw_finds_short_perturbations_of_long_vectors(wide: BprRecommender) -> None:
    """A first step longer than the ball raises the cost, and the library ends with nothing."""
    eps = 1.5
    delta, _, _ = attacked(wide, "PGDL2", eps, "l2")
    plugin, users = TorchAttacks(norm="l2", **fast("APGD")), torch.arange(wide.data.n_genuine)
    by_steps = plugin._in_list(wide, users, *plugin._chosen(wide, wide.data, users),
                               {"user": delta})
    shortest = attacked(wide, "CW", eps, "l2")[1]["item_in_list_attacked"]
    assert by_steps < 0.6
    assert shortest <= by_steps + 0.2


def test_users_with_fewer_rivals_than_the_list_is_long_break_nothing() -> None:
    data = Blocks(users=30, items=24, length=18).load()
    model = build(BPRMF(dim=8, epochs=2, patience=0), data, Context(0))
    assert isinstance(model, TorchRecommender)
    for name in ("SPSA", "APGD", "PGD"):
        _, notes, _ = attacked(model, name, 0.5, "linf", k=10)
        assert notes["item_in_list_attacked"] == 1.0  # nobody can leave a list of all


def test_one_user_does_not_make_any_scorer_a_dot_product(data: Dataset) -> None:
    from bench.registry import Registry

    plugin: Any = Registry().make("models", {"name": "LightGCN", "params": {
        "epochs": 1, "patience": 0, "embedding_size": 8}})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    with model.evaluating():
        scores = UserScores(model, torch.tensor([3]))
    assert scores._linear is None
