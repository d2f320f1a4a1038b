"""Gradients one user at a time, clipped: the part of user-level DP-SGD that meets the model.

What is private is a user's whole history. Parameters are split in two: a user's own rows of the
user tables are that user's local state; everything else is shared, and is what a release would
hold. Only shared coordinates are clipped and noised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.errors import PluginError, TrainingError
from bench.models.base import Batch, TorchRecommender
from bench.sampling import hash_rows

_FLOATS = 1 << 24  # per-user gradients held at once (64 MiB)


class Coordinates:
    """Which coordinates of the module are shared, and which are some user's own.

    Attributes:
        names: the trainable parameters.
        own: parameter -> (start, stop) of its rows that belong to users, by user index.
        masks: parameter -> 1 where shared, 0 elsewhere, broadcast to its shape. Rows of padding
            are neither: they keep their first value. Noise would move what must stay zero, and
            a gradient, which a softmax over all rows has there too, would be released without.
    """

    def __init__(self, model: TorchRecommender) -> None:
        module = model.module
        weights = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.names = tuple(weights)
        self.own = {t.parameter: (t.start, t.stop) for t in model.tables().values()
                    if t.role == "user" and t.parameter in weights}
        padding = {f"{name}.weight" if name else "weight": m.padding_idx
                   for name, m in module.named_modules()
                   if isinstance(m, nn.Embedding) and m.padding_idx is not None}
        self.masks: dict[str, Tensor] = {}
        for name, p in weights.items():
            rows = torch.ones(p.shape[:1] if p.dim() else (), device=p.device)
            if name in self.own:
                start, stop = self.own[name]
                rows[0 if start == 1 else start:stop] = 0  # a row before the first user pads
            if name in padding:
                rows[padding[name]] = 0
            self.masks[name] = rows.reshape(rows.shape + (1,) * (p.dim() - rows.dim()))

    def shared_only(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared part: what is not shared becomes 0. A leading axis of users may stand."""
        return {k: g * self.masks[k] for k, g in grads.items()}


class UserRows:
    """The train rows of one epoch with their negatives, sorted by user.

    They are drawn by the model itself, by hashes of (seed, user, item, epoch): what one user
    brings does not depend on the others.
    """

    def __init__(self, model: TorchRecommender, epoch: int) -> None:
        parts = list(model.batches(epoch, 1 << 16))
        if not parts:
            raise TrainingError("there is nothing to train on: no batch could be made of the "
                                "train rows")
        batch = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        order = batch["users"].argsort(stable=True)  # (N,)
        self.batch: dict[str, Tensor] = {k: v[order] for k, v in batch.items()}
        count = torch.bincount(batch["users"], minlength=model.data.n_users)
        self.count = count  # (n_users,)
        self.start = count.cumsum(0) - count  # (n_users,)
        self.seed = model.ctx.number("dp-rows")

    def take(self, users: Tensor, step: int, most: int) -> tuple[dict[str, Tensor], Tensor]:
        """At most `most` rows of each user, drawn at random for this step.

        Returns:
            the rows (R, …), sorted by user, and how many each user has (users,).
        """
        count = self.count[users]
        ends = count.cumsum(0)
        place = torch.arange(int(ends[-1]) if len(ends) else 0, device=users.device)
        owner = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
        at = self.start[users][owner] + place - (ends - count)[owner]  # (R,)
        mixed = hash_rows(self.seed, self.batch["users"][at], at - self.start[users][owner], step)
        at = at[mixed.argsort(stable=True)]
        at = at[self.batch["users"][at].argsort(stable=True)]
        rank = place - (ends - count)[owner]
        kept = at[rank < most]
        return {k: v[kept] for k, v in self.batch.items()}, count.clamp_max(most)


@dataclass(frozen=True)
class UserGradients:
    """What one sample of users asks for.

    Attributes:
        shared: parameter -> sum over users of their clipped gradients, not yet noised; 0 at
            rows that belong to users.
        own: parameter with rows of users -> their gradients, unclipped, at their rows.
        norms: norm of each user's shared gradient before clipping, (users,).
        loss: sum over all rows.
    """

    shared: dict[str, Tensor]
    own: dict[str, Tensor]
    norms: Tensor
    loss: float


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """min(1, C/‖g‖) for each user."""
    if math.isinf(clip):
        return torch.ones_like(norms)
    return (clip / norms.clamp_min(1e-30)).clamp_max(1.0)


