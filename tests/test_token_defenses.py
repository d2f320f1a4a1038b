"""Adversarial fine-tuning of language models: where δ is, how long it is, what it teaches. On two
layers of random weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset
from bench.models.base import build
from bench.registry import Registry
from bench.text.token_moves import symmetric_kl, with_slopes
from bench.training import Loop

REGISTRY = Registry()
MODELS = ("tallrec", "dual-encoder")
DEFENSES = ("fgm", "freelb", "smart", "r-drop")
NEUTRAL = {"fgm": [{"eps": 0.0}, {"weight": 0.0}], "freelb": [{"step": 0.0, "init": 0.0}],
           "smart": [{"weight": 0.0}, {"radius": 0.0}], "r-drop": [{"weight": 0.0}]}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", users=24, items=24).load()
    return made.replace(item_text=[f"title {n} genre{n % 4}{' and more' * (n % 3)}"
                                   for n in range(24)])


def at_start(data: Dataset, name: str = "tallrec", dropout: bool = False, **params: Any) -> Any:
    """An untrained model; without dropout its loss is a function of its weights."""
    known = dict(REGISTRY.get("models", name).test_params()) | {"batch_size": 8, "shots": 16}
    if name == "dual-encoder":
        del known["shots"]
    model: Any = build(plugin("models", name, **known | params), data, Context(3))
    if hasattr(model, "retriever"):
        model._fit_retriever()
    if not dropout:
        for part in model.module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    model.module.train()
    return model


def first(model: Any) -> tuple[Any, Any]:
    batch = next(iter(model.batches(1, 8)))
    return batch, model.tokens(batch)


def trained(model: Any, defense: Any, steps: int = 3) -> tuple[dict[str, Tensor], Loop]:
    with model.ctx.seeded("train"):
        loop = Loop(model, defense)
        run = defense.wrap(loop)
        assert run is None
        model.module.train()
        batches = [b for epoch in range(1, 5) for b in model.batches(epoch, 8)]
        for n in range(steps):
            loop.step(batches[n], 1)
    return {n: p.detach().clone() for n, p in model.trained().items()}, loop


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def slopes_of(model: Any, loss: Tensor) -> list[Tensor]:
    weights = list(model.trained().values())
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


# -- neutral -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "neutral"), [(n, p) for n in DEFENSES for p in NEUTRAL[n]])
@pytest.mark.parametrize("model", MODELS)
def test_neutral_parameters_are_plain_fine_tuning_bit_for_bit(data: Dataset, model: str,
                                                              name: str, neutral: dict[str,
                                                              float]) -> None:
    plain, _ = trained(at_start(data, model, dropout=True), plugin("defenses", "none"))
    assert same(plain, trained(at_start(data, model, dropout=True),
                               plugin("defenses", name, **neutral))[0])
    other, _ = trained(at_start(data, model, dropout=True), plugin("defenses", name))
    assert not same(plain, other)
    assert all(bool(torch.isfinite(w).all()) for w in other.values())


@pytest.mark.parametrize("name", DEFENSES)
def test_the_generators_stay_where_they_were_and_draws_repeat(data: Dataset, name: str) -> None:
    model = at_start(data, dropout=True)
    batch, _ = first(model)
    found = []
    with model.ctx.seeded("here"):
        clean = model.loss(batch)
        before = torch.get_rng_state()
        for _ in range(2):
            found.append(float(plugin("defenses", name).loss(model, batch, clean, 1).detach()))
            assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1]
    assert float(plugin("defenses", name).loss(model, batch, clean, 2).detach()) != found[0]


@pytest.mark.parametrize("name", DEFENSES)
def test_a_model_that_is_not_tuned_is_refused_with_a_reason(data: Dataset, name: str) -> None:
    assert "fine-tunes no language model" in plugin("defenses", name).unfit(
        plugin("models", "bprmf"), data)
    frozen = plugin("models", "tallrec", model="tiny-random", tune="none")
    assert plugin("defenses", name).unfit(frozen, data)
    tuned = plugin("models", "tallrec", model="tiny-random", tune="lora")
    assert plugin("defenses", name).unfit(tuned, data) is None


# -- FGM -----------------------------------------------------------------------------------------

def slow_delta(model: Any, batch: Any, tokens: Any, eps: float, where: str) -> Tensor:
    """One prompt at a time, token by token, without anything of the defense."""
    made = torch.zeros(*tokens.ids.shape, model.language.embeddings().embedding_dim)
    for row in range(len(tokens.ids)):
        here = model.language.embeddings()(tokens.ids).detach().requires_grad_()
        loss = F.cross_entropy(model.outputs(tokens, here), tokens.labels.long())
        torch.autograd.backward(loss)
        assert here.grad is not None
        total = 0.0
        for at in range(tokens.ids.shape[1]):
            if tokens.mask[row, at] and (where == "all" or tokens.text[row, at]):
                made[row, at] = here.grad[row, at]
                total += float((here.grad[row, at].double() ** 2).sum())
        made[row] *= eps / total ** 0.5
    return made


@pytest.mark.parametrize("where", ["all", "text"])
def test_fgm_against_a_slow_reference(data: Dataset, where: str) -> None:
    model = at_start(data)
    batch, tokens = first(model)
    assert not bool(tokens.mask.bool().all())  # there is padding to be left alone
    fgm = plugin("defenses", "fgm", eps=0.3, weight=0.7, where=where)
    delta = fgm.delta(model, tokens)
    expected = slow_delta(model, batch, tokens, 0.3, where)
    assert torch.allclose(delta, expected, atol=1e-6)

    vectors = model.language.embeddings()(tokens.ids)
    slow = model.loss(batch) + 0.7 * F.cross_entropy(
        model.outputs(tokens, vectors + expected), tokens.labels.long())
    found = fgm.loss(model, batch, model.loss(batch), 1)
    assert float(found.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    for a, b in zip(slopes_of(model, found), slopes_of(model, slow), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("where", ["all", "text"])
def test_each_prompt_moves_by_eps_and_padding_by_nothing(data: Dataset, model: str,
                                                         where: str) -> None:
    made = at_start(data, model)
    _, tokens = first(made)
    delta = plugin("defenses", "fgm", eps=0.4, where=where).delta(made, tokens)
    able = tokens.mask.bool() & (tokens.text if where == "text" else True)
    assert bool((delta[~able] == 0).all())
    assert not delta.requires_grad
    lengths = delta.flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([0.4 if some else 0.0
                                              for some in able.any(dim=1).tolist()], rel=1e-5)
    once = delta.abs().sum(dim=2) > 0
    assert torch.equal(once & able, once)


def own_units(model: Any, tokens: Any, where: str = "all") -> list[float]:
    """The mean norm of each row's tokens that may move, one row after the other; 1 of none."""
    able = tokens.mask.bool() & (tokens.text if where == "text" else True)
    found = []
    for vectors, keep in zip(model.vectors(tokens).detach(), able, strict=True):
        norms = [float(v.norm()) for v in vectors[keep]]
        found.append(sum(norms) / len(norms) if norms else 1.0)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_relative_eps_counts_in_each_prompts_own_mean_token_norm(data: Dataset,
                                                                   model: str) -> None:
    made = at_start(data, model)
    _, tokens = first(made)
    for where in ("all", "text"):
        units = own_units(made, tokens, where)
        assert max(units) > min(units) * 1.001  # a mean over the batch would show
        delta = plugin("defenses", "fgm", eps=0.5, relative=True, where=where).delta(made, tokens)
        able = tokens.mask.bool() & (tokens.text if where == "text" else True)
        assert delta.flatten(1).norm(dim=1).tolist() == pytest.approx(
            [0.5 * u * bool(some) for u, some in zip(units, able.any(dim=1), strict=True)],
            rel=1e-5)


