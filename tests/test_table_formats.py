"""The table dataset reads what people have: separators, headers, encodings, line ends, dates."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bench.data import Dataset
from bench.datasets.table import Table
from bench.tables import find_file, read_table

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
