"""Models whose layers look back a few tokens alone (sliding-window attention): what is shared and
batched says what each prompt says alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.text import likelihood
from bench.text.asking import Asker
from bench.text.language import Language
from bench.text.tiny import vocabulary

WINDOW, LENGTHS = 16, (3, 9, 21, 30, 9)


def language(kind: str) -> Language:
    import transformers

    t: Any = transformers
    tokenizer = vocabulary(["title of a text about films"])
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 64, "max_position_embeddings": 512, "sliding_window": WINDOW,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.cls_token_id, "initializer_range": 0.5,
        "tie_word_embeddings": False}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = t.MistralForCausalLM(t.MistralConfig(**shape)) if kind == "mistral" else \
            t.Gemma3ForCausalLM(t.Gemma3TextConfig(
                **shape, layer_types=["sliding_attention", "full_attention"] * 2))
    return Language(module.eval(), tokenizer, "causal", kind, 512)


@pytest.fixture(scope="module", params=["gemma3", "mistral"])
def lm(request: pytest.FixtureRequest) -> Language:
    return language(request.param)


def prompt(lm: Language, before: int) -> tuple[list[int], list[list[int]]]:
    """A prefix of so many tokens, and suffixes of LENGTHS."""
    draw = torch.Generator().manual_seed(before)

    def tokens(n: int) -> list[int]:
        found: list[int] = torch.randint(10, len(lm.tokenizer) - 10, (n,), generator=draw).tolist()
        return found

    return tokens(before), [tokens(n) for n in LENGTHS]


def alone(lm: Language, row: list[int]) -> torch.Tensor:
    """Logits of one prompt at every place, without cache, padding or batch."""
    with torch.no_grad():
        logits: torch.Tensor = lm.module(input_ids=torch.tensor([row])).logits[0].float()
    return logits


@pytest.mark.parametrize("before", [5, 40])
def test_what_is_read_is_what_each_prompt_says_alone(lm: Language, before: int) -> None:
    prefix, suffixes = prompt(lm, before)
    each = [alone(lm, prefix + s) for s in suffixes]
    last = torch.stack([e[-1] for e in each])
    assert torch.allclose(Asker(lm, 5).read(prefix, suffixes, lambda x: x), last, atol=1e-3)
    yes, no = [20, 21], [30]
    assert torch.allclose(likelihood.yes_no(lm, prefix, suffixes, yes, no, 5),
                          likelihood.margins(last, yes, no), atol=1e-3)
    slow = [float(e.log_softmax(dim=1)[before - 1:-1].gather(
        1, torch.tensor(s)[:, None]).mean()) for e, s in zip(each, suffixes, strict=True)]
    assert likelihood.log_likelihood(lm, prefix, suffixes, 5).tolist() == pytest.approx(
        slow, abs=1e-3)


@pytest.mark.parametrize("before", [5, 40])
def test_answers_written_together_are_those_written_alone(lm: Language, before: int) -> None:
    """Padding behind a shorter row would stay within its window while its answer goes on."""
    prefix, suffixes = prompt(lm, before)
    asker = Asker(lm, 5)
    slow = []
    for suffix in suffixes:
        row = prefix + suffix
        while len(row) < before + len(suffix) + 12:
            token = int(alone(lm, row)[-1].argmax())
            if token in asker._stops():
                break
            row.append(token)
        slow.append(lm.tokenizer.decode(row[before + len(suffix):], skip_special_tokens=True))
    assert len(set(slow)) > 3
    assert asker.write(prefix, suffixes, 12) == slow
    assert Asker(lm, 1).write(prefix, suffixes, 12) == slow
