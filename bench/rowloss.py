"""A batch's loss in parts: what robust losses, weights of rows and audits of users need.

`row_terms` gives the finest parts of which the model's own loss is a mean (or a sum), and whose
user and item each of them is; `row_losses` gives one number per row of the batch.

A row is one entry of the batch's columns: a (user, positive, negative) triple, a labelled pair, or
a history with the item that follows. Two kinds of batches have a row per user instead:
autoencoders, whose row is a user's whole history (nothing finer exists, and no item belongs to
it), and sequence models that train on windows (`targets` in the batch), where every place of a
stretch of a user's history is predicted at once: there a term is a place, and a row is a user's
stretch, whose loss is the mean over its places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from bench.errors import PluginError
from bench.models.base import Batch, TorchRecommender

if TYPE_CHECKING:
    from bench.api import ModelPlugin


@dataclass(frozen=True)
class Terms:
    """A batch's loss in T parts, from one pass: their dropout is one.

    Attributes:
        losses: of each part, (T,), differentiable in the parameters.
        rest: what belongs to no part (regularisers, auxiliary losses); a scalar, often 0.
        rows: the row of the batch that each part belongs to, (T,).
        users: whose it is, (T,).
        items: the item predicted, (T,); None where a part is a whole history.
        labels: 1 for a positive, 0 for a negative, (T,); None where every part is a positive.
        sums: whether the loss is the sum of its parts, not their mean.
        penalties: regularisers of each part, which no weight touches, (T,), or None.
    """

    losses: Tensor
    rest: Tensor
    rows: Tensor
    users: Tensor
    items: Tensor | None
    labels: Tensor | None
    sums: bool
    penalties: Tensor | None = None

    def whole(self, weights: Tensor | None = None) -> Tensor:
        """The batch's loss; with weights (T,) on its parts, regularisers left as they are."""
        losses = self.losses if weights is None else self.losses * weights
        losses = losses if self.penalties is None else losses + self.penalties
        return self.rest + (losses.sum() if self.sums or not len(losses) else losses.mean())

    def penalised(self) -> Tensor:
        """The parts with their own regularisers, (T,)."""
        return self.losses if self.penalties is None else self.losses + self.penalties

    def positive(self) -> Tensor:
        """Which parts are positives, (T,) bool."""
        if self.labels is None:
            return torch.ones_like(self.users, dtype=torch.bool)
        return self.labels > 0.5


Way = Callable[[TorchRecommender, Batch, Tensor | None], Terms]

_COMPARED = 4  # rows on which a fast way must give what one row at a time gives
_REFUSED = (RuntimeError, ValueError)  # what torch.func, or a model met by an odd batch, raises
_ways: WeakKeyDictionary[TorchRecommender, dict[frozenset[str], Way]] = WeakKeyDictionary()

# Not user-separable (propagation over a graph, batch normalisation, users drawn in runs), and yet
# their recommendation loss is one number per row, beside whatever else they add.
WITH_TERMS = frozenset((
    "bprmf", "AutoInt", "Caser", "CORE", "DCN", "DCNV2", "DGCF", "DIEN", "DIN", "DMF", "DSSM",
    "EulerNet", "FEARec", "FiGNN", "GCSAN", "GRU4RecCPR", "GRU4RecKG", "KGAT", "KGIN", "KSR",
    "KTUP", "LightGCN", "MCCLK", "MKR", "NCL", "NFM", "NGCF", "NNCF", "RippleNet", "SHAN", "SINE",
    "SpectralCF", "SRGNN", "xDeepFM", "rating-mf"))


def separable(model: ModelPlugin) -> str | None:
    """Why this model has no losses of rows that are functions of their own row and the parameters
    alone, or None where it has."""
    if "gradients" not in model.gives:
        return f"{model.name} is not learned by descending on a loss of rows"
    if "user-separable" not in model.gives:
        why = getattr(model, "not_separable", "graph propagation, in-batch negatives, batch "
                      "normalisation or counts over all users enter it")
        return f"the loss of {model.name} is no sum over the rows of a batch ({why})"
    return None


def termwise(model: ModelPlugin) -> str | None:
    """Why this model has no `row_terms`, or None where it has: enough for weighing and dropping,
    which do not ask that a term depend on its own row alone."""
    return None if model.name in WITH_TERMS else separable(model)


def itemwise(model: ModelPlugin) -> str | None:
    """Why the terms of this model have no item each, or None where they have."""
    if model.whole_histories:
        return f"{model.name} learns whole histories at once, and no term has an item of its own"
    return termwise(model)


def likely(model: ModelPlugin) -> str | None:
    """Why exp(−loss) of a term is no probability of that one row under this model, or None."""
    if getattr(model, "score_kind", "") == "rating":
        return f"the loss of {model.name} is a squared error, not minus a log-probability"
    return itemwise(model)


def shiftable(model: ModelPlugin) -> str | None:
    """Why nothing can be added to the scores inside the loss of this model, or None."""
    from bench.models.recbole import facts

    if model.name != "bprmf" and (model.name not in facts() or model.name == "DCNV2"):
        return f"{model.name} keeps its scores to itself: its loss is not one of logits"
    return likely(model)


