"""Recommenders without training: popularity and chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset
from bench.models.base import Recommender
from bench.sampling import hash_rows

if TYPE_CHECKING:
    from bench.api import Defense
    from bench.training import FitResult, Progress


class FixedScores(Recommender):
    """The same score per item for every user."""

    def __init__(self, data: Dataset, ctx: Context,
                 values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        super().__init__(data, ctx)
        self.values = torch.as_tensor(values, device=ctx.device)  # (n_items,)

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        return FitResult()

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        return self.values.expand(len(users), -1)  # (B, n_items)

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values.cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.values = state["values"].to(self.ctx.device)


class RandomScores(Recommender):
    """A score per (user, item) that depends on the seed alone."""

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        return FitResult()

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        items = torch.arange(self.data.n_items, device=users.device)
        h = hash_rows(self.ctx.number("random-scores"), users[:, None], items[None, :])
        return (h >> 39).float() / 2**24  # (B, n_items), 24 bits are exact in float32

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        return None
