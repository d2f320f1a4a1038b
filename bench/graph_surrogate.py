"""A small LightGCN that an attacker trains on a matrix of choices, fake rows included.

    P = mean_l Âˡ-propagated user vectors, Q = the same of items, Â_ui = x_ui / √(deg u · deg i)

He et al., "LightGCN", SIGIR 2020. The graph may be exchanged while the vectors stay, as fine-tuning
on other fake rows needs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Graph:
    """The normalised bipartite graph of x (n, m) with entries 0 and 1."""

    def __init__(self, x: Tensor) -> None:
        self.users, self.items = x.nonzero(as_tuple=True)  # (edges,) each, the positives
        by_user, by_item = x.sum(dim=1), x.sum(dim=0)
        value = (by_user[self.users] * by_item[self.items]).rsqrt()
        self.forth = torch.sparse_coo_tensor(torch.stack([self.users, self.items]), value,
                                             x.shape, check_invariants=False).coalesce()
        self.back = self.forth.t().coalesce()  # (m, n)


class LightGCN:
    """Vectors of users (n, d) and items (m, d), propagated over a graph.

    Attributes:
        users, items: the vectors that are learned.
    """

    def __init__(self, n: int, m: int, dim: int, layers: int, rng: torch.Generator) -> None:
        self.layers = layers
        self.items = nn.Parameter(torch.randn(m, dim, generator=rng) * 0.1)
        self.users = nn.Parameter(torch.randn(n, dim, generator=rng) * 0.1)

    def copy(self) -> LightGCN:
        """The same vectors, to be changed apart from these."""
        made = LightGCN.__new__(LightGCN)
        made.layers = self.layers
        made.users = nn.Parameter(self.users.detach().clone())
        made.items = nn.Parameter(self.items.detach().clone())
        return made

    def parameters(self) -> list[nn.Parameter]:
        return [self.users, self.items]

    def vectors(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """P (n, d) and Q (m, d)."""
        p, q = self.users, self.items
        sums = [p, q]
        for _ in range(self.layers):
            p, q = torch.sparse.mm(graph.forth, q), torch.sparse.mm(graph.back, p)
            sums = [sums[0] + p, sums[1] + q]
        return sums[0] / (self.layers + 1), sums[1] / (self.layers + 1)

    def train(self, graph: Graph, steps: int, rate: float, rng: torch.Generator,
              l2: float = 1e-4) -> None:
        """Full-batch steps of BPR: every edge with a negative drawn anew in each step."""
        optimizer = torch.optim.Adam(self.parameters(), lr=rate)
        for _ in range(steps):
            negatives = torch.randint(len(self.items), graph.items.shape, generator=rng)
            p, q = self.vectors(graph)
            margin = (p[graph.users] * (q[graph.items] - q[negatives])).sum(dim=1)  # (edges,)
            loss = softplus(-margin).mean() + l2 * sum(w.square().sum() for w in
                                                       self.parameters()) / len(margin)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def flattened(h: Tensor, rng: torch.Generator) -> Tensor:
    """SFA(H) = H − H r rᵀ / ‖r‖², r = HᵀH g from a random g: without (nearly) its top direction.

    Zhang et al., "Spectral Feature Augmentation for Graph Contrastive Learning", AAAI 2023.
    """
    at = h.detach()
    r = at.T @ (at @ torch.randn(h.shape[1], generator=rng).to(h.dtype))  # (d,)
    made: Tensor = h - torch.outer(h @ r, r) / r.square().sum().clamp_min(1e-30)
    return made


def top_share(h: Tensor) -> float:
    """The largest singular value as a share of the sum of all."""
    values = torch.linalg.svdvals(h.detach())
    return float(values[0] / values.sum())


def above(scores: Tensor, x: Tensor, targets: Tensor) -> float:
    """Mean share of the offered items that stand above a target, over users without it: lower is
    better exposed. Ties count half. NaN where a score is no number."""
    if not bool(torch.isfinite(scores).all()):
        return math.nan
    offered = scores.masked_fill(x > 0, -torch.inf)  # (n, m)
    found, pairs = 0.0, 0
    for target in targets.tolist():
        free = x[:, target] == 0
        own = offered[free, target].unsqueeze(1)
        better = (offered[free] > own).sum(dim=1) + 0.5 * ((offered[free] == own).sum(dim=1) - 1)
        count = (x[free] == 0).sum(dim=1) - 1
        found += float((better / count.clamp_min(1)).sum())
        pairs += int(free.sum())
    return found / max(pairs, 1)