def row_losses(model: TorchRecommender, batch: Batch) -> Tensor:
    """The model's own loss of every row, (B,), differentiable in the parameters.

    Their mean (their sum where `model.sums_loss`) is `model.loss(batch)` up to rounding; with
    windows it is so when each row counts by its places. What belongs to no row (a norm of the
    whole module) is spread evenly. Dropout and other draws are made anew, from the generator that
    the loss itself draws from. For models that `separable` does not refuse.
    """
    terms = row_terms(model, batch)
    size = len(batch["users"])
    count = torch.bincount(terms.rows, minlength=size).clamp_min(1)  # (B,)
    losses = terms.losses.new_zeros(size).index_add(0, terms.rows, terms.penalised()) / count
    return losses + (terms.rest / max(size, 1) if terms.sums else terms.rest)


def row_terms(model: TorchRecommender, batch: Batch, shift: Tensor | None = None) -> Terms:
    """The parts of this batch's loss, for models that `termwise` does not refuse.

    A model with a method `row_losses(batch)`, of shape (B,), is asked; of others the loss module
    is listened to; where there is none, batches of one row are evaluated.

    Args:
        shift: added to the scores of the items inside the loss, (n_items,), where `shiftable`
            does not refuse: the loss as if the model scored so.

    Raises:
        PluginError: the loss is not made of losses of rows, or its scores cannot be shifted.
    """
    with _counts_kept(model):
        if not len(batch["users"]):  # a batch of another kind, as triples of a knowledge graph
            whole = model.batch_loss(batch).reshape(())
            return _terms(model, batch, whole.new_zeros(0), whole)
        return _way(model, batch)(model, batch, shift)


@contextlib.contextmanager
def _counts_kept(model: TorchRecommender) -> Iterator[None]:
    """What a module counts along (steps of KL annealing) moves on by the clean loss alone."""
    own = vars(model.module)
    before = {k: v for k, v in own.items() if isinstance(v, (int, float))}
    try:
        yield
    finally:
        own.update(before)


# -- four ways -----------------------------------------------------------------------------------

def _terms(model: TorchRecommender, batch: Batch, losses: Tensor,
           rest: Tensor | None = None) -> Terms:
    """Terms that are rows."""
    rows = torch.arange(len(batch["users"]), device=batch["users"].device)
    return Terms(losses, losses.new_zeros(()) if rest is None else rest, rows, batch["users"],
                 batch.get("items"), batch.get("labels"), model.sums_loss)


def declared(model: TorchRecommender, batch: Batch, shift: Tensor | None = None) -> Terms:
    """What the model itself says: by `row_parts(batch, shift)`, losses and penalties of rows,
    or by `row_losses(batch)`. A subclass may have changed the loss and not these."""
    parts = getattr(model, "row_parts", None)
    if parts is not None:
        losses, penalties = parts(batch, shift)  # (B,), (B,) or None
        return replace(_terms(model, batch, losses), penalties=penalties)
    _unshifted(shift)
    own = getattr(model, "row_losses", None)
    if own is None:
        raise RuntimeError("the model has no method row_losses")
    return _terms(model, batch, own(batch))


def captured(model: TorchRecommender, batch: Batch, shift: Tensor | None = None) -> Terms:
    """Listens to the one loss module of the model while it computes the loss of the batch.

    Raises:
        RuntimeError: there is no such module, or what it gives is not one number per row.
    """
    module, arguments, mean, whole = _listen(model, batch)
    if shift is not None:
        arguments = _shifted(module, arguments, batch, shift)
    return replace(_heard(model, batch, module, arguments), rest=whole - mean)


def _listen(model: TorchRecommender, batch: Batch
            ) -> tuple[nn.Module, tuple[Tensor, ...], Tensor, Tensor]:
    """The loss module, what it was given, the mean that it made of it, and the batch's loss."""
    heard: list[tuple[nn.Module, tuple[Tensor, ...], Tensor]] = []
    hooks = [m.register_forward_hook(lambda *call: heard.append(call))
             for m in model.module.modules() if _is_mean(m)]
    try:
        whole = model.batch_loss(batch).reshape(())
    finally:
        for hook in hooks:
            hook.remove()
    if len(heard) != 1:
        raise RuntimeError(f"{len(heard)} calls of a loss module")
    return *heard[0], whole


def _heard(model: TorchRecommender, batch: Batch, module: nn.Module,
           arguments: tuple[Tensor, ...]) -> Terms:
    """The terms that the loss module takes the mean of; what is beside it left out."""
    losses: Tensor = vmap(module.forward)(*arguments).flatten()  # (T,)
    terms = _terms(model, batch, losses)
    if "targets" in batch:
        places = batch["targets"] >= 0  # (B, L)
        rows = places.nonzero()[:, 0]  # (T,)
        terms = replace(terms, rows=rows, users=batch["users"][rows],
                        items=batch["targets"][places])
    if losses.shape != terms.rows.shape:
        raise RuntimeError(f"{len(losses)} losses for {len(terms.rows)} rows")
    return terms


