"""The causal transformer of SASRec, over vectors of items that come from outside."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-12


class Layer(nn.Module):
    """Self-attention to this place and earlier ones, then two linear maps with GELU between;
    each with dropout, a residual and a norm after it (as in BERT and RecBole's SASRec)."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, attention: float) -> None:
        super().__init__()
        self.heads = heads
        self.asks, self.keys, self.values, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.wide, self.narrow = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=_EPS) for _ in range(2))
        self.dropout, self.attention_dropout = nn.Dropout(dropout), nn.Dropout(attention)

    def attend(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = (m(x).reshape(batch, length, self.heads, dim // self.heads).transpose(1, 2)
                   for m in (self.asks, self.keys, self.values))  # (B, heads, L, d / heads)
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = (q @ k.transpose(2, 3) / math.sqrt(dim // self.heads)).masked_fill(
            later, -torch.inf).softmax(dim=-1)  # (B, heads, L, L)
        found = self.attention_dropout(weights) @ v
        made: Tensor = self.out(found.transpose(1, 2).reshape(batch, length, dim))
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d)."""
        x = self.norms[0](x + self.dropout(self.attend(x)))
        wide = F.gelu(self.wide(x))
        made: Tensor = self.norms[1](x + self.dropout(self.narrow(wide)))
        return made


class Causal(nn.Module):
    """Hidden states of sequences of vectors, oldest first. A place sees itself and what came
    before; sequences begin at place 0, so that padding after them is never seen."""

    def __init__(self, dim: int, layers: int, heads: int, inner: int, dropout: float,
                 attention: float, places: int) -> None:
        super().__init__()
        self.places = nn.Embedding(places, dim)
        self.norm, self.dropout = nn.LayerNorm(dim, eps=_EPS), nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(dim, heads, inner, dropout, attention)
                                    for _ in range(layers))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d)."""
        x: Tensor = self.dropout(self.norm(vectors + self.places.weight[:vectors.shape[1]]))
        for layer in self.layers:
            x = layer(x)
        return x
