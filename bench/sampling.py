"""Training rows, their order and their negatives, drawn by hashing instead of by a stream.

A stream gives other numbers as soon as a row is added. Here the place of a row in the epoch and
its negatives are a hash of (seed, epoch, user, item), so that clean and poisoned training meet
the same real rows in the same order with the same negatives (CATALOGUE 0.5). Everything is a
tensor on the device; there is no Python per row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset, Interactions, Ints

_AT_ONCE = 1 << 17  # rows whose negatives are drawn together
_ROUNDS = 16  # draws by rejection; whoever still has a positive then is drawn from the free items


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele et al. 2014) on int64 with wrap-around, elementwise."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def hash_rows(seed: int, *columns: Tensor | int) -> Tensor:
    """A non-negative 63-bit hash of each row of the columns, int64."""
    h: Tensor | None = None
    for column in columns:
        part = torch.as_tensor(column, dtype=torch.long)
        h = _mix((part if h is None else h ^ part) + seed)
    assert h is not None
    return h & ((1 << 63) - 1)


class Rows:
    """The positives of one split as tensors, with hashed order and negatives.

    Args:
        data: the dataset.
        ctx: seed and device.
        source: "train", or "test" (the test positives; for attacks that may see them).
    """

    def __init__(self, data: Dataset, ctx: Context, source: str = "train",
                 labelled: bool = False) -> None:
        rows = data.train if source == "train" else data.test
        if not (labelled and rows.labels is not None):
            rows = rows.positives()
        self.n_items = data.n_items
        self.seed = ctx.number("sampling")
        self.users = torch.as_tensor(rows.users, dtype=torch.long, device=ctx.device)  # (N,)
        self.items = torch.as_tensor(rows.items, dtype=torch.long, device=ctx.device)  # (N,)
        self.labels = None
        if labelled:
            labels = np.ones(len(rows)) if rows.labels is None else rows.labels
            self.labels = torch.as_tensor(labels, dtype=torch.float32, device=ctx.device)  # (N,)
        taken = data.known("valid").positives()  # nobody is taught to dislike what is known
        if source != "train":
            taken = Interactions(*(np.concatenate([getattr(part, c) for part in (
                taken, data.valid.positives(), data.test.positives())])
                for c in ("users", "items")))
        keys = np.unique(taken.users * data.n_items + taken.items)
        self._taken = torch.as_tensor(keys, dtype=torch.long, device=ctx.device)
        self._shifted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    def order(self, epoch: int) -> Tensor:
        """A permutation of the rows for this epoch, (N,)."""
        return hash_rows(self.seed ^ 0x5F3759DF, self.users, self.items, epoch).argsort(
            stable=True)

    def is_taken(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether (user, item) is a known positive, elementwise bool."""
        key = users * self.n_items + items
        at = torch.searchsorted(self._taken, key).clamp_max(len(self._taken) - 1)
        return self._taken[at] == key

    def negatives(self, users: Tensor, items: Tensor, epoch: int | Tensor,
                  count: int = 1) -> Tensor:
        """`count` uniform negatives per row that the user did not take: (B, count).

        `epoch` may be a number per row, (B,), where rows stand several times in an epoch. A user
        who took the whole catalogue has no negative: there any item is given.
        """
        epoch = epoch[:, None] if isinstance(epoch, Tensor) else epoch
        slot = torch.arange(count, device=users.device)  # (count,)
        keys = hash_rows(self.seed, users[:, None], items[:, None], epoch, slot)  # (B, count)
        owner = users[:, None].expand_as(keys).flatten()  # (B · count,)
        keys, drawn = keys.flatten(), torch.zeros_like(owner)
        todo = torch.arange(len(owner), device=users.device)
        for attempt in range(_ROUNDS):
            drawn[todo] = hash_rows(self.seed, keys[todo], attempt) % self.n_items
            todo = todo[self.is_taken(owner[todo], drawn[todo])]
            if not len(todo):
                return drawn.view(-1, count)
        drawn[todo] = self._free_item(owner[todo], hash_rows(self.seed, keys[todo], _ROUNDS))
        return drawn.view(-1, count)

    def _free_item(self, users: Tensor, number: Tensor) -> Tensor:
        """The (number mod free)-th item each user did not take, without rejection: (B,)."""
        if self._shifted is None:  # taken item t at place k of its user: t − k, free items below
            owner = self._taken // self.n_items
            self._start = torch.searchsorted(owner, torch.arange(
                int(owner.max()) + 2, device=owner.device))
            place = torch.arange(len(owner), device=owner.device) - self._start[owner]
            self._shifted = self._taken - place
        taken = self._start[users + 1] - self._start[users]
        free = self.n_items - taken
        at = number % free.clamp_min(1)  # (B,), counts free items
        below = torch.searchsorted(self._shifted, users * self.n_items + at, right=True)
        found = at + below - self._start[users]  # past the taken items that come before it
        return torch.where(free > 0, found, number % self.n_items)

    def pairs(self, epoch: int, size: int, negatives: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches of (users, items, negatives): (B,) each; a row stands once per negative."""
        order = self.order(epoch)
        group = max(_AT_ONCE // size, 1) * size  # drawn together: many small draws cost more
        for first in range(0, len(order), group):
            pick = order[first:first + group]
            users, items = self.users[pick], self.items[pick]  # (G,) each
            drawn = self.negatives(users, items, epoch, negatives)  # (G, negatives)
            for start in range(0, len(pick), size):
                part = slice(start, start + size)
                yield {"users": users[part].repeat_interleave(negatives),
                       "items": items[part].repeat_interleave(negatives),
                       "negatives": drawn[part].flatten()}

    def user_runs(self, epoch: int, size: int, buffer: int = 10) -> Iterator[dict[str, Tensor]]:
        """Batches as `pairs` makes them, of users drawn with replacement.

        As many users as there are are drawn, so that an epoch leaves out about 37 % of them; all
        rows of a drawn user come together and are shuffled within about `buffer` batches only.
        A batch then holds many rows of few users, which trains more slowly. The sampler of the
        AMF code (Anelli et al., RecSys 2021).
        """
        held = torch.unique(self.users)
        place = torch.arange(len(held), device=held.device)
        drawn = held[hash_rows(self.seed ^ 0x2545F491, place, epoch) % len(held)]  # (U,)
        by_user = self.users.argsort(stable=True)
        count = torch.bincount(self.users, minlength=int(held.max()) + 1)
        first = count.cumsum(0) - count
        long = count[drawn]  # (U,)
        run = torch.repeat_interleave(place, long)  # (R,), which draw a row belongs to
        at = torch.arange(len(run), device=held.device)
        rows = by_user[first[drawn][run] + at - (long.cumsum(0) - long)[run]]  # (R,)
        users, items = self.users[rows], self.items[rows]
        # a buffer from which a random row leaves at each step: a row waits about Exp(buffer rows)
        uniform = (hash_rows(self.seed, users, items, epoch, run) + 1).double() / 2.0**63
        leaves = (at - buffer * size).clamp_min(0) - buffer * size * uniform.log()
        negatives = self.negatives(users, items, epoch + (run << 32))[:, 0]  # (R,)
        order = leaves.argsort(stable=True)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            yield {"users": users[pick], "items": items[pick], "negatives": negatives[pick]}

    def points(self, epoch: int, size: int, negatives: int = 1) -> Iterator[dict[str, Tensor]]:
        """Batches of (users, items, labels): each row, then its sampled negatives with label 0."""
        order = self.order(epoch)
        for start in range(0, len(order), size):
            pick = order[start:start + size]
            users, items = self.users[pick], self.items[pick]
            labels = torch.ones(len(pick), device=users.device) if self.labels is None \
                else self.labels[pick]
            positive = labels == 1
            drawn = self.negatives(users[positive], items[positive], epoch, negatives)
            yield {"users": torch.cat([users, users[positive].repeat_interleave(negatives)]),
                   "items": torch.cat([items, drawn.flatten()]),
                   "labels": torch.cat([labels, labels.new_zeros(drawn.numel())])}

    def user_batches(self, epoch: int, size: int) -> Iterator[dict[str, Tensor]]:
        """Batches of users with at least one row: {"users": (B,)}."""
        users = torch.unique(self.users)
        users = users[hash_rows(self.seed, users, epoch).argsort(stable=True)]
        for start in range(0, len(users), size):
            yield {"users": users[start:start + size]}


def in_order(rows: Interactions, n_users: int) -> tuple[Ints, Ints, Ints]:
    """(users, items) sorted by user and time, rows of equal times in their order, and where each
    user starts (n_users + 1,)."""
    times = np.zeros(len(rows)) if rows.times is None else rows.times
    order = np.lexsort((np.arange(len(rows)), times, rows.users))
    starts = np.searchsorted(rows.users[order], np.arange(n_users + 1)).astype(np.int64)
    return rows.users[order], rows.items[order], starts


class Sequences:
    """Each user's positives in the order of time, as rows that predict the next item."""

    def __init__(self, data: Dataset, ctx: Context, max_length: int) -> None:
        self.ctx, self.max_length, self.n_users = ctx, max_length, data.n_users
        self._rows = {}
        for split in ("valid", "test"):
            known = data.known(split).positives()
            self._rows[split] = self._ordered(known)
        self.users, self.items, self.starts = self._ordered(data.train.positives())
        self.seed = ctx.number("sampling")
        self._test_rows = data.truth("test")

    def _ordered(self, rows: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """See `in_order`."""
        users, items, starts = (torch.as_tensor(x, dtype=torch.long, device=self.ctx.device)
                                for x in in_order(rows, self.n_users))
        return users, items, starts

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        """Inside, these are the histories before the test split: items in order, one array per
        user."""
        own = self._rows["test"]
        lengths = np.array([len(h) for h in histories])
        rows = Interactions(np.repeat(np.arange(self.n_users), lengths),
                            np.concatenate(histories).astype(np.int64))
        self._rows["test"] = self._ordered(rows)
        try:
            yield
        finally:
            self._rows["test"] = own

    def _window(self, items: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Items first..last-1 of each row, its newest max_length, left-aligned; -1 pads."""
        length = (last - first).clamp(0, self.max_length)  # (B,)
        offset = torch.arange(self.max_length, device=items.device)[None, :]  # (1, L)
        at = (last - length)[:, None] + offset  # (B, L)
        inside = offset < length[:, None]
        padded = torch.where(inside, items[at.clamp(0, max(len(items) - 1, 0))], -1)
        return padded, length

    def histories(self, users: Tensor, split: str = "test") -> tuple[Tensor, Tensor]:
        """The newest items each user has before `split`: (B, L) with -1 padding, lengths (B,)."""
        _, items, starts = self._rows[split]
        return self._window(items, starts[users], starts[users + 1])

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[dict[str, Tensor]]:
        """Batches {users, items, histories, lengths}: predict the item from what came before.

        Source "train": every train row but each user's first. "test": the test positives, with
        everything before the test split as history.
        """
        if source == "test":
            users = torch.as_tensor(self._test_rows.users, dtype=torch.long,
                                    device=self.ctx.device)
            targets = torch.as_tensor(self._test_rows.items, dtype=torch.long,
                                      device=self.ctx.device)
            for start in range(0, len(users), size):
                own = users[start:start + size]
                history, length = self.histories(own, "test")
                keep = length > 0
                if not keep.any():
                    continue  # a batch without rows has no mean loss
                yield {"users": own[keep], "items": targets[start:start + size][keep],
                       "histories": history[keep], "lengths": length[keep]}
            return
        rows = torch.arange(len(self.users), device=self.users.device)
        rows = rows[rows > self.starts[self.users]]
        order = hash_rows(self.seed ^ 0x5F3759DF, self.users[rows], self.items[rows], epoch)
        rows = rows[order.argsort(stable=True)]
        for start in range(0, len(rows), size):
            pick = rows[start:start + size]
            own = self.users[pick]
            history, length = self._window(self.items, self.starts[own], pick)
            yield {"users": own, "items": self.items[pick], "histories": history,
                   "lengths": length}
