"""The module behind `bprmf`; apart, so that listing models does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset
from bench.models.base import Batch, Table, TorchRecommender
from bench.sampling import Rows

if TYPE_CHECKING:
    from bench.models.bprmf import BPRMF


class BprModule(nn.Module):
    """User and item vectors, and a bias per item where asked for."""

    def __init__(self, n_users: int, n_items: int, hyper: BPRMF) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, hyper.dim)
        self.users = nn.Embedding(n_users, hyper.dim)
        for table in (self.items, self.users):
            if hyper.truncated:
                std = hyper.init_std
                nn.init.trunc_normal_(table.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.normal_(table.weight, std=hyper.init_std)
        self.bias = nn.Parameter(torch.zeros(n_items)) if hyper.bias else None
        self.beside = nn.ParameterDict()  # what a defense learns beside the model, kept with it


class BprRecommender(TorchRecommender):
    """See `bench.models.bprmf.BPRMF`."""

    module: BprModule

    def __init__(self, hyper: BPRMF, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: BPRMF = hyper
        self.module = BprModule(data.n_users, data.n_items, hyper).to(ctx.device)
        self.sums_loss = hyper.reduction == "sum"
        self._rows: dict[str, Rows] = {}

    def batch_loss(self, batch: Batch) -> Tensor:
        losses = self.row_losses(batch)
        return losses.sum() if self.hyper.reduction == "sum" else losses.mean()

    def row_losses(self, batch: Batch) -> Tensor:
        """The loss of each row, its penalty included: (B,)."""
        losses, penalties = self.row_parts(batch)
        return losses if penalties is None else losses + penalties

    def row_parts(self, batch: Batch, shift: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The ranking loss of each row and its L2 penalty, (B,) each; with `shift` (n_items,)
        added to the scores of the items."""
        m = self.module
        p = m.users(batch["users"])  # (B, d)
        q_i, q_j = m.items(batch["items"]), m.items(batch["negatives"])  # (B, d) each
        margin = (p * (q_i - q_j)).sum(dim=1)  # (B,)
        if m.bias is not None:
            margin = margin + m.bias[batch["items"]] - m.bias[batch["negatives"]]
        if shift is not None:
            margin = margin + shift[batch["items"]] - shift[batch["negatives"]]
        losses = F.softplus(-margin)
        if not self.hyper.l2:
            return losses, None
        return losses, 0.5 * self.hyper.l2 * (p**2 + q_i**2 + q_j**2).sum(dim=1)

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        if source not in self._rows:
            self._rows[source] = Rows(self.data, self.ctx, source)
        rows = self._rows[source]
        if self.hyper.order == "users" and source == "train" and epoch > 0:  # 0: for attacks
            return rows.user_runs(epoch, size)
        return rows.pairs(epoch, size)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for key, value in state.items():
            if key.startswith("beside."):
                self.module.beside[key.removeprefix("beside.")] = nn.Parameter(
                    torch.empty_like(value, device=self.ctx.device))
        super().load_state(state)

    def tables(self) -> dict[str, Table]:
        m = self.module
        return {"user": Table("users.weight", m.users.weight, 0, self.data.n_users, "user"),
                "item": Table("items.weight", m.items.weight, 0, self.data.n_items, "item")}

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        m = self.module
        scores: Tensor = m.users(users) @ m.items.weight.T  # (B, n_items)
        return scores if m.bias is None else scores + m.bias
