"""What attackers who look inside differentiate in place of what a defense serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.differentiable import scores_with
from bench.models.base import Batch, Recommender, Table, TorchRecommender, Wrapped, innermost

if TYPE_CHECKING:
    from bench._votes import Smoothed
    from bench.context import Context

Shift = Mapping[str, Tensor]
"""Table key -> what is added to its rows, (rows, width)."""


class Seen(TorchRecommender):
    """A stand-in for what a defense serves of a trained model, differentiable in the vectors of
    that model. Subclasses write `batch_loss` (or `loss`) and `scores`.

    Args:
        base: the model inside, whose module and tables these are.
        served: the model as it is served.
    """

    def __init__(self, base: TorchRecommender, served: Recommender) -> None:
        super().__init__(base.data, base.ctx)
        self.base, self.served = base, served
        self.module, self.hyper, self.sums_loss = base.module, base.hyper, base.sums_loss

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        return self.base.batches(epoch, size, source)

    def tables(self) -> dict[str, Table]:
        return self.base.tables()

    def forget(self) -> None:
        self.served.forget()


class Noisy(Seen):
    """The expectation over noise on the vectors, by the mean over copies with fixed noise.

    loss(δ) = 1/n Σ_c ℓ(θ + z_c + δ): expectation over transformation (Athalye, Engstrom, Ilyas and
    Kwok, "Synthesizing Robust Adversarial Examples", ICML 2018, Eq. 2). The copies are drawn once,
    so that the loss is a function, and the noise is the attacker's own: whoever knew the
    defender's would attack one draw, and not the smoothing. The scores are shares of votes with
    a slope (`soft_votes`): a share of true votes has none.

    Args:
        served: whose `k` and `known` say how a copy votes.
        noises: z_c, for each copy.
    """

    def __init__(self, base: TorchRecommender, served: Smoothed,
                 noises: Sequence[Shift]) -> None:
        super().__init__(base, served)
        self.noises, self.votes = list(noises), served

    def batch_loss(self, batch: Batch) -> Tensor:
        return self.loss(batch)

    def loss(self, batch: Batch, delta: Shift | None = None) -> Tensor:
        losses = [self.base.loss(batch, added(noise, delta or {})) for noise in self.noises]
        return torch.stack(losses).mean()

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        return self.voted(users, [scores_with(self.base, shifted(self.base, noise), users)
                                  for noise in self.noises], split)

    def voted(self, users: Tensor, copies: Sequence[Tensor], split: str = "test") -> Tensor:
        """The share of votes for each item, softly, by each copy's scores (B, m): (B, m)."""
        known = self.votes.known(users, split)
        return torch.stack([soft_votes(s, known, self.votes.k) for s in copies]).mean(dim=0)


def noise_of(tables: Mapping[str, Table], spreads: Mapping[str, float], copies: int,
             ctx: Context) -> list[dict[str, Tensor]]:
    """N(0, spread²) on the rows of each table in `spreads`, for each copy, by the attacker's
    context."""
    streams = {key: ctx.torch_stream("eot", key) for key in spreads}
    return [{key: (torch.randn(tables[key].rows().shape, generator=stream) * spreads[key])
             .to(tables[key].weight) for key, stream in streams.items()} for _ in range(copies)]


def attackable(model: Recommender, ctx: Context, copies: int) -> Recommender:
    """What is differentiated where `model` is attacked: itself; of what a defense wraps, the
    stand-in that it gives (`Wrapped.stand_in`), or else the model inside, which is not what is
    served.

    Args:
        copies: over how much of the attacker's own noise an expectation is taken.
    """
    if not isinstance(model, Wrapped):
        return model
    return model.stand_in(ctx, copies) or innermost(model)


def follows(model: Recommender, ctx: Context) -> bool:
    """Whether what is served comes from the vectors inside, or was fixed before."""
    from bench.shown_lists import asks_inside

    stands = isinstance(model, Wrapped) and model.stand_in(ctx, 1) is not None
    return stands or asks_inside(model)


def as_served(model: Recommender) -> Recommender:
    """The model that makes the lists, of one that an attack is handed."""
    return model.served if isinstance(model, Seen) else model


def copies_of(model: TorchRecommender) -> tuple[TorchRecommender, list[Shift]]:
    """The model inside, and the noise of each copy over which an expectation is to be taken; a
    model that meets no noise is one copy of itself."""
    return (model.base, list(model.noises)) if isinstance(model, Noisy) else (model, [{}])


def added(one: Shift, other: Shift) -> dict[str, Tensor]:
    """The sum of two shifts of tables."""
    return {**one, **{key: one[key] + d if key in one else d for key, d in other.items()}}


def shifted(model: TorchRecommender, shift: Shift) -> dict[str, Tensor]:
    """Parameter -> its value with the rows of the tables shifted, for `scores_with`."""
    tables, changed = model.tables(), dict[str, Tensor]()
    for key, d in shift.items():
        t = tables[key]
        base = changed.get(t.parameter, t.weight)
        changed[t.parameter] = base + torch.nn.functional.pad(
            d, (0, 0, t.start, base.shape[0] - t.stop))
    return changed


def soft_votes(scores: Tensor, known: Tensor, k: int) -> Tensor:
    """How nearly each item gets a vote of one noisy copy: σ((s_i − t) / τ), t halfway between the
    user's K-th and next best unknown item and τ the standard deviation of the user's scores.

    Args:
        scores: of a copy, (B, m). known: what gets no vote, bool (B, m).
    """
    best = scores.masked_fill(known, -torch.inf).topk(min(k + 1, scores.shape[1]), dim=1).values
    edge = best[:, -2:].mean(dim=1, keepdim=True)  # (B, 1)
    edge = torch.where(edge.isfinite(), edge, scores.detach().amin(dim=1, keepdim=True))
    width = scores.detach().std(dim=1, keepdim=True).clamp_min(1e-12)  # (B, 1)
    return torch.sigmoid((scores - edge) / width)
