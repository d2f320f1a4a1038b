"""`bench run`: from a grid file to a results folder and a leaderboard."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, InputError
from bench.progress import Progress, name_of
from bench.results import Folder, cell_json
from bench.session import Session, complaint

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_SHOWN = 20  # reasons of failures printed at the end


def run(grid_path: Path | str, *, results: Path | str | None = None, engine: str | None = None,
        workers: int | None = None, only: Sequence[str] = (), fresh: bool = False) -> int:
    """Run a grid: whatever is not finished yet, then the report.

    Args:
        grid_path: the YAML file.
        results: folder that holds the run's folder; "results" in the current folder otherwise.
        engine, workers: instead of the grid's.
        only: "key=pattern" (see `bench.session.selector`).
        fresh: compute again what is cached.

    Returns:
        0 all cells ok or skipped, 1 some failed (or the report did), 2 bad input,
        130 interrupted.
    """
    try:
        return _Run.open(grid_path, results, engine, workers, only, fresh).run()
    except InputError as error:
        print(complaint(error), file=sys.stderr)
        return BAD_INPUT
    except OSError as error:  # plugins' own errors are cells; this is the disk or the pipe
        if isinstance(error, BrokenPipeError):
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
        print(f"error: {what}; what is done is kept, and the same command goes on from there",
              file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, and the same command goes on from there",
              file=sys.stderr)
        return INTERRUPTED


class _Run(Session):
    """A session that runs."""

    def run(self) -> int:
        work = any(self.states[c.key] == "to run" for c in self.chosen)
        self.folder.start(self.grid.text, [c.header() for c in self.plan.cells], work)
        self.store.sweep()
        for line in self.lines(brief=True):
            print(line, file=sys.stderr)
        self._restore()
        todo = {c.key for c in self.chosen if self.states[c.key] == "to run"}
        jobs = [self.plan.job_json(job, cache=self.store.folder, results=self.folder.path,
                                   fresh=self.fresh)
                for job in (j.only(lambda c: c.key in todo) for j in self.plan.jobs) if job]
        progress = Progress(jobs, len(self.chosen) - len(todo), len(self.chosen),
                            [c.header() for c in self.plan.cells])
        try:
            if jobs:
                self.runner.run(jobs, _Watch(jobs, self.folder, progress))
        finally:
            progress.close()
        self.folder.write_table()
        return self._end()

    def _restore(self) -> None:
        """Bring finished cells from the cache, and write those whose end is known."""
        for cell in self.plan.cells:
            if cell.status is not None:
                self.folder.write(cell.ended())
            elif self.states[cell.key] != "to run" and self.store.has_cell(cell.key):
                stored = self.store.load_cell(cell.key)
                if stored is not None:
                    self.folder.restore(cell.header(), stored)
                elif not self.folder.finished(cell.key):
                    self.states[cell.key] = "to run"

    def _end(self) -> int:
        """The report, where things are, and what failed; the exit status."""
        from bench.report import report

        status = OK
        try:
            report(self.folder.path)
        except BenchError as error:
            print(f"the report could not be made: {error}", file=sys.stderr)
            status = FAILED
        print(f"results: {self.folder.path}")
        bad = [(c, found) for c in self.chosen
               if (found := self.folder.read(c.key)) is None
               or found["status"] in ("failed", "timeout")]
        for cell, found in bad[:_SHOWN]:
            reason = "no result was written" if found is None else found["reason"]
            print(f"failed: {name_of(cell.header())}: {reason}", file=sys.stderr)
        if bad:
            more = f" (the first {_SHOWN} are shown)" if len(bad) > _SHOWN else ""
            print(f"{len(bad)} of {len(self.chosen)} cells failed{more}; tracebacks are in "
                  f"{self.folder.path / 'logs'}; the next run tries them again",
                  file=sys.stderr)
        return FAILED if bad else status


class _Watch:
    """Hears the engine's events: passes them on, and ends the cells of jobs that were lost."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]], folder: Folder,
                 progress: Progress) -> None:
        self.folder, self.progress = folder, progress
        self.open = {j["train_key"]: {c["header"]["key"]: c["header"] for c in j["cells"]}
                     for j in jobs}

    def __call__(self, event: dict[str, Any]) -> None:
        cells = self.open[event["job"]]
        if event["event"] == "cell":
            cells.pop(event["key"])
        elif event["event"] == "lost":
            for key, header in list(cells.items()):
                self.folder.write(cell_json(header, status=event["status"],
                                            reason=event["reason"]))
                self({"event": "cell", "job": event["job"], "key": key,
                      "status": event["status"], "reason": event["reason"]})
        self.progress.tell(event)
