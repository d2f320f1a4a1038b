"""Delimited text files: bytes in, columns of text out; each fault is named with file and line.

A file may be gzip-compressed, begin with a byte order mark, end its lines in any of the three
ways, and hold blank lines, which are skipped. Quotes group a field where the separator is a comma
or a semicolon; elsewhere they are ordinary characters. Blanks around a field are cut off.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.data import Ints
from bench.errors import InputError, nearest

SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_GUESSES = ("\t", "::", ",", ";", "|", " ")
_BY_EXTENSION = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".user": "\t", ".item": "\t"}
_UNIT = "\x1f"  # stands in for separators of several characters while a file is cut up


@dataclass(frozen=True)
class Table:
    """A file's fields by column.

    Attributes:
        path: where it was read.
        header: names of the columns, or None.
        columns: one list of texts per column, all of one length.
        lines: line number of each row in the file, counted from 1, shape (rows,).
        uneven: line -> its number of fields, for lines left out since they have more or fewer
            than the first.
    """

    path: Path
    header: tuple[str, ...] | None
    columns: list[list[str]]
    lines: Ints
    uneven: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, which: str, key: str) -> list[str]:
        """A column by name, or by position counted from 1; `key` is the parameter that asks."""
        if self.header is not None and which in self.header:
            if self.header.count(which) > 1:
                raise InputError(f"the header names {which!r} twice", file=self.path, line=1,
                                 key=key, hint="give the column's position, counted from 1")
            return self.columns[self.header.index(which)]
        if which.isdecimal():
            if not 1 <= int(which) <= len(self.columns):
                raise InputError(f"no column {which}: the rows have {len(self.columns)} fields",
                                 file=self.path, key=key, hint="positions count from 1; if the "
                                 "fields were cut up wrongly, set separator")
            return self.columns[int(which) - 1]
        if self.header is None:
            raise InputError(f"column {which!r} is asked by name, and the file is read without a "
                             "header", file=self.path, key=key,
                             hint="give its position, counted from 1, or set header: true")
        raise InputError(f"no column {which!r} in the header", file=self.path, line=1, key=key,
                         hint=nearest(which, self.header))


def find_file(path: str, key: str | None = None) -> Path:
    """The file at this path, `~` expanded; InputError names the nearest file where it is not."""
    found = Path(path).expanduser()
    if found.is_file():
        return found
    if found.is_dir():
        raise InputError("is a folder, and a file is needed", file=found, key=key,
                         hint=nearest(found.name, _names(found)))
    if not found.parent.is_dir():
        raise InputError(f"the folder {str(found.parent)!r} does not exist", file=found, key=key,
                         hint="paths are relative to the folder the command runs in")
    raise InputError("no such file", file=found, key=key,
                     hint=nearest(found.name, _names(found.parent)))


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")]


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, unpacked, without byte order mark, lines ending in \\n alone."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"the gzip file is damaged: {error}", file=path) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    except LookupError as error:
        raise InputError(f"unknown encoding {encoding!r}", key="encoding",
                         hint="such as utf-8, latin-1, utf-16") from error
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        other = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise InputError(f"is not {encoding} text", file=path, line=data[:start].count(b"\n") + 1,
                         hint=f"set encoding, perhaps to {other}") from error
    if "\0" in text or _UNIT in text:
        raise InputError("is a binary file, and delimited text is needed", file=path,
                         hint="unpack or export it first; for UTF-16 set encoding: utf-16")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise InputError("the file is empty", file=path)
    return text


def guess_separator(path: Path, text: str) -> str:
    """The extension's own separator if the first line has it, else the first of tab, ::, comma,
    semicolon, pipe and blank that it has; a comma where it has none."""
    first = text.lstrip("\n").split("\n", 1)[0].strip()
    own = _BY_EXTENSION.get(Path(path.name.removesuffix(".gz")).suffix.lower(), ",")
    return next((s for s in (own, *_GUESSES) if s in first), own)


def the_separator(path: Path, text: str, separator: str) -> str:
    """What `separator` stands for: a guess, a named one, or itself."""
    if not separator or "\n" in separator or '"' in separator:
        raise InputError(f"{separator!r} cannot separate fields", key="separator",
                         hint=f"auto, {', '.join(SEPARATORS)}, or the text itself, such as ::")
    if separator == "auto":
        return guess_separator(path, text)
    return SEPARATORS.get(separator, separator)


def read_table(path: Path, *, separator: str = "auto", header: bool | None = None,
               by_name: bool = False, encoding: str = "utf-8") -> Table:
    """A delimited file as columns of text.

    Args:
        path: from `find_file`.
        separator: "auto" (see `guess_separator`), a name from SEPARATORS, or the text itself; a
            blank stands for any run of blanks and tabs.
        header: whether the first line names the columns. None: yes if columns are asked by name
            (`by_name`), or if no field of the first line is a number and one of the second is.
        encoding: of the text.

    Raises:
        InputError: the file is empty, binary, damaged, of another encoding, or has no rows.
    """
    text = read_text(path, encoding)
    mark = the_separator(path, text, separator)
    quoted = mark in (",", ";") and '"' in text
    columns, lines, uneven = _quoted(path, text, mark) if quoted else _plain(text, mark)
    if header is None and not by_name and len(lines) > 1:
        first, second = ([c[n] for c in columns] for n in (0, 1))
        header = not any(map(is_number, first)) and any(map(is_number, second))
    if not (by_name if header is None else header):
        return Table(path, None, columns, lines, uneven)
    if len(lines) + len(uneven) == 1:
        raise InputError("the file has a header and no rows", file=path)
    return Table(path, tuple(c[0] for c in columns), [c[1:] for c in columns], lines[1:], uneven)


def read_lists(path: Path, *, separator: str = "auto",
               encoding: str = "utf-8") -> tuple[list[list[str]], Ints]:
    """The fields of each line, however many, and the number of each line (blank ones skipped)."""
    text = read_text(path, encoding)
    mark = the_separator(path, text, separator)
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    fields = [line.split() if mark == " " else [f.strip() for f in line.split(mark)]
              for _, line in numbered]
    return fields, np.array([n for n, _ in numbered], np.int64)


Cut = tuple[list[list[str]], Ints, dict[int, int]]
"""Columns, the line of each row, and the lines of another width than the first with theirs."""


def _plain(text: str, mark: str) -> Cut:
    """Cut at every separator: one split of the whole text, which is fast."""
    if mark == " ":
        text = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    elif len(mark) > 1:
        text, mark = text.replace(mark, _UNIT), _UNIT
    rows = text.split("\n")
    filled = np.array([bool(row) and not row.isspace() for row in rows])
    widths = np.array([row.count(mark) + 1 for row in rows], np.int64)
    width = int(widths[np.argmax(filled)])
    even = filled & (widths == width)
    fields = mark.join(itertools.compress(rows, even)).split(mark)
    if mark != " " and " " in text:
        fields = [f.strip() for f in fields]
    uneven = {int(n) + 1: int(widths[n]) for n in np.flatnonzero(filled & ~even)}
    return [fields[n::width] for n in range(width)], np.flatnonzero(even) + 1, uneven


def _quoted(path: Path, text: str, mark: str) -> Cut:
    """Cut where quotes may hold separators, quotes and line ends: row by row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    before = 0
    try:
        for row in reader:
            if any(f.strip() for f in row):
                rows.append([f.strip() for f in row])
                lines.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise InputError(f"a quoted field goes wrong: {error}", file=path, line=before + 1,
                         hint="quotes inside a quoted field are doubled") from error
    if not rows:
        raise InputError("the file is empty", file=path)
    width = len(rows[0])
    even = np.array([len(row) == width for row in rows])
    uneven = {lines[n]: len(rows[n]) for n in np.flatnonzero(~even)}
    columns = [list(column) for column in zip(*itertools.compress(rows, even))]
    return columns, np.array(lines, np.int64)[even], uneven


def is_number(text: str) -> bool:
    """Whether it reads as a number; 1_000, which Python takes, does not."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
