"""The fast gradient method on word vectors: a language model learns under the worst step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import param
from bench.token_defense import MovedTokens

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.text.trainable import TokenBatch


class FGM(MovedTokens):
    """Adversarial training of text models: CE(x) + weight · CE(x + δ), δ = ε · g/‖g‖_F (Miyato,
    Dai & Goodfellow, "Adversarial Training Methods for Semi-Supervised Text Classification",
    ICLR 2017, Eq. 5 and 6).

    g is the gradient of the training loss by the vectors of all tokens of one prompt, so that
    each prompt of the batch moves by ε as a whole; δ is a constant, and padding stays. The paper
    normalises word vectors first, which a pre-trained model does not allow: use `relative` to
    state ε in token norms. The pass for δ and the pass under δ share one draw of dropout, not
    that of the clean pass. Costs two passes more. eps 0 and weight 0 equal `none` bit for bit.

    Adaptive attack: token-embedding-pgd, with more steps than the one of this training.

    Example: defenses: [{fgm: {eps: 0.5, weight: 1.0}}]
    """

    name = "fgm"
    eps: float = param(0.5, "length of δ over all tokens of a prompt (Frobenius norm)", low=0)
    weight: float = param(1.0, "weight of the loss under attack (λ)", low=0)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.eps or not self.weight:
            return clean_loss
        from bench.text.token_moves import moved_loss, token_trained

        trained, names = token_trained(model), self.drawn(batch, clean_loss, epoch)
        tokens = trained.tokens(batch)
        with model.ctx.seeded(*names):
            delta = self.delta(model, tokens)
        with model.ctx.seeded(*names):
            return clean_loss + self.weight * moved_loss(trained, tokens, delta)

    def delta(self, model: TorchRecommender, tokens: TokenBatch) -> Tensor:
        """δ for these prompts, float32 (R, L, width), a constant."""
        import torch

        from bench.text.token_moves import places, token_trained, uphill

        trained, able = token_trained(model), places(tokens, self.where)
        here = trained.vectors(tokens).detach().requires_grad_()  # (R, L, width)
        loss = trained.token_loss(trained.outputs(tokens, here), tokens)
        (slope,) = torch.autograd.grad(loss, here)
        return uphill(slope, able, self.eps * self.scale(here, able))

    def trained_against(self) -> str | None:
        return "token-embedding-fgsm" if self.eps and self.weight else None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}
