"""A copy of a recommender learned from its lists alone: asking, ranking losses, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data import Dataset, Interactions, Ints

if TYPE_CHECKING:
    from torch import Tensor

    from bench.context import Context
    from bench.models.base import TorchRecommender
    from bench.shown_lists import Shown

MARGIN = 0.5  # between neighbours of a list, and between a list and what is not on it
BATCH, RATE = 128, 1e-3
DEFAULTS: dict[str, Any] = {"surrogate": "SASRec", "sequences": 500, "length": 20, "k": 100,
                            "epochs": 10}
WHAT = {"surrogate": "what the copy is: a model of RecBole with its defaults",
        "sequences": "how many made-up histories are grown",
        "length": "items of each; every item more is a query, and the copy reads as many",
        "k": "items of a list that the attacker sees",
        "epochs": "passes over what was asked"}


def too_long(length: int, data: Dataset) -> str | None:
    """Why made-up histories of this length cannot be grown on this data, or None: a list of two
    items that a history does not hold must be left to show."""
    if length + 2 <= data.n_items:
        return None
    return (f"made-up histories of {length} items leave no list of {data.name}'s {data.n_items}; "
            f"length can be {data.n_items - 2} at most")


def ask(shown: Shown, sequences: int, length: int, k: int, ctx: Context) -> tuple[Ints, Ints]:
    """Made-up histories grown from what is recommended for them: each begins with a random item,
    and goes on with a random one of the list shown.

    Returns:
        items (sequences, length), and the lists of each of their beginnings, (sequences, length,
        k): lists[s, t] is what was shown for items[s, :t + 1].
    """
    rng, k = ctx.stream("extraction"), min(k, shown.n_items - length)
    items = np.empty((sequences, length), np.int64)
    lists = np.empty((sequences, length, k), np.int64)
    items[:, 0] = rng.integers(shown.n_items, size=sequences)
    for t in range(length):
        lists[:, t] = shown.lists(list(items[:, :t + 1]), k)
        if t + 1 < length:
            items[:, t + 1] = lists[np.arange(sequences), t, rng.integers(k, size=sequences)]
    return items, lists


def ranking_loss(scores: Tensor, lists: Tensor, negatives: Tensor) -> Tensor:
    """Mean of max(0, s_{j+1} − s_j + margin) along the lists, plus the mean of
    max(0, s_negative − s_j + margin).

    Args:
        scores: (B, n_items). lists: (B, k), best first. negatives: (B, k), not on the list.
    """
    on, off = scores.gather(1, lists), scores.gather(1, negatives)  # (B, k) each
    order = (on[:, 1:] - on[:, :-1] + MARGIN).clamp_min(0).mean()
    return order + (off - on + MARGIN).clamp_min(0).mean()


def outside(lists: Tensor, n_items: int, number: Tensor) -> Tensor:
    """The number-th of the items that are not on the list, without rejection: (B, k).

    Args:
        lists: (B, k), distinct. number: (B, k), each from 0 to n_items − k − 1.
    """
    import torch

    ordered = lists.sort(dim=1).values  # (B, k)
    free_before = ordered - torch.arange(lists.shape[1], device=lists.device)
    return number + torch.searchsorted(free_before.contiguous(), number.contiguous(), right=True)


def extract(shown: Shown, hyper: Any, ctx: Context) -> TorchRecommender:
    """A surrogate that ranks as the lists do; Yue et al., RecSys 2021 (data-free extraction).

    Args:
        hyper: has surrogate, sequences, length, k, epochs.
    """
    import torch

    items, lists = ask(shown, hyper.sequences, hyper.length, hyper.k, ctx)
    model = _untrained(hyper.surrogate, items, shown.n_items, ctx)
    device, n = ctx.device, items.size
    told = torch.as_tensor(lists.reshape(n, -1), device=device)  # (n, k)
    place = torch.arange(hyper.length, device=device)
    grown = torch.as_tensor(items, device=device).repeat_interleave(hyper.length, dim=0)
    lengths = place.repeat(hyper.sequences) + 1  # (n,)
    grown = torch.where(place < lengths[:, None], grown, -1)  # (n, length)
    stream, users = ctx.torch_stream("extraction"), torch.zeros(n, dtype=torch.long, device=device)
    optimizer = torch.optim.Adam(model.module.parameters(), lr=RATE)
    model.module.train()
    with ctx.seeded("extraction"):  # dropout
        for _ in range(hyper.epochs):
            order = torch.randperm(n, generator=stream).to(device)
            for start in range(0, n, BATCH):
                pick = order[start:start + BATCH]
                number = torch.randint(shown.n_items - told.shape[1], told[pick].shape,
                                       generator=stream).to(device)
                scores = model.history_scores(users[pick], grown[pick], lengths[pick])
                loss = ranking_loss(scores, told[pick],
                                    outside(told[pick], shown.n_items, number))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    model.module.eval()
    model.forget()
    return model


def _untrained(name: str, items: Ints, n_items: int, ctx: Context) -> TorchRecommender:
    """The surrogate before it has learned anything; its users are the made-up histories."""
    from bench.models.base import build
    from bench.registry import Registry

    n, length = items.shape
    rows = Interactions(np.repeat(np.arange(n), length), items.ravel(),
                        times=np.tile(np.arange(length, dtype=np.float64), n))
    data = Dataset(name="extracted", user_ids=tuple(f"q{u}" for u in range(n)),
                   item_ids=tuple(f"i{i}" for i in range(n_items)), train=rows,
                   valid=rows[:0], test=rows[:0])
    plugin: Any = Registry().make("models", {"name": name, "params": {"max_length": length}})
    made: Any = build(plugin, data, ctx.apart("surrogate"))  # from no weights of the victim's
    model: TorchRecommender = made
    return model


def surrogate_lists(model: TorchRecommender, histories: Sequence[Ints], k: int) -> Ints:
    """The surrogate's k best items for histories of others, without what they hold: (n, k)."""
    import torch

    from bench.positions import padded
    from bench.shown_lists import best_items

    found, width = [], int(model.hyper.max_length)  # type: ignore[attr-defined]
    with torch.no_grad(), model.evaluating():
        for start in range(0, len(histories), 256):
            part = histories[start:start + 256]
            items, lengths = padded(part, width, model.ctx.device)
            users = torch.zeros(len(part), dtype=torch.long, device=model.ctx.device)
            scores = model.history_scores(users, items, lengths).double().cpu().numpy().copy()
            for row, own in enumerate(part):
                scores[row, own] = -np.inf
            found.append(best_items(scores, k))
    return np.concatenate(found)


def agreement(mine: Ints, theirs: Ints) -> float:
    """Mean share of one list that is on the other: (n, k) each.

    >>> agreement(np.array([[1, 2], [3, 4]]), np.array([[2, 5], [4, 3]]))
    0.75
    """
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(mine, theirs, strict=True)]))
