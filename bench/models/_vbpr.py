"""The module behind `vbpr`; apart, so that listing models does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset
from bench.item_features import feature_matrix
from bench.models.base import Batch, Table, TorchRecommender
from bench.sampling import Rows

if TYPE_CHECKING:
    from bench.models.vbpr import VBPR


class VbprModule(nn.Module):
    """User and item vectors, the projection E, and the features, which are not learned."""

    features: Tensor

    def __init__(self, data: Dataset, hyper: VBPR) -> None:
        super().__init__()
        features = torch.from_numpy(feature_matrix(data, hyper.features))  # (items, width)
        self.items = nn.Embedding(data.n_items, hyper.dim)
        self.project = nn.Parameter(torch.empty(features.shape[1], hyper.dim))  # (width, d)
        self.users = nn.Embedding(data.n_users, hyper.dim)
        for weight in (self.items.weight, self.project, self.users.weight):
            nn.init.normal_(weight, std=hyper.init_std)
        self.bias = nn.Parameter(torch.zeros(data.n_items)) if hyper.bias else None
        self.register_buffer("features", features, persistent=False)


class VbprRecommender(TorchRecommender):
    """See `bench.models.vbpr.VBPR`."""

    module: VbprModule

    def __init__(self, hyper: VBPR, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: VBPR = hyper
        self.module = VbprModule(data, hyper).to(ctx.device)
        self._rows: dict[str, Rows] = {}

    def batch_loss(self, batch: Batch) -> Tensor:
        return self.row_losses(batch).mean()

    def row_losses(self, batch: Batch) -> Tensor:
        """The loss of every row, (B,)."""
        m, hyper = self.module, self.hyper
        p = m.users(batch["users"])  # (B, d)
        rated = []
        for key in ("items", "negatives"):
            whole = m.items(batch[key]) + m.features[batch[key]] @ m.project  # (B, d)
            bias = 0.0 if m.bias is None else m.bias[batch[key]]
            rated.append((p * whole).sum(dim=1) + bias)  # (B,)
        losses = F.softplus(rated[1] - rated[0])
        if hyper.l2:
            q = m.items(batch["items"])**2 + m.items(batch["negatives"])**2  # (B, d)
            losses = losses + 0.5 * hyper.l2 * (p**2 + q).sum(dim=1)
        if hyper.l2_projection:
            losses = losses + 0.5 * hyper.l2_projection * (m.project**2).sum()
        return losses

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        if source not in self._rows:
            self._rows[source] = Rows(self.data, self.ctx, source)
        return self._rows[source].pairs(epoch, size)

    def tables(self) -> dict[str, Table]:
        m = self.module
        return {"user": Table("users.weight", m.users.weight, 0, self.data.n_users, "user"),
                "item": Table("items.weight", m.items.weight, 0, self.data.n_items, "item"),
                "feature": Table("features", m.features, 0, self.data.n_items, "feature")}

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        m = self.module
        whole = m.items.weight + m.features @ m.project  # (items, d)
        scores: Tensor = m.users(users) @ whole.T  # (B, items)
        return scores if m.bias is None else scores + m.bias
