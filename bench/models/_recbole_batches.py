"""Batches for RecBole's models, made of tensors on the device, and what RecBole calls them.

A batch has the keys that `bench.models.base.Batch` names, in our indices. Some models need more
columns; each of them is a tensor with a row per row of the batch, as long as there are users:

    masked, mask_at, mask_items, mask_negatives   BERT4Rec's cloze task, (B, L) and (B, M)
    targets                                       the next item at each place, (B, L)
    negative_histories                            DIEN's auxiliary loss, (B, L)
    heads, relations, tails, negative_tails       triples of the knowledge graph, (T,); in
                                                  RecBole's own numbers
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset
from bench.models._recbole_data import ArrayDataset
from bench.models.base import Batch
from bench.sampling import Rows, Sequences, hash_rows

_ONE = float(1 << 63)  # hashes have 63 bits


class Sampler:
    """The batches of one model on one dataset.

    Args:
        kind: pairs, points, users, sequences, sequences-pairs or sequences-points.
        hyper: the plugin, for negatives, max_length and mask ratios.
    """

    def __init__(self, kind: str, hyper: Any, data: Dataset, ctx: Context,
                 dataset: ArrayDataset) -> None:
        self.kind, self.hyper, self.data, self.ctx, self.dataset = kind, hyper, data, ctx, dataset
        self.seed = ctx.number("sampling")
        self.negatives = getattr(hyper, "negatives", 1)
        self._made: dict[str, Any] = {}

    def rows(self, source: str) -> Rows:
        if source not in self._made:
            self._made[source] = Rows(self.data, self.ctx, source, self.kind == "points")
        found: Rows = self._made[source]
        return found

    @property
    def sequences(self) -> Sequences:
        if "sequences" not in self._made:
            self._made["sequences"] = Sequences(self.data, self.ctx, self.hyper.max_length)
        found: Sequences = self._made["sequences"]
        return found

    def batches(self, epoch: int, size: int, source: str) -> Iterator[dict[str, Tensor]]:
        """One epoch's batches, in an order and with negatives that hashes decide."""
        if self.kind == "pairs":
            yield from self.rows(source).pairs(epoch, size, self.negatives)
        elif self.kind == "points" and self.negatives:
            yield from self.rows(source).points(epoch, size, self.negatives)
        elif self.kind == "points":
            yield from self._labelled(epoch, size, source)
        elif self.kind == "users":
            yield from self.rows(source).user_batches(epoch, size)
        elif source == "train" and getattr(self.hyper, "rows", "") == "windows":
            yield from self._windows(epoch, size)
        else:
            for batch in self.sequences.batches(epoch, size, source):
                yield self._complete(batch, epoch, source)

    def _labelled(self, epoch: int, size: int, source: str) -> Iterator[dict[str, Tensor]]:
        """The rows with the labels of the data, and no sampled negatives."""
        rows = self.rows(source)
        assert rows.labels is not None
        order = rows.order(epoch)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            yield {"users": rows.users[pick], "items": rows.items[pick],
                   "labels": rows.labels[pick]}

    def _complete(self, batch: dict[str, Tensor], epoch: int, source: str) -> dict[str, Tensor]:
        """The negatives that a model of sequences needs."""
        if self.kind == "sequences-pairs":
            drawn = self.rows(source).negatives(batch["users"], batch["items"], epoch)
            batch["negatives"] = drawn[:, 0]
        elif self.kind == "sequences-points":
            count = self.negatives
            drawn = self.rows(source).negatives(batch["users"], batch["items"], epoch, count)
            ones = torch.ones(len(drawn), device=drawn.device)
            again = {k: v.repeat_interleave(count, dim=0) for k, v in batch.items()}
            again["items"] = drawn.flatten()
            labels = torch.cat([ones, ones.new_zeros(drawn.numel())])
            batch = {k: torch.cat([v, again[k]]) for k, v in batch.items()}
            batch["labels"] = labels
        return batch

    def _windows(self, epoch: int, size: int) -> Iterator[dict[str, Tensor]]:
        """Each user's history cut into stretches of max_length, every next item a target.

        "histories" and "targets" (B, L) stand one place apart, −1 pads; "items" (B,) is the last
        target. Where the first cut lies is drawn per user and epoch, so that every item meets
        every place; each train row but a user's first is a target once per epoch.
        """
        order, width = self.sequences, self.hyper.max_length
        everyone = torch.arange(self.data.n_users, device=self.ctx.device)
        steps = order.starts[1:] - order.starts[:-1] - 1  # (users,) items to predict
        users = everyone[steps > 0]
        steps = steps[steps > 0]
        cut = 1 + hash_rows(self.seed ^ 0x2545F491, users, epoch) % width  # first stretch's length
        count = (steps - 1 + width - cut) // width + 1
        users, steps, cut = (x.repeat_interleave(count) for x in (users, steps, cut))
        k = torch.arange(len(users), device=users.device) - (count.cumsum(0) - count
                                                             ).repeat_interleave(count)
        first = (cut + (k - 1) * width).clamp_min(0)
        last = torch.minimum(cut + k * width, steps)
        shuffled = hash_rows(self.seed ^ 0x5F3759DF, users, k, epoch).argsort(stable=True)
        for start in range(0, len(shuffled), size):
            pick = shuffled[start:start + size]
            begin = order.starts[users[pick]]
            history, length = order._window(order.items, begin + first[pick], begin + last[pick])
            targets, _ = order._window(order.items, begin + first[pick] + 1,
                                       begin + last[pick] + 1)
            yield {"users": users[pick], "items": order.items[begin + last[pick]],
                   "histories": history, "lengths": length, "targets": targets}

    # -- extra columns -------------------------------------------------------------------------

    def with_negative_histories(self, batch: dict[str, Tensor], epoch: int,
                                source: str) -> dict[str, Tensor]:
        """An item that the user did not take beside each item of the history: (B, L)."""
        width = batch["histories"].shape[1]
        drawn = self.rows(source).negatives(batch["users"], batch["items"], epoch, width)
        return {**batch, "negative_histories": torch.where(batch["histories"] < 0, -1, drawn)}

    def with_masks(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """The cloze task of BERT4Rec: some items hidden, or the last one (`ft_ratio` of rows).

        RecBole decides between the two once per batch, here each row decides for itself. At most
        int(mask_ratio · L) hidden items of a row are learned from, the newest ones.
        """
        history, length = batch["histories"], batch["lengths"]  # (B, L), (B,)
        users, items = batch["users"][:, None], batch["items"][:, None]
        width = history.shape[1]
        place = torch.arange(width, device=history.device)[None, :]  # (1, L)
        drawn = hash_rows(self.seed ^ 0x3C6EF372, users, items, epoch, place) / _ONE  # (B, L)
        last = hash_rows(self.seed ^ 0x1B873593, users, items, epoch) / _ONE < self.hyper.ft_ratio
        hidden = torch.where(last, place == length[:, None] - 1, drawn < self.hyper.mask_ratio)
        hidden = hidden & (history >= 0)
        most = max(int(self.hyper.mask_ratio * width), 1)
        at = torch.where(hidden, place, -1).sort(dim=1).values[:, -most:]  # (B, M), -1 pads left
        truth = torch.where(at >= 0, history.gather(1, at.clamp_min(0)), -1)
        negatives = self.rows("train").negatives(batch["users"], batch["items"], epoch, most)
        return {**batch, "masked": torch.where(hidden, self.data.n_items, history), "mask_at": at,
                "mask_items": truth, "mask_negatives": torch.where(at >= 0, negatives, -1)}

    def triples(self, epoch: int, size: int) -> Iterator[dict[str, Tensor]]:
        """Batches of triples with a corrupted tail that is no tail of the head's triples."""
        if "triples" not in self._made:
            columns = [self.dataset.kg_feat[f].to(self.ctx.device) for f in (
                self.dataset.head_entity_field, self.dataset.relation_field,
                self.dataset.tail_entity_field)]
            self._made["triples"] = columns, torch.unique(columns[0] * self.n_entities
                                                          + columns[2])
        (heads, relations, tails), taken = self._made["triples"]
        order = hash_rows(self.seed ^ 0x7F4A7C15, heads, relations, tails, epoch).argsort(
            stable=True)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            yield {"heads": heads[pick], "relations": relations[pick], "tails": tails[pick],
                   "negative_tails": self._corrupt(heads[pick], relations[pick], tails[pick],
                                                   taken, epoch)}

    @property
    def n_entities(self) -> int:
        return int(self.dataset.entity_num)

    def _corrupt(self, heads: Tensor, relations: Tensor, tails: Tensor, taken: Tensor,
                 epoch: int) -> Tensor:
        drawn = torch.zeros_like(tails)
        todo = torch.ones_like(tails, dtype=torch.bool)
        for attempt in range(16):
            fresh = 1 + hash_rows(self.seed, heads, relations, tails, epoch, attempt) % (
                self.n_entities - 1)
            drawn = torch.where(todo, fresh, drawn)
            key = heads * self.n_entities + drawn
            at = torch.searchsorted(taken, key).clamp_max(len(taken) - 1)
            todo = taken[at] == key
            if not todo.any():
                break
        return drawn


class Translator:
    """From our batches to the columns that RecBole's models read."""

    def __init__(self, dataset: ArrayDataset, device: str, joined: bool, inverse: bool) -> None:
        self.inverse = inverse
        self.features: list[tuple[str, dict[str, Tensor]]] = []
        for key, feature in (("users", dataset.user_feat), ("items", dataset.item_feat)):
            if joined and feature is not None:
                columns = {k: v.to(device) for k, v in feature.interaction.items()}
                self.features.append((key, columns))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The columns under RecBole's names, in RecBole's numbers (ours plus one)."""
        columns = {theirs: batch[ours] + 1 for ours, theirs in _SHIFTED.items() if ours in batch}
        columns |= {theirs: batch[ours] for ours, theirs in _KEPT.items() if ours in batch}
        if "mask_at" in batch:
            columns["MASK_INDEX"] = batch["mask_at"].clamp_min(0)
        if self.inverse and "histories" in batch:
            columns["Inverse_item_id_list"] = _to_the_right(columns["item_id_list"],
                                                            batch["lengths"])
        for key, feature in self.features:
            if key in batch:
                at = batch[key] + 1
                columns |= {name: values[at] for name, values in feature.items()}
        return columns


_SHIFTED = {"users": "user_id", "items": "item_id", "negatives": "neg_item_id",
            "histories": "item_id_list", "negative_histories": "neg_item_id_list",
            "masked": "Mask_item_id_list", "mask_items": "Pos_item_id",
            "mask_negatives": "Neg_item_id"}
_KEPT = {"labels": "label", "lengths": "item_length", "heads": "head_id",
         "relations": "relation_id", "tails": "tail_id", "negative_tails": "neg_tail_id"}


def _to_the_right(history: Tensor, length: Tensor) -> Tensor:
    """Left-aligned sequences (B, L) moved to the right end: [1, 2, 0] becomes [0, 1, 2]."""
    place = torch.arange(history.shape[1], device=history.device)[None, :]
    source = place - (history.shape[1] - length[:, None])  # (B, L)
    return torch.where(source >= 0, history.gather(1, source.clamp_min(0)), 0)
