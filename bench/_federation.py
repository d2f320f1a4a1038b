"""Rounds of federated training: who uploads what, clipped, summed; user vectors stay where they
are. `defenses/federated.py` says what it is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from bench.dp import Coordinates, UserRows
from bench.errors import PluginError
from bench.models.base import Batch, TorchRecommender

_FLOATS = 1 << 24  # gradients of clients held at once (64 MiB)


class Layout:
    """Whose the coordinates of the module are.

    Attributes:
        own: parameter -> (start, stop) of the rows that belong to users, by user index; the
            whole parameter is theirs.
        shared: the other trainable parameters: what the server holds and clients are sent.
        items: shared parameter with a row per item -> (start, stop) of those rows.
        masks: shared parameter -> 0 at rows of padding, which nobody moves, and 1 elsewhere.
    """

    def __init__(self, model: TorchRecommender, rows: UserRows) -> None:
        where = Coordinates(model)
        weights = dict(model.module.named_parameters())
        mixed = [k for k in where.own if bool(where.masks[k].any())]
        if mixed:
            raise PluginError(f"{mixed[0]} holds rows of users and of items: a client could not "
                              "keep its own to itself")
        self.own = dict(where.own)
        n_users, n_items = model.data.n_users, model.data.n_items
        tables = {t.parameter: (t.start, t.stop) for t in model.tables().values()
                  if t.role == "item"}
        for key in where.names:
            size = weights[key].shape[0] if weights[key].dim() else 0
            if key not in self.own and key not in tables and size in (n_users, n_users + 1):
                start = size - n_users
                if _is_own(model, weights[key], start, rows):
                    self.own[key] = (start, start + n_users)
        self.shared = tuple(k for k in where.names if k not in self.own)
        self.masks = {k: where.masks[k] for k in self.shared}
        self.items = {}
        for key in self.shared:
            size = weights[key].shape[0] if weights[key].dim() else 0
            if key in tables:
                self.items[key] = tables[key]
            elif size in (n_items, n_items + 1):  # a bias per item, or an output layer
                self.items[key] = (size - n_items, size)


def _is_own(model: TorchRecommender, weight: Tensor, start: int, rows: UserRows) -> bool:
    """Whether the loss of a user moves its own row of this parameter and no other: looked up for
    three users, as no table says so (biases of users)."""
    moved = False
    for user in torch.nonzero(rows.count)[:3, 0]:
        batch, _ = rows.take(user[None], 0, 1 << 30)
        with model.evaluating(), model.ctx.seeded("layout"):
            found = torch.autograd.grad(model.batch_loss(batch), weight, allow_unused=True)[0]
        if found is None:
            continue
        hit = torch.nonzero(found.reshape(len(found), -1).ne(0).any(dim=1))[:, 0]
        if not bool((hit == start + user).all()):
            return False
        moved = moved or bool(len(hit))
    return moved


@dataclass(frozen=True)
class Uploads:
    """What K clients make of a round.

    Attributes:
        shared: parameter -> (K, *shape): the sum of the gradients over a client's rows; of
            several local steps, the way from the parameters that were sent, in the same unit.
        own: parameter -> (K, *row): the gradient by the client's own row; of several local
            steps, the row as it then is.
        losses: sum over each client's rows, before the round, (K,).
    """

    shared: dict[str, Tensor]
    own: dict[str, Tensor]
    losses: Tensor


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what `functional_call` can swap weights in."""

    def __init__(self, model: TorchRecommender) -> None:
        super().__init__()
        self.module = model.module
        self._model = [model]  # in a list: the recommender is no sub-module

    def forward(self, batch: Batch) -> Tensor:
        return self._model[0].batch_loss(batch)


@dataclass(frozen=True)
class Local:
    """How a client learns: `steps` of plain descent of size `rate` on its own rows. One step is a
    gradient, and its size does not matter."""

    steps: int = 1
    rate: float = 1.0


