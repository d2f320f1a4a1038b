"""How far target items stand above the last place of the lists, by their feature vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.differentiable import scores_with
from bench.served import Shift, copies_of, shifted

if TYPE_CHECKING:
    from bench.models.base import Table, TorchRecommender

CLIP = 5.0  # margins beyond it, in units of τ, count no more
USERS = 2048  # scored at once


class Margin:
    """mean_u clip((s_ut(δ) − s_u^(K)) / τ, −5, 5) of each target t, differentiable in δ.

    Over genuine users without t in what is known of them. s_u^(K), the K-th best score without
    attack among the other items that the user does not have, and τ, `temperature` standard
    deviations of the scores, are constants. With a large τ the clip never acts, and the mean of
    scores is no count of lists; with a small one users near the edge of their list count. Of a
    model that is served under noise it is the mean over the copies, each with its own s_u^(K).
    `queries` counts the users scored with moved vectors.

    Args:
        data: genuine data: what evaluation masks, which a defense may have taken out of training.
    """

    def __init__(self, model: TorchRecommender, table: Table, targets: Ints, data: Dataset,
                 k: int, temperature: float = 1.0) -> None:
        self.model, copies = copies_of(model)
        self.table, self.queries = table, 0
        device = model.ctx.device
        self.targets = torch.from_numpy(targets).to(device)  # (T,)
        known = data.known("test")
        mine = known.users < data.n_genuine
        self.blocks: list[tuple[Shift, Tensor, Tensor, Tensor]] = []
        sums = []
        for start in range(0, data.n_genuine, USERS):
            users = np.arange(start, min(start + USERS, data.n_genuine))
            here = mine & (known.users >= start) & (known.users < start + USERS)
            has = torch.zeros((len(users), data.n_items), dtype=torch.bool)
            has[known.users[here] - start, known.items[here]] = True
            has = has.to(device)  # (B, items)
            who = torch.from_numpy(users).to(device)
            for noise in copies:
                scores = self._clean(noise, who)  # (B, items)
                sums.append((scores.double().sum(), (scores.double()**2).sum(), scores.numel()))
                best = scores.masked_fill(has, -torch.inf).topk(min(k + 1, data.n_items), 1).values
                kth, next_best = best[:, min(k, data.n_items) - 1, None], best[:, -1:]  # (B, 1)
                # a target in the list stands among the K best itself: the one after is its rival
                last = torch.where(scores[:, self.targets] >= kth, next_best, kth)  # (B, T)
                self.blocks.append((noise, who, last, ~has[:, self.targets]))  # (B, T) each
        n = sum(s[2] for s in sums)
        mean = sum(float(s[0]) for s in sums) / n
        self.tau = temperature * max((sum(float(s[1]) for s in sums) / n - mean**2), 1e-24)**0.5

    @torch.no_grad()
    def _clean(self, noise: Shift, users: Tensor) -> Tensor:
        if not noise:
            return self.model.scores(users)
        self.queries += len(users)
        return scores_with(self.model, shifted(self.model, noise), users)

    def __call__(self, delta: Tensor, clipped: bool = True) -> Tensor:
        """The margins (T,) with the targets' vectors moved by delta (T, width)."""
        weight = self.table.weight.detach()
        moved = weight.index_add(0, self.targets + self.table.start, delta)
        total = torch.zeros(len(self.targets), device=delta.device)
        count = torch.zeros(len(self.targets), device=delta.device)
        for noise, users, last, free in self.blocks:
            self.queries += len(users)
            changed = {**shifted(self.model, noise), self.table.parameter: moved}
            scores = scores_with(self.model, changed, users)  # (B, items)
            above = (scores[:, self.targets] - last) / self.tau  # (B, T)
            most = CLIP if clipped else torch.inf
            total = total + (above.clamp(-most, most) * free).sum(dim=0)
            count = count + free.sum(dim=0)
        return total / count.clamp_min(1)
