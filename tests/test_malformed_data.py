"""Malformed data files and contradictory parameters: one clear message each, never a traceback."""

from __future__ import annotations

import gzip
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.table import Table
from bench.errors import InputError

FULL = {"rating": "3", "time": "4"}
NAMED = {"user": "u", "item": "i", "rating": "r", "time": "t"}
SOUND = "a\tx\t4\t1\na\ty\t5\t2\na\tz\t3\t3\nb\tx\t3\t4\n"
HEADED = "u\ti\tr\tt\n" + SOUND

# what the file holds, the parameters, and what the message must say ({f} is the file's path)
BROKEN_FILES: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    # nothing in it
    "empty": ("", FULL, r"{f}: the file is empty"),
    "blank lines only": ("\n\n  \n", FULL, r"{f}: the file is empty"),
    "byte order mark only": (b"\xef\xbb\xbf", FULL, r"{f}: the file is empty"),
    "empty gzip": (gzip.compress(b""), FULL, r"{f}: the file is empty"),
    "header only": ("u\ti\tr\tt\n", NAMED, r"{f}: the file has a header and no rows"),
    "header stated, one line": ("a\tx\n", {"header": True}, r"{f}: .*header and no rows"),
    # not text
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\x00", FULL, r"{f}:1: is not utf-8 text"),
    "nul bytes": (b"a\tx\t4\t1\x00\n", FULL, r"{f}: is a binary file.*export it first"),
    "zip": (b"PK\x03\x04\x14\x00\x00\x00", FULL, r"{f}: is a binary file.*unpack"),
    "damaged gzip": (gzip.compress(SOUND.encode())[:-9], FULL, r"{f}: the gzip file is damaged"),
    "gzip with rubbish": (b"\x1f\x8brubbish", FULL, r"{f}: the gzip file is damaged"),
    "gzip with a wrong body": (b"\x1f\x8b\x08\x00" + b"\x00" * 6 + b"\xff" * 20, FULL,
                               r"{f}: the gzip file is damaged"),
    "latin-1": (SOUND.encode() + "é\tx\t1\t1\n".encode("latin-1"), FULL,
                r"{f}:5: is not utf-8 text.*latin-1"),
    "utf-16": (SOUND.encode("utf-16"), FULL, r"{f}:1: is not utf-8 text.*utf-16"),
    "utf-16 without mark": (SOUND.encode("utf-16-le"), FULL, r"{f}: is a binary.*utf-16"),
    "not utf-16": (b"abc", {"encoding": "utf-16"}, r"{f}:1: is not utf-16 text"),
    "unknown encoding": (SOUND, {"encoding": "utf-9"}, r"\[encoding\]: unknown encoding 'utf-9'"),
    # rows
    "a field short": (SOUND + "b\ty\t5\n", FULL,
                      r"{f}:5: 3 fields where the first line has 4 \(.*bad_rows: drop"),
    "a field too many": (SOUND + "b\ty\t5\t5\t5\n", FULL, r"{f}:5: 5 fields where .* has 4"),
    "one field": (SOUND + "oops\n", FULL, r"{f}:5: 1 field where the first line has 4"),
    "many broken": (SOUND + "oops\n" * 1200, FULL, r"{f}:5: .*; 1,200 rows are broken in all"),
    "another separator": (SOUND.replace("\t", "~"), FULL,
                          r"{f} \[item\]: no column 2: the rows have 1 fields.*set separator"),
    "wrong separator stated": (SOUND, {**FULL, "separator": ";"}, r"{f} \[item\]: no column 2"),
    "comment first": ("# my data\n" + SOUND, {}, r"{f}:2: 4 fields where the first line has 3"),
    "open quote": ('u,i\na,"x\nb,y\n', {"user": "u", "item": "i"},
                   r"{f}:2: a quoted field goes wrong: unexpected end of data.*doubled"),
    "quote amid a field": ('u,i\na,"x"y\n', {"user": "u", "item": "i"},
                           r"{f}:2: a quoted field goes wrong"),
    "huge field": ('u,i\na,"' + "x" * 200_000 + '"\n', {"user": "u", "item": "i"},
                   r"{f}:2: a quoted field goes wrong: field larger"),
    # ids
    "no user": (SOUND + "\ty\t5\t5\n", FULL, r"{f}:5: empty user id: ''"),
    "blank item": (SOUND + "b\t  \t5\t5\n", FULL, r"{f}:5: empty item id: ''"),
    "no item": (SOUND + "b\t\t5\t5\n", FULL, r"{f}:5: empty item id: ''"),
    # ratings
    "no rating": (SOUND + "b\ty\t\t5\n", FULL, r"{f}:5: rating is not a finite number: ''"),
    "rating in words": (SOUND + "b\ty\tfive\t5\n", FULL, r"{f}:5: rating is .*: 'five'"),
    "decimal comma": (SOUND + "b\ty\t3,5\t5\n", FULL, r"{f}:5: rating is .*: '3,5'"),
    "nan": (SOUND + "b\ty\tnan\t5\n", FULL, r"{f}:5: rating is not a finite number: 'nan'"),
    "inf": (SOUND + "b\ty\t-inf\t5\n", FULL, r"{f}:5: rating is not a finite .*: '-inf'"),
    "too large for a float": (SOUND + "b\ty\t1e400\t5\n", FULL, r"{f}:5: rating is .*: '1e400'"),
    "underscored": (SOUND + "b\ty\t1_0\t5\n", FULL, r"{f}:5: rating is .*: '1_0'"),
    "a time as rating": ("a\tx\t978300019\n", {"rating": "3"},
                         r"{f}:1: rating is outside -1e\+06 to 1e\+06: '978300019'"),
    "above the scale": (SOUND, {**FULL, "scale": (1.0, 4.0)},
                        r"{f}:2: rating is outside 1 to 4: '5'"),
    "below the scale": (SOUND, {**FULL, "scale": (4.0, 5.0)}, r"{f}:3: .*outside 4 to 5: '3'"),
    "long junk is cut": (SOUND + f"b\ty\t{'z' * 500}\t5\n", FULL,
                         r"{f}:5: rating is not a finite number: 'z{39}…'"),
    "unstated header": (HEADED, {**FULL, "header": False}, r"{f}:1: rating is .*: 'r'"),
    # times
    "no time": (SOUND + "b\ty\t5\t\n", FULL, r"{f}:5: time is neither .* nor an ISO date: ''"),
    "time in words": (SOUND + "b\ty\t5\ttoday\n", FULL, r"{f}:5: time is neither .*: 'today'"),
    "infinite time": (SOUND + "b\ty\t5\tinf\n", FULL, r"{f}:5: time is neither .*: 'inf'"),
    "no such day": (SOUND + "b\ty\t5\t2023-02-30\n", FULL, r"{f}:5: time .*: '2023-02-30'"),
    "dates and numbers": (SOUND + "b\ty\t5\t2024-01-01\n", FULL,
                          r"{f}:5 \[time\]: .* a date here, '2024-01-01', .* line 1, '1'"),
    "no times for a split by time": (SOUND, {}, r"\[split\]: .*no times.*ratio-random"),
    # columns
    "unknown column": (HEADED, {**NAMED, "rating": "stars"},
                       r"{f}:1 \[rating\]: no column 'stars' in the header \(known: i, r, t, u"),
    "column of another case": ("User\ti\na\tx\n", {"user": "user", "item": "i"},
                               r"{f}:1 \[user\]: .*did you mean 'User'"),
    "column past the end": (SOUND, {**FULL, "time": "7"},
                            r"{f} \[time\]: no column 7: the rows have 4 fields"),
    "column zero": (SOUND, {"user": "0"}, r"{f} \[user\]: no column 0: .*count from 1"),
    "name without header": (SOUND, {"user": "u", "header": False},
                            r"{f} \[user\]: column 'u' is asked by name.*header: true"),
    "name twice in the header": ("u\tu\na\tx\n", {"user": "u"},
                                 r"{f}:1 \[user\]: the header names 'u' twice"),
    # pairs, events, what is left
    "repeated pair refused": (SOUND + "a\ty\t1\t9\n", {**FULL, "duplicates": "error"},
                              r"{f}:5 \[duplicates\]: user 'a' has item 'y' a second time, "
                              r"first at {f}:2"),
    "unknown event": ("a\tx\tbuy\na\ty\tbye\n", {"event": "3", "events": ("buy=1",)},
                      r"{f}:2 \[events\]: event 'bye' is not in events .*did you mean 'buy'"),
    "event that never occurs": ("a\tx\tbuy\n", {"event": "3", "events": ("buy=1", "look=0")},
                                r"{f} \[events\]: no row has the event 'look'"),
    "all rows broken": ("a\tx\tgood\na\ty\tbad\n", {"rating": "3", "bad_rows": "drop"},
                        r"{f}:1: rating .*2 rows are broken.*no sound row is left"),
    "nothing after the core": (SOUND, {**FULL, "k_core": 9},
                               r"no row is left after filtering .*rows dropped by k-core: 4"),
    "nothing above the threshold": (SOUND, {**FULL, "threshold": 9.0, "below": "drop"},
                                    r"no row is left after filtering .*under the threshold: 4"),
    "nothing liked": (SOUND, {**FULL, "threshold": 9.0}, r"no positive train interactions"),
    "nobody has enough to test": ("a\tx\t4\t1\nb\ty\t4\t1\n", FULL, r"no user has a positive test"),
    "threshold without ratings": (SOUND, {"time": "4", "threshold": 3.0},
                                  r"\[threshold\]: .*no ratings.*name the rating column"),
    "list with a gap": ("a,x,,y\n", {"layout": "lists"}, r"{f}:1: empty item id: ''"),
    "lists of users alone": ("a\nb\n", {"layout": "lists"}, r"no row is left after filtering"),
}


