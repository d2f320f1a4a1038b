"""What RecBole's models read of a user when they score: sequences, or rows of the interaction
matrix. Other histories can be put in their place, and other vectors in place of their items'."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import Dataset, Ints
from bench.errors import CannotActError
from bench.models.base import Table

if TYPE_CHECKING:
    from bench.models._recbole_model import RecBoleRecommender


def train_histories(data: Dataset) -> list[Ints]:
    """The train positives of each user, oldest first."""
    from bench.sampling import in_order

    _, items, starts = in_order(data.train.positives(), data.n_users)
    return np.split(items, starts[1:-1])


def histories(model: RecBoleRecommender) -> list[Ints]:
    """See `Recommender.histories`. Rows of the interaction matrix hold what is in train."""
    from bench.models.base import TorchRecommender

    return TorchRecommender.histories(model) if model.is_sequential else \
        train_histories(model.data)


@contextlib.contextmanager
def reading(model: RecBoleRecommender, put: Sequence[Ints]) -> Iterator[None]:
    """See `Recommender.reading`."""
    module: Any = model.module
    if model.is_sequential:
        with model.sampler.sequences.reading(put):
            yield
        return
    if model.known["input"] != "users" or not hasattr(module, "get_rating_matrix") \
            or getattr(module, "time_aware", False):
        raise CannotActError(f"{model.hyper.model} reads no history when it scores a user")
    own = module.history_item_id, module.history_item_value
    # (users + 1, longest history): RecBole's numbers, row 0 and number 0 for padding
    ids = np.zeros((len(put) + 1, max([1, *(len(h) for h in put)])), np.int64)
    for user, items in enumerate(put, start=1):
        ids[user, :len(items)] = items + 1
    module.history_item_id = torch.as_tensor(ids, device=own[0].device)
    module.history_item_value = (module.history_item_id > 0).to(own[1].dtype)
    try:
        yield
    finally:
        module.history_item_id, module.history_item_value = own


# -- vectors of the places of a history ----------------------------------------------------------

def history_table(model: RecBoleRecommender) -> Table:
    """See `TorchRecommender.history_table`."""
    tables = model.tables()
    if not model.is_sequential or "item_embedding" not in tables:
        raise CannotActError(f"{model.hyper.model} has no table in which the items of a history "
                             "are looked up one by one")
    return tables["item_embedding"]


@contextlib.contextmanager
def looking_up(model: RecBoleRecommender, items: Tensor, vectors: Tensor) -> Iterator[None]:
    """See `TorchRecommender.looking_up`. A hook on the look-up: what is looked up is compared
    with the history, so that the same table's rows of targets and negatives stay as they are."""
    look_up = model.module.get_submodule(history_table(model).parameter.removesuffix(".weight"))
    there, fired = items >= 0, False  # (B, L)

    def swap(_: nn.Module, args: tuple[Tensor, ...], found: Tensor) -> Tensor | None:
        nonlocal fired
        asked = args[0]
        for gone in (0, 1):  # BERT4Rec drops the oldest place, to have room for its mask
            width = items.shape[1] - gone
            own = there[:, gone:]  # (B, L − gone)
            if asked.ndim == 2 and len(asked) == len(items) and asked.shape[1] >= width and \
                    torch.equal(torch.where(own, asked[:, :width] - 1, -1), items[:, gone:]):
                fired = True
                changed = torch.where(own[..., None], vectors[:, gone:], found[:, :width])
                return torch.cat([changed, found[:, width:]], dim=1)  # (B, …, d)
        return None

    handle = look_up.register_forward_hook(swap)
    try:
        with differentiable(model):
            yield
    finally:
        handle.remove()
    if not fired:
        raise CannotActError(f"{model.hyper.model} does not look up the items of a history place "
                             "by place, so that there is no vector of a place")


@contextlib.contextmanager
def differentiable(model: RecBoleRecommender) -> Iterator[None]:
    """cuDNN gives no slopes of recurrent layers in evaluation mode."""
    if model.module.training or not model.ctx.device.startswith("cuda"):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
