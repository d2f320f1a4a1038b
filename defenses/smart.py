"""SMART: a language model's answers are kept smooth around the word vectors it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import param
from bench.token_defense import MovedTokens

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.text.trainable import TokenBatch


class SMART(MovedTokens):
    """Smoothness-inducing regularisation: CE(x) + weight · KL_sym(f(x) ‖ f(x + δ)) (Jiang et al.,
    "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models", ACL 2020,
    Eq. 2; ALUM: Liu et al., 2020; without the proximal point method).

    δ begins as noise · N(0, 1), climbs KL_sym by `steps` steps δ ← δ + step · g/‖g‖∞, and each
    token's part is then scaled to a largest coordinate of exactly `radius`. No label is used for
    δ. Both published codes scale it so to 1, whatever the ε they take, which this makes a
    parameter. They also add g as it is, not g/‖g‖∞: around the start g is so small that their δ
    is noise and next to nothing else. KL_sym = KL(p‖q) + KL(q‖p), differentiated by both. All
    passes of a batch share one draw of dropout. Costs steps + 2 passes more. weight 0 and radius
    0 equal `none` bit for bit.

    Adaptive attack: token-embedding-pgd.

    Example: defenses: [{smart: {weight: 1.0, radius: 0.1, relative: true}}]
    """

    name = "smart"
    weight: float = param(1.0, "weight of the divergence (α)", low=0)
    radius: float = param(1.0, "largest coordinate of δ in each token; the published codes: 1",
                          low=0)
    noise: float = param(1e-5, "standard deviation of what δ begins as", above=0)
    step: float = param(1e-3, "largest coordinate of one ascent step in each token", above=0)
    steps: int = param(1, "ascent steps", low=1)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.weight or not self.radius:
            return clean_loss
        from bench.text.token_moves import token_trained

        names = self.drawn(batch, clean_loss, epoch)
        tokens = token_trained(model).tokens(batch)
        delta = self.delta(model, tokens, names)
        return clean_loss + self.weight * self.divergence(model, tokens, delta, names)

    def divergence(self, model: TorchRecommender, tokens: TokenBatch, delta: Tensor,
                   names: tuple[object, ...], reference: Tensor | None = None) -> Tensor:
        """KL_sym between the answers with and without δ; those without may be given."""
        from bench.text.token_moves import symmetric_kl, token_trained

        trained = token_trained(model)
        if reference is None:
            with model.ctx.seeded(*names):
                reference = trained.outputs(tokens, trained.vectors(tokens))
        with model.ctx.seeded(*names):
            vectors = trained.vectors(tokens)
            return symmetric_kl(reference,
                                trained.outputs(tokens, vectors + delta.to(vectors.dtype)))

    def delta(self, model: TorchRecommender, tokens: TokenBatch,
              names: tuple[object, ...]) -> Tensor:
        """δ for these prompts, float32 (R, L, width), a constant."""
        import torch

        from bench.text.token_moves import places, token_trained, token_wise

        trained, able = token_trained(model), places(tokens, self.where)
        with torch.no_grad(), model.ctx.seeded(*names):
            here = trained.vectors(tokens)
            reference = trained.outputs(tokens, here)  # (B, classes)
        drawn = torch.randn(here.shape, generator=model.ctx.torch_stream(*names))
        delta = drawn.to(here.device) * able[..., None] * self.noise
        for _ in range(self.steps):
            point = delta.clone().requires_grad_()
            kl = self.divergence(model, tokens, point, names, reference)
            (slope,) = torch.autograd.grad(kl, point)
            delta = delta + token_wise(slope.float(), able, self.step)
        return token_wise(delta, able, self.radius * self.scale(here, able))

    def trained_against(self) -> str | None:
        return "token-embedding-pgd" if self.weight and self.radius else None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}
