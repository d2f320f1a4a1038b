"""R-Drop: two draws of dropout shall give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import param
from bench.token_defense import TokenDefense

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.training import Loop


class RDrop(TokenDefense):
    """Regularised dropout: ½ (CE₁ + CE₂) + weight · ½ (KL(f₁‖f₂) + KL(f₂‖f₁)) over two passes
    with draws of dropout of their own (Liang et al., "R-Drop: Regularized Dropout for Neural
    Networks", NeurIPS 2021, Eq. 4, with the mean of both losses where the paper has their sum).

    Works where the language model drops something in training: many large ones do not, and are
    tuned with `lora_dropout` alone. Where nothing is dropped this is plain fine-tuning, and the
    notes of the training say so. The clean pass is made and not used; costs two passes more.
    weight 0 equals `none` bit for bit.

    Adaptive attack: token-embedding-pgd, which it was not trained against.

    Example: defenses: [{r-drop: {weight: [0.5, 1.0, 5.0]}}]
    """

    name = "r-drop"
    weight: float = param(1.0, "weight of the divergence (α)", low=0)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.weight:
            return clean_loss
        from bench.text.token_moves import symmetric_kl, token_trained

        trained, names = token_trained(model), self.drawn(batch, clean_loss, epoch)
        tokens = trained.tokens(batch)
        outputs = []
        for draw in ("first", "second"):
            with model.ctx.seeded(*names, draw):
                outputs.append(trained.outputs(tokens))
        first, second = (trained.token_loss(out, tokens) for out in outputs)
        divergence = self.weight * symmetric_kl(*outputs) / 2
        return (first + second) / 2 + divergence + trained.penalty()

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Keeps the plain loop; notes whether anything is dropped."""
        import torch

        from bench.text.token_moves import token_trained

        batch = next(loop.batches(1), None)
        if not self.weight or batch is None:
            return None
        model, found = loop.model, []
        trained, was = token_trained(model), model.module.training
        model.module.train()
        for draw in ("first", "second"):
            with torch.no_grad(), model.ctx.seeded(self.name, draw):
                found.append(trained.outputs(trained.tokens(batch)))
        model.module.train(was)
        if torch.equal(*found):
            loop.notes[self.name] = ("the language model drops nothing in training: this is plain "
                                     "fine-tuning")
        return None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}
