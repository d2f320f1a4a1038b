"""One shown cell, one table, and how numbers are written: shared by all media."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench._cells import Spec
from bench.flags import MARKS
from bench.leaderboard import Estimate
from bench.plugin import show

NONE = "–"


@dataclass(frozen=True)
class View:
    """One cell as it is shown.

    Attributes:
        text: the value, short. interval: "[low, high]" or "". change: "−13.0%" or "".
        half: "±0.0110", half the interval's width, where no change is shown.
        stars: marks of tests. flags: codes of flags. full: whole sentence for a tooltip.
        sort: a number to sort by, or None for the text. status: "ok", "skipped", "failed", …
        note: number of a footnote, or 0. aside: what the terminal has no room for.
    """

    text: str
    interval: str = ""
    change: str = ""
    half: str = ""
    stars: str = ""
    flags: tuple[str, ...] = ()
    full: str = ""
    sort: float | None = None
    status: str = "ok"
    note: int = 0
    aside: str = ""

    def marks(self) -> str:
        """Letters of flags and number of the footnote, in brackets."""
        found = [MARKS[f] for f in self.flags] + ([str(self.note)] if self.note else [])
        return f"[{','.join(found)}]" if found else ""


@dataclass
class Table:
    """A titled table; `fixed` leading columns name the row and repeat where it is split."""

    title: str
    headers: list[str]
    rows: list[list[View]]
    fixed: int = 2
    numeric_from: int = 2
    notes: list[str] = field(default_factory=list)
    kind: str = ""


def number(value: float, digits: int = 4) -> str:
    """A value with four decimals, a dash where there is none."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A value with three significant digits and no exponent where it is readable without."""
    if not math.isfinite(value):
        return number(value)
    if value == 0 or 1e-3 <= abs(value) < 1e12:
        shown = f"{value:.{digits}g}"
        return f"{value:,.0f}" if "e" in shown else shown
    return f"{value:.1e}"


def interval(e: Estimate, digits: int = 4) -> str:
    if math.isnan(e.low) or math.isnan(e.high):
        return ""
    return f"[{number(e.low, digits)}, {number(e.high, digits)}]"


def half(e: Estimate) -> str:
    return "" if math.isnan(e.low) or math.isnan(e.high) else f"±{(e.high - e.low) / 2:.4f}"


def percent(value: float, digits: int = 1) -> str:
    """A relative change with its sign."""
    if math.isnan(value):
        return NONE
    text = f"{100 * value:+.{digits}f}"
    return f"{abs(value):.{digits}f}%" if not float(text) else f"{text}%".replace("-", "−")


def signed(value: float) -> str:
    """A difference with its sign."""
    return NONE if math.isnan(value) else f"{value:+.4f}".replace("-", "−")


def p_value(p: float) -> str:
    return NONE if math.isnan(p) else ("<0.0001" if p < 1e-4 else f"{p:.4f}")


def short_labels(specs: Mapping[str, Spec]) -> dict[str, str]:
    """Label -> the name, with only those parameters that tell it from its namesakes."""
    made = {}
    for label, spec in specs.items():
        same = [s for s in specs.values() if s.name == spec.name]
        differ = [k for k in spec.params
                  if len({repr(s.params.get(k)) for s in same}) > 1]
        inside = ", ".join(f"{k}={show(spec.params[k])}" for k in differ)
        made[label] = f"{spec.name}({inside})" if inside else spec.name
    return made
