"""The module behind `rating-mf`; apart, so that listing models does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.context import Context
from bench.data import Dataset
from bench.models.base import Batch, Table, TorchRecommender
from bench.sampling import Rows

if TYPE_CHECKING:
    from bench.models.rating_mf import RatingMF


class RatingModule(nn.Module):
    """User and item vectors, a bias for each, and the constant μ (a buffer: not learned by
    steps, but part of what is saved)."""

    centre: Tensor

    def __init__(self, n_users: int, n_items: int, hyper: RatingMF, centre: float) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, hyper.dim)
        self.users = nn.Embedding(n_users, hyper.dim)
        for table in (self.items, self.users):
            nn.init.normal_(table.weight, std=hyper.init_std)
        self.item_bias = nn.Parameter(torch.zeros(n_items))
        self.user_bias = nn.Parameter(torch.zeros(n_users))
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))


class RatingRecommender(TorchRecommender):
    """See `bench.models.rating_mf.RatingMF`.

    Attributes:
        score_kind: scores are ratings, neither probabilities nor logits.
    """

    module: RatingModule
    score_kind = "rating"

    def __init__(self, hyper: RatingMF, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: RatingMF = hyper
        assert data.train.ratings is not None  # `unfit` turned such data away
        if hyper.centre == "mean":
            centre = float(data.train.ratings.mean())
        else:
            assert data.rating_scale is not None
            centre = sum(data.rating_scale) / 2
        self.module = RatingModule(data.n_users, data.n_items, hyper, centre).to(ctx.device)
        self.sums_loss = hyper.reduction == "sum"
        self._rows: dict[str, tuple[Rows, Tensor]] = {}

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """The predicted rating of each pair: (B,), (B,) -> (B,)."""
        m = self.module
        own: Tensor = (m.users(users) * m.items(items)).sum(dim=1)  # (B,)
        return m.centre + m.user_bias[users] + m.item_bias[items] + own

    def batch_loss(self, batch: Batch) -> Tensor:
        losses, penalties = self.row_parts(batch)
        if penalties is not None:
            losses = losses + penalties
        return losses.sum() if self.hyper.reduction == "sum" else losses.mean()

    def row_parts(self, batch: Batch, shift: Tensor | None = None
                  ) -> tuple[Tensor, Tensor | None]:
        """Squared errors and L2 terms of the rows, each (B,); None without a penalty. A margin to
        shift there is none."""
        if shift is not None:
            raise RuntimeError("a squared error has no margin that could be shifted")
        m, users, items = self.module, batch["users"], batch["items"]
        losses = (batch["ratings"] - self.predict(users, items)) ** 2  # (B,)
        if not self.hyper.l2:
            return losses, None
        return losses, self.hyper.l2 * (
            (m.users(users) ** 2 + m.items(items) ** 2).sum(dim=1)
            + m.user_bias[users] ** 2 + m.item_bias[items] ** 2)

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        """Batches of users, items and ratings (B,): every rated row of the split once, in hashed
        order, whether it counts as liked or not."""
        if source not in self._rows:
            split = self.data.train if source == "train" else self.data.test
            ratings = torch.as_tensor(split.ratings, dtype=torch.float32, device=self.ctx.device)
            self._rows[source] = Rows(self.data, self.ctx, source, labelled=True), ratings
        rows, ratings = self._rows[source]
        order = rows.order(epoch)  # (N,)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            yield {"users": rows.users[pick], "items": rows.items[pick],
                   "ratings": ratings[pick]}

    def tables(self) -> dict[str, Table]:
        m = self.module
        return {"user": Table("users.weight", m.users.weight, 0, self.data.n_users, "user"),
                "item": Table("items.weight", m.items.weight, 0, self.data.n_items, "item")}

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        m = self.module
        own: Tensor = m.users(users) @ m.items.weight.T  # (B, n_items)
        return own + m.item_bias + m.user_bias[users][:, None] + m.centre
