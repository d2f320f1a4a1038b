"""Ways of tuning a language model: what is added, what is learned, and what stays as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import InputError
from bench.text import likelihood
from bench.text.encode import hidden_states, pool
from bench.text.language import Language, load
from bench.text.tuning import WAYS, Tuned, apply_tuning
from bench.text.wrapping import Tuning
from bench.training import rate_scale

CORPUS = [f"title {n} genre{n % 4}" for n in range(24)] + ["Will the user like it? Answer:"]
ADDED = [w for w in WAYS if w not in ("full", "none")]
ROLES = ["causal", "masked", "seq2seq", "encoder"]
IDENTITIES = ["lora", "adalora", "ia3", "adapters"]
MARKS = ("lora_", "ia3_", "prompt_encoder", ".adapter.")


class Plugin(Tuned):
    """A plugin with nothing but the ways of tuning."""

    gives = frozenset()  # type: ignore[assignment]

    def build(self, data: Any, ctx: Any) -> Any:
        raise NotImplementedError


def made(role: str, how: str, seed: int = 3, **more: Any) -> tuple[Language, Tuning]:
    language = load("tiny-random", role, corpus=CORPUS, seed=1)
    plugin = Plugin(tune=how, **{"virtual_tokens": 3, "rank": 4, "bottleneck": 4, **more})
    return language, apply_tuning(language, plugin, seed)


def rows(language: Language, count: int = 6) -> list[list[int]]:
    return [language.begin + language.ids(t) for t in CORPUS[:count]]


def output(language: Language, of: list[list[int]] | None = None) -> Tensor:
    of = of or rows(language)
    if language.role == "encoder":
        ids, mask = language.batch([[*r, *language.end] for r in of])
        return pool(hidden_states(language, ids, mask), mask, "mean")
    return likelihood.first_logits(language, of)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("how", IDENTITIES)
def test_added_weights_change_nothing_before_training(role: str, how: str) -> None:
    before = output(load("tiny-random", role, corpus=CORPUS, seed=1))
    assert torch.equal(output(made(role, how)[0]), before)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("how", [*ADDED, "full"])
def test_every_way_learns_and_touches_nothing_else(role: str, how: str) -> None:
    language, tuning = made(role, how)
    frozen = {n: p.clone() for n, p in language.module.named_parameters() if not p.requires_grad}
    learned = tuning.learned()
    start = {n: p.detach().clone() for n, p in learned.items()}
    optimizer = torch.optim.Adam(list(learned.values()), lr=0.01)
    goal = torch.tensor([0, 1] * 3)
    losses = []
    language.module.eval()
    for step in range(1, 13):
        found = output(language)
        logits = found[:, [10, 11]] if role != "encoder" else found[:, :2]
        loss = F.cross_entropy(logits, goal) + tuning.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuning.after_step(step, 12)
        losses.append(float(F.cross_entropy(logits.detach(), goal)))
    assert losses[-1] < losses[0]
    assert any(not torch.equal(start[n], p) for n, p in learned.items())
    for name, p in language.module.named_parameters():
        if name in frozen:
            assert p.grad is None, name
            assert torch.equal(p, frozen[name]), name
    if how == "full":
        assert len(learned) > 10
    else:
        assert all(any(mark in n for mark in MARKS) for n in learned)
        assert sum(p.numel() for p in learned.values()) < sum(p.numel() for p in frozen.values())


@pytest.mark.parametrize("role", ["causal", "masked", "seq2seq"])
@pytest.mark.parametrize("how", ["lora", "adalora", "ia3"])
def test_merged_equals_unmerged(role: str, how: str) -> None:
    language, tuning = made(role, how)
    with torch.no_grad():
        for p in tuning.learned().values():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    plain = output(language)
    base = output(load("tiny-random", role, corpus=CORPUS, seed=1))
    assert not torch.allclose(plain, base, atol=1e-3)
    module: Any = language.module
    module.merge_adapter()
    assert torch.allclose(output(language), plain, atol=1e-4)
    if how != "ia3":  # which divides by what it multiplied with
        module.unmerge_adapter()
        assert torch.allclose(output(language), plain, atol=1e-4)


@pytest.mark.parametrize("how", [*ADDED, "full", "none"])
@pytest.mark.parametrize("role", ["causal", "masked", "seq2seq"])
def test_padding_and_batches_change_nothing(role: str, how: str) -> None:
    language, _ = made(role, how)
    together = output(language)
    apart = torch.cat([output(language, [r]) for r in rows(language)])
    padded = output(language, [*rows(language), rows(language, 1)[0] * 9])[:6]
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.allclose(together, padded, atol=1e-5)


@pytest.mark.parametrize("how", [*ADDED, "full"])
def test_a_prefix_computed_once_gives_what_whole_prompts_give(how: str) -> None:
    language, tuning = made("causal", how)
    with torch.no_grad():
        for p in tuning.learned().values():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    head, tails = rows(language, 1)[0], [language.ids(t) for t in CORPUS[1:7]]
    shared = likelihood.yes_no(language, head, tails, [10], [11], batch=4)
    whole = likelihood.margins(likelihood.first_logits(language, [head + t for t in tails]),
                               [10], [11])
    assert torch.allclose(shared, whole, atol=1e-4)
    titles = likelihood.log_likelihood(language, head, tails, batch=4)
    for tail, found in zip(tails, titles, strict=True):
        ids, mask = language.batch([head + tail])
        logs = language.module(input_ids=ids, attention_mask=mask).logits.detach()[0]
        logs = logs.log_softmax(-1)
        slow = sum(float(logs[len(head) + k - 1, t]) for k, t in enumerate(tail)) / len(tail)
        assert float(found) == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("how", ADDED)
def test_a_title_s_likelihood_of_an_encoder_decoder_is_that_of_the_whole_model(how: str) -> None:
    language, _ = made("seq2seq", how)
    head, tails = rows(language, 1)[0], [language.ids(t) for t in CORPUS[1:5]]
    found = likelihood.log_likelihood(language, head, tails, batch=4)
    ids, mask = language.batch([head + language.end])
    for tail, value in zip(tails, found, strict=True):
        start = torch.tensor([[language.tokenizer.pad_token_id, *tail[:-1]]])
        logs = language.module(input_ids=ids, attention_mask=mask,
                               decoder_input_ids=start).logits.detach()[0].log_softmax(-1)
        slow = float(logs[torch.arange(len(tail)), torch.tensor(tail)].mean())
        assert float(value) == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("how", ["prefix", "prompt"])
@pytest.mark.parametrize("role", ["causal", "encoder"])
def test_virtual_places_reach_the_output_and_are_not_in_it(role: str, how: str) -> None:
    language, tuning = made(role, how)
    ids, mask = language.batch(rows(language))
    assert hidden_states(language, ids, mask).shape[:2] == ids.shape
    before = output(language)
    with torch.no_grad():
        first = next(iter(tuning.learned().values()))[0]
        first.add_(torch.randn(first.shape, generator=torch.Generator().manual_seed(5)))
    assert not torch.allclose(output(language), before, atol=1e-3)
    assert language.limit == 1024 - 3
    embeds = language.embeddings()(ids)
    assert torch.allclose(hidden_states(language, ids, mask, embeds),
                          hidden_states(language, ids, mask), atol=1e-6)


def test_ranks_of_adalora_fall_from_the_first_to_the_target() -> None:
    language, tuning = made("causal", "adalora", rank=2)
    learned = tuning.learned()
    optimizer = torch.optim.Adam(list(learned.values()), lr=0.05)
    goal = torch.tensor([0, 1] * 3)
    seen = []
    for step in range(1, 41):
        loss = F.cross_entropy(output(language)[:, [10, 11]], goal) + tuning.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuning.after_step(step, 40)
        seen.append(sum(tuning.ranks().values()))
    layers = len(tuning.ranks())
    assert (seen[0], seen[-1]) == (3 * layers, 2 * layers)
    assert seen == sorted(seen, reverse=True)


def test_the_penalty_of_adalora_is_that_of_peft() -> None:
    language, tuning = made("causal", "adalora")
    ids, _ = language.batch([language.ids(CORPUS[0])])
    module: Any = language.module
    module.get_base_model().loss_type = "ForCausalLM"
    with torch.no_grad():
        with_penalty = float(module.base_model(input_ids=ids, labels=ids).loss)
        plain = float(module.get_base_model()(input_ids=ids, labels=ids).loss)
        ours = float(tuning.penalty())
    assert ours == pytest.approx(with_penalty - plain, abs=1e-4)
    assert ours > 0
    assert made("causal", "lora")[1].penalty() == 0.0


def test_the_seed_draws_the_added_weights_and_nothing_else() -> None:
    state = torch.get_rng_state()
    for how in ("lora", "prefix", "prompt", "adalora", "adapters"):
        first, same, other = (made("causal", how, seed=s)[1].learned() for s in (3, 3, 4))
        assert all(torch.equal(first[n], same[n]) for n in first)
        assert any(not torch.equal(first[n], other[n]) for n in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_none_learns_nothing_and_full_learns_everything_read() -> None:
    assert made("causal", "none")[1].learned() == {}
    language, tuning = made("encoder", "full")
    rest = {n for n, p in language.module.named_parameters()} - set(tuning.learned())
    assert rest == {n for n, _ in language.module.named_parameters() if "pooler" in n} != set()


def test_names_of_layers_are_taken_and_wrong_ones_refused() -> None:
    _, tuning = made("causal", "lora", target_modules="c_attn, c_proj")
    assert any("mlp.c_proj" in n for n in tuning.learned())
    with pytest.raises(InputError, match="cannot be tuned by lora") as found:
        made("causal", "lora", target_modules="nothing_such")
    assert "target_modules" in str(found.value.hint)
    _, tuning = made("causal", "adapters", target_modules="mlp.c_proj")
    assert all(".mlp.c_proj.adapter." in n for n in tuning.learned())
    with pytest.raises(InputError, match="cannot be tuned by adapters: no maps called nothing"):
        made("causal", "adapters", target_modules="nothing_such")
    with pytest.raises(InputError, match="comma"):
        made("causal", "lora", target_modules="c_attn,,")
    with pytest.raises(InputError, match="token vectors"):
        made("causal", "lora", target_modules="wte")


def test_an_encoder_of_an_encoder_decoder_takes_a_prompt_and_refuses_a_prefix() -> None:
    import transformers

    t: Any = transformers
    language = load("tiny-random", "seq2seq", corpus=CORPUS, seed=1)
    config = language.module.config
    for how in (*ADDED, "full"):
        whole = t.T5Model(config).eval()
        alone = dataclasses.replace(language, module=whole, role="encoder", end=[], limit=500)
        plugin = Plugin(tune=how, virtual_tokens=3)
        if how == "prefix":  # a T5 encoder drops what it is given from outside, in silence
            with pytest.raises(InputError, match="does not read"):
                apply_tuning(alone, plugin, 1)
            continue
        tuning = apply_tuning(alone, plugin, 1)
        assert alone.module is not whole
        output(alone).square().sum().backward()
        assert all(p.grad is not None for p in tuning.learned().values())


def test_the_step_size_rises_and_falls_as_asked() -> None:
    rise = [rate_scale(s, 20, 0.2, "constant") for s in range(1, 21)]
    assert rise == [0.25, 0.5, 0.75, 1.0] + [1.0] * 16
    fall = [rate_scale(s, 20, 0.2, "linear") for s in range(1, 23)]
    assert fall[3:] == pytest.approx([1 - k / 17 for k in range(18)] + [0.0])
    assert {rate_scale(s, 20, 0.0, "constant") for s in range(1, 21)} == {1.0}