def one_message(params: dict[str, Any]) -> str:
    """The message of the one InputError that loading gives."""
    with pytest.raises(InputError) as caught:
        Table(**params).load()
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_gives_one_clear_message(case: str, tmp_path: Path):
    content, params, pattern = BROKEN_FILES[case]
    path = tmp_path / "rows.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = one_message({"path": str(path), **params})
    assert re.search(pattern.replace("{f}", re.escape(str(path))), message), message


PIECES = st.sampled_from(["a", "b", "7", "-1", "4.5", "nan", "1e999", "é", '"', "\t", ",", ";", "|",
                          " ", "::", "\n", "\r", "\r\n", "\x00", "\ufeff", "2024-01-01", "=", "'"])


@given(content=st.one_of(st.binary(max_size=60),
                         st.lists(PIECES, max_size=40).map(lambda p: "".join(p).encode())),
       params=st.fixed_dictionaries({}, optional={
           "rating": st.sampled_from(["2", "3", "a"]), "time": st.sampled_from(["3", "b"]),
           "layout": st.sampled_from(["rows", "lists"]), "header": st.sampled_from([True, False]),
           "separator": st.sampled_from(["tab", "::", "space", ","]),
           "bad_rows": st.just("drop"), "duplicates": st.sampled_from(["last", "error"]),
           "encoding": st.sampled_from(["latin-1", "utf-16"]), "threshold": st.just(4.0),
           "split": st.just("ratio-random"), "ratios": st.just((0.5, 0.0, 0.5))}))
