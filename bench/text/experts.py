"""UniSRec's adaptor: a mixture of parametric whitenings of text vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEAST_NOISE = 1e-2


class WhiteningExperts(nn.Module):
    """Σ_k g_k(x) W_k (x − b_k) (Hou et al., "Towards Universal Sequence Representation Learning
    for Recommender Systems", KDD 2022, equations 2 to 4).

    In training the logits of the gates get noise of standard deviation softplus(x W_noise) + .01,
    and x dropout before b is taken off, as in the authors' code; otherwise neither.

    Args:
        width: of x. out: of the result. experts: how many. dropout: of x.
    """

    def __init__(self, width: int, out: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(experts, width))  # b
        self.weight = nn.Parameter(torch.empty(experts, width, out).normal_(std=0.02))  # W
        self.gate = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))
        self.dropout = nn.Dropout(dropout)

    def gates(self, x: Tensor) -> Tensor:
        """Weights of the experts, positive and of sum 1: (n, experts)."""
        logits = x @ self.gate
        if self.training:
            spread = F.softplus(x @ self.noise) + _LEAST_NOISE
            logits = logits + torch.randn_like(logits) * spread
        return logits.softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Text vectors (n, width) as item vectors (n, out)."""
        gates = self.gates(x)
        made = x.new_zeros(len(x), self.weight.shape[2])
        for k in range(len(self.weight)):  # one after another: (experts, n, out) may be large
            made = made + gates[:, k:k + 1] * ((self.dropout(x) - self.shift[k]) @ self.weight[k])
        return made
