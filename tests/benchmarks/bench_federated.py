"""What hiding single uploads costs: seconds and bytes of a round, plain, masked and encrypted.

    python tests/benchmarks/bench_federated.py [items] [dim] [clients]

bprmf on synthetic rows, all of a client's numbers hidden. The fastest of three rounds counts, and
what a round costs without hiding stands beside it. All parties run on one core here: a client's
part of the time is what is shown over the number of clients.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from bench._rounds import Rounds
from bench.context import Context
from bench.data import Dataset, Interactions
from bench.defenses.federated import Federated
from bench.dp import UserRows
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.training import Loop


def synthetic(users: int, items: int, each: int = 50) -> Dataset:
    """Users with `each` distinct items, uniform."""
    rng = np.random.default_rng(0)
    taken = np.concatenate([rng.choice(items, each, replace=False) for _ in range(users)])
    rows = Interactions(np.repeat(np.arange(users), each), taken)
    return Dataset("synthetic", tuple(map(str, range(users))), tuple(map(str, range(items))),
                   rows, rows[:0], rows[:0])


def measure(data: Dataset, dim: int, secure: str) -> tuple[float, dict[str, float]]:
    """The fastest of three rounds with all clients in it, and what was exchanged."""
    defense = Federated(clients=data.n_users, secure=secure)
    model = build(BPRMF(dim=dim), data, Context(0))
    rounds = Rounds(defense, Loop(model, defense))
    rows, users, best = UserRows(model, 1), torch.arange(data.n_users), float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        rounds.round(rows, users, 1)
        best = min(best, time.perf_counter() - begin)
    rounds._report()
    return best, rounds.facts


def main() -> None:
    given = sys.argv[1:]
    items, dim, clients = map(int, (*given, *("1682", "32", "64")[len(given):]))
    torch.set_num_threads(1)
    data = synthetic(clients, items)
    print(f"{clients} clients, {items} items of {dim} numbers")
    print(f"{'':10s} {'s a round':>10s} {'times':>7s} {'MB up a client':>15s} {'times':>7s}")
    plain = None
    for secure in ("none", "masks", "encrypted"):
        seconds, facts = measure(data, dim, secure)
        size = facts["bytes_up_per_client"]
        plain = plain or (seconds, size)
        print(f"{secure:10s} {seconds:10.3f} {seconds / plain[0]:7.1f} {size / 2**20:15.3f} "
              f"{size / plain[1]:7.1f}")


if __name__ == "__main__":
    main()