def one_by_one(model: TorchRecommender, where: Layout, rows: Batch, counts: Tensor,
               local: Local) -> Iterator[Uploads]:
    """Each client alone, by plain backward passes: the reference, and the way for models that
    cannot be vectorised. `rows` (R, …) are sorted by client, `counts` (K,) says how many each has.
    """
    lossy, end = _Loss(model), 0
    weights = {k: p.detach() for k, p in model.module.named_parameters()
               if k in where.own or k in where.shared}
    for size in counts.tolist():
        batch = {k: v[end:end + size] for k, v in rows.items()}
        user, end = int(batch["users"][0]), end + size
        now = {k: w.clone() for k, w in weights.items()}
        unit = 1 if model.sums_loss else size
        first = None
        for _ in range(local.steps):
            leaves = {k: w.requires_grad_() for k, w in now.items()}
            loss = functional_call(lossy, {f"module.{k}": w for k, w in leaves.items()}, (batch,))
            found = torch.autograd.grad(loss * unit, list(leaves.values()), allow_unused=True)
            first = float(loss.detach()) * unit if first is None else first
            grads = {k: torch.zeros_like(w) if g is None else g
                     for (k, w), g in zip(now.items(), found, strict=True)}
            for key, (start, _) in where.own.items():
                rest = grads[key].clone()
                rest[start + user] = 0
                if rest.any():
                    raise PluginError(f"the loss of user {user} depends on another user's row of "
                                      f"{key}: no client could compute it alone")
            grads = {k: g * where.masks[k] if k in where.masks else g for k, g in grads.items()}
            if local.steps > 1:
                now = {k: (w - local.rate / unit * grads[k]).detach() for k, w in now.items()}
        if local.steps > 1:
            shared = {k: (weights[k] - now[k]) * (unit / local.rate) for k in where.shared}
            own = {k: now[k][start + user] for k, (start, _) in where.own.items()}
        else:
            shared = {k: grads[k] for k in where.shared}
            own = {k: grads[k][start + user] for k, (start, _) in where.own.items()}
        yield Uploads({k: v.detach()[None] for k, v in shared.items()},
                      {k: v.detach()[None] for k, v in own.items()},
                      torch.tensor([first], device=counts.device))


