"""How a server puts the uploads of a round together: plainly, robustly, or without seeing them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import PluginError


class Aggregator:
    """Takes the uploads of a round's clients, gives their sum, or what stands for it.

    Attributes:
        facts: counted along, for the report.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def begin(self, clients: Sequence[int], arriving: Sequence[int]) -> None:
        """A round begins with these clients, of whom these will upload."""

    def add(self, clients: Sequence[int], shared: Mapping[str, Tensor]) -> None:
        """The uploads of some of them: parameter -> (K, *shape)."""
        raise NotImplementedError

    def total(self) -> dict[str, Tensor] | None:
        """parameter -> (*shape); None where the round is lost."""
        raise NotImplementedError


class Sum(Aggregator):
    """The plain sum, as FedSGD and FedAvg take it."""

    def begin(self, clients: Sequence[int], arriving: Sequence[int]) -> None:
        self._sum: dict[str, Tensor] = {}

    def add(self, clients: Sequence[int], shared: Mapping[str, Tensor]) -> None:
        for key, g in shared.items():
            part = g.sum(dim=0)
            self._sum[key] = self._sum[key] + part if key in self._sum else part

    def total(self) -> dict[str, Tensor] | None:
        return self._sum


class Robust(Aggregator):
    """What a few uploads cannot move far, in place of the sum (`robust_sum`)."""

    def __init__(self, how: str, share: float, items: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.how, self.share, self.items = how, share, items

    def begin(self, clients: Sequence[int], arriving: Sequence[int]) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, clients: Sequence[int], shared: Mapping[str, Tensor]) -> None:
        for key, g in shared.items():
            self._parts.setdefault(key, []).append(g)

    def total(self) -> dict[str, Tensor] | None:
        stacked = {k: torch.cat(parts) for k, parts in self._parts.items()}  # (K, *shape) each
        if self.how == "krum" and stacked:
            flat = torch.cat([g.flatten(1) for g in stacked.values()], dim=1)  # (K, P)
            kept = multi_krum(flat, self.share)
            return {k: g[kept].mean(dim=0) * len(g) for k, g in stacked.items()}
        return {k: robust_sum(g, self.how, self.share, k in self.items)
                for k, g in stacked.items()}


def robust_sum(g: Tensor, how: str, share: float, by_row: bool) -> Tensor:
    """The median or trimmed mean of each coordinate, times the number of uploads: (K, *shape) ->
    (*shape).

    A row of an item counts the clients alone who uploaded it: most clients do not touch an item,
    and the median of mostly zeros is zero. Of k such uploads, ⌊share · k⌋ are trimmed at either
    end, at most so many that one or two stay.
    """
    flat = g.reshape(len(g), g.shape[1] if by_row else 1, -1)  # (K, rows, width)
    there = flat.ne(0).any(dim=2, keepdim=True).expand_as(flat)  # (K, rows, width)
    if not by_row:
        there = torch.ones_like(there)
    count = there.sum(dim=0)  # (rows, width)
    ordered = torch.where(there, flat, math.inf).sort(dim=0).values  # those who are not there last
    cut = (count - 1).clamp_min(0) // 2
    if how == "trimmed-mean":
        cut = torch.minimum(cut, (share * count + 1e-9).floor().long())
    place = torch.arange(len(g), device=g.device)[:, None, None]  # (K, 1, 1)
    kept = (place >= cut) & (place < count - cut)  # (K, rows, width)
    mean = torch.where(kept, ordered, 0.0).sum(dim=0) / kept.sum(dim=0).clamp_min(1)
    total: Tensor = (mean * count).reshape(g.shape[1:])
    return total


def multi_krum(flat: Tensor, share: float) -> Tensor:
    """The uploads to keep, by multi-Krum (Blanchard et al., NeurIPS 2017): with f = ⌊share · K⌋
    assumed malicious, the K − f whose squared distances to their K − f − 2 nearest sum up to least.
    (K, P) -> (K − f,)."""
    size = len(flat)
    bad = math.floor(share * size + 1e-9)
    near = max(1, min(size - 1, size - bad - 2))
    if size < 2:
        return torch.arange(size, device=flat.device)
    squares = torch.cdist(flat.double(), flat.double()) ** 2  # (K, K)
    squares.fill_diagonal_(math.inf)
    score = squares.sort(dim=1).values[:, :near].sum(dim=1)  # (K,)
    return score.argsort(stable=True)[:size - bad].sort().values


class Hidden(Aggregator):
    """The sum of whole numbers that no single upload of is seen: by masks that cancel, or under
    homomorphic encryption.

    Args:
        how: "masks" or "encrypted".
        shapes: parameter -> shape, in the order in which uploads are laid side by side.
        clip: bound of every number of an upload, which sets the size of a step.
        neighbours, threshold: of `bench.secure_aggregation.Round`.
        rng: for keys and masks.
    """

    def __init__(self, how: str, shapes: Mapping[str, torch.Size], clip: float, neighbours: int,
                 threshold: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.how, self.shapes, self.clip, self.rng = how, dict(shapes), clip, rng
        self.neighbours, self.threshold = neighbours, threshold
        self.size = sum(math.prod(s) for s in self.shapes.values())
        self.facts = {"step": 0.0, "rounds_lost": 0, "bytes_per_upload": 0}
        self._round: Any = None

    def begin(self, clients: Sequence[int], arriving: Sequence[int]) -> None:
        from bench import secure_aggregation as masks

        self._arriving = list(arriving)
        self.step = masks.step_for(self.clip, len(clients))
        self.facts["step"] = max(self.facts["step"], self.step)
        self._lost = False
        if self.how == "masks":
            self._round = masks.Round(clients, self.size, self.neighbours, self.threshold, self.rng)
        else:
            from bench.homomorphic import Round

            self._round = Round(self.size)

    def add(self, clients: Sequence[int], shared: Mapping[str, Tensor]) -> None:
        from bench.secure_aggregation import quantise

        flat = torch.cat([shared[k].flatten(1) for k in self.shapes], dim=1)  # (K, P)
        for client, row in zip(clients, flat.double().cpu().numpy(), strict=True):
            self._round.upload(client, quantise(row, self.step))
        self.facts["bytes_per_upload"] = self._round.bytes_per_upload

    def total(self) -> dict[str, Tensor] | None:
        from bench.secure_aggregation import LostRoundError

        try:
            numbers = self._round.sum()
        except LostRoundError:
            self.facts["rounds_lost"] += 1
            return None
        flat = torch.as_tensor(numbers * self.step, dtype=torch.float32)  # (P,)
        parts = torch.split(flat, [math.prod(s) for s in self.shapes.values()])
        return {k: part.reshape(s) for (k, s), part in zip(self.shapes.items(), parts, strict=True)}


def check_finite(uploads: Mapping[str, Tensor]) -> None:
    """Refuse uploads that are not finite, which no clip bounds."""
    bad = [k for k, g in uploads.items() if not bool(g.isfinite().all())]
    if bad:
        raise PluginError(f"the upload of {bad[0]} is not finite; lower learning_rate (or, where "
                          "uploads are noised, clip)")
