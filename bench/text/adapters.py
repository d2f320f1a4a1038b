"""Bottleneck adapters: two small maps with a residual, behind every sub-layer of a transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import InputError

_SPREAD = 1e-2  # of the first weights, as Houlsby et al. have it
_ATTENTION = ("attention.output.dense", "attention.out_lin", "attention.dense", "attention.attn.o",
              "self_attn.o_proj", "self_attn.out_proj", "encoder_attn.out_proj", "attn.c_proj",
              "attn.attention.out_proj", "attn.out_proj", "self_attn.dense",
              "self_attention.dense", "SelfAttention.o", "EncDecAttention.o", "attn.Wo")
_FEED_FORWARD = ("output.dense", "ffn.lin2", "ffn_output", "fc2", "mlp.c_proj", "mlp.down_proj",
                 "mlp.dense_4h_to_h", "mlp.fc_out", "DenseReluDense.wo", "mlp.Wo")
"""Ends of the names of the maps that lead a sub-layer back to the model's width, by
transformers: of BERT- (also ALBERT, DistilBERT, MPNet, ModernBERT), GPT- (also OPT, Neo, J, NeoX,
Llama, Qwen, Gemma, Phi, Bloom, Falcon) and T5-types (also BART)."""


class Adapter(nn.Module):
    """h + W₂ GELU(W₁ h + b₁) + b₂, in float32 (Houlsby et al., "Parameter-Efficient Transfer
    Learning for NLP", ICML 2019, section 2.1).

    W₂ and b₂ begin at 0, so that h comes out bit for bit; theirs begins near it.

    Args:
        width: of h. inner: of the bottleneck.
    """

    def __init__(self, width: int, inner: int, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner, device=device, dtype=torch.float32)
        self.up = nn.Linear(inner, width, device=device, dtype=torch.float32)
        with torch.no_grad():  # drawn on the CPU: one seed, the same weights on every device
            self.down.weight.copy_(torch.randn(inner, width) * _SPREAD)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        added = self.up(F.gelu(self.down(hidden.float())))
        made: Tensor = hidden + added.to(hidden.dtype)
        return made


def add_adapters(module: nn.Module, inner: int, names: list[str] | None) -> int:
    """Put an adapter behind the map back to the model's width of every attention (T5's to the
    encoder too) and every feed-forward network, before dropout, residual and norm; how many.

    An adapter is a sub-module `adapter` of that map, whose output passes through it; nothing of
    the model is replaced. Unlike Houlsby et al., its norms stay as they are.

    Args:
        inner: width of the bottleneck. names: ends of the names of the maps; None: those of
            the architecture.

    Raises:
        InputError: no such maps are found.
    """
    found = dict(module.named_modules())
    kinds = (_ATTENTION, _FEED_FORWARD) if names is None else tuple((n,) for n in names)
    picked: dict[str, int] = {}
    for ends in kinds:
        mine = {n: _width(m) for n, m in found.items() if _ends(n, ends) and _width(m)}
        if names is None and ends is _FEED_FORWARD:  # BERT's attention ends in output.dense too
            mine = {n: w for n, w in mine.items() if n not in picked}
        if not mine:
            own = sorted({_short(n) for n, m in found.items() if _width(m)})
            raise InputError("no maps called " + ", ".join(ends) + " are in it", hint="it has "
                             + (", ".join(own[:20]) or "no linear maps that stand alone"))
        picked.update(mine)
    device = next(module.parameters()).device
    for name, width in picked.items():
        found[name].add_module("adapter", Adapter(width, inner, device))
        found[name].register_forward_hook(_through)
    return len(picked)


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return any(name == e or name.endswith("." + e) for e in ends)


def _short(name: str) -> str:
    """The end of a map's name behind the number of its layer."""
    parts = name.split(".")
    last = max((n for n, p in enumerate(parts) if p.isdigit()), default=-1)
    return ".".join(parts[last + 1:]) or name


def _width(module: nn.Module) -> int:
    """Of what a map gives: of nn.Linear, or of the Conv1D of GPT-2; 0 of other modules."""
    return int(getattr(module, "out_features", 0) or getattr(module, "nf", 0))


def _through(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The hook; it knows no adapter by itself, so that a copied model uses its own."""
    made: Tensor = module.adapter(output)  # type: ignore[operator]
    return made
