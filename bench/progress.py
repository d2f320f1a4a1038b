"""What a run shows while it works: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results import AXES

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

MARKS = {"ok": "ok", "failed": "FAILED", "timeout": "TIMEOUT", "skipped": "skipped"}
_QUIET = 15.0  # seconds between plain lines about a training that goes on


def name_of(header: Mapping[str, Any], axes: Sequence[str] = AXES,
            short: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A cell, or its training, in words; with shorter labels of each axis where they are given
    ("" leaves the axis out)."""
    labels = [header[a]["label"] for a in axes]
    if short:
        labels = [short[a].get(label, label) for a, label in zip(axes, labels, strict=True)]
    return " · ".join([*filter(None, labels), f"seed {header['seed']}"])


def short_names(headers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Axis -> label -> a label that still tells it from the others: the parameters in which
    namesakes differ; nothing at all where a dataset or a defense is the only one."""
    from bench._board_view import short_labels
    from bench._cells import Spec

    made = {}
    for axis in AXES:
        specs = {h[axis]["label"]: Spec(**h[axis]) for h in headers}
        if axis == "dataset":  # a label may be what the user calls the data
            made[axis] = {label: label for label in specs}
        else:
            made[axis] = short_labels(specs)
        if axis in ("dataset", "defense") and len(specs) == 1:
            made[axis] = dict.fromkeys(specs, "")
    return made


def duration(seconds: float) -> str:
    """A duration as a person says it: 8 s, 3 min, 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Follows the events of a run's jobs.

    Args:
        jobs: what will run, as JSON.
        done, total: cells finished already, and all cells.
        headers: of all cells of the plan, which names must tell apart; those of the jobs if
            empty.
    """

    def __init__(self, jobs: Sequence[Mapping[str, Any]], done: int, total: int,
                 headers: Sequence[Mapping[str, Any]] = ()) -> None:
        self.done, self.total = done, total
        own = [c["header"] for j in jobs for c in j["cells"]]
        short = short_names(headers or own) if jobs else {}
        self._cells = {h["key"]: name_of(h, short=short) for h in own}
        self._names = {}
        for job in jobs:
            header = job["cells"][0]["header"]
            axes = AXES if job["poison"] else AXES[:-1]  # probes share the clean training
            self._names[job["train_key"]] = name_of(header, axes, short)
        self._weights = {j["train_key"]: float(j["estimate"]) for j in jobs}
        self._parts: dict[str, float] = {}  # share of each job that is done
        self._begin = time.monotonic()
        self._said: dict[str, float] = {}
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        if jobs and sys.stderr.isatty():
            self._open()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # what changes stands first, and the names give way: a narrow terminal cuts them
        self._bars = Progress(
            BarColumn(bar_width=20), TextColumn("{task.fields[text]}", markup=False),
            TextColumn("{task.description}", markup=False,
                       table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True), transient=True, expand=True)
        self._bars.start()
        self._all = self._bars.add_task("cells", total=self.total, completed=self.done,
                                        text=f"{self.done}/{self.total}")

    def left(self) -> float | None:
        """Seconds left, by the estimates of the jobs and the time so far; None at the start."""
        whole = sum(self._weights.values())
        done = sum(self._weights[k] * part for k, part in self._parts.items())
        passed = time.monotonic() - self._begin
        if done < 0.02 * whole or passed < 2:  # too early to tell
            return None
        return passed * (whole - done) / done

    def tell(self, event: Mapping[str, Any]) -> None:
        """Show one event of a job (see `bench.jobs.Tell`)."""
        job, what = event["job"], event["event"]
        if what == "start":
            self._show(job, "starts")
        elif what == "epoch":
            share = event["epoch"] / max(event["epochs"], 1)
            self._parts[job] = 0.9 * share
            score = "" if event.get("score") is None else f", validation {event['score']:.4f}"
            self._show(job, f"epoch {event['epoch']} of at most {event['epochs']}{score}", share)
        elif what == "trained":
            self._parts[job] = 0.9
            self._show(job, "model from the cache" if event["cached"] else
                       f"trained in {duration(event['seconds'])}", 1.0)
        elif what == "cell":
            self.done += 1
            self._line(event)
        elif what == "note":
            self.say(f"note: {event['text']}")
        elif what in ("end", "lost"):
            self._parts[job] = 1.0
            if self._bars is not None and job in self._tasks:
                self._bars.remove_task(self._tasks.pop(job))

    def _line(self, event: Mapping[str, Any]) -> None:
        left = self.left()
        text = (f"[{self.done}/{self.total}] {MARKS[event['status']]:7} "
                f"{self._cells[event['key']]}"
                + (f": {event['reason']}" if event["reason"] else ""))
        if self._bars is None:
            self.say(text + (f"  ({duration(left)} left)" if left and left > 5 else ""))
            return
        if event["status"] != "ok":
            self.say(text)
        assert self._all is not None
        self._bars.update(self._all, completed=self.done,
                          text=f"{self.done}/{self.total}"
                          + (f", {duration(left)} left" if left is not None else ""))

    def _show(self, job: str, text: str, share: float | None = None) -> None:
        if self._bars is not None:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(self._names[job], total=1.0, text=text)
            self._bars.update(self._tasks[job], completed=share or 0.0, text=text)
            return
        now = time.monotonic()
        if now - self._said.setdefault(job, now) > _QUIET:
            self._said[job] = now
            self.say(f"  {self._names[job]}: {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
