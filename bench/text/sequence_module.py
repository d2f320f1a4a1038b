"""The module behind `text-sasrec` and `unisrec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from bench.text.experts import WhiteningExperts
from bench.text.transformer import Causal

if TYPE_CHECKING:
    from bench.text.sequence_model import TextSequenceModel


class SequenceModule(nn.Module):
    """Frozen vectors, what makes item vectors of them, and the transformer.

    Args:
        vectors: (n_items, width), of texts and other features, not learned.
    """

    vectors: Tensor

    def __init__(self, hyper: TextSequenceModel, vectors: Tensor) -> None:
        super().__init__()
        count, width = vectors.shape
        self.register_buffer("vectors", vectors)
        self.adapt: nn.Module
        if hyper.experts:
            self.adapt = WhiteningExperts(width, hyper.dim, hyper.experts, hyper.expert_dropout)
        else:
            self.adapt = nn.Linear(width, hyper.dim)
            nn.init.normal_(self.adapt.weight, std=0.02)
            nn.init.zeros_(self.adapt.bias)
        self.ids = nn.Embedding(count, hyper.dim) if hyper.with_ids else None
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=0.02)
        self.read = Causal(hyper.dim, hyper.layers, hyper.heads, hyper.inner, hyper.dropout,
                           hyper.attention_dropout, hyper.max_length)
        self.temperature = hyper.cosine_temperature
        self.criterion = nn.CrossEntropyLoss()

    def items(self, vectors: Tensor | None = None) -> Tensor:
        """Item vectors, (n_items, d); of these vectors in place of the stored ones."""
        made: Tensor = self.adapt(self.vectors if vectors is None else vectors)
        return made if self.ids is None else made + self.ids.weight

    def logits(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Scores of the items (n, d) after hidden states (B, d): (B, n)."""
        if self.temperature:
            hidden, items = F.normalize(hidden, dim=1), F.normalize(items, dim=1)
            return hidden @ items.T / self.temperature
        return hidden @ items.T
