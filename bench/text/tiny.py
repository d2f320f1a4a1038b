"""Tiny language models with random weights, built from a configuration: nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>")
WIDTH, LAYERS, HEADS, POSITIONS, WORDS = 32, 2, 2, 1024, 600


def vocabulary(corpus: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer of this corpus: every text has tokens, none is unknown."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(list(corpus) + [" Yes No yes no"] * 8, trainers.BpeTrainer(
        vocab_size=len(letters) + len(SPECIAL) + WORDS, initial_alphabet=letters,
        special_tokens=list(SPECIAL), show_progress=False))
    pad, unk, cls, sep, mask, eos = SPECIAL
    made_fast: Any = PreTrainedTokenizerFast
    return made_fast(tokenizer_object=made, pad_token=pad, unk_token=unk, cls_token=cls,
                     sep_token=sep, mask_token=mask, eos_token=eos, model_max_length=POSITIONS)


def tiny(role: str, corpus: Sequence[str], seed: int) -> tuple[nn.Module, Any]:
    """A model of two layers and width 32 of this role, and its tokenizer."""
    import transformers

    t: Any = transformers

    tokenizer = vocabulary(corpus)
    size, pad, eos = len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if role in ("encoder", "masked"):
            bert = t.BertConfig(vocab_size=size, hidden_size=WIDTH, num_hidden_layers=LAYERS,
                                num_attention_heads=HEADS, intermediate_size=2 * WIDTH,
                                max_position_embeddings=POSITIONS, pad_token_id=pad)
            made: nn.Module = t.BertModel(bert) if role == "encoder" else t.BertForMaskedLM(bert)
        elif role == "causal":
            made = t.GPT2LMHeadModel(t.GPT2Config(
                vocab_size=size, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
                n_positions=POSITIONS, bos_token_id=eos, eos_token_id=eos, pad_token_id=pad))
        else:
            made = t.T5ForConditionalGeneration(t.T5Config(
                vocab_size=size, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=2 * WIDTH,
                num_layers=LAYERS, num_heads=HEADS, pad_token_id=pad, eos_token_id=eos,
                decoder_start_token_id=pad))
    return made, tokenizer
