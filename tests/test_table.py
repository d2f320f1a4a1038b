"""The table dataset on small made-up files: formats, rules and what they count."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from bench.data import Dataset
from bench.datasets.table import Table
from bench.errors import InputError
from bench.tables import find_file, read_table

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(os.environ.get("BENCH_SHARED_DATA",
                             Path(__file__).parents[2] / "shared" / "data"))


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


# -- formats -----------------------------------------------------------------------------------

def test_columns_by_name_and_by_position_are_the_same():
    named = Table(path=fixture("ratings.tsv"), **BY_NAME).load()
    placed = Table(path=fixture("ratings.tsv"), rating="3", time="4", header=True).load()
    guessed = Table(path=fixture("ratings.tsv"), rating="3", time="4").load()
    for data in (placed, guessed):
        assert data.user_ids == named.user_ids == ("ann", "bob", "cat", "dan")
        for split in ("train", "valid", "test"):
            assert pairs(data, split) == pairs(named, split)
            assert (getattr(data, split).ratings == getattr(named, split).ratings).all()
    assert pairs(named, "test") == [("ann", "brazil"), ("bob", "heat"), ("cat", "matrix")]
    assert pairs(named, "valid") == [("ann", "fargo"), ("bob", "alien"), ("cat", "alien")]
    assert named.rating_scale == (1.0, 5.0)
    assert named.notes["users without test items"] == 1  # dan has one row


@pytest.mark.parametrize(("mark", "name"), [
    ("\t", "r.txt"), (",", "r.csv"), (";", "r.csv"), ("::", "r.dat"), ("|", "r.txt"),
    (" ", "r.txt"), ("   ", "r.txt"), (" \t ", "r.txt")])
def test_the_separator_is_guessed(tmp_path: Path, mark: str, name: str):
    text = "\n".join(mark.join((u, i, "4", str(t))) for t, (u, i) in enumerate(
        [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")]))
    data = Table(path=write(tmp_path, text, name), rating="3", time="4").load()
    assert pairs(data, "test") == [("a", "z")]
    assert data.n_users == 2


@pytest.mark.parametrize(("given", "mark"), [
    ("comma", ","), ("tab", "\t"), ("semicolon", ";"), ("pipe", "|"), ("space", " "),
    ("::", "::"), ("~", "~")])
def test_the_separator_can_be_stated(tmp_path: Path, given: str, mark: str):
    text = "\n".join(mark.join(r) for r in (("a", "x", "1"), ("a", "y", "2"), ("a", "z", "3")))
    data = Table(path=write(tmp_path, text), time="3", separator=given).load()
    assert pairs(data, "test") == [("a", "z")]


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b.replace(b"\n", b"\r"),
    lambda b: b.replace(b"ann\theat", b"\r\nann\theat"), lambda b: b"\xef\xbb\xbf" + b,
    lambda b: b.replace(b"\n", b"\n\n"), lambda b: b + b"\n \t \n", lambda b: b.rstrip(b"\n"),
    lambda b: b.replace(b"\t", b" \t "), gzip.compress,
], ids=["crlf", "cr", "mixed", "bom", "blank-lines", "blank-end", "no-last-newline", "padded",
        "gzip"])
def test_the_way_lines_are_written_does_not_matter(tmp_path: Path, change):
    plain = Path(fixture("ratings.tsv")).read_bytes()
    data = Table(path=write(tmp_path, change(plain)), **BY_NAME).load()
    whole = Table(path=fixture("ratings.tsv"), **BY_NAME).load()
    for split in ("train", "valid", "test"):
        assert pairs(data, split) == pairs(whole, split)


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "é"), ("utf-16", "é"), ("utf-8", "雪")])
def test_encodings(tmp_path: Path, encoding: str, text: str):
    rows = "\n".join(f"{text}\t{i}\t{n}" for n, i in enumerate("xyz"))
    data = Table(path=write(tmp_path, rows.encode(encoding)), time="3", encoding=encoding).load()
    assert data.user_ids == (text,)


def test_quoted_fields_hold_separators_quotes_and_line_ends(tmp_path: Path):
    text = 'u,i,t\n"a,b","x ""y""",1\n"a,b","two\nlines",2\n"a,b",z,3\n'
    data = Table(path=write(tmp_path, text, "q.csv"), user="u", item="i", time="t").load()
    assert data.user_ids == ("a,b",)
    assert set(data.item_ids) == {'x "y"', "two\nlines", "z"}
    table = read_table(find_file(str(tmp_path / "q.csv")), by_name=True)
    assert table.lines.tolist() == [2, 3, 5]  # the third row begins on line 5


def test_order_of_rows_and_number_like_ids_do_not_matter(tmp_path: Path):
    lines = [f"{u} {i} {i}" for u in (2, 10, 9) for i in range(4)]
    one = Table(path=write(tmp_path, "\n".join(lines), "a.txt"), time="3").load()
    two = Table(path=write(tmp_path, "\n".join(lines[::-1]), "b.txt"), time="3").load()
    assert one.user_ids == two.user_ids == ("2", "9", "10")
    assert all(pairs(one, s) == pairs(two, s) for s in ("train", "valid", "test"))


def test_a_headerless_file_of_words_loses_no_row(tmp_path: Path):
    data = Table(path=write(tmp_path, "a,x\na,y\na,z\nb,x\n"), split="ratio-random").load()
    assert data.notes["rows read"] == 4


def test_dates_are_read_as_times(tmp_path: Path):
    text = "a,x,2024-01-03\na,y,2024-01-01T12:00:00\na,z,2024-01-02T00:00:00+02:00\n"
    data = Table(path=write(tmp_path, text), time="3", split="leave-one-out").load()
    assert pairs(data, "train") == [("a", "y")]
    assert data.test.times.tolist() == [1704240000.0]


def test_negative_times_are_before_1970(tmp_path: Path):
    data = Table(path=write(tmp_path, "a x 5\na y -7\na z 0\n"), time="3").load()
    assert pairs(data, "train") == [("a", "y")]


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


# -- real data, where it is there --------------------------------------------------------------

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