def alone(tokens: Any, row: int) -> Any:
    """The batch of this row and nothing else, without the others' padding."""
    n = int(tokens.mask[row].sum())
    return type(tokens)(tokens.ids[[row], :n], tokens.mask[[row], :n], tokens.text[[row], :n],
                        tokens.labels[[row]])


def test_relative_moves_of_a_prompt_are_the_same_in_any_batch(data: Dataset) -> None:
    model = at_start(data)
    _, tokens = first(model)
    weights = list(model.trained().values())
    fgm = plugin("defenses", "fgm", eps=0.5, relative=True)
    free = plugin("defenses", "freelb", init=0.0, step=0.2, max_norm=0.3, relative=True)
    together = fgm.delta(model, tokens), free.passes(model, tokens, weights, ("x",))[2][-1]
    smart = plugin("defenses", "smart", radius=0.1, relative=True)
    largest = smart.delta(model, tokens, ("x",)).abs().amax(dim=2)  # (R, L)
    for row in range(len(tokens.ids)):
        one = alone(tokens, row)
        n = one.ids.shape[1]
        found = fgm.delta(model, one), free.passes(model, one, weights, ("x",))[2][-1]
        for a, b in zip(together, found, strict=True):
            assert torch.allclose(a[row, :n], b[0], atol=1e-5)
        # its start is drawn for the whole batch; the lengths are not
        assert torch.allclose(largest[row, :n], smart.delta(model, one, ("x",)).abs().amax(dim=2),
                              rtol=1e-5)


