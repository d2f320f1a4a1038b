"""Interaction files: each becomes a `Log`, with its broken rows refused or counted."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bench import columns
from bench.columns import Faults
from bench.data import Floats, Ints
from bench.errors import InputError
from bench.filtering import Labels
from bench.splits import Parts
from bench.tables import read_lists, read_table

Number = TypeVar("Number", np.float64, np.int8)


@dataclass(frozen=True)
class Log:
    """Interactions as files tell them: outside ids, not yet numbered.

    Attributes:
        users, items: outside ids, one per row.
        ratings, times: float64 (rows,), or None.
        labels: int8 (rows,), 1 liked and 0 not, or None.
        parts: int8 (rows,) where files give the split (see `bench.splits`), or None.
        where: the file and line of a row by its number, for messages, or None.
        notes: what was counted while reading.
    """

    users: Sequence[str]
    items: Sequence[str]
    ratings: Floats | None = None
    times: Floats | None = None
    labels: Labels | None = None
    parts: Parts | None = None
    where: Callable[[int], tuple[Path, int]] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How interaction files are written; the fields are those of the `table` dataset.

    Attributes:
        user, item, rating, time, event: columns, by name or by position from 1; "" for none.
        events: event type -> label, empty where there are no events.
    """

    layout: str = "rows"
    separator: str = "auto"
    header: bool | None = None
    encoding: str = "utf-8"
    user: str = "1"
    item: str = "2"
    rating: str = ""
    time: str = ""
    event: str = ""
    scale: tuple[float, ...] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    unknown_events: str = "error"
    bad_rows: str = "error"


def read_logs(paths: Mapping[int, Path], form: Format, split: bool) -> Log:
    """The files one after the other; `paths` goes from the part to its file, which counts where
    the files are `split` already.

    Raises:
        InputError: a file cannot be read, has broken rows, or an event type occurs in none.
    """
    logs = [_read(path, form) for path in paths.values()]
    notes: dict[str, int] = {}
    for log in logs:
        for what, n in log.notes.items():
            notes[what] = notes.get(what, 0) + n
    for event in form.events:
        if not notes[f"rows with event {event}"]:
            raise InputError(f"no row has the event {event!r}", key="events",
                             file=", ".join(map(str, paths.values())),
                             hint="check its spelling, or take it out of events")
    sizes = [len(log.users) for log in logs]
    return Log(
        users=[u for log in logs for u in log.users], items=[i for log in logs for i in log.items],
        ratings=_join([log.ratings for log in logs]), times=_join([log.times for log in logs]),
        labels=_join([log.labels for log in logs]),
        parts=np.repeat(np.array(list(paths), np.int8), sizes) if split else None,
        where=functools.partial(_find, logs, np.cumsum(sizes)), notes=notes)


def _read(path: Path, form: Format) -> Log:
    if form.layout == "lists":
        return _read_lists(path, form)
    asked = {k: str(getattr(form, k)) for k in ("user", "item", "rating", "time", "event")}
    table = read_table(path, separator=form.separator, header=form.header, encoding=form.encoding,
                       by_name=any(c and not c.isdecimal() for c in asked.values()))
    texts = {k: table.column(c, k) for k, c in asked.items() if c}
    faults = Faults(path, table.lines, form.bad_rows)
    faults.uneven(table.uneven, len(table.columns))
    columns.ids(texts["user"], "user", faults)
    columns.ids(texts["item"], "item", faults)
    ratings = columns.ratings(texts["rating"], form.scale, faults) if form.rating else None
    times = columns.times(texts["time"], faults) if form.time else None
    notes = {"rows read": len(table) + len(table.uneven), **faults.settle()}
    good, labels = faults.good, None
    if form.event:
        labels = columns.labels(texts["event"], form.events, form.unknown_events, faults)
        notes["rows dropped, event type not in events"] = int((good & (labels < 0)).sum())
        good = good & (labels >= 0)
        counts = Counter(itertools.compress(texts["event"], good))
        notes.update({f"rows with event {event}": counts[event] for event in form.events})
    keep = np.flatnonzero(good)
    return Log(_pick(texts["user"], keep), _pick(texts["item"], keep),
               None if ratings is None else ratings[keep], None if times is None else times[keep],
               None if labels is None else labels[keep],
               where=functools.partial(_place, path, table.lines[keep]), notes=notes)


def _read_lists(path: Path, form: Format) -> Log:
    """Lines of a user and all its items; a user alone has none, which is counted."""
    rows, lines = read_lists(path, separator=form.separator, encoding=form.encoding)
    sizes = np.array([len(row) - 1 for row in rows], np.int64)
    users = [row[0] for row in rows for _ in row[1:]]
    items = [item for row in rows for item in row[1:]]
    of = np.repeat(lines, sizes)
    faults = Faults(path, of, form.bad_rows)
    columns.ids(users, "user", faults)
    columns.ids(items, "item", faults)
    notes = {"rows read": len(users), **faults.settle(),
             "users listed without items": int((sizes == 0).sum())}
    keep = np.flatnonzero(faults.good)
    return Log(_pick(users, keep), _pick(items, keep),
               where=functools.partial(_place, path, of[keep]), notes=notes)


def _place(path: Path, lines: Ints, row: int) -> tuple[Path, int]:
    return path, int(lines[row])


def _pick(texts: Sequence[str], keep: Ints) -> Sequence[str]:
    return texts if len(keep) == len(texts) else [texts[n] for n in keep]


def _find(logs: list[Log], ends: Ints, row: int) -> tuple[Path, int]:
    n = int(np.searchsorted(ends, row, side="right"))
    place = logs[n].where
    assert place is not None
    return place(row - (int(ends[n - 1]) if n else 0))


def _join(columns: Sequence[npt.NDArray[Number] | None]) -> npt.NDArray[Number] | None:
    given = [c for c in columns if c is not None]
    return np.concatenate(given) if given else None
