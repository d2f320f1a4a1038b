"""Bottleneck adapters: where they stand, what they compute, and that they begin as nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import InputError
from bench.text.adapters import Adapter, add_adapters

WORDS = 40


def models() -> dict[str, nn.Module]:
    """One small model of each kind."""
    import transformers

    t: Any = transformers
    llama = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24,
             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    bert = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0}
    torch.manual_seed(0)
    return {
        "bert": t.BertModel(t.BertConfig(**bert)),
        "gpt2": t.GPT2LMHeadModel(t.GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2,
                                               bos_token_id=1, eos_token_id=2)),
        "gemma3": t.Gemma3ForCausalLM(t.Gemma3TextConfig(**llama)),
        "llama": t.LlamaForCausalLM(t.LlamaConfig(**llama)),
        "opt": t.OPTForCausalLM(t.OPTConfig(vocab_size=WORDS, hidden_size=16, ffn_dim=24,
                                            num_hidden_layers=2, num_attention_heads=2,
                                            word_embed_proj_dim=16)),
        "distilbert": t.DistilBertModel(t.DistilBertConfig(vocab_size=WORDS, dim=16, n_layers=2,
                                                           n_heads=2, hidden_dim=24)),
        "neo": t.GPTNeoForCausalLM(t.GPTNeoConfig(
            vocab_size=WORDS, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
            attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=2)),
        "gptj": t.GPTJForCausalLM(t.GPTJConfig(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2,
                                               rotary_dim=4, bos_token_id=1, eos_token_id=2)),
        "phi": t.PhiForCausalLM(t.PhiConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2,
                                            num_attention_heads=2, intermediate_size=24,
                                            bos_token_id=1, eos_token_id=2, pad_token_id=0)),
        "bloom": t.BloomForCausalLM(t.BloomConfig(vocab_size=WORDS, hidden_size=16, n_layer=2,
                                                  n_head=2, bos_token_id=1, eos_token_id=2,
                                                  pad_token_id=0)),
        "t5": t.T5Model(t.T5Config(vocab_size=WORDS, d_model=16, d_kv=8, d_ff=24, num_layers=2,
                                   num_heads=2, decoder_start_token_id=0)),
    }


COUNTS = {"bert": 4, "gpt2": 4, "gemma3": 4, "llama": 4, "opt": 4, "distilbert": 4,
          "neo": 4, "gptj": 4, "phi": 4, "bloom": 4, "t5": 10}


def output(module: nn.Module) -> Tensor:
    ids = torch.arange(3, 15).reshape(2, 6)
    more = {"decoder_input_ids": ids[:, :3]} if module.config.is_encoder_decoder else {}
    with torch.no_grad():
        found = module.eval()(input_ids=ids, **more)
    first: Tensor = found[0]
    return first


def stirred(module: nn.Module) -> list[Adapter]:
    """Its adapters, with weights that do something."""
    found = [m for m in module.modules() if isinstance(m, Adapter)]
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in found:
            for weight in one.parameters():
                weight.copy_(torch.randn(weight.shape, generator=stream) * 0.3)
    return found


def test_an_adapter_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = Adapter(5, 3, torch.device("cpu"))
    stirred(layer)
    h = torch.randn(4, 5)
    for row, got in zip(h, layer(h), strict=True):
        inside = layer.down.weight @ row + layer.down.bias
        inside = inside * 0.5 * (1 + torch.erf(inside / 2 ** 0.5))  # GELU
        assert torch.allclose(got, row + layer.up.weight @ inside + layer.up.bias, atol=1e-6)


@pytest.mark.parametrize("kind", list(COUNTS))
def test_they_stand_behind_every_sub_layer_and_begin_as_nothing(kind: str) -> None:
    module = models()[kind]
    before, own = output(module), sum(p.numel() for p in module.parameters())
    assert add_adapters(module, 3, None) == COUNTS[kind]
    assert torch.equal(output(module), before)
    added = [p for n, p in module.named_parameters() if "adapter." in n]
    assert sum(p.numel() for p in added) == COUNTS[kind] * (2 * 3 * 16 + 3 + 16)
    assert sum(p.numel() for p in module.parameters()) - own == sum(p.numel() for p in added)
    for one in stirred(module):  # each of them is read, by itself
        after = output(module)
        with torch.no_grad():
            one.up.bias += 1.0 * torch.randn(16)
        assert not torch.allclose(output(module), after, atol=1e-5)


def test_a_sub_layer_of_bert_is_adapted_before_residual_and_norm() -> None:
    module: Any = models()["bert"].eval()
    add_adapters(module, 3, None)
    stirred(module)
    sub = module.encoder.layer[0].attention.output
    h, x = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    plain = nn.functional.linear(h, sub.dense.weight, sub.dense.bias)
    slow = sub.LayerNorm(sub.dense.adapter(plain) + x)
    assert torch.allclose(sub(h, x), slow, atol=1e-6)
    assert not torch.allclose(slow, sub.LayerNorm(plain + x), atol=1e-3)


def test_half_weights_begin_unchanged_and_learn_in_float32() -> None:
    module = models()["gemma3"].to(torch.bfloat16)
    before = output(module)
    add_adapters(module, 3, None)
    assert torch.equal(output(module), before)
    assert {p.dtype for n, p in module.named_parameters() if "adapter." in n} == {torch.float32}


def test_a_copy_uses_adapters_of_its_own() -> None:
    module = models()["gpt2"]
    add_adapters(module, 3, None)
    other = copy.deepcopy(module)
    before = output(module)
    stirred(other)
    assert torch.equal(output(module), before)
    assert not torch.allclose(output(other), before, atol=1e-3)


def test_names_are_taken_and_what_is_not_there_refused() -> None:
    assert add_adapters(models()["gpt2"], 3, ["mlp.c_proj"]) == 2
    with pytest.raises(InputError, match="nothing_such"):
        add_adapters(models()["gpt2"], 3, ["mlp.c_proj", "nothing_such"])
    with pytest.raises(InputError, match=r"no maps called.*it has 0\)"):
        add_adapters(nn.Sequential(nn.Linear(3, 3)), 3, None)


@pytest.mark.parametrize("defense", ["fgm", "freelb", "smart", "r-drop"])
def test_under_perturbed_tokens_adapters_alone_learn(defense: str) -> None:
    from bench.context import Context
    from bench.models.base import build
    from bench.registry import Registry

    registry: Any = Registry()
    blocks = {"name": "blocks", "params": {"users": 12, "items": 16}}
    data = registry.make("datasets", blocks).load()
    plugin = registry.make("models", {
        "name": "tallrec", "params": {
            "model": "tiny-random", "dtype": "float32", "tune": "adapters", "bottleneck": 4,
            "shots": 8, "epochs": 1, "batch_size": 8, "candidates": 3, "history": 2,
            "patience": 0, "warmup": 0.0}})
    model: Any = build(plugin, data, Context(0))
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    model.fit(registry.make("defenses", {"name": defense}), lambda event: None)
    moved = {n for n, p in model.module.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(".adapter." in n for n in moved)
    assert all(n.startswith(("language.", "retriever.")) for n in model.state())
    assert {n for n in model.state() if ".adapter." in n} == {f"language.{n}" for n in before
                                                              if ".adapter." in n}
