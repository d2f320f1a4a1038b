"""MostPop of Rahmani et al. (SIGIR 2022) on their own split: as published, and without a mistake.

Their data is not ours to ship: the test skips where it is not, and is told by $BENCH_SHARED_DATA
where it is (default: shared/data beside the checkout).
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.evaluate import evaluate
from bench.models.base import build
from bench.models.pop import Pop

FOLDER = Path(os.environ.get("BENCH_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared"
                             / "data")) / "fairrecsys-movielens"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no published data at {FOLDER}")


def rows(name: str) -> Interactions:
    found = np.loadtxt(FOLDER / name, dtype=np.int64, ndmin=2)
    return Interactions(found[:, 0], found[:, 1], found[:, 2].astype(np.float64))


@pytest.fixture(scope="module")
def data() -> Dataset:
    parts = [rows(f"{name}.txt") for name in ("train", "tune", "test")]
    n = [1 + max(int(getattr(p, column).max()) for p in parts) for column in ("users", "items")]
    return Dataset("fairrecsys-movielens", tuple(map(str, range(n[0]))),
                   tuple(map(str, range(n[1]))), *parts)


@pytest.fixture(scope="module")
def groups() -> dict[str, np.ndarray]:
    return {name: np.loadtxt(FOLDER / f"users_005_{name}.txt", dtype=np.int64)
            for name in ("active", "inactive")}


def measured(items: np.ndarray, data: Dataset, groups: dict[str, np.ndarray]) -> dict[str, tuple]:
    """One list for all users: (NDCG, precision, recall) of all, the active and the others.

    NDCG as published: [first is relevant] + Σ_{i≥1} hit/ln(i + 1) for places i from 0, over the
    same sum for ten hits, whatever the user has; users without test items are left out.
    """
    liked = np.zeros((data.n_users, data.n_items), bool)
    liked[data.test.users, data.test.items] = True
    tested = np.flatnonzero(liked.any(axis=1))
    weight = np.r_[1.0, 1 / np.log(np.arange(1, 10) + 1)]
    hits = liked[:, items].astype(float)  # (users, 10)
    per_user = np.stack([hits @ weight / weight.sum(), hits.mean(axis=1),
                         hits.sum(axis=1) / np.maximum(liked.sum(axis=1), 1)], axis=1)
    return {name: tuple(per_user[np.intersect1d(who, tested)].mean(axis=0).round(5).tolist())
            for name, who in {"all": tested, **groups}.items()}


def ranked(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, kind="stable")


def test_the_correct_list(data, groups):
    scores = build(Pop(), data, Context(0)).scores(torch.arange(1))[0].numpy()
    found = measured(ranked(scores)[:10], data, groups)
    assert [found[g][0] for g in ("all", "active", "inactive")] == [0.10728, 0.14757, 0.10516]
    assert found["all"][1:] == (0.10511, 0.0811)
    ours = {m: v for m, g, v in evaluate(build(Pop(), data, Context(0)), data,
                                         ["precision@10", "recall@10"], mask="none").values}
    assert ours["precision@10"] == pytest.approx(0.10511, abs=5e-6)
    assert ours["recall@10"] == pytest.approx(0.0811, abs=5e-6)


def test_as_published_with_the_mistake(data, groups):
    """The ten of fifty candidates are chosen by scores indexed by place in the list: the scores
    of the first fifty items that the train file names, instead of the candidates' own."""
    _, first = np.unique(data.train.items, return_index=True)
    named = data.train.items[np.sort(first)]  # items numbered as the file names them
    scores = build(Pop(), data, Context(0)).scores(torch.arange(1))[0].numpy()[named]
    candidates = named[ranked(scores)[:50]]
    found = measured(candidates[np.sort(ranked(scores[:50])[:10])], data, groups)
    with (FOLDER / "published" / "results_005_MostPop.csv").open() as file:
        published = next(row for row in csv.DictReader(file) if row["Type"] == "N")
    for name, suffix in (("all", "ALL"), ("active", "ACT"), ("inactive", "INACT")):
        assert found[name] == tuple(float(published[f"{m}_{suffix}"])
                                    for m in ("ndcg", "Pre", "Rec"))
    assert found["all"] == (0.08412, 0.08064, 0.05193)
    assert found["active"][0] - found["inactive"][0] == pytest.approx(0.0679, abs=6e-5)
