"""How unevenly items are taken, as a defender can count it, and rows drawn by it.

A defender does not know which users are injected: every train positive counts here, unlike in
`Dataset.popularity`, which evaluation uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.data import Dataset, Floats, Ints
from bench.errors import NO_BATCH, InputError, PluginError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.api import ModelPlugin
    from bench.models.base import Batch
    from bench.rowloss import Terms
    from bench.training import Loop


def item_counts(data: Dataset) -> Ints:
    """Train positives of each item by all users, (n_items,)."""
    key = "_item_counts"  # kept as a cached_property is: losses ask for it at every step
    if key not in data.__dict__:
        data.__dict__[key] = np.bincount(data.train.positives().items, minlength=data.n_items)
    found: Ints = data.__dict__[key]
    return found


def shares(data: Dataset) -> Floats:
    """π_i = c_i / Σc, the share of the train positives that an item has, (n_items,). An item
    that nobody took counts as taken once, so that logarithms and quotients exist."""
    counts = np.maximum(item_counts(data), 1).astype(np.float64)
    found: Floats = counts / counts.sum()
    return found


def tail(data: Dataset) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which items are in the less popular half, ties by index, (n_items,)."""
    order = np.lexsort((np.arange(data.n_items), item_counts(data)))
    inside = np.zeros(data.n_items, bool)
    inside[order[:data.n_items // 2]] = True
    return inside


def labels(data: Dataset, of: str, attribute: str) -> tuple[list[str], Ints]:
    """Names of groups, and the number of the group that each user or item is in.

    The groups of the report, but for who counts: thirds of activity and of popularity are cut
    over everybody, injected users included, as nobody told the defender who they are; they are in
    the groups of the attributes that they filled in. Whoever is in no group is in one called
    "none", if there is anybody.

    Args:
        of: "users" (n_users,) or "items" (n_items,).
        attribute: "activity" or "popularity", or an attribute of the data.

    Raises:
        InputError: no such attribute, fewer than two groups, or several values of one user.
    """
    from bench.fairness import everybody
    from bench.metrics.groups import item_groups, user_groups

    members = (user_groups if of == "users" else item_groups)(everybody(data), attribute).members
    inside = np.array([weight > 0 for weight in members.values()])  # (G, users or items)
    if len(members) < 2:
        raise InputError(f"{attribute!r} makes fewer than two groups of the {of} of {data.name}")
    if (inside.sum(axis=0) > 1).any():
        raise InputError(f"some {of} of {data.name} have several values of {attribute!r}, and "
                         "each must be in one group")
    made = np.full(data.n_users if of == "users" else data.n_items, len(members), np.int64)
    made[:inside.shape[1]] = np.where(inside.any(axis=0), inside.argmax(axis=0), len(members))
    names = [*members, "none"] if (made == len(members)).any() else [*members]
    return names, made


def by_item(terms: Terms, weights: Floats) -> Tensor:
    """The weight of each term, (T,): its item's for positives, 1 for labelled negatives.

    Raises:
        PluginError: the terms have no items, which `itemwise` turns away where a model says so.
    """
    import torch

    if terms.items is None:
        raise PluginError("no term of this model's loss has an item of its own, so that none can "
                          "be weighed by it; let the model say whole_histories")
    own = torch.as_tensor(weights, dtype=terms.losses.dtype, device=terms.losses.device)
    return torch.where(terms.positive(), own[terms.items], 1.0)


def single_items(model: ModelPlugin) -> str | None:
    """Why a row of this model's batches is not one (user, item), or None where it is."""
    from bench.models.recbole import facts
    from bench.rowloss import itemwise

    if getattr(model, "rows", "") == "windows":
        return (f"a row of {model.name} is a stretch of a user's history with many items; take "
                "rows: prefixes")
    if facts().get(model.name, {}).get("knowledge"):
        return f"the batches of {model.name} hold triples of the knowledge graph beside the rows"
    return itemwise(model)


def sampled(model: ModelPlugin) -> str | None:
    """Why this model draws no negative items that could be drawn otherwise, or None."""
    from bench.models.recbole import facts
    from bench.rowloss import termwise

    kind = facts().get(model.name, {}).get("input", "pairs" if model.name == "bprmf" else "")
    if getattr(model, "loss_type", "") == "BPR" and kind == "sequences":
        kind = "sequences-pairs"
    if not kind.endswith(("pairs", "points")) or not getattr(model, "negatives", 1):
        return f"{model.name} draws no negative items: its loss runs over all items or over ratings"
    return termwise(model)


def redrawn(loop: Loop, epoch: int, gamma: float, stream: torch.Generator) -> Iterator[Batch]:
    """The rows of an epoch drawn anew, with replacement, as many as there are.

    A positive row of item i is drawn with probability ∝ c_i^(−gamma) each time, so that item i
    makes up a share ∝ c_i^(1 − gamma) of the positives: gamma 0 is a plain bootstrap, 1 makes all
    items equally frequent. A row drawn twice keeps its negative. Rows labelled as negatives
    stand once each.
    """
    import torch

    parts = list(loop.batches(epoch))
    if not parts:
        raise TrainingError(NO_BATCH)
    if "items" not in parts[0]:
        raise PluginError("no row of this model's batches has an item of its own, so that none can "
                          "be drawn by it; let the model say whole_histories")
    rows = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
    device = rows["users"].device
    positive = torch.arange(len(rows["users"]), device=device)  # (P,)
    if "labels" in rows:
        positive = positive[rows["labels"] > 0.5]
    counts = torch.as_tensor(item_counts(loop.model.data), dtype=torch.float64)
    weights = counts[rows["items"][positive].cpu()].clamp_min(1) ** -gamma  # (P,)
    ends = weights.cumsum(0)
    drawn = torch.rand(len(positive), generator=stream, dtype=torch.float64) * ends[-1]
    at = torch.searchsorted(ends, drawn, right=True).clamp_max(len(positive) - 1).to(device)
    picked = positive[at]
    if "labels" in rows:
        picked = torch.cat([picked, (rows["labels"] <= 0.5).nonzero()[:, 0]])
    picked = picked[torch.randperm(len(picked), generator=stream).to(device)]
    size = max(len(part["users"]) for part in parts)
    for start in range(0, len(picked), size):
        yield {k: v[picked[start:start + size]] for k, v in rows.items()}


class PopularNegatives:
    """Negatives with probability ∝ c_i^gamma among the items that the user did not take.

    Drawn by hashes of (seed, user, positive, epoch), as the plain ones are: clean and poisoned
    training meet the same numbers. Whoever drew only own items in 16 attempts keeps the
    uniform negative.
    """

    def __init__(self, loop: Loop, gamma: float) -> None:
        import torch

        from bench.sampling import Rows

        model = loop.model
        self.rows = Rows(model.data, model.ctx)
        self.seed = model.ctx.number("popularity-negatives")
        weights = item_counts(model.data).astype(np.float64) ** gamma
        self.ends = torch.as_tensor(np.cumsum(weights) / max(weights.sum(), 1e-300),
                                    device=model.ctx.device)

    def replace(self, batch: Batch, epoch: int) -> Batch:
        """The batch with its negatives drawn anew: "negatives", or rows with label 0."""
        if "negatives" in batch:
            drawn = self._draw(batch["users"], batch["items"], batch["negatives"], epoch)
            return {**batch, "negatives": drawn}
        unlabelled = batch["labels"] <= 0.5  # (B,)
        items, uniform = batch["items"].clone(), batch["items"][unlabelled]
        items[unlabelled] = self._draw(batch["users"][unlabelled], uniform, uniform, epoch)
        return {**batch, "items": items}

    def _draw(self, users: Tensor, keys: Tensor, uniform: Tensor, epoch: int) -> Tensor:
        """A negative for each row (B,), where `uniform` (B,) is what it had."""
        import torch

        from bench.sampling import hash_rows

        drawn = uniform.clone()
        todo = torch.arange(len(users), device=users.device)
        for attempt in range(16):
            mixed = hash_rows(self.seed, users[todo], keys[todo], uniform[todo], epoch, attempt)
            place = torch.searchsorted(self.ends, mixed.double() / 2.0**63, right=True)
            found = place.clamp_max(len(self.ends) - 1)
            free = ~self.rows.is_taken(users[todo], found)
            drawn[todo[free]] = found[free]
            todo = todo[~free]
            if not len(todo):
                break
        return drawn
