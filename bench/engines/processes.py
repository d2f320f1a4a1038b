"""Jobs in spawned processes of this machine, several at a time.

A worker takes one job after the other. One that dies (killed for memory, crashed) fails its job
alone; one whose job takes longer than the timeout is killed; both are replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from bench.jobs import Job, Tell, decode, run_job

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# glibc gives large tensors back to the system and asks for them again at every step, a fifth of
# the time of an epoch; kept, they are there already. What the user sets holds.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(4 << 30), "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
           "MALLOC_TOP_PAD_": str(256 << 20)}
_GRACE = 5.0  # seconds a worker has to end by itself


class _ParentGone(BaseException):
    """The run was killed; nobody reads what this worker says. No plugin can catch it by
    catching Exception, and no cell is told failed because of it."""


def serve(pipe: Connection) -> None:
    """A worker: jobs come as JSON, what happens goes back as JSON, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us

    def tell(event: dict[str, Any]) -> None:
        try:
            pipe.send_bytes(json.dumps(event).encode())
        except OSError as error:
            raise _ParentGone from error

    while True:
        try:
            job = decode(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            run_job(job, tell)
        except _ParentGone:
            return


class _Worker:
    """A process with what it does now."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        wanted = {k: os.environ.get(k, v) for k, v in _MALLOC.items()}
        wanted |= dict.fromkeys(_THREADS, str(threads))  # read when libraries load
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()
        self.job: Job | None = None
        self.started: float | None = None

    def give(self, job: Job) -> None:
        self.job, self.started = job, None
        self.pipe.send_bytes(json.dumps(job).encode())

    def left(self, timeout: float | None) -> float | None:
        """Seconds until the job's time is up; None where there is no limit."""
        if timeout is None or self.started is None:
            return None
        return self.started + timeout - time.monotonic()

    def end(self, kill: bool = False) -> None:
        self.pipe.close()
        if kill:
            self.process.kill()
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Runner:
    """See `bench.engines.Runner`. The longest jobs begin first."""

    def __init__(self, *, workers: int, threads: int, timeout: float | None) -> None:
        self.workers, self.threads, self.timeout = max(1, workers), threads, timeout

    def notes(self) -> list[str]:
        return []

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        queue = deque(sorted(jobs, key=lambda job: -float(job["estimate"])))
        workers: list[_Worker] = []
        try:
            while queue or any(w.job for w in workers):
                self._hand_out(queue, workers, tell)
                busy = {w.pipe: w for w in workers if w.job}
                limits = [t for w in busy.values() if (t := w.left(self.timeout)) is not None]
                ready = wait(list(busy), max(0.0, min(limits)) if limits else None)
                for pipe in ready:
                    self._hear(busy[pipe], workers, tell)  # type: ignore[index]
                for worker in [w for w in workers if w.job]:
                    left = worker.left(self.timeout)
                    if left is not None and left <= 0:
                        self._lose(worker, workers, tell, "timeout",
                                   f"the job took longer than {self.timeout:g} s and was stopped")
        except BaseException:
            for worker in workers:
                worker.process.terminate()
            raise
        finally:
            for worker in workers:
                worker.end()

    def _hand_out(self, queue: deque[Job], workers: list[_Worker], tell: Tell) -> None:
        while queue:
            idle = next((w for w in workers if w.job is None), None)
            if idle is None:
                if len(workers) >= self.workers:
                    return
                idle = _Worker(self.threads)
                workers.append(idle)
            job = queue.popleft()
            try:
                idle.give(job)
            except OSError:  # it died while idle: the job is not to blame
                workers.remove(idle)
                idle.end(kill=True)
                queue.appendleft(job)

    def _hear(self, worker: _Worker, workers: list[_Worker], tell: Tell) -> None:
        try:
            event: dict[str, Any] = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            worker.process.join(_GRACE)
            self._lose(worker, workers, tell, "failed", _death(worker.process.exitcode))
            return
        if event["event"] == "start":
            worker.started = time.monotonic()
        if event["event"] == "end":
            worker.job = None
        tell(event)

    def _lose(self, worker: _Worker, workers: list[_Worker], tell: Tell, status: str,
              reason: str) -> None:
        job: Mapping[str, Any] = worker.job or {}
        workers.remove(worker)
        worker.end(kill=True)
        tell({"event": "lost", "job": job["train_key"], "status": status, "reason": reason})


def _death(code: int | None) -> str:
    """Why a worker is gone, in words."""
    if code == -signal.SIGKILL:
        return ("the worker process was killed (signal 9), most often because memory ran out; "
                "use fewer workers or a smaller model")
    if code is not None and code < 0:
        return f"the worker process crashed (signal {-code}, {signal.Signals(-code).name})"
    return f"the worker process ended by itself (exit status {code})"
