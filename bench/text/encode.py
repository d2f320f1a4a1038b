"""Texts as vectors: pooled hidden states of a language model, each text encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.text.language import Language

POOLS = ("mean", "first", "last")
_AT_ONCE = 64


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row, float32 (B, width).

    Args:
        hidden: (B, L, width). mask: (B, L), 1 where there is a token.
        how: mean over the tokens, the first ([CLS]), or the last (GPT-types, which read to the
            right, have seen all of the text there).
    """
    hidden = hidden.float()
    if how == "first":
        return hidden[:, 0]
    if how == "last":
        last = mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = mask[..., None].float()
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


def rows_of(language: Language, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with begin and end, cut to what the model reads."""
    rows = [[*language.begin, *language.ids(t)[:language.room], *language.end] for t in texts]
    return [r or [int(language.tokenizer.pad_token_id)] for r in rows]


def hidden_states(language: Language, ids: Tensor, mask: Tensor,
                  embeds: Tensor | None = None) -> Tensor:
    """Last hidden states, (B, L, width); differentiable."""
    module = language.module
    given = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    if language.role == "seq2seq":
        out: Tensor = module.get_encoder()(**given, attention_mask=mask).last_hidden_state  # type: ignore[operator]
        return out
    if language.role == "encoder":
        if hasattr(module, "get_encoder") and module.config.is_encoder_decoder:  # type: ignore[union-attr]
            module = module.get_encoder()  # type: ignore[operator]
        found: Tensor = module(**given, attention_mask=mask).last_hidden_state
        return found
    deep: Tensor = module(**given, attention_mask=mask, output_hidden_states=True,
                          ).hidden_states[-1]
    return deep


class Encoder:
    """Encodes texts and keeps what it encoded, by text.

    Args:
        language: the model. how: of POOLS.
    """

    def __init__(self, language: Language, how: str = "mean") -> None:
        if how not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, not {how!r}")
        self.language, self.how = language, how
        self._kept: dict[str, Tensor] = {}

    def relearned(self) -> None:
        """Forget all vectors: call it whenever the model's parameters changed."""
        self._kept.clear()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors of the texts, float32 (n, width) on the model's device. Sorted by length in
        batches, so that little is spent on padding."""
        new = [t for t in dict.fromkeys(texts) if t not in self._kept]
        rows = rows_of(self.language, new)
        order = sorted(range(len(new)), key=lambda n: len(rows[n]))
        for start in range(0, len(order), _AT_ONCE):
            places = order[start:start + _AT_ONCE]
            ids, mask = self.language.batch([rows[n] for n in places])
            made = pool(hidden_states(self.language, ids, mask), mask, self.how)
            self._kept.update(zip((new[n] for n in places), made, strict=True))
        if not texts:
            width = self.language.embeddings().embedding_dim
            return torch.empty(0, width, device=self.language.device)
        return torch.stack([self._kept[t] for t in texts])
