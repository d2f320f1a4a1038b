"""Small data of users in groups, models that score from a table, and lists written out user by
user: what tests of fairness metrics compare with."""

from __future__ import annotations

import numpy as np
import torch

from bench.api import Context, Dataset, Interactions
from bench.evaluate import evaluate
from bench.grid import Groups
from bench.models.base import Recommender

N, M, K = 70, 15, 4
GROUPS = Groups(users=("gender",), items=())


class Fixed(Recommender):
    """Scores from a table (users, items)."""

    def __init__(self, data, table, kind="other"):
        super().__init__(data, Context(0))
        self.table, self.score_kind = torch.as_tensor(np.asarray(table)), kind

    def scores(self, users, split="test"):
        return self.table[users]

    def fit(self, defense, progress):
        raise NotImplementedError

    def state(self):
        return {}

    def load_state(self, state):
        raise NotImplementedError


def dataset(seed: int = 0, third: int = 0) -> Dataset:
    """Users of 2 to 6 test items; 40 are F, the others M; `third` of these are X."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for u in range(N):
        taken = rng.permutation(M)[:int(rng.integers(5, 10))]
        parts["train"] += [(u, i) for i in taken[:2] if i < 12]
        parts["train"] += [(u, int(taken[0]))] if not any(p[0] == u for p in parts["train"]) else []
        parts["valid"] += [(u, int(taken[2]))]
        parts["test"] += [(u, i) for i in taken[3:]]
    made = {}
    for name, pairs in parts.items():
        pair = np.array(pairs, np.int64)
        made[name] = Interactions(pair[:, 0], pair[:, 1],
                                  rng.integers(1, 6, len(pair)).astype(float))
    gender = np.array(["F"] * 40 + ["X"] * third + ["M"] * (30 - third), object)
    return Dataset("tiny", tuple(f"u{u}" for u in range(N)), tuple(f"i{i}" for i in range(M)),
                   **made, user_attributes={"gender": gender}, rating_scale=(1.0, 5.0))


def measured(table, data, *names, kind="other", **options):
    found = evaluate(Fixed(data, table, kind), data, list(names), groups=GROUPS, **options)
    return {(m, g): v for m, g, v in found.values}, found


def chances(table, data):
    """P(item in the list of K) and expected rank, (N, M) each; NaN where known."""
    known = data.known("test")
    p, rank = np.full((N, M), np.nan), np.full((N, M), np.nan)
    for u in range(N):
        free = np.setdiff1d(np.arange(M), known.items[known.users == u])
        for i in free:
            g = int((table[u, free] > table[u, i]).sum())
            t = int((table[u, free] == table[u, i]).sum())
            p[u, i], rank[u, i] = np.clip((K - g) / t, 0, 1), g + (t + 1) / 2
    return p, rank
