"""What learned generators of profiles share: networks, learnable rounding, and a guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import PluginError

if TYPE_CHECKING:
    from bench.data import Dataset, Ints


def layers(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with the activation between them, none after the last."""
    made: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        made += [activation()] * (k > 0) + [nn.Linear(sizes[k], sizes[k + 1])]
    return nn.Sequential(*made)


def learn(loss: Tensor, optimizer: torch.optim.Optimizer, who: str) -> float:
    """One step down the loss; an error where a parameter gets no gradient at all.

    A generator whose output is detached, rounded without a surrogate gradient or looked up never
    learns, and nothing else would tell.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        for number, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                raise PluginError(f"{who}: parameter {number} of shape {tuple(parameter.shape)} "
                                  "gets no gradient; is what it makes detached?")
    optimizer.step()
    return float(loss.detach())


def step(x: Tensor, sharpness: float = 1.0) -> Tensor:
    """1 where x > 0, 0 elsewhere; its gradient is that of (1 + tanh(k x)) / 2."""
    soft = (1 + torch.tanh(sharpness * x)) / 2
    return (x > 0).to(x.dtype) + (soft - soft.detach())


class Rounding(nn.Module):
    """Learnable thresholds of each item: value → low + step · how many thresholds it exceeds.

    Thresholds of an item rise: the first is free, each next one adds a positive gap.
    """

    def __init__(self, items: int, low: float, size: float, levels: int,
                 sharpness: float = 1.0) -> None:
        super().__init__()
        self.low, self.size, self.sharpness = low, size, sharpness
        self.first = nn.Parameter(torch.full((items, 1), low))
        self.gaps = nn.Parameter(torch.full((items, levels - 2), size))

    def thresholds(self) -> Tensor:
        """(items, levels − 1), rising."""
        return torch.cat([self.first, self.gaps.relu() + 1e-4], dim=1).cumsum(dim=1)

    def forward(self, values: Tensor) -> Tensor:
        above = values.unsqueeze(2) - self.thresholds()  # (r, items, levels − 1)
        over = step(above, self.sharpness)
        return self.low + self.size * over.sum(dim=2)  # (r, items)


def rated(data: Dataset) -> Tensor:
    """Train ratings, (users with rows, items), 0 where there is none; the last of several."""
    made = torch.zeros(data.n_users, data.n_items)
    assert data.train.ratings is not None
    users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items)
    made[users, items] = torch.from_numpy(data.train.ratings).float()
    seen = torch.zeros(data.n_users, dtype=torch.bool)
    seen[users] = True
    return made[seen]


def fillers(rows: Tensor, barred: Ints, count: int, rng: np.random.Generator) -> Tensor:
    """1 at `count` random items that each row has and that are not barred: (rows, items).

    A row that has fewer gives all of them.
    """
    keys = torch.from_numpy(rng.random(rows.shape)).float()
    keys[rows == 0] = -1.0
    keys[:, torch.from_numpy(barred)] = -1.0
    best = keys.topk(min(count, rows.shape[1]), dim=1)
    made = torch.zeros_like(rows)
    made.scatter_(1, best.indices, (best.values >= 0).to(rows.dtype))
    return made
