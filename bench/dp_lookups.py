"""Gradients one user at a time where item tables are only looked up: pairs, never whole tables."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.dp import Coordinates, UserGradients, chunks, clip_factors, plain_pass
from bench.models.base import Batch, TorchRecommender


def lookups(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor,
            clip: float) -> UserGradients:
    """What `bench.dp.vectorised` gives, in time and memory of the rows looked up.

    A row of the batch reaches a table through the vectors that it looked up, and those belong to
    one user: one plain pass gives each user's gradient as a few (row, vector) pairs, and pairs of
    one user at one row add up. Only parameters that are no item table go through vmap.

    Raises:
        RuntimeError: a table is no embedding, or is not looked up row of the batch by row.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []  # table, rows looked up, vectors found
    hooks = _watch(model, where, seen)
    try:
        own, loss, found = plain_pass(model, where, rows, lambda: [out for *_, out in seen])
    finally:
        for hook in hooks:
            hook.remove()
    n_items, n = model.data.n_items, len(counts)
    weights = dict(model.module.named_parameters())
    wide = n_items + max(len(weights[k]) for k in where.items)  # items, then rows of other things
    owner = torch.repeat_interleave(torch.arange(n, device=counts.device), counts)  # (R,)
    parts = [_scattered(where, key, at, g, owner, n_items, wide)
             for (key, at, _), g in zip(seen, found, strict=False) if g is not None]
    codes = torch.cat([code for _, code, _ in parts]) if parts else counts.new_zeros(0)
    pairs, place = torch.unique(codes, return_inverse=True)  # (P,), (all,)
    slot, item = pairs // wide, pairs % wide  # (P,) each
    values = {k: weights[k].new_zeros(len(pairs), weights[k].shape[1])  # (P, width)
              for k in where.items}
    for (key, _, g), at in zip(parts, place.split([len(g) for *_, g in parts]), strict=True):
        values[key].index_add_(0, at, g)
    squares = torch.zeros(n, device=counts.device)  # (U,)
    for v in values.values():
        squares.index_add_(0, slot, (v**2).sum(dim=1))
    shared, norms = _rest(model, where, rows, counts, clip, squares)
    factor = clip_factors(norms, clip)[slot]  # (P,)
    real = torch.stack([v.ne(0).any(dim=1) for v in values.values()]).any(dim=0) & (item < n_items)
    sparse = {}
    for key, v in values.items():
        start = where.items[key][0]
        row = torch.where(item < n_items, item + start, item - n_items)  # (P,)
        used = v.ne(0).any(dim=1)
        at, to = torch.unique(row[used], return_inverse=True)  # (K,), (used,)
        sparse[key] = at, v.new_zeros(len(at), v.shape[1]).index_add_(
            0, to, (factor[:, None] * v)[used])
    return UserGradients(shared, own, norms, loss, (slot[real], item[real]), sparse)


def _watch(model: TorchRecommender, where: Coordinates,
           seen: list[tuple[str, Tensor, Tensor]]) -> list[torch.utils.hooks.RemovableHandle]:
    """Have every lookup in an item table noted."""
    modules = {f"{name}.weight": m for name, m in model.module.named_modules()
               if isinstance(m, nn.Embedding)}
    for key in where.items:
        if key not in modules:
            raise RuntimeError(f"{key} is no embedding that is looked up")

    def note(key: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: seen.append((key, inputs[0], output))

    return [modules[key].register_forward_hook(note(key)) for key in where.items]


def _scattered(where: Coordinates, key: str, at: Tensor, g: Tensor, owner: Tensor, n_items: int,
               wide: int) -> tuple[str, Tensor, Tensor]:
    """What was looked up at shared rows: (table, user's place · wide + item (L,), gradient
    (L, d)). Shared rows of other things than items count on after the items."""
    if at.shape[:1] != owner.shape:
        raise RuntimeError(f"{key} is looked up by something else than the rows of the batch")
    start, stop = where.items[key]
    slots = owner.reshape(-1, *(1 for _ in at.shape[1:])).expand_as(at).flatten()  # (L,)
    rows = at.flatten()  # (L,)
    item = torch.where((rows >= start) & (rows < stop), rows - start, n_items + rows)
    shared = where.masks[key].flatten()[rows] > 0
    return key, (slots * wide + item)[shared], g.reshape(len(rows), -1)[shared]


def _rest(model: TorchRecommender, where: Coordinates, rows: Batch, counts: Tensor, clip: float,
          squares: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The clipped sum over users by the other shared parameters, and each user's norm over all,
    given the squared norms of the item tables' part."""
    weights = dict(model.module.named_parameters())
    shared = {k: torch.zeros_like(weights[k]) for k in where.names if k not in where.items}
    others = [k for k in where.shared_names() if k not in where.items]
    if not others:
        return shared, squares.sqrt()
    norms, first = [], 0
    for grads in chunks(model, where, rows, counts, others):
        size = len(next(iter(grads.values())))
        rest = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)  # (U,)
        norms.append((rest**2 + squares[first:first + size]).sqrt())
        for key, g in grads.items():
            shared[key] += torch.tensordot(clip_factors(norms[-1], clip), g, dims=1)
        first += size
    return shared, torch.cat(norms) if norms else squares.sqrt()
