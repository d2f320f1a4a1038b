"""The leaderboard of a run folder: in the terminal, as Markdown, CSV, LaTeX and HTML.

    python -m bench report results/quickstart

Everything is computed from the cells; nothing is kept between reports.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import stats
from bench._board_tables import ABOUT, Builder
from bench._board_view import Table, View
from bench._cells import load
from bench._flags_common import Flag
from bench.errors import InputError
from bench.flags import find
from bench.leaderboard import Board, Entry, Estimate, Test, build
from bench.results import LONG, long_rows
from bench.store import write_atomically, write_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDTH = 100
FILES_ONLY = ("attack-cost",)  # a line per row and attack: too long for a terminal
CSV_COLUMNS = (
    "dataset", "model", "defense", "attack", "status", "reason", "seeds_asked", "seeds_ok",
    "metric", "group", "mean", "low", "high", "seed_sd", "basis", "versus", "difference",
    "difference_low", "difference_high", "effect", "users", "test", "p", "p_holm", "flags")


def report(run_dir: Path, *, console: Console | None = None, draws: int = stats.DRAWS) -> int:
    """Rewrite results.parquet and leaderboard.md, .csv, .tex, .html; print the tables.

    Args:
        run_dir: a run folder with cells/.
        console: where to print; the terminal if not given.
        draws: resamples behind the intervals.

    Returns:
        0 if all cells are ok or skipped, 1 if some failed.

    Raises:
        InputError: the folder is no run, one of its files cannot be read, or nothing can be
            written there.
    """
    from bench.html import html

    board = build(load(Path(run_dir)), draws)
    flags = find(board)
    builder = Builder(board, flags)
    try:
        write_long(board)
        write_atomically(board.run.path / "leaderboard.md", markdown(builder))
        write_atomically(board.run.path / "leaderboard.csv", leaderboard_csv(board, flags))
        write_atomically(board.run.path / "leaderboard.tex", latex(builder))
        write_atomically(board.run.path / "leaderboard.html", html(builder))
    except OSError as error:
        raise InputError(f"the leaderboard cannot be written: {error.strerror}",
                         file=board.run.path, hint="make the folder writable") from error
    show(builder, console)
    return int(any(cell.status in ("failed", "timeout") for cell in board.run.cells))


def summary(board: Board) -> str:
    """How many cells, and how they ended, in one line."""
    counts = {s: sum(c.status == s for c in board.run.cells)
              for s in ("ok", "skipped", "failed", "timeout")}
    parts = [f"{n} {status}" for status, n in counts.items() if n]
    if board.run.waiting:
        parts.append(f"{board.run.waiting} not run yet")
    seeds = ", ".join(map(str, board.run.seeds))
    return f"{len(board.run.cells)} cells: {', '.join(parts)}; seeds {seeds}"


# -- terminal ----------------------------------------------------------------------------------

def show(builder: Builder, console: Console | None = None) -> None:
    """Print all tables, each at most 100 columns wide: wider ones are split by columns."""
    from rich.console import Console

    to = console or Console()
    if console is None and not to.is_terminal:
        to = Console(width=WIDTH)  # a file or a pipe says nothing about its width
    width = min(WIDTH, to.width)
    to.print(f"\n[bold]{_plain(builder.board.run.name)}[/bold]  {_plain(summary(builder.board))}")
    for table in builder.tables():
        if table.kind in FILES_ONLY:
            continue
        for part in _split(table, width):
            to.print(_rich(part))
        for note in table.notes:
            to.print(_plain(note), style="dim", width=width, highlight=False)
    to.print()
    for line in builder.flag_lines(most=3):
        to.print(_plain(line), style="yellow", width=width, highlight=False)
    for line in ABOUT:
        to.print(_plain(line), style="dim", width=width, highlight=False)
    to.print(f"Written: {_plain(str(builder.board.run.path))}/leaderboard.md .csv .tex .html "
             "(all intervals, tests, costs and plots)", highlight=False)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def compact(view: View) -> str:
    """A cell in one line: value, change or half the interval, stars, marks."""
    return f"{view.text} {view.change or view.half}".strip() + view.stars + view.marks()


def _split(table: Table, width: int) -> Iterator[Table]:
    """The table in parts that fit, each with the leading columns again."""
    widths = [max([len(compact(row[c])) for row in table.rows]
                  + [len(word) for word in re.split(r"[ ,(]", table.headers[c])])
              for c in range(len(table.headers))]
    widths = [min(w, 26) if c < table.fixed or table.kind == "threats" else w
              for c, w in enumerate(widths)]
    room = width - sum(w + 2 for w in widths[:table.fixed]) - 2
    chunk: list[int] = []
    chunks = [chunk]
    for c in range(table.fixed, len(table.headers)):
        if chunk and table.kind != "threats" and sum(widths[i] + 2 for i in chunk) \
                + widths[c] + 2 > room:
            chunk = []
            chunks.append(chunk)
        chunk.append(c)
    for n, part in enumerate(chunks):
        keep = [*range(table.fixed), *part]
        title = table.title + (f" ({n + 1} of {len(chunks)})" if len(chunks) > 1 else "")
        yield Table(title, [table.headers[c] for c in keep],
                    [[row[c] for c in keep] for row in table.rows], table.fixed,
                    table.numeric_from, kind=table.kind)


def _rich(table: Table) -> Any:
    from rich import box
    from rich import table as rich_table

    made = rich_table.Table(title=_plain(table.title), title_justify="left", box=box.SIMPLE_HEAD,
                            title_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for c, header in enumerate(table.headers):
        right = c >= table.numeric_from
        head = header.replace("(", " (")
        if right:  # these columns do not wrap, so their headers are broken here
            cells = max((len(compact(row[c])) for row in table.rows), default=1)
            head = textwrap.fill(head, max(cells, *(len(word) for word in head.split())),
                                 break_long_words=False, break_on_hyphens=False)
        made.add_column(_plain(head), justify="right" if right else "left",
                        no_wrap=right, overflow="fold",
                        max_width=26 if c < table.fixed else None)
    previous = ""
    for row in table.rows:
        texts = [_styled(view) for view in row]
        if row[0].text == previous and table.kind != "threats":
            texts[0].plain = row[0].marks()  # the model stands once above its defenses
        previous = row[0].text
        made.add_row(*texts)
    return made


def _styled(view: View) -> Text:
    from rich.text import Text

    style = {"failed": "bold red", "timeout": "bold red", "skipped": "dim",
             "absent": "dim"}.get(view.status, "")
    text = Text(compact(view), style=style)
    if view.marks() and view.status == "ok":
        text.highlight_words([view.marks()], style="yellow")
    return text


# -- Markdown and LaTeX ------------------------------------------------------------------------

def markdown(builder: Builder) -> str:
    """The leaderboard as GitHub's Markdown, intervals and tests included."""
    board = builder.board
    lines = [f"# {_md(board.run.name)}", "", summary(board) + ".", ""]
    tables = [*builder.tables(), *(t for t in [builder.tests()] if t is not None)]
    for table in tables:
        lines += [f"## {_md(table.title)}", "",
                  "| " + " | ".join(_md(h) for h in table.headers) + " |",
                  "|" + "|".join("---:" if c >= table.numeric_from else "---"
                                 for c in range(len(table.headers))) + "|"]
        lines += ["| " + " | ".join(_md_cell(view) for view in row) + " |" for row in table.rows]
        lines += ["", *(f"{_md(note)}  " for note in table.notes), ""]
    flags = builder.flag_lines()
    lines += ["## Flags", "", *([f"- {_md(line)}" for line in flags] or ["none"]), "",
              "## How to read this", "", *(f"- {_md(line)}" for line in ABOUT), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _md(text: str) -> str:
    text = " ".join(text.split())
    return re.sub(r"([\\|*_<>`\[\]~#])", r"\\\1", text)


def _md_cell(view: View) -> str:
    text = _md(view.text)
    if view.status in ("failed", "timeout"):
        text = f"**{text}**"
    parts = [text + _md(view.stars), _md(view.change), _md(view.aside), _md(view.interval),
             _md(view.marks())]
    return " ".join(p for p in parts if p)


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "−": r"$-$", "–": "--", "†": r"$^{\dagger}$", "*": r"$^{*}$", "ε": r"$\varepsilon$",
        "δ": r"$\delta$", "∞": r"$\infty$", "<": r"$<$", ">": r"$>$", "±": r"$\pm$",
        "λ": r"$\lambda$", "…": r"\dots{}"}