def _shifted(module: nn.Module, arguments: tuple[Tensor, ...], batch: Batch,
             shift: Tensor) -> tuple[Tensor, ...]:
    """What the loss module would be given if every item scored `shift` (n_items,) more."""
    scores, other = arguments[0], arguments[1]
    if isinstance(module, nn.CrossEntropyLoss):  # (T, columns): RecBole pads in front, masks last
        return scores + F.pad(shift, (1, scores.shape[1] - 1 - len(shift))), other
    own = shift[batch["items"]].reshape(scores.shape)
    if isinstance(module, nn.BCEWithLogitsLoss):
        return scores + own, other
    if not isinstance(module, _Loss):  # BPR: scores of positives and of negatives
        return scores + own, other + shift[batch["negatives"]].reshape(other.shape)
    raise PluginError(f"nothing can be added to the scores inside a {type(module).__name__}")


def _unshifted(shift: Tensor | None) -> None:
    if shift is not None:
        raise PluginError("the model keeps its scores to itself, so that nothing can be added")


def _is_mean(module: nn.Module) -> bool:
    """Whether it is a loss that takes the mean over its first axis: torch's, or RecBole's BPR."""
    if isinstance(module, _Loss):
        return module.reduction == "mean"
    kind = type(module)
    return kind.__name__ == "BPRLoss" and kind.__module__.startswith("recbole.")


def vectorised(model: TorchRecommender, batch: Batch, shift: Tensor | None = None) -> Terms:
    """The loss of batches of one row, all at once by torch.func."""
    _unshifted(shift)

    def one(row: dict[str, Tensor]) -> Tensor:
        return model.batch_loss({k: v.unsqueeze(0) for k, v in row.items()})

    return _terms(model, batch, vmap(one, randomness="different")(dict(batch)))


def one_by_one(model: TorchRecommender, batch: Batch, shift: Tensor | None = None) -> Terms:
    """The loss of batches of one row, one after another: the reference, right and slow."""
    _unshifted(shift)
    losses = []
    for n in range(len(batch["users"])):
        with _counts_kept(model):  # each row sees the annealing weight that the batch sees
            losses.append(model.batch_loss({k: v[n:n + 1] for k, v in batch.items()}))
    return _terms(model, batch, torch.stack(losses))


# -- which of them -------------------------------------------------------------------------------

def _way(model: TorchRecommender, batch: Batch) -> Way:
    """The fastest way that is right for this model; decided once per model and kind of batch, on
    a few rows without dropout."""
    known = _ways.setdefault(model, {})
    kind = frozenset(batch)
    if kind not in known:
        with model.evaluating(), model.ctx.seeded("row-losses"), _counts_kept(model), \
                torch.enable_grad():
            known[kind] = _choose(model, {k: v[:_COMPARED] for k, v in batch.items()})
    return known[kind]


def _choose(model: TorchRecommender, few: Batch) -> Way:
    try:
        if _heard_right(model, few):
            return captured
    except _REFUSED:
        pass
    if hasattr(model, "row_losses") or termwise(model.hyper) is None:
        weights = [p for p in model.module.parameters() if p.requires_grad]
        alone = one_by_one(model, few).losses
        slopes = _slopes(alone, weights)
        for way in (declared, vectorised, one_by_one):
            try:
                tried = way(model, few)
            except _REFUSED:
                continue
            rows = tried.penalised()
            if _close([rows, tried.whole()], [alone, model.batch_loss(few)]) and \
                    _close(_slopes(rows, weights), slopes):
                return way
    raise PluginError("the model's loss of a batch is not made of losses of its rows, so that no "
                      "row can be weighed or dropped")


def _heard_right(model: TorchRecommender, few: Batch) -> bool:
    """A term is the same in other company, their mean is what the loss module gave, and that
    enters the batch's loss as it is."""
    module, arguments, mean, whole = _listen(model, few)
    terms = _heard(model, few, module, arguments)
    again = []
    for n in range(0, len(few["users"]), 2):
        pair = {k: v[n:n + 2] for k, v in few.items()}
        again.append(_heard(model, pair, *_listen(model, pair)[:2]).losses)
    slope, = torch.autograd.grad(whole, mean)
    return _close([terms.losses, terms.whole()], [torch.cat(again), mean]) and \
        bool((slope == 1).all())


def _slopes(losses: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradient of unequal multiples of the losses, which swapped rows would change."""
    factors = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)  # (B,)
    found = torch.autograd.grad((losses * factors).sum(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _close(tried: list[Tensor], right: list[Tensor]) -> bool:
    """Equal up to rounding, which counts by the largest number of all."""
    scale = max((float(r.detach().abs().max()) for r in right if r.numel()), default=0.0)
    return all(t.shape == r.shape and torch.allclose(t, r, rtol=1e-3, atol=1e-5 * scale + 1e-12)
               for t, r in zip(tried, right, strict=True))
