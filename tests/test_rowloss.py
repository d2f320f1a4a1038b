"""Losses of rows: put together they are the model's loss, in value and in gradient."""

from __future__ import annotations

import pytest
import recbole_toy
import torch
from torch import Tensor, nn

from bench import rowloss
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.errors import PluginError
from bench.models._bprmf import BprRecommender
from bench.models.base import Batch, TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.models.pop import Pop
from bench.models.recbole import facts, member


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=32).load()


def made(data: Dataset, name: str, **params: object) -> TorchRecommender:
    plugin = BPRMF(dim=8, init_std=0.3, **params) if name == "bprmf" else \
        member(name)(**{**member(name).test_params(), **params})
    model = build(plugin, data, Context(0))
    assert isinstance(model, TorchRecommender)
    return model


def slopes(model: TorchRecommender, loss: Tensor) -> list[Tensor]:
    weights = [p for p in model.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


MODELS = [("bprmf", {"bias": True, "l2": 0.1}), ("bprmf", {"reduction": "sum"}),
          ("BPR", {}), ("NeuMF", {}), ("MultiVAE", {}), ("GRU4Rec", {}), ("SASRec", {}),
          ("SASRec", {"rows": "prefixes"})]
WINDOWS = [("GRU4Rec", {}), ("SASRec", {})]


@pytest.mark.parametrize(("name", "params"), [*MODELS, ("LightGCN", {"reg_weight": 0.1}),
                                               ("AFM", {}), ("SASRecF", {})])
def test_terms_together_are_the_loss_and_its_gradient(data, name, params):
    model = made(data, name, **params)
    batch = next(iter(model.batches(1, 48)))
    with model.evaluating():
        loss = model.loss(batch)
        terms = rowloss.row_terms(model, batch)
    assert terms.whole().item() == pytest.approx(loss.item(), rel=1e-5)
    for mine, right in zip(slopes(model, terms.whole()), slopes(model, loss), strict=True):
        assert torch.allclose(mine, right, rtol=1e-3, atol=1e-6)
    assert torch.equal(terms.users, batch["users"][terms.rows])
    assert terms.items is None if name == "MultiVAE" else len(terms.items) == len(terms.losses)


def test_regularisers_belong_to_no_term_and_are_not_weighed(data):
    model = made(data, "LightGCN", reg_weight=0.1)
    batch = next(iter(model.batches(1, 48)))
    terms = rowloss.row_terms(model, batch)
    assert terms.rest.item() > 1e-3
    nothing = terms.whole(torch.zeros_like(terms.losses))
    assert nothing.item() == pytest.approx(terms.rest.item())


def test_a_term_of_a_window_is_a_place(data):
    model = made(data, "SASRec")
    batch = next(iter(model.batches(1, 16)))
    with model.evaluating():
        terms, rows = rowloss.row_terms(model, batch), rowloss.row_losses(model, batch)
    places = batch["targets"] >= 0
    assert torch.equal(terms.items, batch["targets"][places])
    start = 0
    for row, count in enumerate(places.sum(dim=1).tolist()):
        mine = terms.losses[start:start + count]
        assert rows[row].item() == pytest.approx(mine.mean().item(), rel=1e-5)
        start += count


@pytest.mark.parametrize(("name", "params"), [m for m in MODELS if m not in WINDOWS])
def test_rows_together_are_the_loss(data, name, params):
    model = made(data, name, **params)
    batch = next(iter(model.batches(1, 48)))
    with model.evaluating():
        loss, rows = model.loss(batch), rowloss.row_losses(model, batch)
    assert rows.shape == (len(batch["users"]),)
    whole = rows.sum() if model.sums_loss else rows.mean()
    assert whole.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "params"), MODELS)
def test_each_row_has_the_loss_of_a_batch_of_its_own(data, name, params):
    model = made(data, name, **params)
    batch = next(iter(model.batches(1, 12)))
    with model.evaluating():
        rows = rowloss.row_losses(model, batch)
        alone = torch.stack([model.loss({k: v[n:n + 1] for k, v in batch.items()})
                             for n in range(len(batch["users"]))])
    assert torch.allclose(rows, alone, rtol=1e-4, atol=1e-6)
    assert rows.std() > 0


@pytest.mark.parametrize(("name", "params"), [
    ("bprmf", {"bias": True, "l2": 0.1}), ("BPR", {}), ("NeuMF", {}), ("LightGCN", {})])
