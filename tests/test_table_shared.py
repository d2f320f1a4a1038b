"""The table dataset on real sets, where they are there: $BENCH_SHARED_DATA, or shared/data beside
the folder that holds the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.datasets.table import Table

SHARED = Path(os.environ.get("BENCH_SHARED_DATA",
                             Path(__file__).parents[2] / "shared" / "data"))

ML1M = {"user": "user_id", "item": "item_id", "rating": "rating"}
REAL = {
    "ml-1m": (
        {"path": "ml-1m/ratings.tsv", **ML1M, "split": "ratio-random", "encoding": "latin-1",
         "user_file": "ml-1m/users.dat", "user_columns": ("gender=2", "age=3", "job=4:category"),
         "item_file": "ml-1m/movies.dat", "item_columns": ("genre=3",), "text": "2"},
        (6040, 3416, 999_608)),
    "ml-1m timed": (
        {"path": "ml-1m/ratings.tsv", **ML1M, "time": "timestamp", "bad_rows": "drop",
         "split": "leave-one-out", "k_core": 10}, (4008, 3135, 669_756 - 1648)),
    "ml-1m leave-one-out": (
        {"train": "ml-1m/ratings.tsv", "test": "ml-1m/loo_test.tsv", "rating": "3",
         "overlap": "keep-last"}, (6040, 3423, 1_005_648 - 6033)),
    "ml-1m-ge3": (
        {"train": "ml-1m-ge3/train.txt", "valid": "ml-1m-ge3/valid.txt",
         "test": "ml-1m-ge3/test.txt", "layout": "lists"}, (6039, 3628, 836_478)),
    "idiosyncratic-ml100k": (
        {"train": "idiosyncratic-ml100k/train.tsv", "test": "idiosyncratic-ml100k/test.tsv",
         "rating": "3", "time": "4"}, (943, 1682, 99_999)),
    "fairrecsys-movielens": (
        {"train": "fairrecsys-movielens/train.txt", "valid": "fairrecsys-movielens/tune.txt",
         "test": "fairrecsys-movielens/test.txt", "rating": "3"}, (943, 1349, 99_287)),
    "ml-small-llm": (
        {"train": "ml-small-llm/train.tsv", "test": "ml-small-llm/test.tsv", "rating": "3",
         "item_file": "ml-small-llm/movies.csv", "item_columns": ("genres",), "text": "title",
         "valid_rows": 2}, (603, 1862, 56_938)),
    "sdlib amazon": (
        {"path": "sdlib/amazon/profiles.txt", "rating": "3", "split": "ratio-random",
         "user_file": "sdlib/amazon/labels.txt", "user_columns": ("spammer=2:category",)},
        (4902, 16885, 51_346 - 248)),
    "sdlib averageattack": (
        {"path": "sdlib/averageattack/ratings.txt", "rating": "3", "split": "ratio-random",
         "user_file": "sdlib/averageattack/labels.txt", "user_columns": ("fake=2:category",)},
        (1658, 2071, 44_825)),
    "sdlib filmtrust": (
        {"path": "sdlib/filmtrust/ratings.txt", "rating": "3", "split": "ratio-random"},
        (1508, 2071, 35_497 - 3)),
}
FILES = ("path", "train", "valid", "test", "user_file", "item_file")


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_sets_load_with_their_known_counts(name: str):
    params, (users, items, rows) = REAL[name]
    if not (SHARED / name.split()[0]).is_dir():
        pytest.skip(f"{name.split()[0]} is not in the data folder; set BENCH_SHARED_DATA")
    data = Table(**{k: str(SHARED / v) if k in FILES else v for k, v in params.items()}).load()
    assert (data.n_users, data.n_items) == (users, items)
    assert len(data.train) + len(data.valid) + len(data.test) == rows
    for column in (*data.user_attributes.values(),):
        assert len(column) == users
    for column in (*data.item_attributes.values(), *([data.item_text] if data.item_text else [])):
        assert len(column) == items
