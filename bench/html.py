"""The leaderboard as one HTML file that asks nothing of the network: tables, plots, run facts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench._board_tables import ABOUT, Builder
from bench._board_view import number
from bench.flags import EXPLAINED, MARKS
from bench.leaderboard import Entry, Estimate

WIDTH, LEFT, RIGHT, LINE = 760, 230, 24, 9
COLOURS = 8  # --s0 to --s7 in the template
CORNERS: dict[int, list[tuple[float, float]]] = {
    1: [(-1, -1), (1, -1), (1, 1), (-1, 1)], 2: [(0, -1.2), (1.2, 0.9), (-1.2, 0.9)],
    3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)], 4: [(0, 1.2), (1.2, -0.9), (-1.2, -0.9)]}


@dataclass(frozen=True)
class Point:
    """A value with its interval in one line of a plot."""

    series: int
    estimate: Estimate
    label: str


def html(builder: Builder) -> str:
    """The whole page."""
    from bench.report import summary

    env = Environment(loader=PackageLoader("bench", "templates"), autoescape=True,
                      undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    board = builder.board
    grid = board.run.path / "grid.yaml"
    environment = board.run.environment
    command = environment.get("command")
    return env.get_template("leaderboard.html").render(
        name=board.run.name, summary=summary(board), tables=builder.tables(),
        tests=builder.tests(), flags=builder.flag_lines(), about=ABOUT, plots=plots(builder),
        marks=MARKS, explained=EXPLAINED, shape=shape,
        command=" ".join(map(str, command)) if isinstance(command, list) else command,
        environment=json.dumps(environment, indent=1, ensure_ascii=False) if environment else "",
        grid=_text(grid), links=("leaderboard.csv", "leaderboard.md",
                                   "leaderboard.tex", "results.parquet"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def plots(builder: Builder) -> list[tuple[str, Markup, list[str]]]:
    """(caption, drawing, names of the series) of each plot."""
    board = builder.board
    made: list[tuple[str, Markup, list[str]]] = []
    for dataset in board.datasets:
        name, metric = builder.short["dataset"][dataset], board.metric[dataset]
        attacks = board.attacks(dataset)
        series = ["none", *attacks]
        lines: list[tuple[str, list[Point]]] = []
        lifts: list[tuple[str, list[Point]]] = []
        points: list[tuple[str, Entry, Entry]] = []
        for row in board.live_rows(dataset):
            label = " / ".join((builder.short["model"][row[1]], builder.short["defense"][row[2]]))
            entries = [(n, board.entries.get((row, a))) for n, a in enumerate(series)]
            found = [Point(n, e.value, f"{label}, {series[n]}") for n, e in entries
                     if e is not None and e.value is not None]
            if found:
                lines.append((label, found))
            pushed = [Point(n, lift, f"{label}, {series[n]}, {m}") for n, e in entries
                      if e is not None for m, lift in list(e.lifts.items())[:1]]
            if pushed:
                lifts.append((label, pushed))
            clean, worst = board.clean(row), board.worst(row)
            if clean is not None and worst is not None:
                points.append((label, clean, worst))
        names = [builder.short["attack"].get(a, a) for a in series]
        if lines:
            used = {p.series for _, found in lines for p in found}
            made.append((f"{name}: {metric} under each attack, with 95 % intervals",
                         dots(lines, metric), [n if i in used else "" for i, n in
                                               enumerate(names)]))
        if lifts:
            drawn = dict.fromkeys(m for row in board.live_rows(dataset) for e in board.of(row)
                                  for m in list(e.lifts)[:1])
            used = {p.series for _, found in lifts for p in found}
            made.append((f"{name}: lift of target exposure ({', '.join(drawn)}) over no attack",
                         dots(lifts, "lift", zero=True),
                         [n if i in used else "" for i, n in enumerate(names)]))
        if points:
            made.append((f"{name}: accuracy against robustness (worst {metric} over the attacks "
                         "that aim at accuracy); on the line nothing is lost",
                         scatter(points, metric), []))
    return made


def _ends(values: Sequence[float], zero: bool) -> tuple[float, float]:
    known = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = 0.04 * (high - low) or 0.05
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """About five round values inside."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next((f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 6), 10)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _tick(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".").replace("-", "−") or "0"


