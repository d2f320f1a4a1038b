"""How fast an epoch of (user, item, negative) batches is, beside a sampler that loops over rows.

    python tests/benchmarks/bench_sampling.py [rows]

Both draw the same kind of batches from the same synthetic rows, taking turns, so that whatever
else the machine does meets both; the best of several rounds counts.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.sampling import Rows

SIZE = 2048


def synthetic(n_rows: int, n_users: int = 1000, n_items: int = 1700) -> Dataset:
    """Distinct (user, item) rows, uniform."""
    cells = np.random.default_rng(0).choice(n_users * n_items, n_rows, replace=False)
    rows = Interactions(cells // n_items, cells % n_items)
    return Dataset(name="synthetic", user_ids=tuple(map(str, range(n_users))),
                   item_ids=tuple(map(str, range(n_items))), train=rows, valid=rows[:0],
                   test=rows[:1])


def hashed(data: Dataset) -> Callable[[int], int]:
    rows = Rows(data, Context(0))
    return lambda epoch: sum(len(b["users"]) for b in rows.pairs(epoch, SIZE))


def looped(data: Dataset) -> Callable[[int], int]:
    """Shuffle, then for every row draw until the user has not taken the item."""
    pairs = list(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    taken = set(pairs)

    def epoch_rows(epoch: int) -> int:
        rng, total = random.Random(epoch), 0
        order = rng.sample(pairs, len(pairs))
        for start in range(0, len(order), SIZE):
            batch = []
            for user, item in order[start:start + SIZE]:
                negative = rng.randrange(data.n_items)
                while (user, negative) in taken:
                    negative = rng.randrange(data.n_items)
                batch.append((user, item, negative))
            total += len(torch.tensor(batch))
        return total

    return epoch_rows


def main(n_rows: int) -> None:
    torch.set_num_threads(1)
    data = synthetic(n_rows)
    samplers = {"hashed": hashed(data), "per row": looped(data)}
    best = dict.fromkeys(samplers, float("inf"))
    for epoch in range(6):
        for name, run in samplers.items():
            start = time.perf_counter()
            assert run(epoch) == n_rows
            best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"{name:8} {n_rows / seconds:12,.0f} rows/s   {seconds * 1000:8.1f} ms per epoch")
    print(f"hashed is {best['per row'] / best['hashed']:.1f} times as fast")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
