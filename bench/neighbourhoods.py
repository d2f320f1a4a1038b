"""Items around an item: who is near by cosine, in one hop or two, and mixtures of their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.data import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import ModelPlugin


@dataclass(frozen=True)
class Neighbourhoods:
    """For each item its neighbours and how much each counts.

    Attributes:
        items: (n_items, 2 · most), no more than n_items columns; where there is no neighbour,
            the item itself.
        counts: the parameters of a Dirichlet distribution, (n_items, 2 · most): alpha for
            neighbours in one hop, alpha · decay in two, 0 for none.
    """

    items: Ints
    counts: Floats

    def mixtures(self, which: Ints, rng: np.random.Generator) -> Floats:
        """Weights of the neighbours of each of these items (P,): (P, 2 · most), each row from
        the item's Dirichlet distribution."""
        drawn = rng.standard_gamma(self.counts[which])  # a Dirichlet draw is gammas over their sum
        drawn[:, 0] += drawn.sum(axis=1) <= 0  # all of them underflowed, for a tiny alpha
        weights: Floats = drawn / drawn.sum(axis=1, keepdims=True)
        return weights


def neighbourhoods(rows: npt.NDArray[Any], similarity: float, fewest: int, most: int,
                   alpha: float, decay: float, rng: np.random.Generator) -> Neighbourhoods:
    """Who is near whom, by the vectors (n_items, d).

    In one hop: items of cosine at least `similarity`, or the `fewest` nearest where no more than
    that are; if more than `most`, as many drawn at random. In two: neighbours of neighbours that
    are neither, again at most `most`.
    """
    n = len(rows)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    first: list[Ints] = []
    for start in range(0, n, 1024):
        cosine = unit[start:start + 1024] @ unit.T  # (B, n_items)
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        for row in cosine:
            near = np.flatnonzero(row >= similarity)
            if len(near) < min(fewest, n - 1):
                near = np.argsort(-row, kind="stable")[:min(fewest, n - 1)]
            first.append(rng.choice(near, most, replace=False) if len(near) > most else near)
    width = min(2 * most, n)  # no item has more others than there are
    items = np.repeat(np.arange(n)[:, None], width, axis=1)
    counts = np.zeros((n, width))
    for item, near in enumerate(first):
        further = np.setdiff1d(np.concatenate([first[j] for j in near]), [*near, item])
        if len(further) > most:
            further = rng.choice(further, most, replace=False)
        both = len(near) + len(further)
        items[item, :both] = np.concatenate([near, further])
        counts[item, :len(near)], counts[item, len(near):both] = alpha, alpha * decay
    return Neighbourhoods(items.astype(np.int64), counts)


# They read the items of a training batch in another shape than as histories: masked, as a graph,
# as baskets, or the last one alone.
NOT_BY_PLACE = frozenset(("BERT4Rec", "GCSAN", "HRM", "SHAN", "SRGNN", "TransRec"))


def no_places(model: ModelPlugin) -> str | None:
    """Why what stands at a place of a training history cannot be replaced by another vector in
    this model, or None where nothing is known against it."""
    from bench.models.recbole import facts

    missing = {"histories", "embeddings", "gradients"} - model.gives
    if missing:
        return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
    if model.name in NOT_BY_PLACE:
        return f"{model.name} does not look up the items of a history place by place"
    if "item_embedding" not in facts().get(model.name, {}).get("tables", ["item_embedding"]):
        return (f"{model.name} has no table in which the items of a history are looked up one by "
                "one")
    return None


def chosen_places(items: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Places of histories (B, L) to be replaced, bool: of each row's items int(share · their
    number), at least one, drawn without replacement."""
    import torch

    there = items >= 0  # (B, L)
    keys = torch.as_tensor(rng.random(tuple(items.shape)), device=items.device)
    rank = torch.where(there, keys, torch.inf).argsort(dim=1).argsort(dim=1)  # (B, L)
    count = (share * there.sum(dim=1) + 1e-9).long().clamp_min(1)  # (B,)
    return there & (rank < count[:, None])
