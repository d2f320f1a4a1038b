"""The largest losses of positives are left out: they are often no positives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.rowloss import Terms
    from bench.training import Loop


class TruncatedLoss(Defense):
    """T-CE, the truncated loss of adaptive denoising training (Wang et al., WSDM 2021).

    In step T (counted from 0) the positives with the largest losses of the batch are left out:
    a share ε(T) = min(T · rate / ramp, rate) of the batch's rows, rounded up to whole rows as
    in the authors' code, all taken from the positives; the loss is the mean over the rows that
    are left (their sum where the model sums). `of: positives` counts the share among positives
    alone; with one sampled negative per positive that is half as many. Early in training nothing
    is dropped, as every loss is large then. The authors' rate is .05 to .2, ramp 30,000 steps.

    Where positives are compared with negatives or with the whole catalogue instead of labelled
    (BPR, softmax), every row is a positive and its loss −log p is sorted in the same way.
    Regularisers stay as they are. rate 0 equals `none` bit for bit.

    What fits badly need not be wrong: a large loss is also what a rare item or an unusual user
    has. Ask for recall by item popularity ("groups: {items: [popularity]}") beside the mean: the
    tail pays first; the report says how many of the rows dropped were of the less popular half.
    Adaptive attack: fake profiles that are easy to fit (popular or co-liked fillers) keep their
    targets below the cut.

    Example: defenses: [{truncated-loss: {rate: 0.1, ramp: 1000}}]
    """

    name = "truncated-loss"
    rate: float = param(0.1, "largest share that is left out (ε_max)", low=0, high=0.9)
    ramp: int = param(30000, "steps until that share is reached (α = rate / ramp)", low=1)
    of: str = param("rows", "what it is a share of: rows of the batch, or its positives",
                    choices=("rows", "positives"))

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import termwise

        return termwise(model)

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Keeps the plain loop, which asks a `_Truncation` for the loss of each step."""
        if self.rate:
            loop.defense = cast(Defense, _Truncation(self, loop))
        return None

    def share(self, step: int) -> float:
        """ε(T), for the step counted from 0."""
        return min(step * self.rate / self.ramp, self.rate)

    def kept(self, terms: Terms, share: float) -> Tensor:
        """Which terms stay at this share, (T,) bool."""
        import torch

        positive = terms.positive()  # (T,)
        places = positive.nonzero()[:, 0]  # (P,)
        whole = len(positive) if self.of == "rows" else len(places)
        count = min(whole - int((1 - share) * whole + 1e-9), len(places))
        losses = terms.losses.detach()[places]
        stays = torch.ones_like(positive)
        stays[places[losses.argsort(descending=True, stable=True)[:count]]] = False
        return stays

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"rate": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"ramp": 20}


class _Truncation:
    """One training: counts its steps, and what was dropped."""

    def __init__(self, hyper: TruncatedLoss, loop: Loop) -> None:
        import torch

        from bench.imbalance import tail

        self.hyper, self.step = hyper, 0
        self.tail = torch.as_tensor(tail(loop.model.data), device=loop.model.ctx.device)
        self.counts = {"seen": 0, "seen_tail": 0, "dropped": 0, "dropped_tail": 0}
        self.facts = loop.notes["truncated_loss"] = {"steps": 0, "share": 0.0}

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        from bench.rowloss import row_terms

        share = self.hyper.share(self.step)
        self.step += 1
        self.facts |= {"steps": self.step, "share": share}
        if not share:
            return clean_loss
        terms = row_terms(model, batch)
        stays = self.hyper.kept(terms, share)
        self._count(terms, stays)
        weights = stays.to(terms.losses.dtype)  # (T,)
        if not terms.sums:
            weights = weights * (len(weights) / weights.sum().clamp_min(1))
        return terms.whole(weights)

    def _count(self, terms: Terms, stays: Tensor) -> None:
        self.counts["dropped"] += int((~stays).sum())
        self.counts["seen"] += int(terms.positive().sum())
        self.facts["dropped_share"] = self.counts["dropped"] / max(self.counts["seen"], 1)
        if terms.items is None:
            return
        rare = self.tail[terms.items]
        self.counts["seen_tail"] += int((rare & terms.positive()).sum())
        self.counts["dropped_tail"] += int((rare & ~stays).sum())
        self.facts |= {
            "tail_among_dropped": self.counts["dropped_tail"] / max(self.counts["dropped"], 1),
            "tail_among_positives": self.counts["seen_tail"] / max(self.counts["seen"], 1)}