def test_shifted_scores_give_the_loss_of_a_model_that_scores_so(data, name, params):
    model = made(data, name, **params)
    batch = next(iter(model.batches(1, 48)))
    shift = torch.linspace(-1, 2, data.n_items)
    with model.evaluating(), torch.no_grad():
        moved = rowloss.row_terms(model, batch, shift)
        scores = model.scores(batch["users"]).double()
        if "labels" in batch:
            scores = torch.logit(scores)  # NeuMF scores by probability
    scores = scores + shift  # (B, n_items)
    own = scores.gather(1, batch["items"][:, None])[:, 0]
    if "labels" in batch:
        right = nn.functional.binary_cross_entropy_with_logits(
            own, batch["labels"].double(), reduction="none")
    else:
        right = nn.functional.softplus(scores.gather(1, batch["negatives"][:, None])[:, 0] - own)
    assert torch.allclose(moved.losses.double(), right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", ["windows", "prefixes"])
def test_shifted_scores_of_a_softmax(data, rows):
    model = made(data, "SASRec", rows=rows)
    batch = {k: v[:1].expand(data.n_items, *v.shape[1:]).clone()
             for k, v in next(iter(model.batches(1, 48))).items()}  # one row, every item as target
    everything = torch.arange(data.n_items)
    batch["items"] = everything
    if rows == "windows":
        batch["targets"][:] = -1
        batch["targets"][:, 0] = everything
    shift = torch.linspace(-1, 2, data.n_items)
    with model.evaluating(), torch.no_grad():
        plain = rowloss.row_terms(model, batch).losses
        moved = rowloss.row_terms(model, batch, shift).losses
    chance = plain.double().neg().exp()  # of each item; what is left is the padding's
    whole = (chance * shift.double().exp()).sum() + 1 - chance.sum()
    right = -(chance * shift.double().exp() / whole).log()
    assert torch.allclose(moved.double(), right, rtol=1e-4)


def test_scores_that_a_model_keeps_to_itself_are_not_shifted(data):
    for name, reason in (("DCNV2", "keeps its scores"), ("MultiVAE", "whole histories"),
                         ("SASRec", None), ("LightGCN", None)):
        found = rowloss.shiftable(member(name)())
        assert (reason in found) if reason else found is None
    model = made(data, "DCNV2")
    with pytest.raises(PluginError, match="nothing can be added"):
        rowloss.row_terms(model, next(iter(model.batches(1, 16))), torch.zeros(data.n_items))


class Squared(BprRecommender):
    """A subclass that changes the loss and forgets `row_losses`."""

    def batch_loss(self, batch: Batch) -> Tensor:
        return (super().row_losses(batch) ** 2).mean()


def test_a_subclass_with_another_loss_is_not_believed(data):
    model = Squared(BPRMF(dim=8, init_std=0.3), data, Context(0))
    batch = next(iter(model.batches(1, 48)))
    rows = rowloss.row_losses(model, batch)
    assert rows.mean().item() == pytest.approx(model.loss(batch).item(), rel=1e-5)


def test_annealing_is_counted_by_the_clean_loss_alone(data):
    model = made(data, "MultiVAE")
    model.module.train()
    batch = next(iter(model.batches(1, 12)))
    model.loss(batch)
    before = model.module.update
    rowloss.row_losses(model, batch)
    assert model.module.update == before


def test_models_without_rows_are_refused_with_the_reason():
    assert rowloss.separable(BPRMF()) is None
    assert "not learned" in str(rowloss.separable(Pop()))
    assert "no sum over the rows" in str(rowloss.separable(member("LightGCN")()))
    assert rowloss.termwise(member("LightGCN")()) is None
    assert rowloss.itemwise(BPRMF(order="users")) is None
    assert "whole histories" in str(rowloss.itemwise(member("MultiVAE")()))


WITHOUT = [n for n, k in facts().items() if "gradients" in k["gives"]
           and "user-separable" not in k["gives"] and k["training"] == "loop"]


@pytest.mark.parametrize("name", WITHOUT)
def test_the_list_of_models_that_have_terms_all_the_same_is_right(name):
    model = build(recbole_toy.plugin(name), recbole_toy.data(), recbole_toy.CTX)
    assert isinstance(model, TorchRecommender)
    batch = next(b for epoch in (1, 2) for b in model.batches(epoch, 64) if len(b["users"]))
    with model.evaluating():
        if name not in rowloss.WITH_TERMS:
            with pytest.raises(PluginError, match="not made of losses of its rows"):
                rowloss.row_terms(model, batch)
            return
        whole = rowloss.row_terms(model, batch).whole()
        assert whole.item() == pytest.approx(model.loss(batch).item(), rel=1e-4)