# -- FreeLB --------------------------------------------------------------------------------------

def free(data: Dataset, **params: Any) -> tuple[Any, Any, Any, list[Tensor]]:
    model = at_start(data)
    batch, tokens = first(model)
    made = plugin("defenses", "freelb", **params)
    losses, _, deltas = made.passes(model, tokens, list(model.trained().values()), ("x",))
    assert len(losses) == len(deltas) == made.steps
    return model, batch, tokens, deltas


@pytest.mark.parametrize("model", MODELS)
def test_freelb_of_one_pass_from_zero_is_the_clean_loss(data: Dataset, model: str) -> None:
    made = at_start(data, model)
    batch, _ = first(made)
    clean = made.loss(batch)
    found = plugin("defenses", "freelb", steps=1, init=0.0).loss(made, batch, made.loss(batch), 1)
    assert found is not clean
    assert float(found) == pytest.approx(float(clean), rel=1e-6)
    for a, b in zip(slopes_of(made, found), slopes_of(made, clean), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_freelb_averages_the_losses_and_slopes_of_its_passes(data: Dataset) -> None:
    model, batch, tokens, deltas = free(data, steps=3)
    vectors = [model.language.embeddings()(tokens.ids) for _ in deltas]
    slow = torch.stack([F.cross_entropy(model.outputs(tokens, v + d), tokens.labels.long())
                        for v, d in zip(vectors, deltas, strict=True)]).mean()
    made = plugin("defenses", "freelb", steps=3)
    losses, slopes, _ = made.passes(model, tokens, list(model.trained().values()), ("x",))
    assert float(torch.stack(losses).mean()) == pytest.approx(float(slow), rel=1e-5)
    expected = dict(zip(model.trained().values(), slopes_of(model, slow), strict=True))
    for weight, slope in slopes.items():
        assert torch.allclose(slope, expected[weight], atol=1e-6)
    found = made.loss(model, batch, model.loss(batch), 1)
    torch.autograd.backward(found)
    assert float(model.language.embeddings().weight.grad.norm()) > 0


def test_freelb_begins_uniform_climbs_by_its_step_and_stays_in_its_ball(data: Dataset) -> None:
    _, _, tokens, deltas = free(data, steps=3, init=0.2, step=0.05, max_norm=0.0)
    width = deltas[0].shape[2]
    for row, n in enumerate(tokens.mask.sum(dim=1).tolist()):
        most = 0.2 / (n * width) ** 0.5
        assert 0.9 * most < float(deltas[0][row].abs().max()) <= most * (1 + 1e-6)
        assert float(deltas[0][row].norm()) == pytest.approx(0.2 / 3 ** 0.5, rel=0.15)
    assert all(bool((d[~tokens.mask.bool()] == 0).all()) for d in deltas)
    for before, after in itertools.pairwise(deltas):
        assert (after - before).flatten(1).norm(dim=1).tolist() == pytest.approx(
            [0.05] * len(tokens.ids), rel=1e-4)
    *_, bound = free(data, steps=4, init=0.2, step=0.05, max_norm=0.13)
    assert max(float(d.flatten(1).norm(dim=1).max()) for d in bound) == pytest.approx(0.13)


def test_freelb_climbs(data: Dataset) -> None:
    model, _, tokens, _ = free(data)
    losses, _, _ = plugin("defenses", "freelb", steps=5, init=0.0, step=0.02, max_norm=0.0).passes(
        model, tokens, list(model.trained().values()), ("x",))
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_freelb_draws_dropout_once_for_all_passes(data: Dataset) -> None:
    model = at_start(data, dropout=True)
    _, tokens = first(model)
    losses, _, _ = plugin("defenses", "freelb", steps=3, init=0.0, step=0.0).passes(
        model, tokens, list(model.trained().values()), ("x",))
    assert len(set(map(float, losses))) == 1


def test_given_slopes_are_scaled_by_what_follows() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = 3 * with_slopes(torch.tensor(5.0), {w: torch.tensor([10.0, 20.0])})
    torch.autograd.backward(loss)
    assert float(loss) == 15
    assert w.grad is not None
    assert w.grad.tolist() == [30, 60]


# -- divergences ---------------------------------------------------------------------------------

def test_the_symmetric_divergence_is_that_of_torch() -> None:
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    p, q = a.log_softmax(1), b.log_softmax(1)
    both = F.kl_div(q, p, log_target=True, reduction="batchmean") + F.kl_div(
        p, q, log_target=True, reduction="batchmean")
    assert float(symmetric_kl(a, b)) == pytest.approx(float(both), rel=1e-5)
    odds = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.3], [0.5]])
    two = [torch.cat([torch.zeros_like(x), x], 1) for x in odds]
    assert float(symmetric_kl(*odds)) == float(symmetric_kl(*two)) > 0


