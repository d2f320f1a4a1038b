"""Training examples of models that are asked about one candidate: a history, an item, a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset, Interactions, Ints
from bench.sampling import Rows, hash_rows, in_order
from bench.shots import is_example

Marks = npt.NDArray[np.bool_]
Known = tuple[Ints, Ints, Ints]
"""Items in order of user and time, and of each row the first and the end of its own."""


class Examples:
    """Batches of (history, candidate, liked or not), made of rows and of what came before them.

    A row of the train split is asked with the liked items that its user took before it, never
    with later ones; rows with nothing liked before them are left out. What the user disliked
    before it stands beside them as columns of its own, where the data has labels. Where the data
    has disliked rows, they are the examples with label 0; elsewhere items are sampled that the
    user did not take, anew in each epoch, by hash of the row. Of few-shot data the rows drawn as
    examples are asked alone, and the rows shown before them are their histories.

    Args:
        length: most items of a history, the latest ones. negatives: sampled per liked row.
        shots: as many rows alone, drawn by seed, each of another user as long as there are more;
            0: all.
    """

    def __init__(self, data: Dataset, ctx: Context, length: int, negatives: int,
                 shots: int = 0) -> None:
        self.data, self.ctx, self.length, self.shots = data, ctx, length, shots
        self.rows = Rows(data, ctx)  # draws the negatives
        labels = data.train.labels
        self.negatives = negatives if labels is None or bool((labels == 1).all()) else 0
        self._made: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Rows of the train split that are used, sampled ones not counted."""
        return len(self.of("train")["users"])

    def of(self, source: str) -> dict[str, Tensor]:
        """All rows of "train" or "test" as columns: users, items, labels, histories (N, length)
        padded with −1, lengths; with labels also disliked and disliked_lengths, alike."""
        if source not in self._made:
            self._made[source] = self._shot(self._train()) if source == "train" else self._test()
        return self._made[source]

    def _train(self) -> dict[str, Tensor]:
        rows = self.data.train
        labels = np.ones(len(rows), np.int8) if rows.labels is None else rows.labels
        numbered = Interactions(rows.users, np.arange(len(rows)), times=rows.times)
        users, order, starts = in_order(numbered, self.data.n_users)  # order: places in train
        items, liked = rows.items[order], labels[order] == 1
        known = {"": self._before(items, liked, users, starts)}
        if rows.labels is not None:
            known["disliked"] = self._before(items, ~liked, users, starts)
        return self._columns(users, items, liked, known, "train")

    @staticmethod
    def _before(items: Ints, kept: Marks, users: Ints, starts: Ints) -> Known:
        """Of rows in order: the items kept, and where in them those before each row lie."""
        before = np.concatenate([[0], np.cumsum(kept)])  # kept rows before each place
        return items[kept], before[starts[users]], before[:-1]

    def _test(self) -> dict[str, Tensor]:
        """The positives of the test split, for attacks that may see them."""
        rows, past = self.data.truth("test"), self.data.known("test")
        parts = {"": past.positives()}
        if past.labels is not None:
            parts["disliked"] = past[past.labels == 0]
        known = {}
        for name, part in parts.items():
            _, items, starts = in_order(part, self.data.n_users)
            known[name] = items, starts[rows.users], starts[rows.users + 1]
        return self._columns(rows.users, rows.items, np.ones(len(rows), bool), known, "test")

    def _columns(self, users: Ints, items: Ints, liked: Marks, known: dict[str, Known],
                 source: str) -> dict[str, Tensor]:
        """Columns of the rows that have a history; "" is the one of liked items."""
        columns: dict[str, Any] = {"users": users, "items": items,
                                   "labels": liked.astype(np.float32)}
        columns["histories"], columns["lengths"] = self._latest(*known[""])
        if "disliked" in known:
            columns["disliked"], columns["disliked_lengths"] = self._latest(*known["disliked"])
        _, first, last = known[""]
        keep = last > first
        if source == "train":
            keep &= is_example(self.data, users, items)
        return {k: torch.as_tensor(v[keep], device=self.ctx.device) for k, v in columns.items()}

    def _latest(self, known: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints]:
        """The latest of places first..last−1 of `known`, (N, length) padded with −1, and how many
        they are, (N,)."""
        length = np.minimum(last - first, self.length)
        at = (last - length)[:, None] + np.arange(self.length)  # (N, length)
        inside = np.arange(self.length) < length[:, None]
        read = known[np.minimum(at, max(len(known) - 1, 0))] if len(known) else at
        return np.where(inside, read, -1), length

    def _shot(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.shots or self.shots >= len(rows["users"]):
            return rows
        key = hash_rows(self.ctx.number("shots"), rows["users"], rows["items"])
        order = key.argsort(stable=True)
        seen = torch.zeros(self.data.n_users, dtype=torch.long)
        turn = torch.empty(len(order), dtype=torch.long)  # how many of its user come before it
        for row in order.tolist():
            user = int(rows["users"][row])
            turn[row] = seen[user]
            seen[user] += 1
        order = order[turn[order.cpu()].to(order.device).argsort(stable=True)]
        kept = order[:self.shots].sort().values
        return {k: v[kept] for k, v in rows.items()}

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[dict[str, Tensor]]:
        """Batches of `size` rows in hashed order; sampled negatives follow them, so that a batch
        holds up to size · (1 + negatives) examples."""
        rows = self.of(source)
        order = hash_rows(self.rows.seed ^ 0x5F3759DF, rows["users"], rows["items"],
                          epoch).argsort(stable=True)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            batch = {k: v[pick] for k, v in rows.items()}
            liked = batch["labels"] == 1
            if self.negatives and bool(liked.any()):
                batch = self._with_negatives(batch, liked, epoch)
            yield batch

    def _with_negatives(self, batch: dict[str, Tensor], liked: Tensor, epoch: int
                        ) -> dict[str, Tensor]:
        drawn = self.rows.negatives(batch["users"][liked], batch["items"][liked], epoch,
                                    self.negatives).flatten()
        more = {k: v[liked].repeat_interleave(self.negatives, dim=0) for k, v in batch.items()}
        more["items"], more["labels"] = drawn, torch.zeros_like(more["labels"])
        return {k: torch.cat([batch[k], more[k]]) for k in batch}
