"""Synthetic tail items between real ones, in the space of their feature vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.training import mean

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch
    from bench.training import Loop


class FeatureSmote(Defense):
    """SMOTE on feature vectors: rows of unpopular items are learned again with the item's vector
    moved towards that of a neighbour, f + u · (f_nn − f), u uniform in [0, 1] (Chawla et al.,
    "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 2002).

    The minority are the items with the fewest train positives that together hold the share
    `tail` of all positives; f_nn is one of an item's `neighbours` nearest minority items. To the
    loss of a batch that of its minority rows with moved vectors is added, times `weight`. Only
    feature vectors are interpolated: between one-hot ids there is nothing (CATALOGUE D13). It
    acts in training alone: no row of valid or test moves. weight 0 equals `none` bit for bit.

    For models that read feature vectors (`vbpr`). Adaptive attack: feature-pgd on tail items.

    Example: defenses: [{feature-smote: {weight: 0.5, tail: 0.2}}]
    """

    name = "feature-smote"
    weight: float = param(0.5, "weight of the synthetic rows' loss", low=0)
    tail: float = param(0.2, "share of the train positives that the minority items hold", above=0,
                        high=1)
    neighbours: int = param(5, "nearest minority items among which one is drawn", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"features", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))} of items"
        from bench.imbalance import single_items

        return single_items(model)

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.weight:
            return None
        synthetic = _Synthetic(self, loop)

        def run_epoch(epoch: int) -> float:
            return mean([synthetic.step(batch, epoch) for batch in loop.batches(epoch)])

        return run_epoch

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}


class _Synthetic:
    """The minority items, their neighbours, and a stream of draws that is made once and kept."""

    def __init__(self, hyper: FeatureSmote, loop: Loop) -> None:
        import torch

        self.hyper, self.loop, model = hyper, loop, loop.model
        self.key, table = next((k, t) for k, t in model.tables().items() if t.role == "feature")
        self.features = table.rows()  # (items, width)
        rows = model.data.train.positives()  # everybody's: a defender is not told who is fake
        counts = torch.from_numpy(np.bincount(rows.items, minlength=model.data.n_items))
        order = counts.argsort(stable=True)
        held = counts[order].cumsum(0).double() / max(int(counts.sum()), 1)
        minority = order[held <= hyper.tail].to(self.features.device)  # (M,)
        self.minority = torch.zeros(len(counts), dtype=torch.bool, device=self.features.device)
        self.minority[minority] = True
        self.stream = model.ctx.torch_stream("smote")
        apart = torch.cdist(self.features[minority], self.features[minority])  # (M, M)
        apart.fill_diagonal_(torch.inf)
        count = min(hyper.neighbours, max(len(minority) - 1, 0))
        self.nearest = torch.zeros((len(counts), count), dtype=torch.long,
                                   device=self.features.device)
        if count:
            self.nearest[minority] = minority[apart.topk(count, largest=False).indices]
        loop.notes["smote"] = {"minority_items": len(minority)}

    def moved(self) -> Tensor:
        """δ of the table: each minority item on the way to one of its neighbours."""
        import torch

        delta = torch.zeros_like(self.features)  # (items, width)
        items = torch.nonzero(self.minority).flatten()
        pick = torch.randint(self.nearest.shape[1], (len(items), 1), generator=self.stream)
        share = torch.rand((len(items), 1), generator=self.stream).to(self.features)
        other = self.nearest[items].gather(1, pick.to(items.device)).flatten()
        delta[items] = share * (self.features[other] - self.features[items])
        return delta

    def step(self, batch: Batch, epoch: int) -> float:
        """One step on the batch, with the loss of its moved minority rows added."""
        rows = self.minority[batch["items"]]
        if not self.nearest.shape[1] or not bool(rows.any()):
            return self.loop.step(batch, epoch)
        part = {k: v[rows] if v.ndim and len(v) == len(rows) else v for k, v in batch.items()}
        share = 1.0 if self.loop.model.sums_loss else float(rows.double().mean())
        loop, delta = self.loop, self.moved()
        loop.optimizer.zero_grad(set_to_none=True)
        clean = loop.model.loss(batch)
        loss = clean + self.hyper.weight * share * loop.model.loss(part, {self.key: delta})
        return loop.descend(loss, batch, epoch)