def test_classes_that_are_ruled_out_count_nothing_and_have_no_slope() -> None:
    a = torch.tensor([[1.0, 0.5, -torch.inf]], requires_grad=True)
    b = torch.tensor([[0.0, 0.7, -torch.inf]])
    found = symmetric_kl(a, b)
    torch.autograd.backward(found)
    assert float(found) == pytest.approx(float(symmetric_kl(a[:, :2], b[:, :2])))
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


# -- SMART ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("where", ["all", "text"])
def test_smart_moves_each_token_by_its_radius_and_padding_by_nothing(data: Dataset, model: str,
                                                                     where: str) -> None:
    made = at_start(data, model, dropout=True)
    _, tokens = first(made)
    delta = plugin("defenses", "smart", radius=0.05, where=where).delta(made, tokens, ("x",))
    able = tokens.mask.bool() & (tokens.text if where == "text" else True)
    assert bool((delta[~able] == 0).all())
    assert torch.allclose(delta[able].abs().amax(dim=1), torch.tensor(0.05))
    delta = plugin("defenses", "smart", radius=0.05, where=where, relative=True).delta(
        made, tokens, ("x",))
    units = torch.tensor(own_units(made, tokens, where))[:, None].expand_as(able)
    assert torch.allclose(delta[able].abs().amax(dim=1), 0.05 * units[able])


def test_smart_has_no_divergence_without_delta_even_under_dropout(data: Dataset) -> None:
    model = at_start(data, dropout=True)
    _, tokens = first(model)
    smart = plugin("defenses", "smart", radius=0.05)
    still = torch.zeros(*tokens.ids.shape, model.language.embeddings().embedding_dim)
    assert float(smart.divergence(model, tokens, still, ("x",))) == 0.0
    assert float(smart.divergence(model, tokens, smart.delta(model, tokens, ("x",)),
                                  ("x",))) > 0


def test_smart_finds_more_than_chance_does(data: Dataset) -> None:
    """The published codes add a slope so small that their δ is noise; this one's must not be."""
    model = at_start(data)
    _, tokens = first(model)
    smart = plugin("defenses", "smart", radius=0.02)
    found = float(smart.divergence(model, tokens, smart.delta(model, tokens, ("x",)), ("x",)))
    chance = []
    for seed in range(8):
        drawn = torch.randn(*tokens.ids.shape, 32, generator=torch.Generator().manual_seed(seed))
        drawn = drawn / drawn.abs().amax(dim=2, keepdim=True) * 0.02
        chance.append(float(smart.divergence(model, tokens, drawn, ("x",))))
    assert found > 2 * max(chance)


