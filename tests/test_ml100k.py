"""ml-100k as the recbole package carries it: what is known about the data, and the split."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.data import Dataset
from bench.datasets import ml_100k
from bench.datasets.ml_100k import ML100K
from bench.errors import InputError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return ML100K().load()


def test_the_counts_are_those_of_movielens(data: Dataset):
    assert (data.n_users, data.n_items) == (943, 1682)
    rows = data.train.plus(data.valid).plus(data.test)
    assert len(rows) == 100_000
    assert data.rating_scale == (1.0, 5.0)
    assert np.bincount(rows.ratings.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert rows.times.min() == 874724710  # 20 September 1997
    assert data.user_ids[:3] == ("1", "2", "3")
    assert data.item_ids[-1] == "1682"
    assert data.train.labels is None


def test_attributes_stand_beside_their_users_and_films(data: Dataset):
    gender, age, job = (data.user_attributes[k] for k in ("gender", "age", "occupation"))
    assert (int((gender == "F").sum()), int((gender == "M").sum())) == (273, 670)
    assert (age[0], gender[1], job[2]) == (24.0, "F", "writer")
    assert len(set(job)) == 21
    genre, year = data.item_attributes["genre"], data.item_attributes["year"]
    toy_story = data.item_ids.index("1")
    assert genre[toy_story] == ("Animation", "Children's", "Comedy")
    assert year[toy_story] == 1995.0
    assert len({g for several in genre for g in several}) == 18
    nameless = data.item_ids.index("267")
    assert genre[nameless] == ()
    assert np.isnan(year[nameless])
    assert np.isnan(year).sum() == 1


def test_item_text_names_title_year_and_genres(data: Dataset):
    text = dict(zip(data.item_ids, data.item_text))
    assert text["1"] == "Toy Story (1995). Genres: Animation, Children's, Comedy."
    assert text["1233"] == "Nénette et Boni (1996). Genres: Drama."
    assert text["1373"] == "Good Morning (1971)."
    assert text["1412"].startswith("Land Before Time III: The Time of the Great Giving (1995).")
    assert text["267"] == "unkonwn."


def test_the_knowledge_graph_knows_most_films(data: Dataset):
    graph = data.knowledge
    assert len(graph.heads) == len(graph.relations) == len(graph.tails) == 91_631
    assert len(graph.item_entities) == 1598
    assert set(graph.item_entities) <= set(data.item_ids)
    assert graph.item_entities["476"] == "m.08gjyx"


def test_nothing_is_tested_that_is_older_than_what_is_trained_on(data: Dataset):
    for user in range(data.n_users):
        train, valid, test = (rows.times[rows.users == user]
                              for rows in (data.train, data.valid, data.test))
        assert train.max() <= valid.min() <= valid.max() <= test.min()


def test_leave_one_out_gives_each_user_one_row_of_each():
    data = ML100K(split="leave-one-out").load()
    assert len(data.valid) == len(data.test) == 943
    assert len(np.unique(data.test.users)) == 943


def test_threshold_and_core_are_counted():
    data = ML100K(threshold=4.0, k_core=10).load()
    assert data.notes["rows read"] == 100_000
    assert data.notes["rows under the threshold, kept as disliked"] == 100_000 - 34174 - 21201
    kept = len(data.train) + len(data.valid) + len(data.test)
    assert kept == 100_000 - data.notes["rows dropped by k-core"]
    assert data.n_items == 1682 - data.notes["items dropped by k-core"]
    assert (data.train.labels == (data.train.ratings >= 4)).all()
    assert len(data.item_text) == len(data.item_attributes["year"]) == data.n_items


def test_rows_under_the_threshold_can_be_dropped():
    data = ML100K(threshold=3.0, below="drop").load()
    assert data.train.labels is None
    assert data.train.ratings.min() == 3.0
    assert data.notes["rows dropped under the threshold"] == 6110 + 11370


def test_the_files_are_found_without_importing_recbole():
    code = ("import sys; from bench.datasets.ml_100k import ML100K; ML100K().files(); "
            "print([m for m in ('recbole', 'torch', 'pandas') if m in sys.modules])")
    root = Path(ml_100k.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
                          check=True)
    assert done.stdout.strip() == "[]"
    assert [Path(f).suffix for f in ML100K().files()] == [".inter", ".user", ".item", ".kg",
                                                          ".link"]


def test_without_recbole_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed.*pip install --no-deps recbole==1\.2\.1"):
        ML100K().load()