def tex_escape(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_TEX.get(ch, ch) for ch in " ".join(text.split()))


def latex(builder: Builder) -> str:
    """The tables with booktabs, one `table` each; needs \\usepackage{booktabs,graphicx}."""
    lines = ["% \\usepackage{booktabs,graphicx}", f"% {summary(builder.board)}", ""]
    for n, table in enumerate(builder.tables()):
        columns = "".join("r" if c >= table.numeric_from else "l"
                          for c in range(len(table.headers)))
        notes = " ".join([*table.notes, *(ABOUT[:3] if table.kind == "accuracy" else ())])
        caption = f"{table.title}. {notes}".strip()
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{tex_escape(caption)}}}",
                  rf"\label{{tab:{table.kind}-{n + 1}}}",
                  r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                  rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
                  " & ".join(tex_escape(h) for h in table.headers) + r" \\", r"\midrule"]
        lines += [" & ".join(tex_escape(compact(view)) for view in row) + r" \\"
                  for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    flags = builder.flag_lines()
    if flags:
        lines += [r"\begin{itemize}", *(rf"\item {{}}{tex_escape(line)}" for line in flags),
                  r"\end{itemize}", ""]
    return "\n".join(lines)


# -- data --------------------------------------------------------------------------------------

def leaderboard_csv(board: Board, flags: list[Flag]) -> str:
    """One row per entry, metric and group, at full precision: what the tables show, and the
    rest. Tests stand in rows of their metric named `versus none` or `versus undefended`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in board.entries.values():
        codes = [f.code for f in flags if f.row == entry.row and f.attack in (entry.attack, None)]
        head = [*entry.row, entry.attack, entry.status, entry.reason, len(board.run.seeds),
                len(entry.ok)]
        for metric, group, estimate, sd, versus, test in _csv_rows(board, entry):
            cells = [estimate.mean, estimate.low, estimate.high, sd, estimate.basis]
            if test is not None:
                t = test.paired
                cells += [versus, t.difference, test.low, test.high, t.effect, t.users, t.test,
                          t.p, test.holm]
            else:
                cells += [""] * 9
            writer.writerow([_exact(c) for c in [*head, metric, group, *cells,
                                                 ";".join(dict.fromkeys(codes))]])
    for row, cases in board.worst_cases.items():
        for case in cases:
            head = [*row, f"worst of {case.family}", "ok", "", len(board.run.seeds),
                    len(case.seeds)]
            leading = board.metric[row[0]]
            for metric, e in ((leading, case.value), (f"{leading}-drop", case.drop)):
                writer.writerow([_exact(c) for c in [*head, metric, "all", e.mean, e.low, e.high,
                                                     math.nan, e.basis, *[""] * 10]])
    return out.getvalue()


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return value


def _csv_rows(board: Board, e: Entry
              ) -> Iterator[tuple[str, str, Estimate, float, str, Test | None]]:
    leading = board.metric[e.row[0]]
    if not e.ok:
        yield "", "", Estimate(math.nan, basis=""), math.nan, "", None
        return
    for metric, group in dict.fromkeys(k for c in e.ok.values() for k in c.values):
        values = e.seed_values(metric, group)
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        estimate = Estimate(float(np.mean(values)), *stats.seed_interval(values), len(values))
        if (metric, group) == (leading, "all") and e.value is not None:
            estimate = e.value
        yield metric, group, estimate, sd, "", None
        if (metric, group) == (leading, "all"):
            for versus, test in (("no attack", e.against_clean),
                                 ("no defense", e.against_undefended)):
                if test is not None:
                    yield metric, group, estimate, sd, versus, test
    if e.drop is not None:
        yield f"{leading}-drop", "all", e.drop, math.nan, "", None
    for metric, lift in e.lifts.items():
        yield f"{metric}-lift", "all", lift, math.nan, "", None
    for attribute, gap in e.gaps.items():
        yield f"{leading}-gap:{attribute}", "all", gap.gap, math.nan, "", None
        yield (f"{leading}-worst:{attribute}", f"{attribute}={gap.worst}", gap.worst_value,
               math.nan, "", None)
    for name in sorted({k for c in e.ok.values() for k in c.privacy}):
        found = [c.privacy[name] for c in e.ok.values() if isinstance(
            c.privacy.get(name), (int, float)) and not isinstance(c.privacy[name], bool)]
        if found:
            yield name, "all", Estimate(float(np.mean(found)), seeds=len(found)), math.nan, "", None
    for name, key in (("train-seconds", "train_seconds"),
                      ("train-samples-per-s", "train_samples_per_s"),
                      ("score-users-per-s", "score_users_per_s"),
                      ("attack-seconds", "attack_seconds"), ("queries", "queries"),
                      ("defense-seconds", "defense_seconds"),
                      ("peak-memory-mb", "peak_memory_mb")):
        found = [float(c.cost[key]) for c in e.ok.values()
                 if isinstance(c.cost.get(key), (int, float))]
        if found:
            yield name, "all", Estimate(float(np.mean(found)), seeds=len(found)), math.nan, "", None


def write_long(board: Board) -> None:
    """results.parquet: the cells' values and, per seed, what is derived from them."""
    from bench._estimates import seed_derived

    rows = []
    for entry in board.entries.values():
        for cell in entry.cells.values():
            rows += long_rows(cell.raw)
            head = (*entry.row, entry.attack, cell.seed, cell.status)
            rows += [(*head, metric, "all", value)
                     for metric, value in seed_derived(board, entry, cell.seed)]
    for row, cases in board.worst_cases.items():
        rows += [(*row, f"worst of {case.family}", seed, "ok", board.metric[row[0]], "all", value)
                 for case in cases for seed, value in case.seeds.items()]
    columns: dict[str, Any] = {}
    for at, name in enumerate(LONG):
        kind: Any = {"seed": np.int64, "value": np.float64}.get(name, object)
        columns[name] = np.array([row[at] for row in rows], kind)
    write_table(board.run.path / "results.parquet", columns)

