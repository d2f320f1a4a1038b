"""The model's own loss of every row of a batch: what robust losses, weights and audits need.

A row is one entry of the batch's columns: a (user, positive, negative) triple, a labelled pair, or
a history with the item that follows. Two kinds of batches have a row per user: autoencoders, whose
row is a user's whole history, and sequence models that train on windows (`targets` in the batch,
every place of a stretch of a user's history predicted at once). There a row is a user (or a stretch
of one), its loss is the mean over its places, and nothing finer can be dropped or weighed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.loss import _Loss

from bench.models.base import Batch, TorchRecommender

if TYPE_CHECKING:
    from bench.api import ModelPlugin

Way = Callable[[TorchRecommender, Batch], Tensor]

_COMPARED = 4  # rows on which a fast way must give what one row at a time gives
_ways: WeakKeyDictionary[TorchRecommender, dict[frozenset[str], Way]] = WeakKeyDictionary()


def separable(model: ModelPlugin) -> str | None:
    """Why this model has no losses of rows, or None where it has."""
    if "gradients" not in model.gives:
        return f"{model.name} is not learned by descending on a loss of rows"
    if "user-separable" not in model.gives:
        why = getattr(model, "not_separable", "graph propagation, in-batch negatives, batch "
                      "normalisation or counts over all users enter it")
        return f"the loss of {model.name} is no sum over the rows of a batch ({why})"
    return None


def row_losses(model: TorchRecommender, batch: Batch) -> Tensor:
    """The model's own loss of every row, (B,), differentiable in the parameters.

    `together` of it is `model.loss(batch)` up to rounding: the mean over rows, the sum where
    `model.sums_loss`, the mean over places where a batch holds windows. Dropout and other draws
    are made anew, from the generator that the loss itself draws from. For models that
    `separable` does not refuse; a model with a method `row_losses(batch)` is asked first.
    """
    with _counts_kept(model):
        return _way(model, batch)(model, batch)


def together(model: TorchRecommender, batch: Batch, losses: Tensor) -> Tensor:
    """The scalar that the model makes of losses of rows (B,): of its own ones, its batch loss."""
    if "targets" in batch:
        places = (batch["targets"] >= 0).sum(dim=1).to(losses.dtype)  # (B,)
        return (losses * places).sum() / places.sum()
    return losses.sum() if model.sums_loss else losses.mean()


@contextlib.contextmanager
def _counts_kept(model: TorchRecommender) -> Iterator[None]:
    """What a module counts along (steps of KL annealing) moves on by the clean loss alone."""
    own = vars(model.module)
    before = {k: v for k, v in own.items() if isinstance(v, (int, float))}
    try:
        yield
    finally:
        own.update(before)


# -- four ways, the fastest first ----------------------------------------------------------------

def declared(model: TorchRecommender, batch: Batch) -> Tensor:
    """What the model itself says. A subclass may have changed the loss and not this."""
    own = getattr(model, "row_losses", None)
    if own is None:
        raise RuntimeError("the model has no method row_losses")
    losses: Tensor = own(batch)
    return losses


def captured(model: TorchRecommender, batch: Batch) -> Tensor:
    """Listens to the one loss module of the model while it computes the loss of the batch.

    Raises:
        RuntimeError: there is no such module, or what it gives is not one number per row.
    """
    heard: list[Tensor] = []

    def listen(module: Any, arguments: tuple[Any, ...], _: Any) -> None:
        module.reduction = "none"
        try:
            heard.append(module.forward(*arguments))
        finally:
            module.reduction = "mean"

    hooks = [m.register_forward_hook(listen) for m in model.module.modules()
             if isinstance(m, _Loss) and m.reduction == "mean"]
    try:
        model.batch_loss(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(heard) != 1:
        raise RuntimeError(f"{len(heard)} calls of a loss module")
    losses, size = heard[0].flatten(), len(batch["users"])
    if "targets" in batch:  # (places,) -> (B,)
        rows = (batch["targets"] >= 0).nonzero()[:, 0]  # (places,)
        if losses.shape != rows.shape:
            raise RuntimeError(f"{len(losses)} losses for {len(rows)} places")
        count = torch.bincount(rows, minlength=size).clamp_min(1)
        return losses.new_zeros(size).index_add(0, rows, losses) / count
    if len(losses) != size:
        raise RuntimeError(f"{len(losses)} losses for {size} rows")
    return losses


def vectorised(model: TorchRecommender, batch: Batch) -> Tensor:
    """The loss of batches of one row, all at once by torch.func."""
    def one(row: dict[str, Tensor]) -> Tensor:
        return model.batch_loss({k: v.unsqueeze(0) for k, v in row.items()})

    losses: Tensor = vmap(one, randomness="different")(dict(batch))
    return losses


def one_by_one(model: TorchRecommender, batch: Batch) -> Tensor:
    """The loss of batches of one row, one after another: the reference, right and slow."""
    losses = []
    for n in range(len(batch["users"])):
        with _counts_kept(model):  # each row sees the annealing weight that the batch sees
            losses.append(model.batch_loss({k: v[n:n + 1] for k, v in batch.items()}))
    return torch.stack(losses) if losses else torch.zeros(0, device=batch["users"].device)


def _way(model: TorchRecommender, batch: Batch) -> Way:
    """The fastest way that gives what one row at a time gives; decided once per model and kind
    of batch, on a few rows without dropout."""
    known = _ways.setdefault(model, {})
    kind = frozenset(batch)
    if kind not in known:
        known[kind] = _choose(model, batch)
    return known[kind]


def _choose(model: TorchRecommender, batch: Batch) -> Way:
    few = {k: v[:_COMPARED] for k, v in batch.items()}
    with model.evaluating(), model.ctx.seeded("row-losses"), _counts_kept(model):
        right, weights = one_by_one(model, few), _weights(model.module)
        slopes = _slopes(right, weights)
        for way in (declared, captured, vectorised):
            try:
                tried = way(model, few)
                found = _slopes(tried, weights)
            except RuntimeError:  # torch.func says what it cannot do by RuntimeError
                continue
            if _close([tried], [right]) and _close(found, slopes):
                return way
    return one_by_one


def _weights(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def _slopes(losses: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Gradient of unequal multiples of the losses, which swapped rows would change."""
    factors = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)
    found = torch.autograd.grad((losses * factors).sum(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _close(tried: list[Tensor], right: list[Tensor]) -> bool:
    """Equal up to rounding, which counts by the largest number of all."""
    scale = max((float(r.detach().abs().max()) for r in right if r.numel()), default=0.0)
    return all(t.shape == r.shape and torch.allclose(t, r, rtol=1e-3, atol=1e-5 * scale + 1e-12)
               for t, r in zip(tried, right, strict=True))
