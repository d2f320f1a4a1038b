"""What a language model that is fine-tuned shows of its training, for whoever perturbs the
vectors of its tokens: adversarial fine-tuning, and attacks on token embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from bench.models.base import Batch


@dataclass(frozen=True)
class TokenBatch:
    """Prompts of one batch as tokens.

    Attributes:
        ids, mask: int64 (B, L), padded on the right; mask is 1 where there is a token.
        text: bool (B, L), where the text of a candidate item stands: what its seller writes.
        labels: float32 (B,), 1 liked and 0 not, or int64 (B,), the index of the right class.
    """

    ids: Tensor
    mask: Tensor
    text: Tensor
    labels: Tensor


@runtime_checkable
class TokenTrained(Protocol):
    """A recommender whose plugin gives "token-vectors"."""

    def tokens(self, batch: Batch) -> TokenBatch:
        """The prompts of a training batch."""
        ...

    def vectors(self, tokens: TokenBatch) -> Tensor:
        """Vectors of the tokens, (B, L, width): rows of the embedding table, with gradients."""
        ...

    def outputs(self, tokens: TokenBatch, vectors: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of the answers; with `vectors` in place of the tokens' own."""
        ...

    def token_loss(self, outputs: Tensor, tokens: TokenBatch) -> Tensor:
        """What these outputs cost, a scalar mean over the batch. What `batch_loss` returns is
        `token_loss(outputs(tokens(batch)), tokens(batch)) + penalty()`."""
        ...

    def penalty(self) -> Tensor | float:
        """What the weights cost whatever is read (AdaLoRA's orthogonality), a scalar: once per
        step, however many passes a defense makes."""
        ...
