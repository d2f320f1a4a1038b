"""All jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence

from bench.jobs import Job, Tell, run_job


class Runner:
    """See `bench.engines.Runner`."""

    def __init__(self, *, workers: int, threads: int, timeout: float | None) -> None:
        self.timeout = timeout

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        for job in jobs:
            run_job(job, tell)

    def notes(self) -> list[str]:
        return [] if self.timeout is None else [
            "engine inline cannot stop a job after a timeout; engine processes can"]