def dots(lines: Sequence[tuple[str, Sequence[Point]]], axis: str, zero: bool = False) -> Markup:
    """A dot plot: one band per row, one line per series, whiskers for the intervals."""
    estimates = [p.estimate for _, found in lines for p in found]
    low, high = _ends([v for e in estimates for v in (e.mean, e.low, e.high)], zero)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    bands = [max(22, LINE * len(line[1]) + 8) for line in lines]
    height = 14 + sum(bands) + 34
    title = f"{axis} by model and defense"
    out = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        WIDTH, height, title, title)]
    for n, band in enumerate(bands):
        if n % 2 == 0:
            out.append(Markup('<rect class="band" x="0" y="{}" width="{}" height="{}"/>').format(
                14 + sum(bands[:n]), WIDTH, band))
    for tick in _ticks(low, high):
        out.append(Markup('<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{y}"/>'
                          '<text class="tick" x="{x:.1f}" y="{t}">{label}</text>').format(
            x=x(tick), y=height - 34, t=height - 18, label=_tick(tick)))
    if zero:
        out.append(Markup('<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{y}"/>')
                   .format(x=x(0.0), y=height - 34))
    out.append(Markup('<text class="tick" x="{}" y="{}">{}</text>').format(
        (LEFT + WIDTH - RIGHT) / 2, height - 3, axis))
    top = 14.0
    for (label, found), band in zip(lines, bands, strict=True):
        shown = label if len(label) <= 36 else label[:35] + "…"
        out.append(Markup('<text class="name" x="{}" y="{:.1f}">{}<title>{}</title></text>')
                   .format(LEFT - 10, top + band / 2 + 4, shown, label))
        for k, point in enumerate(found):
            y = top + (band - LINE * len(found)) / 2 + LINE * (k + 0.5)
            out.append(_mark(point, x, y))
        top += band
    return Markup("").join([*out, Markup("</svg>")])


def _mark(point: Point, x: Callable[[float], float], y: float) -> Markup:
    e = point.estimate
    if not math.isfinite(e.mean):
        return Markup("")
    ends = "" if math.isnan(e.low) else f" [{number(e.low)}, {number(e.high)}]"
    whisker = Markup("") if math.isnan(e.low) else Markup(
        '<line x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
        x(e.low), x(e.high), y=y)
    return Markup('<g class="s{}"><title>{}: {}{}</title>{}{}</g>').format(
        point.series % COLOURS, point.label, number(e.mean), ends, whisker,
        shape(point.series, x(e.mean), y))


def shape(series: int, x: float, y: float, r: float = 4.0) -> Markup:
    """A marker: colours repeat after eight series, shapes differ so that colour is not needed."""
    kind = series % 5
    if kind == 0:
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, r)
    corners = CORNERS[kind]
    where = " ".join(f"{x + r * 0.9 * a:.1f},{y + r * 0.9 * b:.1f}" for a, b in corners)
    return Markup('<polygon points="{}"/>').format(where)


def scatter(points: Sequence[tuple[str, Entry, Entry]], metric: str) -> Markup:
    """Clean accuracy (x) against the worst under attack (y), with the line of no loss."""
    values = [v for _, clean, worst in points for e in (clean.value, worst.value) if e is not None
              for v in (e.mean, e.low, e.high)]
    low, high = _ends(values, False)
    size, left, top = 420, 60, 12
    width = left + size + 200

    def at(value: float) -> float:
        return (value - low) / (high - low) * size

    title = f"worst {metric} under attack against clean {metric}"
    out = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        width, size + top + 44, title, title)]
    base = float(top + size)
    for tick in _ticks(low, high):
        out.append(Markup(
            '<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}"/>'
            '<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{x:.1f}" y="{under}">{label}</text>'
            '<text class="name" x="{before}" y="{beside:.1f}">{label}</text>').format(
            x=left + at(tick), y=base - at(tick), top=top, base=base, left=left,
            right=left + size, under=base + 16, before=left - 6, beside=base - at(tick) + 4,
            label=_tick(tick)))
    out.append(Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        left, base, left + size, top))
    out.append(Markup('<text class="tick" x="{}" y="{}">clean {}</text>').format(
        left + size / 2, base + 34, metric))
    taken: list[float] = []
    for n, (label, clean, worst) in enumerate(sorted(
            points, key=lambda p: -(p[2].value.mean if p[2].value else 0.0))):
        a, b = clean.value, worst.value
        assert a is not None
        assert b is not None
        x, y = left + at(a.mean), base - at(b.mean)
        beside = max(y + 4, taken[-1] + 12) if taken else y + 4
        taken.append(beside)
        cross = Markup("")
        if not math.isnan(a.low) and not math.isnan(b.low):
            cross = Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                           '<line x1="{x:.1f}" x2="{x:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                left + at(a.low), left + at(a.high), base - at(b.low), base - at(b.high), x=x, y=y)
        out.append(Markup(
            '<g class="s{}"><title>{}: clean {}, {} under {}</title>{}{}</g>'
            '<line class="lead" x1="{:.1f}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>'
            '<text class="label" x="{}" y="{:.1f}">{}</text>').format(
            n % COLOURS, label, number(a.mean), number(b.mean), worst.attack, cross,
            shape(n, x, y), x, y, left + size + 8, beside - 4, left + size + 10, beside,
            label if len(label) <= 32 else label[:31] + "…"))
    return Markup("").join([*out, Markup("</svg>")])
