"""What noise on few rows saves: steps of sparse-dp-sgd beside steps of dp-sgd.

    python tests/benchmarks/bench_sparse_dp.py [items]

The same matrix factorisation, users and noise for all; they take turns, so that whatever else the
machine does meets all, and the best of several rounds counts. "all rows, looked up" is
sparse-dp-sgd that keeps every row: what it saves beside dp-sgd comes from gradients of looked-up
rows, what the next saves beside it from noising and moving few.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.defenses.dp_sgd import DpSgd
from bench.defenses.sparse_dp_sgd import SparseDpSgd
from bench.dp import UserRows
from bench.dp_steps import PrivateSteps, PrivateTraining
from bench.models.base import TorchRecommender, build
from bench.models.bprmf import BPRMF
from bench.training import Loop

USERS, LENGTH, STEPS, ROUNDS = 1000, 20, 3, 3


def synthetic(n_items: int) -> Dataset:
    """Users with items of a long-tailed popularity."""
    rng = np.random.default_rng(0)
    weight = 1 / (np.arange(n_items) + 10)
    items = rng.choice(n_items, (USERS, LENGTH), p=weight / weight.sum())
    pairs = np.unique(np.arange(USERS)[:, None] * n_items + items)
    rows = Interactions(pairs // n_items, pairs % n_items)
    return Dataset(name="synthetic", user_ids=tuple(map(str, range(USERS))),
                   item_ids=tuple(map(str, range(n_items))), train=rows, valid=rows[:0],
                   test=rows[:1])


def started(data: Dataset, defense: PrivateTraining) -> tuple[PrivateSteps, UserRows]:
    model = build(BPRMF(dim=64, epochs=10), data, Context(0))
    assert isinstance(model, TorchRecommender)
    made = defense.steps(Loop(model, defense))
    rows = UserRows(model, 1)
    made.step(rows, 0)  # chooses how gradients are made, and fills the optimiser's memory
    return made, rows


def main(n_items: int) -> None:
    torch.set_num_threads(1)
    data = synthetic(n_items)
    common = {"noise_multiplier": 1.0, "sample_rate": 0.05}
    ways: dict[str, PrivateTraining] = {
        "dp-sgd": DpSgd(**common),
        "all rows, looked up": SparseDpSgd(threshold=-math.inf, **common),
        "threshold 2": SparseDpSgd(threshold=2.0, **common),
        "threshold 3": SparseDpSgd(threshold=3.0, **common)}
    runs = {name: started(data, defense) for name, defense in ways.items()}
    best = dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):
        for name, (made, rows) in runs.items():
            start = time.perf_counter()
            for number in range(STEPS):
                made.step(rows, number + 1)
            best[name] = min(best[name], (time.perf_counter() - start) / STEPS)
    print(f"{USERS} users, {n_items} items, 64 numbers a row, {USERS // 20} users a step")
    for name, seconds in best.items():
        kept = float(runs[name][0].facts.get("rows_kept", n_items))
        print(f"{name:20} {seconds * 1000:9.1f} ms a step   {kept:9.0f} rows noised   "
              f"{best['dp-sgd'] / seconds:6.1f} times as fast   "
              f"{n_items / kept:6.1f} times fewer rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
