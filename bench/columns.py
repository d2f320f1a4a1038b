"""Columns of text turned into ids, numbers, times and labels; and what happens to broken rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.data import Floats, Ints
from bench.errors import InputError, nearest
from bench.filtering import Labels, Mask
from bench.tables import is_number

LARGEST_RATING = 1e6
"""A rating beyond ±1e6 is no rating: most likely the column holds times or ids."""


class Faults:
    """The broken rows of one file: refused with the first one's line, or dropped and counted.

    Args:
        path: the file, for messages.
        lines: line of each row, shape (rows,).
        rule: "error" or "drop".
    """

    def __init__(self, path: Path, lines: Ints, rule: str) -> None:
        self.path, self.lines, self.rule = path, lines, rule
        self.good: Mask = np.ones(len(lines), bool)
        self.notes: dict[str, int] = {}
        self._found: list[tuple[int, str]] = []

    def uneven(self, widths: Mapping[int, int], width: int) -> None:
        """Lines that were left out while reading, since they have another number of fields."""
        for line, fields in widths.items():
            self._found.append((line, f"{fields} field{'s' * (fields != 1)} where the first line "
                                      f"has {width}"))
        if widths:
            self.notes["rows dropped, wrong number of fields"] = len(widths)

    def add(self, bad: Mask, reason: str, texts: Sequence[str]) -> None:
        """Rows broken for a reason; a row counts under its first."""
        bad = bad & self.good
        if not bad.any():
            return
        first = int(np.argmax(bad))
        self._found.append((int(self.lines[first]), f"{reason}: {_short(texts[first])}"))
        self.notes[f"rows dropped, {reason}"] = int(bad.sum())
        self.good &= ~bad

    def settle(self) -> dict[str, int]:
        """The counts by reason; raises InputError where broken rows are an error, or all are."""
        broken = sum(self.notes.values())
        if broken and (self.rule == "error" or not self.good.any()):
            line, what = min(self._found)
            more = "" if broken == 1 else f"; {broken:,} rows are broken in all"
            hint = "mend the file, or set bad_rows: drop" if self.rule == "error" else \
                "no sound row is left: check the separator, the header and the columns"
            raise InputError(what + more, file=self.path, line=line, hint=hint)
        return self.notes


def numbers(texts: Sequence[str]) -> Floats:
    """Each text as a number, NaN where it is none."""
    try:
        if "_" not in "".join(texts):
            return np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        pass  # some are not numbers: one by one
    return np.array([float(t) if is_number(t) else math.nan for t in texts], np.float64)


def ids(texts: Sequence[str], what: str, faults: Faults) -> Sequence[str]:
    """User or item ids; an empty one is a broken row."""
    if "" in texts:
        faults.add(np.array([not t for t in texts]), f"empty {what} id", texts)
    return texts


def ratings(texts: Sequence[str], scale: tuple[float, ...], faults: Faults) -> Floats:
    """Ratings: finite numbers, on the scale where one is stated, at most LARGEST_RATING."""
    values = numbers(texts)
    faults.add(~np.isfinite(values), "rating is not a finite number", texts)
    low, high = scale if scale else (-LARGEST_RATING, LARGEST_RATING)
    with np.errstate(invalid="ignore"):
        faults.add((values < low) | (values > high),
                   f"rating is outside {low:g} to {high:g}", texts)
    return values


def times(texts: Sequence[str], faults: Faults) -> Floats:
    """Times: numbers (of any unit; negative ones are before 1970), or ISO dates, read as UTC.

    One file holds one kind. Numbers are taken as they are: only their order matters to a split.
    """
    values = numbers(texts)
    unread = np.flatnonzero(np.isnan(values)).tolist()
    dated = [n for n in unread if _is_date(texts[n])]
    if dated and np.isfinite(values).any():
        number = int(np.argmax(np.isfinite(values)))
        raise InputError(f"the time is a date here, {texts[dated[0]]!r}, and a number on line "
                         f"{faults.lines[number]}, {texts[number]!r}", file=faults.path,
                         line=int(faults.lines[dated[0]]), key="time",
                         hint="write all times of a file in one way")
    for n in dated:
        values[n] = _seconds(texts[n])
    faults.add(~np.isfinite(values), "time is neither a finite number nor an ISO date", texts)
    return values


def labels(texts: Sequence[str], mapping: Mapping[str, int], unknown: str,
           faults: Faults) -> Labels:
    """1 or 0 by event type; -1 for a type not in the mapping, which `unknown` may refuse."""
    strange = {t for t in texts if t not in mapping}
    if strange and unknown == "error":
        row = next(n for n, t in enumerate(texts) if t in strange)
        raise InputError(f"event {_short(texts[row])} is not in events", file=faults.path,
                         line=int(faults.lines[row]), key="events",
                         hint=f"{nearest(texts[row], mapping)}; or set unknown_events: drop")
    return np.fromiter((mapping.get(t, -1) for t in texts), np.int8, len(texts))


def event_labels(events: Sequence[str]) -> dict[str, int]:
    """{"purchase": 1, "browse": 0} from ("purchase=1", "browse=0")."""
    found: dict[str, int] = {}
    for text in events:
        name, equals, label = text.rpartition("=")
        if not equals or not name.strip() or label.strip() not in ("0", "1"):
            raise InputError(f"{text!r} gives no event type its label", key="events",
                             hint="such as purchase=1 for liked and browse=0 for not")
        if name.strip() in found:
            raise InputError(f"event {name.strip()!r} is given twice", key="events")
        found[name.strip()] = int(label)
    if found and 1 not in found.values():
        raise InputError("no event counts as liked", key="events",
                         hint="give one the label 1, such as purchase=1")
    return found


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _short(text: str) -> str:
    """The text in quotes, cut where it is long."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
