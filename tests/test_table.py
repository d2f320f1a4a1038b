"""The table dataset on small made-up files: rules and what they count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.data import Dataset
from bench.datasets.table import Table
from bench.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> str:
    return str(FIXTURES / name)


def write(tmp_path: Path, text: str | bytes, name: str = "rows.tsv") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def pairs(data: Dataset, split: str) -> list[tuple[str, str]]:
    rows = getattr(data, split)
    return sorted((data.user_ids[u], data.item_ids[i]) for u, i in zip(rows.users, rows.items))


BY_NAME = {"user": "who", "item": "what", "rating": "stars", "time": "when"}


# -- given splits, lists, event logs -----------------------------------------------------------

LISTS = {"train": fixture("train_lists.txt"), "valid": fixture("valid_lists.txt"),
         "test": fixture("test_lists.txt"), "layout": "lists"}


def test_lists_of_a_given_split():
    data = Table(**LISTS).load()
    assert pairs(data, "valid") == [("0", "6"), ("1", "3")]
    assert pairs(data, "test") == [("0", "7"), ("1", "6"), ("1", "7"), ("2", "4")]
    assert data.notes["users listed without items"] == 1
    assert data.notes["valid and test rows dropped, user not in train"] == 1  # user 3
    assert data.notes["test items unseen in train"] == 1  # item 7; it stays in the test
    assert data.user_ids == ("0", "1", "2")


def test_validation_can_be_held_out_of_a_given_train_file(tmp_path: Path):
    train = write(tmp_path, "a x 1\na y 3\na z 2\nb x 1\n", "train.txt")
    test = write(tmp_path, "a w 4\nb y 5\n", "test.txt")
    data = Table(train=train, test=test, time="3", valid_rows=1).load()
    assert pairs(data, "valid") == [("a", "y")]
    assert pairs(data, "train") == [("a", "x"), ("a", "z"), ("b", "x")]
    assert len(Table(train=train, test=test, time="3").load().valid) == 0


def test_a_pair_in_train_and_test_stops_or_stays_on_one_side(tmp_path: Path):
    train = write(tmp_path, "a x\na y\nb x\n", "train.txt")
    test = write(tmp_path, "b y\na y\n", "test.txt")
    with pytest.raises(InputError) as caught:
        Table(train=train, test=test).load()
    assert str(caught.value) == (
        f"{test}:2 [overlap]: user 'a' has item 'y' a second time, first at {train}:2 "
        "(set overlap to keep-first or keep-last)")
    first = Table(train=train, test=test, overlap="keep-first").load()
    assert pairs(first, "test") == [("b", "y")]
    last = Table(train=train, test=test, overlap="keep-last").load()
    assert pairs(last, "train") == [("a", "x"), ("b", "x")]
    for data in (first, last):
        assert data.notes["rows dropped, pair in another part too"] == 1


def test_an_event_log_keeps_the_best_event_of_a_pair():
    data = Table(path=fixture("shop.csv"), time="1", user="2", item="3", event="4",
                 events=("purchase=1", "browse=0"), unknown_events="drop",
                 split="leave-one-out").load()
    rows = data.train.plus(data.valid).plus(data.test)
    liked = {(data.user_ids[u], data.item_ids[i]): int(liked)
             for u, i, liked in zip(rows.users, rows.items, rows.labels)}
    assert liked[("c1", "mug")] == 1  # browsed again after the purchase
    assert liked[("c1", "cap")] == 0
    assert len(liked) == len(rows) == 8
    assert data.notes["rows dropped, event type not in events"] == 1
    assert data.notes["rows dropped as duplicate pairs"] == 2
    assert data.notes["rows with event purchase"] == 7


# -- rules that are counted --------------------------------------------------------------------

def test_duplicates_keep_the_last_in_time(tmp_path: Path):
    path = write(tmp_path, "a x 1 30\na x 5 10\na y 2 20\nb x 3 1\nb y 3 2\nb z 3 3\n")
    kept = {}
    for rule in ("auto", "last", "first", "best"):
        data = Table(path=path, rating="3", time="4", duplicates=rule).load()
        rows = data.train.plus(data.valid).plus(data.test)
        kept[rule] = rows.ratings[(rows.users == 0) & (rows.items == 0)].tolist()
        assert data.notes["rows dropped as duplicate pairs"] == 1
    assert kept == {"auto": [1.0], "last": [1.0], "first": [5.0], "best": [5.0]}


def test_broken_rows_are_dropped_and_counted_by_reason(tmp_path: Path):
    text = ("u\ti\tr\tt\na\tx\t4\t1\na\ty\t5\na\tz\tgood\t3\n\tx\t3\t4\na\tw\t3\tnever\n"
            "a\tv\tnan\t6\na\tp\t2\t7\na\tq\t4\t8\na\ts\t1e9\t9\n")
    path = write(tmp_path, text)
    columns = {"user": "u", "item": "i", "rating": "r", "time": "t"}
    with pytest.raises(InputError, match=r"rows\.tsv:3: 3 fields where the first line has 4; "
                                         r"6 rows are broken in all.*bad_rows: drop"):
        Table(path=path, **columns).load()
    data = Table(path=path, bad_rows="drop", **columns).load()
    assert {k: n for k, n in data.notes.items() if n} == {
        "rows read": 9, "rows dropped, wrong number of fields": 1,
        "rows dropped, empty user id": 1, "rows dropped, rating is not a finite number": 2,
        "rows dropped, rating is outside -1e+06 to 1e+06": 1,
        "rows dropped, time is neither a finite number nor an ISO date": 1,
        "test items unseen in train": 1}
    assert pairs(data, "test") == [("a", "q")]


def test_users_with_too_many_rows_are_outliers(tmp_path: Path):
    text = "".join(f"bot {i} {i}\n" for i in range(30)) + "".join(f"a {i} {i}\n" for i in range(5))
    data = Table(path=write(tmp_path, text), time="3", max_user_rows=20).load()
    assert data.user_ids == ("a",)
    assert data.n_items == 5
    assert data.notes["rows dropped as outliers"] == 30
    assert data.notes["users dropped as outliers"] == 1


def test_k_core_and_threshold_act_before_the_split():
    data = Table(path=fixture("ratings.tsv"), k_core=2, threshold=3, split="leave-one-out",
                 **BY_NAME).load()
    rows = data.train.plus(data.valid).plus(data.test)
    assert np.bincount(rows.users).min() >= 2
    assert np.bincount(rows.items).min() >= 2
    assert data.user_ids == ("ann", "bob", "cat")  # dan has one row
    assert data.notes["users dropped by k-core"] == 1
    assert (rows.labels == (rows.ratings >= 3)).all()


# -- attributes --------------------------------------------------------------------------------

def described(**params) -> Dataset:
    return Table(path=fixture("ratings.tsv"), **BY_NAME, **params).load()


def test_attributes_by_position_with_kinds():
    data = described(user_file=fixture("people.dat"),
                     user_columns=("gender=2", "age=3", "zip=4:category"))
    assert data.user_attributes["gender"].tolist() == ["F", "M", "F", "M"]
    assert data.user_attributes["age"].dtype == np.float64
    assert np.isnan(data.user_attributes["age"][3])
    assert data.user_attributes["zip"].tolist() == ["90210", "10115", "00185", "75001"]
    assert data.notes["users described, without rows"] == 1  # eve
    assert data.notes["users without attributes"] == 0


def test_attributes_by_name_with_lists_and_text():
    data = described(item_file=fixture("films.csv"), item_id="film", text="title")
    assert sorted(data.item_attributes) == ["kind", "year"]
    at = {name: n for n, name in enumerate(data.item_ids)}
    assert data.item_attributes["kind"][at["fargo"]] == ("Crime", "Comedy")
    assert data.item_attributes["kind"][at["brazil"]] == ()
    assert data.item_attributes["year"][at["alien"]] == 1979.0
    assert data.item_text[at["matrix"]] == "Matrix, The (1999)"
    assert data.item_text[at["alien"]] == '"Alien" (1979)'
    assert data.item_text[at["brazil"]] == ""
    assert data.notes["items without attributes"] == 1


def test_a_column_can_be_renamed_and_its_kind_stated():
    data = described(item_file=fixture("films.csv"), item_id="film",
                     item_columns=("genre=kind:category", "year:category"))
    assert data.item_attributes["genre"][list(data.item_ids).index("heat")] == "Crime"
    assert "1995" in data.item_attributes["year"].tolist()


# -- the plugin --------------------------------------------------------------------------------

def test_parameters_go_through_json_and_the_label_can_be_short():
    table = Table(path="a.tsv", events=("buy=1",), scale=(1.0, 5.0), threshold=3.0, called="shop")
    assert Table.from_params(table.params()) == table
    assert table.label() == "shop(threshold=3.0)"
    assert Table(path="a.tsv").label() == "table(path=a.tsv)"


def test_files_are_all_that_is_read():
    table = Table(path=fixture("ratings.tsv"), user_file=fixture("people.dat"))
    assert table.files() == [fixture("ratings.tsv"), fixture("people.dat")]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "a x\na y\na z\n", "mine.txt")
    assert Table(path="~/mine.txt", split="ratio-random").load().n_items == 3


# -- feature vectors ---------------------------------------------------------------------------

def test_feature_vectors_follow_the_items(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,rating\n" + "".join(
        f"u{u},i{i},4\n" for u in range(4) for i in range(5)))
    (tmp_path / "vectors.csv").write_text("item,a,b\ni2,1.5,-2\ni0,0.5,1\nelse,9,9\n")
    data = Table(path=str(tmp_path / "log.csv"), user="user", item="item", rating="rating",
                 split="ratio-random", feature_file=str(tmp_path / "vectors.csv")).load()
    vectors = dict(zip(data.item_ids, data.item_features["file"].tolist(), strict=True))
    assert vectors["i2"] == [1.5, -2.0]
    assert vectors["i0"] == [0.5, 1.0]
    assert vectors["i3"] == [0.0, 0.0]  # no row: counted
    assert data.notes["feature_file, items without attributes"] == 3
    (tmp_path / "vectors.csv").write_text("item,a\ni2,red\n")
    with pytest.raises(InputError, match="is not a number"):
        Table(path=str(tmp_path / "log.csv"), user="user", item="item", rating="rating",
              split="ratio-random", feature_file=str(tmp_path / "vectors.csv")).load()
