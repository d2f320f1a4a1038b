"""Gradients one user at a time, clipped: the part of user-level DP-SGD that meets the model.

What is private is a user's whole history. Parameters are split in two: a user's own rows of the
user tables are that user's local state; everything else is shared, and is what a release would
hold. Only shared coordinates are clipped and noised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.errors import NO_BATCH, PluginError, TrainingError
from bench.models.base import Batch, TorchRecommender
from bench.sampling import hash_rows

_FLOATS = 1 << 24  # per-user gradients held at once (64 MiB)
_ALL = 1 << 40  # more rows than there are: see UserRows


class Coordinates:
    """Which coordinates of the module are shared, and which are some user's own.

    Attributes:
        names: the trainable parameters.
        own: parameter -> (start, stop) of its rows that belong to users, by user index.
        items: parameter -> (start, stop) of its rows that belong to items, by item index.
        maps: whether the item rows that each user's gradient touches are asked for.
        masks: parameter -> 1 where shared, 0 elsewhere, broadcast to its shape. Rows of padding
            are neither: they keep their first value. Noise would move what must stay zero, and
            a gradient, which a softmax over all rows has there too, would be released without.
    """

    def __init__(self, model: TorchRecommender, maps: bool = False) -> None:
        module, self.maps = model.module, maps
        weights = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.names = tuple(weights)
        self.own = {t.parameter: (t.start, t.stop) for t in model.tables().values()
                    if t.role == "user" and t.parameter in weights}
        self.items = {t.parameter: (t.start, t.stop) for t in model.tables().values()
                      if t.role == "item" and t.parameter in weights}
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

    def shared_names(self) -> list[str]:
        """The parameters that have a shared coordinate, or none of anybody's own."""
        return [k for k in self.names if k not in self.own or bool(self.masks[k].any())]

    def moving(self, present: Tensor, kept: Tensor | None = None) -> dict[str, Tensor]:
        """Parameter -> the rows that a step may move, ascending: of users' rows those of the
        users who are there; of items' rows all, or those of the `kept` items; and the rest.
        Parameters of which every row moves are left out."""
        found = {}
        for key in self.own if kept is None else {**self.own, **self.items}:
            still = torch.zeros(self.masks[key].shape[0], dtype=torch.bool, device=present.device)
            for spans, movers in ((self.own, present), (self.items, kept)):
                if key in spans and movers is not None:
                    start, stop = spans[key]
                    still[start:stop] = True
                    still[start + movers] = False
            found[key] = torch.nonzero(~still)[:, 0]  # (R,)
        return found


class UserRows:
    """The train rows of one epoch with their negatives, sorted by user.

    They are drawn by the model itself, by hashes of (seed, user, item, epoch), and as one batch,
    in which negatives may follow all rows: what one user brings, and in which order, does not
    depend on the others, as it would on where others' rows put the bounds of batches.
    """

    def __init__(self, model: TorchRecommender, epoch: int) -> None:
        parts = list(model.batches(epoch, _ALL))
        if not parts:
            raise TrainingError(NO_BATCH)
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
        touched: where maps are asked for, the pairs (place of the user in `norms`, item) at
            which that user's gradient is not 0, each once: (P,) and (P,).
        sparse: parameter with rows of items, which is then missing in `shared` -> its rows (R,),
            ascending, at which the sum may not be 0, and the sum there (R, width).
    """

    shared: dict[str, Tensor]
    own: dict[str, Tensor]
    norms: Tensor
    loss: float
    touched: tuple[Tensor, Tensor] | None = None
    sparse: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """min(1, C/‖g‖) for each user."""
    if math.isinf(clip):
        return torch.ones_like(norms)
    return (clip / norms.clamp_min(1e-30)).clamp_max(1.0)


def _touched(where: Coordinates, grads: Mapping[str, Tensor]) -> Tensor:
    """At which items some table's gradient is not 0, (users, n_items) bool, from gradients with
    a leading axis of users."""
    found = [grads[k][:, start:stop].flatten(2).ne(0).any(dim=2)
             for k, (start, stop) in where.items.items()]
    return torch.stack(found).any(dim=0)


def _pairs(maps: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """(user's place, item) of everything set in the rows of these maps."""
    if not maps:
        return None
    slots, items = torch.nonzero(torch.cat(maps), as_tuple=True)
    return slots, items


def one_by_one(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
               clip: float) -> UserGradients:
    """Each user's gradient by a backward pass of its own: the reference, and the way for models
    that cannot be vectorised."""
    weights = dict(model.module.named_parameters())
    picked = {k: weights[k] for k in where.names}
    shared = {k: torch.zeros_like(p) for k, p in picked.items()}
    own = {k: torch.zeros_like(picked[k]) for k in where.own}
    norms, total, end, maps = [], 0.0, 0, list[Tensor]()
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
        if where.maps:
            maps.append(_touched(where, {k: grads[k][None] for k in where.items}))
        total += float(loss.detach())
    empty = counts.new_zeros(0, dtype=torch.float32)
    return UserGradients(shared, own, torch.stack(norms) if norms else empty, total,
                         _pairs(maps))


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
    shared = {k: torch.zeros_like(weights[k]) for k in where.names}
    norms, maps = [], list[Tensor]()
    for grads in chunks(model, where, rows, counts, where.shared_names()):
        found = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)  # (U,)
        factor = clip_factors(found, clip)
        for key, g in grads.items():
            shared[key] += torch.tensordot(factor, g, dims=1)
        norms.append(found)
        if where.maps:
            maps.append(_touched(where, grads))
    own, loss, _ = plain_pass(model, where, rows)
    return UserGradients(shared, own, torch.cat(norms) if norms else counts.new_zeros(
        0, dtype=torch.float32), loss, _pairs(maps))