def vectorised(model: TorchRecommender, where: Layout, rows: Batch, counts: Tensor,
               local: Local) -> Iterator[Uploads]:
    """The same for many clients at once, in chunks bounded in memory.

    A client's table of users has one row, its own, and that is user 0 to it. The loss of a client
    is the sum of the losses of its rows, each evaluated as a batch of one.
    """
    lossy = _Loss(model)
    weights = {k: p.detach() for k, p in model.module.named_parameters()}
    sent = {k: weights[k] for k in where.shared}

    def row_loss(params: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(lossy, params, ({k: v[None] for k, v in row.items()},))
        return result

    def loss_of(shared: dict[str, Tensor], own: dict[str, Tensor], mine: dict[str, Tensor],
                mask: Tensor) -> Tensor:
        tables = {k: torch.cat([v.new_zeros((where.own[k][0], *v.shape)), v[None]])
                  for k, v in own.items()}
        params = {f"module.{k}": v for k, v in {**shared, **tables}.items()}
        losses = vmap(row_loss, in_dims=(None, 0), randomness="different")(params, mine)
        return (losses * mask).sum()

    def client(own: dict[str, Tensor], mine: dict[str, Tensor], mask: Tensor,
               size: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        unit = torch.ones_like(size) if model.sums_loss else size
        slope = grad_and_value(loss_of, argnums=(0, 1))
        (by_shared, by_own), loss = slope(sent, own, mine, mask)
        if local.steps == 1:
            return {k: g * where.masks[k] for k, g in by_shared.items()}, by_own, loss
        now = dict(sent)
        for step in range(local.steps):
            if step:
                (by_shared, by_own), _ = slope(now, own, mine, mask)
            now = {k: w - local.rate / unit * by_shared[k] * where.masks[k]
                   for k, w in now.items()}
            own = {k: p - local.rate / unit * by_own[k] for k, p in own.items()}
        return {k: (sent[k] - now[k]) * (unit / local.rate) for k in sent}, own, loss

    many = vmap(client, in_dims=(0, 0, 0, 0), randomness="different")
    size = max(1, _FLOATS // max(1, sum(p.numel() for p in sent.values())))
    ends = counts.cumsum(0)
    for first in range(0, len(counts), size):
        own_counts = counts[first:first + size]  # (K,)
        begin = (ends - counts)[first:first + size]
        slot = torch.arange(int(own_counts.max()), device=counts.device)[None, :]  # (1, L)
        mask = slot < own_counts[:, None]  # (K, L)
        at = torch.where(mask, begin[:, None] + slot, begin[:, None])  # (K, L)
        mine = {k: v[at] for k, v in rows.items()}
        users = mine["users"][:, 0]
        if where.own:
            mine["users"] = torch.zeros_like(mine["users"])
        own = {k: weights[k][start + users] for k, (start, _) in where.own.items()}
        shared, own, losses = many(own, mine, mask.float(), own_counts.float())
        yield Uploads(shared, own, losses)


Way = Callable[[TorchRecommender, Layout, Batch, Tensor, Local], Iterator[Uploads]]


def choose(model: TorchRecommender, where: Layout, rows: Batch, counts: Tensor,
           local: Local) -> tuple[Way, str]:
    """The vectorised way where it gives what one client at a time gives; with the reason if not.
    Compared on the first clients of a round, without dropout."""
    counts = counts[:3]
    some = {k: v[:int(counts.sum())] for k, v in rows.items()}

    def run(way: Way) -> dict[str, Tensor]:
        with model.evaluating(), model.ctx.seeded("federated-compare"):
            parts = list(way(model, where, some, counts, local))
        return {"losses": torch.cat([p.losses for p in parts])} | {
            k: torch.cat([{**p.shared, **p.own}[k] for p in parts])
            for k in (*where.shared, *where.own)}

    right = run(one_by_one)
    try:
        tried = run(vectorised)
    except (RuntimeError, IndexError) as refused:  # torch.func, or a lookup by the user's index
        return one_by_one, f"one client at a time ({str(refused).splitlines()[0][:99]})"
    for key, expected in right.items():
        scale = float(expected.abs().max())
        if not torch.allclose(tried[key], expected, rtol=1e-3, atol=1e-4 * scale + 1e-12):
            return one_by_one, "one client at a time (the loss is no sum over rows)"
    return vectorised, "vectorised"


def clipped(g: Tensor, by_row: bool, clip: float) -> Tensor:
    """Uploads (K, *shape) with each row of an item, or each other parameter as a whole, shortened
    to the norm `clip`."""
    if math.isinf(clip):
        return g
    flat = g.reshape(g.shape[0], g.shape[1] if by_row else 1, -1)  # (K, rows, width)
    norms = flat.norm(dim=2, keepdim=True)  # (K, rows, 1)
    short: Tensor = (flat * (clip / norms.clamp_min(1e-30)).clamp_max(1.0)).reshape(g.shape)
    return short


class Scorer:
    """The score of a pair for any user vector, by shared parameters alone: what each client can
    compute. Users' rows in the module are not read.

    Attributes:
        width: numbers of a user vector, all tables of users side by side.
        probability: whether scores are probabilities; otherwise they count as logits.
    """

    def __init__(self, model: TorchRecommender, where: Layout) -> None:
        self._model, self._where = model, where
        self._parts = {k: _width(model, k) for k in where.own}
        self._dot = not where.own
        (table, *_) = [t for t in model.tables().values() if t.role == "item"]
        self._items = table.parameter, table.start
        self.width = sum(self._parts.values()) or table.weight.shape[1]
        self.probability = getattr(model, "score_kind", "") == "probability"

    def __call__(self, shared: Mapping[str, Tensor], vectors: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs: user vectors (B, width), item indices (B,) -> (B,)."""
        if self._dot:  # users are solved from the items' vectors, no table holds them
            name, start = self._items
            score: Tensor = (vectors * shared[name][start + items]).sum(dim=1)
            return score
        tables = {}
        for key, part in zip(self._parts, torch.split(vectors, list(self._parts.values()),
                                                         dim=1), strict=True):
            weight = self._model.module.get_parameter(key)
            start = self._where.own[key][0]
            rows = part.reshape(len(part), *weight.shape[1:])
            tables[key] = torch.cat([rows.new_zeros((start, *rows.shape[1:])), rows])
        params = {f"module.{k}": v for k, v in {**shared, **tables}.items()}
        users = torch.arange(len(vectors), device=vectors.device)
        with self._model.evaluating():
            result: Tensor = functional_call(_Pairs(self._model), params, (users, items))
        return result


def _width(model: TorchRecommender, key: str) -> int:
    weight = model.module.get_parameter(key)
    return math.prod(weight.shape[1:])


class _Pairs(nn.Module):
    """Gives `functional_call` a forward that is the model's score of pairs."""

    def __init__(self, model: TorchRecommender) -> None:
        super().__init__()
        self.module = model.module
        self._model: list[Any] = [model]  # in a list: the recommender is no sub-module

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        model, module = self._model[0], self.module
        if hasattr(model, "translate"):  # RecBole
            from bench.models._recbole_data import Interaction

            predicted: Tensor = module.predict(  # type: ignore[operator]
                Interaction(model.translate({"users": users, "items": items})))
            return predicted.reshape(-1)
        score: Tensor = (module.users(users) * module.items(items)).sum(dim=1)  # type: ignore
        bias = getattr(module, "bias", None)
        return score if bias is None else score + bias[items]


def covered(rows: Mapping[str, Tensor], copies: int, drawn: Tensor,
            mean_rating: Tensor | None) -> dict[str, Tensor]:
    """The rows, each positive followed by `copies` of itself with another item: rows of cover.

    Args:
        rows: (R, …) with "items", in any order that shall be kept.
        drawn: items that the row's user did not take, (R, copies).
        mean_rating: of each user, (n_users,), which is what a cover row of a rating model says.
    """
    real = rows["labels"] == 1 if "labels" in rows else torch.ones_like(rows["users"]) == 1
    times = 1 + copies * real.long()  # (R,)
    at = torch.repeat_interleave(torch.arange(len(times), device=times.device), times)  # (R',)
    place = torch.arange(len(at), device=at.device) - (times.cumsum(0) - times)[at]
    cover = place > 0
    made = {k: v[at] for k, v in rows.items()}
    made["items"] = torch.where(cover, drawn[at, (place - 1).clamp_min(0)], made["items"])
    if mean_rating is not None:
        made["ratings"] = torch.where(cover, mean_rating[made["users"]], made["ratings"])
    return made