@settings(max_examples=300, deadline=None)
def test_whatever_the_file_holds_it_loads_or_gives_one_message(content: bytes,
                                                               params: dict[str, Any]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.txt"
        path.write_bytes(content)
        try:
            data = Table(path=str(path), **params).load()
            outcome = f"{len(data.train) and len(data.test)} rows"
        except InputError as error:
            outcome = str(error)
    assert outcome not in ("", "0 rows")
    assert "\n" not in outcome


# -- attribute files ---------------------------------------------------------------------------

PEOPLE = "a,F,30\nb,M,40\n"
BROKEN_ATTRIBUTES: dict[str, tuple[str, dict[str, Any], str]] = {
    "empty": ("", {}, r"{f}: the file is empty"),
    "header only": ("id,sex\n", {"user_id": "id"}, r"{f}: the file has a header and no rows"),
    "short row": (PEOPLE + "c,F\n", {"user_columns": ("sex=2",)}, r"{f}:3: 2 fields where .* 3"),
    "no id": (PEOPLE + ",F,9\n", {"user_columns": ("sex=2",)}, r"{f}:3: empty user id"),
    "one id twice": (PEOPLE + "a,M,9\n", {"user_columns": ("sex=2",)},
                     r"{f}:3: user id stands on a second row: 'a'"),
    "other ids": ("1,F,30\n2,M,40\n", {"user_columns": ("sex=2",)},
                  r"{f} \[user_id\]: no user .* is in this file; .*like '1', theirs like 'a'"),
    "unknown column": ("id,sex\na,F\n", {"user_id": "id", "user_columns": ("gender",)},
                       r"{f}:1 \[user_columns\]: no column 'gender' in the header"),
    "column past the end": (PEOPLE, {"user_columns": ("zip=9",)},
                            r"{f} \[user_columns\]: no column 9: the rows have 3 fields"),
    "position without a name": (PEOPLE, {"user_columns": ("2",)},
                                r"\[user_columns\]: .*position 2 has no name.*such as gender=2"),
    "no header and no columns": (PEOPLE, {}, r"{f} \[user_columns\]: .*no header.*gender=2"),
    "two of one name": (PEOPLE, {"user_columns": ("x=2", "x=3")},
                        r"\[user_columns\]: two columns are called 'x'"),
    "no column at all": (PEOPLE, {"user_columns": ("",)}, r"\[user_columns\]: '' names no column"),
    "text as number": (PEOPLE, {"user_columns": ("sex=2:number",)},
                       r"{f}:1 \[user_columns\]: 'F' is not a number.*sex:category"),
}


@pytest.mark.parametrize("case", BROKEN_ATTRIBUTES)
def test_a_broken_attribute_file_gives_one_clear_message(case: str, tmp_path: Path):
    content, params, pattern = BROKEN_ATTRIBUTES[case]
    (tmp_path / "rows.txt").write_text(SOUND)
    people = tmp_path / "people.csv"
    people.write_text(content)
    message = one_message({"path": str(tmp_path / "rows.txt"), **FULL, "user_file": str(people),
                           **params})
    assert re.search(pattern.replace("{f}", re.escape(str(people))), message), message


# -- paths and parameters ----------------------------------------------------------------------

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({}, r"\[table: path\]: no file is given.*train and test"),
    "train alone": ({"train": "{f}"}, r"no file is given to read"),
    "valid alone": ({"valid": "{f}"}, r"no file is given to read"),
    "one file and a split": ({"path": "{f}", "test": "{f}"}, r"both path and files already split"),
    "missing file": ({"path": "{d}/raitings.tsv"},
                     r"raitings\.tsv \[path\]: no such file \(did you mean 'ratings\.tsv'"),
    "missing folder": ({"path": "{d}/nowhere/ratings.tsv"},
                       r"\[path\]: the folder '.*nowhere' does not exist.*relative"),
    "a folder": ({"path": "{d}"}, r"\[path\]: is a folder.*ratings\.tsv"),
    "a file as folder": ({"path": "{f}/ratings.tsv"}, r"\[path\]: .*does not exist"),
    "missing attribute file": ({"path": "{f}", "user_file": "{d}/rating.tsv"},
                               r"\[user_file\]: no such file \(did you mean 'ratings\.tsv'"),
    "core of a given split": ({"train": "{f}", "test": "{f}", "k_core": 5},
                              r"\[table: k_core\]: a k-core would change a split"),
    "valid twice": ({"train": "{f}", "valid": "{f}", "test": "{f}", "valid_rows": 1},
                    r"valid_rows is for train and test without valid"),
    "event without events": ({"path": "{f}", "event": "3"}, r"\[table: events\]: event and events"),
    "events without event": ({"path": "{f}", "events": ("buy=1",)}, r"need each other"),
    "events and threshold": ({"path": "{f}", "event": "3", "events": ("4=1",), "threshold": 3.0},
                             r"both events and a threshold"),
    "event without label": ({"path": "{f}", "event": "3", "events": ("buy",)},
                            r"\[events\]: 'buy' gives no event type its label.*purchase=1"),
    "event of label two": ({"path": "{f}", "event": "3", "events": ("buy=2",)}, r"'buy=2' gives"),
    "event twice": ({"path": "{f}", "event": "3", "events": ("buy=1", "buy=0")},
                    r"event 'buy' is given twice"),
    "no liked event": ({"path": "{f}", "event": "3", "events": ("buy=0",)}, r"no event counts as"),
    "scale of one": ({"path": "{f}", "scale": (5.0,)}, r"\[table: scale\]: .*such as \[1, 5\]"),
    "scale upside down": ({"path": "{f}", "scale": (5.0, 1.0)}, r"lowest and its highest"),
    "lists with ratings": ({"path": "{f}", "layout": "lists", "rating": "3"},
                           r"lists hold a user and its items"),
    "no user column": ({"path": "{f}", "user": ""}, r"users and items need a column each"),
    "columns without file": ({"path": "{f}", "user_columns": ("sex=2",)}, r"no user_file is given"),
    "text without file": ({"path": "{f}", "text": "2"}, r"no item_file is given"),
    "ratios of two": ({"path": "{f}", "ratios": (0.8, 0.2), **FULL}, r"\[ratios\]: 2 ratios"),
    "ratios above one": ({"path": "{f}", "ratios": (0.8, 0.2, 0.2), **FULL}, r"sum to 1\.2"),
    "separator of nothing": ({"path": "{f}", "separator": ""}, r"\[separator\]: '' cannot"),
    "separator of a newline": ({"path": "{f}", "separator": "\n"}, r"'\\n' cannot separate"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_wrong_paths_and_parameters_give_one_clear_message(case: str, tmp_path: Path):
    params, pattern = CONTRADICTIONS[case]
    path = tmp_path / "ratings.tsv"
    path.write_text(SOUND)
    filled = {k: v.replace("{f}", str(path)).replace("{d}", str(tmp_path))
              if isinstance(v, str) else v for k, v in params.items()}
    message = one_message(filled)
    assert re.search(pattern, message), message
