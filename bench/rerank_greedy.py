"""The greedy re-rankers behind `popularity-rerank` and `calibrated-rerank`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset
from bench.metrics.groups import item_groups
from bench.models.base import Recommender
from bench.rerank import Reranked, greedy, history_shares, quota, tail_of, unit


class XQuad(Reranked):
    """See `popularity-rerank`, method xquad."""

    def __init__(self, base: Recommender, data: Dataset, length: int, candidates: int,
                 strength: float, binary: bool) -> None:
        super().__init__(base, data, length, candidates)
        self.strength, self.binary = strength, binary
        tail = tail_of(data)
        self.member = torch.as_tensor(np.stack([1 - tail, tail], axis=1), dtype=torch.float32,
                                      device=base.ctx.device)  # (n_items, 2): head, tail
        self._likes: dict[str, Tensor] = {}

    def likes(self, split: str) -> Tensor:
        """P(c|u), (n_users, 2); a half each for users who liked nothing."""
        if split not in self._likes:
            shares = history_shares(self.seen, split, self.member.cpu().numpy().astype(np.float64))
            shares[shares.sum(axis=1) == 0] = 0.5
            self._likes[split] = torch.as_tensor(shares, dtype=torch.float32,
                                                 device=self.ctx.device)
        return self._likes[split]

    def choose(self, users: Tensor, items: Tensor, values: Tensor, split: str) -> Tensor:
        member, likes = self.member[items], self.likes(split)[users]  # (B, N, 2), (B, 2)
        own = (1 - self.strength) * unit(values.float()).clamp_min(0)  # (B, N)
        inside = torch.zeros_like(likes)  # chosen items of each group

        def gain(n: int, last: Tensor | None) -> Tensor:
            if last is not None:
                inside.add_(member[torch.arange(len(last), device=last.device), last])
            new = (inside == 0).float() if self.binary else 1 - inside / max(n, 1)  # (B, 2)
            return own + self.strength * (member * (likes * new)[:, None, :]).sum(dim=2)

        return greedy(self.length, values, gain)


class Quota(Reranked):
    """See `popularity-rerank`, method quota."""

    def __init__(self, base: Recommender, data: Dataset, length: int, candidates: int,
                 share: float, alpha: float) -> None:
        super().__init__(base, data, length, candidates)
        self.needed = quota(self.length, share, alpha)
        self.tail = torch.as_tensor(tail_of(data), dtype=torch.bool, device=base.ctx.device)

    def choose(self, users: Tensor, items: Tensor, values: Tensor, split: str) -> Tensor:
        tail = self.tail[items] & values.isfinite()  # (B, N)
        order = -torch.arange(items.shape[1], dtype=values.dtype, device=items.device)  # best: 0
        inside = torch.zeros(len(items), dtype=torch.long, device=items.device)

        def gain(n: int, last: Tensor | None) -> Tensor:
            if last is not None:
                inside.add_(tail[torch.arange(len(last), device=last.device), last].long())
            short = inside < int(self.needed[n])  # (B,): now a tail item must come
            return order - (short[:, None] & ~tail) * (2.0 * items.shape[1])

        return greedy(self.length, values, gain)

    def missed(self) -> float:
        """Share of the users with lists that hold fewer tail items than asked for, as there were
        too few among the candidates."""
        from bench.models.base import user_blocks

        short, needed = 0, torch.as_tensor(self.needed, device=self.ctx.device)
        with torch.no_grad(), self.base.evaluating():
            for users in user_blocks(np.arange(self.seen.n_users), 1024, self.ctx.device):
                items, values = self.best(self.base.scores(users).detach(), users, "test")
                tail = self.tail[items] & values.isfinite()
                got = tail.gather(1, self.choose(users, items, values, "test")).cumsum(dim=1)
                short += int((got < needed).any(dim=1).sum())
        return short / self.seen.n_users


class Calibrated(Reranked):
    """See `calibrated-rerank`."""

    def __init__(self, base: Recommender, data: Dataset, length: int, candidates: int,
                 attribute: str, strength: float, alpha: float) -> None:
        super().__init__(base, data, length, candidates)
        self.strength, self.alpha = strength, alpha
        members = np.stack(list(item_groups(data, attribute).members.values()), axis=1)
        self.member = torch.as_tensor(members, dtype=torch.float32,
                                      device=base.ctx.device)  # (n_items, G)
        self._wanted: dict[str, Tensor] = {}

    def wanted(self, split: str) -> Tensor:
        """p(g|u), (n_users, G)."""
        if split not in self._wanted:
            shares = history_shares(self.seen, split, self.member.cpu().numpy().astype(np.float64))
            self._wanted[split] = torch.as_tensor(shares, dtype=torch.float32,
                                                  device=self.ctx.device)
        return self._wanted[split]

    def choose(self, users: Tensor, items: Tensor, values: Tensor, split: str) -> Tensor:
        member, p = self.member[items], self.wanted(split)[users]  # (B, N, G), (B, G)
        own = (1 - self.strength) * unit(values.float()).clamp_min(0)  # (B, N)
        mass = torch.zeros_like(p)  # of the genres in the list so far

        def gain(n: int, last: Tensor | None) -> Tensor:
            if last is not None:
                mass.add_(member[torch.arange(len(last), device=last.device), last])
            return own - self.strength * divergence(p[:, None, :], mass[:, None, :] + member,
                                                    self.alpha)

        return greedy(self.length, values, gain)


def divergence(p: Tensor, mass: Tensor, alpha: float) -> Tensor:
    """KL(p ‖ (1 − α)·q + α·p) over the last axis, q the mass brought to sum 1: 0 where nothing is
    wanted, −log α where nothing wanted is there (Steck 2018).

    >>> divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0]), 0.01)
    tensor(0.)
    >>> divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), 0.01)  # −log 0.01
    tensor(4.6052)
    """
    q = mass / mass.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    mixed = (1 - alpha) * q + alpha * p
    ratio = torch.where(p > 0, p / torch.where(p > 0, mixed, 1.0), 1.0)
    return (p * ratio.log()).sum(dim=-1)
