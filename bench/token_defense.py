"""What adversarial fine-tunings of language models share: whom they suit, and what they draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch


class TokenDefense(Defense):
    """Base of defenses of language models that are fine-tuned: all train on further passes.

    The passes of one batch share one draw of their own (dropout), unless a subclass says
    otherwise, and the global generators are put back afterwards.
    """

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "token-vectors" not in model.gives:
            return f"{model.name} fine-tunes no language model, and shows no vectors of tokens"
        return None

    def drawn(self, batch: Batch, clean_loss: Tensor, epoch: int) -> tuple[object, ...]:
        """Names of this batch's draws: its users and its loss tell it from the others."""
        return self.name, epoch, int(batch["users"][0]), float(clean_loss.detach())


class MovedTokens(TokenDefense):
    """Base of those that perturb the vectors of the tokens they train on. Padding never moves.

    For a model that reads a history and an item apart (dual-encoder) each of both is a text of
    its own here, and has a ball of its own.
    """

    where: str = param("all", "which tokens may move: all of a prompt, or the text of the "
                       "candidate item, which is what its seller writes", choices=("all", "text"))
    relative: bool = param(False, "lengths count in mean L2 norms of the vectors of the tokens "
                           "that may move, of each prompt by itself")

    def scale(self, vectors: Tensor, able: Tensor) -> float | Tensor:
        """What stated lengths are multiplied with: 1, or of each row its own, (R, 1, 1)."""
        from bench.text.token_moves import unit

        return unit(vectors, able) if self.relative else 1.0
