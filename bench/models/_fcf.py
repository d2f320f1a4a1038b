"""The recommender behind `fcf`; apart, so that listing models does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.models.base import Batch, Table, TorchRecommender
from bench.sampling import Rows

if TYPE_CHECKING:
    from bench.models.fcf import FCF


class FcfModule(nn.Module):
    """Item vectors: all that the server holds."""

    def __init__(self, n_items: int, hyper: FCF) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, hyper.dim)
        nn.init.normal_(self.items.weight, std=hyper.init_std)


class FcfRecommender(TorchRecommender):
    """See `bench.models.fcf.FCF`.

    Attributes:
        taken: what each user took in train, (n_users, n_items) bool.
    """

    module: FcfModule
    sums_loss = True

    def __init__(self, hyper: FCF, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: FCF = hyper
        self.module = FcfModule(data.n_items, hyper).to(ctx.device)
        self.taken = self._flags(data.train.positives())
        self._wanted: Tensor | None = None
        self._rows = Rows(data, ctx)

    def _flags(self, rows: Interactions) -> Tensor:
        flags = np.zeros((self.data.n_users, self.data.n_items), bool)
        flags[rows.users, rows.items] = True
        return torch.as_tensor(flags, device=self.ctx.device)

    def solve(self, taken: Tensor) -> Tensor:
        """The best vectors of users who took these items (B, n_items) -> (B, d), held fixed."""
        h, q = self.hyper, self.module.items.weight.detach()
        took = taken.to(q.dtype)  # (B, m)
        squares = (q[:, :, None] * q[:, None, :]).flatten(1)  # (m, d²)
        weighted = (h.alpha * took @ squares).reshape(-1, h.dim, h.dim)  # (B, d, d)
        left = q.T @ q + weighted + h.reg * torch.eye(h.dim, dtype=q.dtype, device=q.device)
        right = (1 + h.alpha) * took @ q  # (B, d)
        solved: Tensor = torch.linalg.solve(left, right)
        return solved

    def batch_loss(self, batch: Batch) -> Tensor:
        h, q = self.hyper, self.module.items.weight
        taken = self.taken[batch["users"]]  # (B, m)
        p = self.solve(taken)  # (B, d)
        r = batch.get("wanted", taken).to(q.dtype)  # (B, m)
        errors = (1 + h.alpha * r) * (r - p @ q.T) ** 2  # (B, m)
        # all users, a public number: how many have rows would let each tell of the others'
        shared = (q**2).sum() / self.data.n_users
        loss: Tensor = errors.sum() + h.reg * ((p**2).sum() + len(p) * shared)
        return loss

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        """Batches of users with a train row, each once. From source "test", of those with test
        positives, which are then what is wanted (B, n_items); vectors are solved from train."""
        if source == "train":
            yield from self._rows.user_batches(epoch, size)
            return
        if self._wanted is None:
            self._wanted = self._flags(self.data.truth("test"))
        users = torch.nonzero(self._wanted.any(dim=1))[:, 0]
        for start in range(0, len(users), size):
            pick = users[start:start + size]
            yield {"users": pick, "wanted": self._wanted[pick]}

    def tables(self) -> dict[str, Table]:
        weight = self.module.items.weight
        return {"item": Table("items.weight", weight, 0, self.data.n_items, "item")}

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        scores: Tensor = self.solve(self.taken[users]) @ self.module.items.weight.T
        return scores  # (B, n_items)
