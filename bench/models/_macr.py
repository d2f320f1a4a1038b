"""bprmf as the defense `macr` serves it: branches weigh its scores, less a reference score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models._bprmf import BprModule, BprRecommender
from bench.models.base import Batch, Wrapped
from bench.served import Seen

if TYPE_CHECKING:
    from bench.context import Context
    from bench.models.base import TorchRecommender


class Macred(Wrapped):
    """See `bench.defenses.macr`.

    Args:
        base: the model with its branches ("item" and "user") beside it.
        c: the reference score.
    """

    base: BprRecommender
    score_kind = "other"

    def __init__(self, base: BprRecommender, c: float) -> None:
        super().__init__(base)
        self.c = c

    def stand_in(self, ctx: Context, copies: int) -> TorchRecommender:
        """What is served has slopes: the model's own loss, of the scores that are served."""
        return _SeenMacr(self.base, self, ctx)

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        return self.weighed(users)

    def weighed(self, users: Tensor) -> Tensor:
        """The scores served, differentiable: (B, n_items)."""
        m = self.base.module
        y_k = m.users(users) @ m.items.weight.T  # (B, n_items)
        y_k = y_k if m.bias is None else y_k + m.bias
        y_u = m.users(users) @ m.beside["user"]  # (B,)
        y_i = m.items.weight @ m.beside["item"]  # (n_items,)
        served: Tensor = (y_k - self.c) * y_i.sigmoid() * y_u.sigmoid()[:, None]
        return served


class _SeenMacr(Seen):
    """softplus(−(ŷ_ui − ŷ_uj)) with the scores ŷ that are served, for attackers who look inside.

    Args:
        ctx: the attacker's, in whose notes each row of a loss is a query.
    """

    module: BprModule

    def __init__(self, base: BprRecommender, served: Macred, ctx: Context) -> None:
        super().__init__(base, served)
        self.wrapper, self.notes, self.sums_loss = served, ctx.notes, False

    def batch_loss(self, batch: Batch) -> Tensor:
        self.notes["queries"] = self.notes.get("queries", 0) + len(batch["users"])
        m, users = self.module, batch["users"]
        p = m.users(users)  # (B, d)
        y_u = (p @ m.beside["user"]).sigmoid()  # (B,)

        def served(items: Tensor) -> Tensor:
            q = m.items(items)  # (B, d)
            y_k = (p * q).sum(dim=1) if m.bias is None else (p * q).sum(dim=1) + m.bias[items]
            weighed: Tensor = (y_k - self.wrapper.c) * (q @ m.beside["item"]).sigmoid() * y_u
            return weighed  # (B,)

        return F.softplus(served(batch["negatives"]) - served(batch["items"])).mean()

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        return self.wrapper.weighed(users)
