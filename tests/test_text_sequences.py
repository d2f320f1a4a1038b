"""Sequence models over frozen vectors of texts: the whitening experts, the loss, causality, texts
under attack, items that nobody took. Everything on two layers of random weights."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, InputError
from bench.evaluate import evaluate
from bench.models.base import build
from bench.models.pop import Pop
from bench.models.text_sasrec import TextSASRec
from bench.models.unisrec import UniSRec
from bench.registry import Registry
from bench.text.experts import WhiteningExperts

REGISTRY = Registry()
SMALL: dict[str, Any] = {
    "model": "tiny-random", "dtype": "float32", "dim": 16, "inner": 32, "layers": 2,
    "dropout": 0.1, "attention_dropout": 0.1, "max_length": 8, "epochs": 20,
    "batch_size": 16, "learning_rate": 0.01, "patience": 0}
BOTH = [TextSASRec, UniSRec]


def no_defense() -> Any:
    return REGISTRY.make("defenses", {"name": "none"})


@cache
def data() -> Dataset:
    made: Any = REGISTRY.make("datasets", {"name": "blocks"})
    loaded: Dataset = made.load()
    return loaded


def make(cls: Any, on: Dataset | None = None, fit: bool = False, **params: Any) -> Any:
    if cls is UniSRec:
        params = {"experts": 3, **params}
    model: Any = build(cls(**{**SMALL, **params}), on or data(), Context(0))
    if fit:
        model.fit(no_defense(), lambda event: None)
    model.refresh()  # texts are encoded when they are first asked for
    return model


@cache
def trained(cls: Any) -> Any:
    return make(cls, fit=True)


# -- experts -------------------------------------------------------------------------------------

def drawn(layer: WhiteningExperts) -> WhiteningExperts:
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_()
    return layer


def test_experts_are_a_gated_sum_of_shifted_maps() -> None:
    torch.manual_seed(0)
    layer = drawn(WhiteningExperts(5, 3, 4, 0.5)).eval()
    x = torch.randn(6, 5)
    for n in range(6):
        logits = [float(x[n] @ layer.gate[:, k].detach()) for k in range(4)]
        total = sum(math.exp(v) for v in logits)
        slow = torch.zeros(3)
        for k in range(4):
            slow += math.exp(logits[k]) / total * ((x[n] - layer.shift[k]) @ layer.weight[k])
        assert torch.allclose(layer(x)[n], slow, atol=1e-5)


def test_gates_are_noisy_in_training_alone_and_as_much_as_published() -> None:
    torch.manual_seed(0)
    layer = drawn(WhiteningExperts(5, 3, 2, 0.0)).eval()
    x = torch.randn(1, 5)
    assert torch.equal(layer.gates(x), layer.gates(x))
    layer.train()
    many = layer.gates(x.expand(40_000, -1)).log().detach()
    found = many[:, 0] - many[:, 1]  # difference of two logits with independent noise
    spread = F.softplus(x @ layer.noise)[0] + 0.01
    clean = (x @ layer.gate).detach()[0]
    assert float(found.mean()) == pytest.approx(float(clean[0] - clean[1]), abs=0.1)
    assert float(found.std()) == pytest.approx(float(spread.detach().norm()), rel=0.03)


def test_one_expert_can_whiten() -> None:
    """With b the mean and W of the covariance, one expert gives covariance I."""
    from bench.text.vectors import whitening

    torch.manual_seed(0)
    x = torch.randn(400, 5) @ torch.randn(5, 5)
    layer = WhiteningExperts(5, 5, 1, 0.2).eval()
    mean, matrix = whitening(x, 5)
    with torch.no_grad():
        layer.shift.copy_(mean.float())
        layer.weight.copy_(matrix.float())
    assert torch.allclose(torch.cov(layer(x).T), torch.eye(5), atol=1e-3)


# -- the loss ------------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("rows", ["windows", "prefixes"])
def test_the_loss_is_cross_entropy_over_all_items_place_by_place(cls: Any, rows: str) -> None:
    model = make(cls, rows=rows)
    m = model.module
    batch = next(iter(model.batches(1, 5)))
    items = m.items()
    slow = []
    for n, history in enumerate(batch["histories"].tolist()):
        known = [i for i in history if i >= 0]
        wanted = [t for t in batch["targets"][n].tolist() if t >= 0] if rows == "windows" else \
            [int(batch["items"][n])]
        for place, target in enumerate(wanted):
            seen = known[:place + 1] if rows == "windows" else known
            hidden = m.read(items[torch.tensor(seen)][None])[0, -1]
            if cls is UniSRec:
                scores = torch.stack([F.cosine_similarity(hidden, v, dim=0) for v in items]) / 0.07
            else:
                scores = torch.stack([hidden @ v for v in items])
            slow.append(torch.logsumexp(scores, 0) - scores[target])
    assert float(model.batch_loss(batch).detach()) == pytest.approx(
        float(torch.stack(slow).mean().detach()), abs=1e-4)


def test_transductive_adds_ids_to_texts() -> None:
    model = make(UniSRec, transductive=True)
    m = model.module
    assert torch.equal(m.items(), m.adapt(m.vectors) + m.ids.weight)
    assert "embeddings" in model.hyper.gives
    assert "embeddings" not in make(UniSRec).hyper.gives
    assert make(UniSRec).module.ids is None


# -- what is read --------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
def test_a_later_item_changes_nothing_earlier(cls: Any) -> None:
    m = trained(cls).module
    first = torch.tensor([[3, 9, 14, 2, 7]])
    second = first.clone()
    second[0, 3] = 30
    a, b = (m.read(m.items()[x]) for x in (first, second))
    assert torch.equal(a[0, :3], b[0, :3])
    assert not torch.allclose(a[0, 3], b[0, 3])
    assert not torch.allclose(a[0, 4], b[0, 4])


@pytest.mark.parametrize("cls", BOTH)
def test_batch_and_padding_change_nothing(cls: Any) -> None:
    model = trained(cls)
    users = torch.arange(data().n_genuine)
    together = model.scores(users)
    for u in (0, 5, 17):
        alone = model.scores(torch.tensor([u]))[0]
        assert torch.allclose(alone, together[u], atol=1e-4)
    short = torch.tensor([[3, 9, 14]])
    padded = torch.tensor([[3, 9, 14, -1, -1, -1]])
    with torch.no_grad():
        bare, wide = (model.history_scores(torch.tensor([0]), h, torch.tensor([3]))
                      for h in (short, padded))
    assert torch.allclose(bare, wide, atol=1e-5)


@pytest.mark.parametrize("cls", BOTH)
def test_who_took_nothing_gets_finite_scores(cls: Any) -> None:
    model = trained(cls)
    nobody = [np.empty(0, np.int64) for _ in range(data().n_users - 1)] + [np.array([4])]
    with model.reading(nobody):
        scores = model.scores(torch.tensor([0, 1]))
    assert bool(torch.isfinite(scores).all())
    assert torch.equal(scores[0], scores[1])


# -- what is learned -----------------------------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
def test_it_beats_popularity_by_random_vectors_of_texts(cls: Any) -> None:
    floor = build(Pop(), data(), Context(0))
    floor.fit(no_defense(), lambda event: None)
    least, found = (evaluate(m, data(), ["ndcg@10"]).values[0][2] for m in (floor, trained(cls)))
    assert found > 1.2 * least


@pytest.mark.parametrize("cls", BOTH)
def test_an_item_that_nobody_took_is_scored_by_its_text(cls: Any) -> None:
    """Users of its genre before the others: the area under the curve, over unseen items."""
    unseen = np.arange(8, 24)
    train = data().train
    valid = data().valid
    without = data().replace(train=train[~np.isin(train.items, unseen)],
                             valid=valid[~np.isin(valid.items, unseen)])
    model = make(cls, without, fit=True)
    scores = model.scores(torch.arange(data().n_genuine))
    scores = (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)
    areas = []
    for item in unseen.tolist():
        own = torch.arange(data().n_genuine) % 4 == item % 4
        ahead = scores[own, item][:, None] > scores[~own, item][None]
        areas.append(float(ahead.double().mean()))
    assert np.mean(areas) > 0.65  # 0.5 is chance


# -- texts under attack, and other features ------------------------------------------------------

@pytest.mark.parametrize("cls", BOTH)
def test_other_texts_are_read_as_history_and_as_candidate(cls: Any) -> None:
    model = trained(cls)
    users = torch.arange(data().n_genuine)
    before, table = model.scores(users), model.module.vectors.clone()
    texts = list(data().item_text or ())
    changed = ["title 3 genre2 changed" if n == 3 else t for n, t in enumerate(texts)]
    asked: list[str] = []
    inner, model.encoder._kept = model.encoder.language.batch, dict(model.encoder._kept)

    def counting(rows: Any) -> Any:
        asked.extend(map(str, rows))
        return inner(rows)

    model.encoder.language.batch = counting
    try:
        with model.reading_texts(changed):
            under = model.scores(users)
            now = model.module.vectors.clone()
    finally:
        model.encoder.language.batch = inner
    assert len(asked) == 1  # only what changed is encoded
    expected = table.clone()
    expected[3] = model.encoder([changed[3]])[0]
    assert torch.equal(now, expected)
    assert torch.equal(before, model.scores(users))
    assert torch.equal(model.module.vectors, table)
    took = [u for u in users.tolist() if 3 in model.histories()[u][-8:]]
    others = np.delete(np.arange(data().n_items), 3)
    assert not torch.allclose(under[:, 3], before[:, 3])
    moved = (under[:, others] - before[:, others]).abs().amax(1) > 1e-5
    assert moved[took].all()
    assert not moved[np.setdiff1d(users, took)].any()


@pytest.mark.parametrize("cls", BOTH)
def test_a_filter_and_a_saved_model_read_the_same_texts(cls: Any) -> None:
    model = make(cls, fit=True, epochs=1)
    state = {k: v.clone() for k, v in model.state().items()}
    users = torch.arange(10)
    clean = model.scores(users)
    model.filtered(lambda texts: [t.upper() for t in texts])
    filtered = model.scores(users)
    assert not torch.allclose(clean, filtered)
    fresh = make(cls)
    fresh.load_state(state)
    assert torch.equal(clean, fresh.scores(users))
    fresh.filtered(lambda texts: [t.upper() for t in texts])
    assert torch.allclose(filtered, fresh.scores(users), atol=1e-5)
    again = make(cls)
    again.load_state(model.state())  # saved as it read filtered texts, put where nothing filters
    assert torch.allclose(clean, again.scores(users), atol=1e-5)


@pytest.mark.parametrize("cls", BOTH)
def test_vectors_of_texts_are_a_table_that_reaches_loss_and_scores(cls: Any) -> None:
    model = trained(cls)
    table = model.tables()["feature"]
    assert table.role == "feature"
    assert len(table.rows()) == data().n_items
    delta = torch.zeros_like(table.rows()).requires_grad_()
    with model.evaluating():
        (slope,) = torch.autograd.grad(model.loss(next(iter(model.batches(0, 64))),
                                                  {"feature": delta}), delta)
    assert bool((slope != 0).any())
    before = model.scores(torch.arange(9))
    with model.perturbed({"feature": torch.ones_like(delta)}):
        moved = model.scores(torch.arange(9))
        assert not torch.equal(before, moved)
        with model.reading_texts([f"new {t}" for t in data().item_text or ()]):
            assert not torch.equal(moved, model.scores(torch.arange(9)))
        assert torch.equal(moved, model.scores(torch.arange(9)))  # the perturbation stays
    assert torch.equal(before, model.scores(torch.arange(9)))


@pytest.mark.parametrize("cls", BOTH)
def test_a_second_modality_stands_beside_the_texts(cls: Any) -> None:
    with_images = data().replace(item_features={"image": np.random.default_rng(0).normal(
        size=(data().n_items, 7)).astype(np.float32) * 100})
    for name, width in (("image", 7), ("attributes", 4)):
        model = make(cls, with_images, features=name)
        rows = model.tables()["feature"].rows()
        assert rows.shape[1] == model.width + width
        norms = [float(part.norm(dim=1).median()) for part in
                 (rows[:, :model.width], rows[:, model.width:])]
        assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    model.fit(no_defense(), lambda event: None)
    fresh = make(cls, with_images, features="attributes")
    fresh.load_state(model.state())
    assert torch.equal(model.scores(torch.arange(5)), fresh.scores(torch.arange(5)))
    assert "no item features 'sound'" in cls(**SMALL, features="sound").unfit(data())
    bare = data().replace(item_attributes={})
    assert "none at all" in cls(**SMALL, features="attributes").unfit(bare)


def test_what_cannot_be_read_is_refused_with_a_reason() -> None:
    assert "no item texts" in str(UniSRec(**SMALL).unfit(data().replace(item_text=None)))
    timeless = data().replace(**{s: type(data().train)(getattr(data(), s).users,
                                                       getattr(data(), s).items)
                                 for s in ("train", "valid", "test")})
    assert "needs times" in str(TextSASRec(**SMALL).unfit(timeless))
    with pytest.raises(InputError, match="3 heads do not share 64"):
        TextSASRec.from_params({"model": "tiny-random", "heads": 3})


# -- attacks on histories ------------------------------------------------------------------------

def test_places_of_a_history_can_be_moved_where_items_have_ids() -> None:
    model = make(UniSRec, fit=True, transductive=True, epochs=2)
    history, lengths = torch.tensor([[4, 8, 12, -1]]), torch.tensor([3])
    rows = model.history_table().rows()
    own = rows[history.clamp_min(0)]
    user = torch.tensor([0])
    plain = model.history_scores(user, history, lengths)
    with model.looking_up(history, own):
        assert torch.allclose(plain, model.history_scores(user, history, lengths), atol=1e-4)
    other = own.clone()
    other[0, 1] = rows[20]
    with model.looking_up(history, other.requires_grad_()):
        moved = model.history_scores(user, history, lengths)
    (slope,) = torch.autograd.grad(moved.sum(), other)
    assert not torch.allclose(plain, moved)
    assert bool((slope[0, :3] != 0).any(1).all())
    assert not slope[0, 3].any()
    with pytest.raises(CannotActError):
        make(UniSRec).history_table()
