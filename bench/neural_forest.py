"""A forest of soft decision trees that learns by gradient (Kontschieder et al., "Deep Neural
Decision Forests", ICCV 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.context import Context


class NeuralForest(nn.Module):
    """P(class | x) = mean over trees of Σ_leaf μ_leaf(x) · π_leaf.

    A tree is complete, of `depth` levels. At node n a sample goes left with probability
    σ(w_n·x + b_n); μ_leaf is the product along the way to the leaf, so that the μ of a tree sum
    to 1. π_leaf is a distribution over the classes, learned with the rest through a softmax
    (the paper alternates).

    Args:
        width: of x. trees, depth: of the forest. classes: how many.
        ctx, names: initial weights are drawn from the stream of these names.
    """

    def __init__(self, width: int, trees: int, depth: int, ctx: Context, *names: object,
                 classes: int = 2) -> None:
        super().__init__()
        stream = ctx.torch_stream("forest", *names)
        self.trees, self.depth = trees, depth
        nodes, leaves = 2**depth - 1, 2**depth
        self.weight = nn.Parameter(torch.randn(trees, nodes, width, generator=stream)
                                   / max(width, 1)**0.5)
        self.bias = nn.Parameter(torch.zeros(trees, nodes))
        self.leaf = nn.Parameter(0.1 * torch.randn(trees, leaves, classes, generator=stream))
        self.to(ctx.device)

    def routes(self, x: Tensor) -> Tensor:
        """μ: the probability of each leaf for samples x (B, width): (B, trees, leaves)."""
        left = torch.einsum("bw,tnw->btn", x, self.weight) + self.bias  # (B, trees, nodes)
        left = left.sigmoid()
        found = torch.ones(len(x), self.trees, 1, device=x.device)  # (B, trees, 1)
        for level in range(self.depth):
            first = 2**level - 1  # nodes of a level stand one after another
            turn = left[:, :, first:first + 2**level]  # (B, trees, 2^level)
            found = torch.stack([found * turn, found * (1 - turn)], dim=3).flatten(2)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """P(class | x): (B, classes)."""
        mixed: Tensor = torch.einsum("btl,tlc->bc", self.routes(x),
                                     self.leaf.softmax(dim=2)) / self.trees
        return mixed
