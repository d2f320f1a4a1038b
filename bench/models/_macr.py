"""bprmf as the defense `macr` serves it: branches weigh its scores, less a reference score."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models._bprmf import BprRecommender
from bench.models.base import Wrapped


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

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        m = self.base.module
        y_k = BprRecommender.scores(self.base, users, split)  # (B, n_items)
        y_u = m.users(users) @ m.beside["user"]  # (B,)
        y_i = m.items.weight @ m.beside["item"]  # (n_items,)
        served: Tensor = (y_k - self.c) * y_i.sigmoid() * y_u.sigmoid()[:, None]
        return served