def one_by_one(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
               clip: float) -> UserGradients:
    """Each user's gradient by a backward pass of its own: the reference, and the way for models
    that cannot be vectorised."""
    weights = dict(model.module.named_parameters())
    picked = {k: weights[k] for k in where.names}
    shared = {k: torch.zeros_like(p) for k, p in picked.items()}
    own = {k: torch.zeros_like(picked[k]) for k in where.own}
    norms, total, end = [], 0.0, 0
    for size in counts.tolist():
        batch = {k: v[end:end + size] for k, v in rows.items()}
        end += size
        loss = model.batch_loss(batch) * (1 if model.sums_loss else size)
        found = torch.autograd.grad(loss, list(picked.values()), allow_unused=True)
        grads = {k: torch.zeros_like(p) if g is None else g
                 for (k, p), g in zip(picked.items(), found, strict=True)}
        user = int(batch["users"][0])
        for key, (start, stop) in where.own.items():
            rest = grads[key][start:stop].clone()  # (n_users, width)
            rest[user] = 0
            if rest.any():
                raise PluginError(f"the loss of user {user} depends on another user's row of "
                                  f"{key}: clipping per user bounds nothing here, so "
                                  "'user-separable' is wrong for this model")
            own[key][start + user] += grads[key][start + user]
        grads = where.shared_only(grads)
        norm = torch.stack([g.norm() for g in grads.values()]).norm()
        factor = clip_factors(norm, clip)
        for key, g in grads.items():
            shared[key] += factor * g
        norms.append(norm)
        total += float(loss.detach())
    empty = counts.new_zeros(0, dtype=torch.float32)
    return UserGradients(shared, own, torch.stack(norms) if norms else empty, total)


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what `functional_call` can swap weights in."""

    def __init__(self, model: TorchRecommender) -> None:
        super().__init__()
        self.module = model.module
        self._model = [model]  # in a list: the recommender is no sub-module

    def forward(self, batch: Batch) -> Tensor:
        return self._model[0].batch_loss(batch)


def vectorised(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
               clip: float) -> UserGradients:
    """The same for all users at once, in chunks bounded in memory.

    The loss of a user is the sum of the losses of its rows, each evaluated as a batch of one:
    right wherever a batch's loss is the sum or mean of its rows' losses. As only a user's own
    loss touches its own rows, those need no gradient per user: one plain pass gives them.
    """
    weights = dict(model.module.named_parameters())
    lossy = _Loss(model)
    whole = {k for k, (a, b) in where.own.items() if not bool(where.masks[k].any())}
    per_user = {f"module.{k}": weights[k].detach() for k in where.names if k not in whole}
    fixed = {f"module.{k}": weights[k].detach() for k in whole}

    def row_loss(params: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        batch = {k: v.unsqueeze(0) for k, v in row.items()}
        result: Tensor = functional_call(lossy, {**params, **fixed}, (batch,))
        return result

    def user_loss(params: dict[str, Tensor], own_rows: dict[str, Tensor], mask: Tensor) -> Tensor:
        losses = vmap(row_loss, in_dims=(None, 0), randomness="different")(params, own_rows)
        return (losses * mask).sum()

    gradients = vmap(grad(user_loss), in_dims=(None, 0, 0), randomness="different")
    shared = {k: torch.zeros_like(weights[k]) for k in where.names}
    size = max(1, _FLOATS // max(1, sum(p.numel() for p in per_user.values())))
    ends = counts.cumsum(0)
    norms = []
    for first in range(0, len(counts), size):
        own_counts = counts[first:first + size]  # (U,)
        begin = (ends - counts)[first:first + size]
        slot = torch.arange(int(own_counts.max()), device=counts.device)[None, :]  # (1, L)
        mask = slot < own_counts[:, None]  # (U, L)
        at = torch.where(mask, begin[:, None] + slot, begin[:, None])  # (U, L)
        grads = gradients(per_user, {k: v[at] for k, v in rows.items()}, mask.float())
        grads = where.shared_only({k.removeprefix("module."): g for k, g in grads.items()})
        found = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)  # (U,)
        factor = clip_factors(found, clip)
        for key, g in grads.items():
            shared[key] += torch.tensordot(factor, g, dims=1)
        norms.append(found)
    own, loss = _own(model, where, rows)
    return UserGradients(shared, own, torch.cat(norms) if norms else counts.new_zeros(
        0, dtype=torch.float32), loss)


def _own(model: TorchRecommender, where: Coordinates, rows: Batch) -> tuple[dict[str, Tensor],
                                                                           float]:
    """Gradient of the sum over all rows by the rows that belong to users, and that sum."""
    weights = dict(model.module.named_parameters())
    if not len(rows["users"]):
        return {k: torch.zeros_like(weights[k]) for k in where.own}, 0.0
    loss = model.batch_loss(rows) * (1 if model.sums_loss else len(rows["users"]))
    found = torch.autograd.grad(loss, [weights[k] for k in where.own], allow_unused=True) \
        if where.own else ()
    own = {}
    for (key, (start, stop)), g in zip(where.own.items(), found, strict=True):
        own[key] = torch.zeros_like(weights[key])
        if g is not None:
            own[key][start:stop] = g[start:stop]
    return own, float(loss.detach())


Gradients = Callable[[TorchRecommender, Coordinates, Batch, Tensor, float], UserGradients]


def choose(model: TorchRecommender, where: Coordinates, rows: Batch,
           counts: Tensor) -> tuple[Gradients, str]:
    """The vectorised way where it gives what one user at a time gives; with the reason if not.

    Compared on the first users of the rows given, without dropout.
    """
    counts = counts[:3]
    some = {k: v[:int(counts.sum())] for k, v in rows.items()}
    with model.evaluating(), model.ctx.seeded("dp-compare"):
        right = one_by_one(model, where, some, counts, math.inf)
    with model.evaluating(), model.ctx.seeded("dp-compare"):
        try:
            tried = vectorised(model, where, some, counts, math.inf)
        except RuntimeError as refused:  # torch.func says what it cannot do by RuntimeError
            why = str(refused).split("\n")[0][:99]
            return one_by_one, f"one user at a time (torch.func: {why})"
    for kind in ("shared", "own"):
        for key, expected in getattr(right, kind).items():
            scale = float(expected.abs().max())
            if not torch.allclose(getattr(tried, kind)[key], expected, rtol=1e-3,
                                  atol=1e-5 * scale + 1e-12):
                return one_by_one, "one user at a time (the loss is no sum over rows)"
    return vectorised, "vectorised"