def test_smart_teaches_through_both_answers(data: Dataset) -> None:
    model = at_start(data)
    batch, tokens = first(model)
    smart = plugin("defenses", "smart", radius=0.05, weight=2.0)
    clean = model.loss(batch)
    total = smart.loss(model, batch, clean, 1)
    delta = smart.delta(model, tokens, smart.drawn(batch, clean, 1))
    vectors = model.language.embeddings()(tokens.ids)
    slow = model.loss(batch) + 2.0 * symmetric_kl(model.outputs(tokens),
                                                  model.outputs(tokens, vectors + delta))
    assert float(total) == pytest.approx(float(slow), rel=1e-6)
    for a, b in zip(slopes_of(model, total), slopes_of(model, slow), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


# -- R-Drop --------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", MODELS)
def test_r_drop_without_dropout_is_plain_fine_tuning_and_says_so(data: Dataset, model: str) -> None:
    made = at_start(data, model)
    batch, _ = first(made)
    clean = made.loss(batch)
    found = plugin("defenses", "r-drop", weight=5.0).loss(made, batch, made.loss(batch), 1)
    assert float(found.detach()) == pytest.approx(float(clean.detach()), rel=1e-6)
    for a, b in zip(slopes_of(made, found), slopes_of(made, clean), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    _, loop = trained(made, plugin("defenses", "r-drop"), steps=1)
    assert "plain fine-tuning" in loop.notes["r-drop"]


def test_r_drop_is_two_losses_and_their_divergence(data: Dataset) -> None:
    model = at_start(data, dropout=True)
    batch, tokens = first(model)
    made = plugin("defenses", "r-drop", weight=3.0)
    clean = model.loss(batch)
    names = made.drawn(batch, clean, 1)
    outputs = []
    for draw in ("first", "second"):
        with model.ctx.seeded(*names, draw):
            outputs.append(model.outputs(tokens))
    p, q = (x.log_softmax(1) for x in outputs)
    kl = (F.kl_div(p, q, log_target=True, reduction="batchmean")
          + F.kl_div(q, p, log_target=True, reduction="batchmean")) / 2
    ce = sum(F.cross_entropy(x, tokens.labels.long()) for x in outputs) / 2
    assert float(kl) > 0
    assert float(made.loss(model, batch, clean, 1)) == pytest.approx(float(ce + 3 * kl), rel=1e-5)
    assert "r-drop" not in trained(at_start(data, dropout=True), made, steps=1)[1].notes


# -- what the weights cost -----------------------------------------------------------------------

@pytest.mark.parametrize("model", MODELS)
def test_adaloras_penalty_counts_once_under_every_defense(data: Dataset, model: str) -> None:
    """Without any slope of what is read, the weights' slopes are those of the penalty alone."""
    made = at_start(data, model, tune="adalora")
    batch, _ = first(made)
    weights = [p for n, p in made.trained().items() if "lora_A" in n or "lora_B" in n]
    once = torch.autograd.grad(made.penalty(), weights)
    assert float(made.penalty()) > 0

    def slopes(defense: Any) -> list[Tensor]:
        """How the slopes change when the penalty does: ten times that."""
        both = []
        for factor in (1.0, 11.0):
            made.penalty = lambda f=factor: f * made.tuning.penalty()
            loss = defense.loss(made, batch, made.loss(batch), 1)
            both.append(torch.autograd.grad(loss, weights, allow_unused=True))
        del made.penalty
        return [b - a for a, b in zip(*both, strict=True)]

    for name in ("none", *DEFENSES):
        for found, g in zip(slopes(plugin("defenses", name)), once, strict=True):
            assert torch.allclose(found, 10 * g, rtol=1e-3, atol=1e-4 * float(g.abs().max())), name


# -- trained models ------------------------------------------------------------------------------

@pytest.mark.parametrize("model", MODELS)
def test_what_is_added_is_harder_than_the_clean_loss(data: Dataset, model: str) -> None:
    made = at_start(data, model)
    trained(made, plugin("defenses", "none"), steps=6)
    batch, _ = first(made)
    clean = float(made.loss(batch))
    fgm = float(plugin("defenses", "fgm", eps=0.1).loss(made, batch, made.loss(batch), 1))
    assert fgm - clean > clean
    free = plugin("defenses", "freelb", step=0.1, init=0.0).loss(made, batch, made.loss(batch), 1)
    assert float(free) > clean
    smart = plugin("defenses", "smart", radius=0.02).loss(made, batch, made.loss(batch), 1)
    assert float(smart) > clean


def test_where_an_added_weight_alone_is_learned_it_learns_under_delta(data: Dataset) -> None:
    for name in DEFENSES:
        model = at_start(data, dropout=True, tune="lora")
        plain, _ = trained(at_start(data, dropout=True, tune="lora"), plugin("defenses", "none"))
        found, _ = trained(model, plugin("defenses", name))
        assert found.keys() == plain.keys(), name
        assert not same(found, plain), name
