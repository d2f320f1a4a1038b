"""FreeLB: several steps of ascent, each of whose passes also teaches the language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.api import param
from bench.token_defense import MovedTokens

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.text.trainable import TokenBatch


class FreeLB(MovedTokens):
    """Free large-batch adversarial training: (1/K) Σ_k CE(x + δ_k), k = 0 … K−1 (Zhu et al.,
    "FreeLB: Enhanced Adversarial Training for Natural Language Understanding", ICLR 2020,
    Algorithm 1).

    δ₀ = init · U(−1, 1)/√(n · d) for a prompt of n tokens of width d; δ_{k+1} = δ_k + step ·
    g_k/‖g_k‖_F, put back where ‖δ‖_F exceeds `max_norm`. The gradients by θ of the K passes are
    averaged, and each comes from the pass that also gives g_k; there is no further clean loss.
    All K passes of a batch share one draw of dropout, as in the paper; it is not that of the
    clean pass, which is made and not used. Costs K passes more. steps 1 with init 0 is plain
    fine-tuning with other draws of dropout; step 0 with init 0 equals `none` bit for bit.

    Adaptive attack: token-embedding-pgd, with more steps than K.

    Example: defenses: [{freelb: {steps: 3, step: 0.04, init: 0.2, max_norm: 0.3}}]
    """

    name = "freelb"
    steps: int = param(3, "passes per batch, K", low=1)
    step: float = param(0.04, "length of one ascent step over all tokens of a prompt", low=0)
    init: float = param(0.2, "δ₀ is uniform with this magnitude; its length is about init/√3",
                        low=0)
    max_norm: float = param(0.3, "longest δ over all tokens of a prompt; 0: no bound", low=0)

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.step and not self.init:
            return clean_loss
        from bench.text.token_moves import token_trained, with_slopes

        names = self.drawn(batch, clean_loss, epoch)
        tokens = token_trained(model).tokens(batch)
        weights = [p for p in model.module.parameters() if p.requires_grad]
        losses, slopes, _ = self.passes(model, tokens, weights, names)
        mean = with_slopes(sum(losses[1:], losses[0]) / len(losses), slopes)
        return mean + token_trained(model).penalty()

    def passes(self, model: TorchRecommender, tokens: TokenBatch, weights: Sequence[Tensor],
               names: tuple[object, ...]) -> tuple[list[Tensor], dict[Tensor, Tensor],
                                                   list[Tensor]]:
        """The losses of the K passes, the mean slopes by the weights that have one, and
        δ_0 … δ_{K−1}, each float32 (R, L, width)."""
        import torch

        from bench.text.token_moves import moved_loss, places, pulled_back, token_trained, uphill

        trained, able = token_trained(model), places(tokens, self.where)
        here = trained.vectors(tokens).detach()
        size = self.scale(here, able)
        drawn = torch.rand(here.shape, generator=model.ctx.torch_stream(*names)) * 2 - 1
        room = (able.sum(dim=1) * here.shape[2]).clamp_min(1).sqrt()[:, None, None]  # (R, 1, 1)
        delta = drawn.to(here.device) * able[..., None] * (self.init * size / room)
        slopes: dict[Tensor, Tensor] = {}
        losses, deltas = [], []
        for _ in range(self.steps):
            if self.max_norm:
                delta = pulled_back(delta, self.max_norm * size)
            deltas.append(delta)
            point = delta.clone().requires_grad_()
            with model.ctx.seeded(*names):
                loss = moved_loss(trained, tokens, point)
            found = torch.autograd.grad(loss, [point, *weights], allow_unused=True)
            losses.append(loss.detach())
            for weight, g in zip(weights, found[1:], strict=True):
                if g is not None:
                    slopes[weight] = slopes.get(weight, 0) + g / self.steps
            delta = delta + uphill(found[0], able, self.step * size)
        return losses, slopes, deltas

    def trained_against(self) -> str | None:
        return "token-embedding-pgd" if self.steps > 1 and self.step else None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"step": 0.0, "init": 0.0}