def chunks(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
           names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The shared part of the gradient of each user by these parameters, in chunks of users
    bounded in memory: parameter -> (users of the chunk, …)."""
    weights = dict(model.module.named_parameters())
    lossy = _Loss(model)
    per_user = {f"module.{k}": weights[k].detach() for k in names}
    fixed = {f"module.{k}": weights[k].detach() for k in where.names if k not in names}

    def row_loss(params: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        batch = {k: v.unsqueeze(0) for k, v in row.items()}
        result: Tensor = functional_call(lossy, {**params, **fixed}, (batch,))
        return result

    def user_loss(params: dict[str, Tensor], own_rows: dict[str, Tensor], mask: Tensor) -> Tensor:
        losses = vmap(row_loss, in_dims=(None, 0), randomness="different")(params, own_rows)
        return (losses * mask).sum()

    gradients = vmap(grad(user_loss), in_dims=(None, 0, 0), randomness="different")
    size = max(1, _FLOATS // max(1, sum(p.numel() for p in per_user.values())))
    ends = counts.cumsum(0)
    for first in range(0, len(counts), size):
        own_counts = counts[first:first + size]  # (U,)
        begin = (ends - counts)[first:first + size]
        slot = torch.arange(int(own_counts.max()), device=counts.device)[None, :]  # (1, L)
        mask = slot < own_counts[:, None]  # (U, L)
        at = torch.where(mask, begin[:, None] + slot, begin[:, None])  # (U, L)
        grads = gradients(per_user, {k: v[at] for k, v in rows.items()}, mask.float())
        yield where.shared_only({k.removeprefix("module."): g for k, g in grads.items()})


def plain_pass(model: TorchRecommender, where: Coordinates, rows: Batch,
               outputs: Callable[[], list[Tensor]] = list) -> tuple[
                   dict[str, Tensor], float, tuple[Tensor | None, ...]]:
    """One pass over the sum of all rows' losses: its gradient by the rows that belong to users,
    the sum, and its gradient by whatever else `outputs` names once the loss is there."""
    weights = dict(model.module.named_parameters())
    if not len(rows["users"]):
        return {k: torch.zeros_like(weights[k]) for k in where.own}, 0.0, ()
    loss = model.batch_loss(rows) * (1 if model.sums_loss else len(rows["users"]))
    sought = [*(weights[k] for k in where.own), *outputs()]
    found = torch.autograd.grad(loss, sought, allow_unused=True) if sought else ()
    own = {}
    for (key, (start, stop)), g in zip(where.own.items(), found, strict=False):
        own[key] = torch.zeros_like(weights[key])
        if g is not None:
            own[key][start:stop] = g[start:stop]
    return own, float(loss.detach()), tuple(found[len(where.own):])


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
    ways: list[tuple[Gradients, str]] = [(vectorised, "vectorised")]
    if where.maps:
        from bench.dp_lookups import lookups

        ways.insert(0, (lookups, "looked up"))
    for way, name in ways:
        with model.evaluating(), model.ctx.seeded("dp-compare"):
            try:
                tried = way(model, where, some, counts, math.inf)
            except RuntimeError as refused:  # torch.func says what it cannot do by RuntimeError
                why = f"torch.func: {str(refused).splitlines()[0][:99]}"
                continue
        if _agree(right, tried):
            return way, name
        why = "the loss is no sum over rows"
    return one_by_one, f"one user at a time ({why})"


def dense(found: UserGradients, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shared sum by every parameter, item tables in full."""
    shared = dict(found.shared)
    for key, (rows, values) in found.sparse.items():
        shared[key] = torch.zeros_like(weights[key])
        shared[key][rows] = values
    return shared


def _agree(right: UserGradients, tried: UserGradients) -> bool:
    both = [(right.own, tried.own), (right.shared, dense(tried, right.shared)),
            ({"norms": right.norms}, {"norms": tried.norms})]
    for wanted, got in both:
        for key, expected in wanted.items():
            scale = float(expected.abs().max())
            if not torch.allclose(got[key], expected, rtol=1e-3, atol=1e-5 * scale + 1e-12):
                return False
    return True
