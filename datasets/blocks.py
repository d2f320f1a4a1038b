"""A small synthetic dataset with structure that a recommender can find: for tests and demos."""

from __future__ import annotations

import numpy as np

from bench.api import Dataset, DatasetPlugin, Interactions, param
from bench.data import check
from bench.splits import TEST, TRAIN, VALID, leave_last_out


class Blocks(DatasetPlugin):
    """Users and items in blocks; users mostly take items of their own block.

    User u belongs to block u mod blocks, item i to block i mod blocks; within a block some items
    are more popular than others. Each user has `length` rows: the last two in time are the test
    items, the one before is for validation. Users carry gender and age, items a genre and a
    title that names it. Synthetic, made here; no paper.

    Example: datasets: [{blocks: {users: 200, items: 100}}]
    """

    name = "blocks"
    users: int = param(60, "how many users", low=4)
    items: int = param(48, "how many items", low=8)
    blocks: int = param(4, "how many blocks", low=2)
    length: int = param(12, "interactions per user", low=4)
    noise: float = param(0.1, "share of interactions outside the user's block", low=0, high=1)
    explicit: bool = param(True, "with ratings 1 to 5; otherwise implicit")
    seed: int = param(0, "of the synthetic draw; the run's seed does not enter")

    def load(self) -> Dataset:
        rng = np.random.default_rng(self.seed)
        item_block = np.arange(self.items) % self.blocks
        weight = 1.0 / (1.0 + np.arange(self.items) // self.blocks)
        length = min(self.length, self.items)
        users = np.repeat(np.arange(self.users), length)
        items = np.empty(len(users), np.int64)
        for u in range(self.users):
            own = item_block == u % self.blocks
            p = np.where(own, 1 - self.noise, self.noise / (self.blocks - 1)) * weight + 1e-9
            items[u * length:(u + 1) * length] = rng.choice(
                self.items, size=length, replace=False, p=p / p.sum())
        ratings = None
        if self.explicit:
            liked = item_block[items] == users % self.blocks
            ratings = np.clip(np.rint(rng.normal(np.where(liked, 4.2, 2.5), 0.8)), 1, 5)
        place = np.tile(np.arange(length), self.users)
        rows = Interactions(users=users, items=items, ratings=ratings,
                            times=place * 3600.0 + rng.integers(0, 3600, len(users)))
        parts = leave_last_out(rows, test=2, valid=1)
        genres = np.array([f"genre{b}" for b in item_block], object)
        return check(Dataset(
            name=self.name, user_ids=tuple(f"u{u}" for u in range(self.users)),
            item_ids=tuple(f"i{i}" for i in range(self.items)),
            train=rows[parts == TRAIN], valid=rows[parts == VALID], test=rows[parts == TEST],
            user_attributes={
                "gender": np.array(["F" if u % 2 else "M" for u in range(self.users)], object),
                "age": rng.integers(18, 70, self.users).astype(np.float64)},
            item_attributes={"genre": np.array([(g,) for g in genres] + [None], object)[:-1]},
            item_text=[f"title {i} {g}" for i, g in enumerate(genres)],
            rating_scale=(1.0, 5.0) if self.explicit else None))
