"""What a run shows while it works: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

MARKS = {"ok": "ok", "failed": "FAILED", "timeout": "TIMEOUT", "skipped": "skipped"}
_QUIET = 15.0  # seconds between plain lines about a training that goes on


def name_of(header: Mapping[str, Any], attack: bool = True) -> str:
    """A cell, or its training, in words."""
    axes = ("dataset", "model", "defense", "attack") if attack else ("dataset", "model", "defense")
    return " · ".join([*(header[a]["label"] for a in axes), f"seed {header['seed']}"])


def duration(seconds: float) -> str:
    """A duration as a person says it: 8 s, 3 min, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Follows the events of a run's jobs.

    Args:
        jobs: what will run, as JSON.
        done, total: cells finished already, and all cells.
    """

    def __init__(self, jobs: Sequence[Mapping[str, Any]], done: int, total: int) -> None:
        self.done, self.total = done, total
        self._names = {j["train_key"]: name_of(j["cells"][0]["header"], attack=False)
                       + (f" · {j['poison']['name']}" if j["poison"] else "") for j in jobs}
        self._cells = {c["header"]["key"]: c["header"] for j in jobs for c in j["cells"]}
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

        # what changes stands first: a narrow terminal cuts the names at the right
        self._bars = Progress(BarColumn(bar_width=20), TextColumn("{task.fields[text]}"),
                              TextColumn("{task.description}", markup=False),
                              console=Console(stderr=True), transient=True)
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
                f"{name_of(self._cells[event['key']])}"
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
