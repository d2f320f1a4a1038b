"""Engines run jobs. Each is one file here with a class `Runner`, imported when chosen by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from bench.errors import InputError, nearest
from bench.jobs import Job, Tell


class Runner(Protocol):
    """Runs jobs in any order and tells what happens (see `bench.jobs.Tell`).

    A job that ends without its cells being told (its process died, its time was up) is told as
    {"event": "lost", "job": train_key, "status": "failed" or "timeout", "reason": text}.
    """

    def __init__(self, *, workers: int, threads: int, timeout: float | None) -> None: ...

    def run(self, jobs: Sequence[Job], tell: Tell) -> None: ...

    def notes(self) -> list[str]:
        """What of the settings this engine cannot do, in words."""
        ...


def names() -> list[str]:
    """The engines there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def make(name: str, *, workers: int, threads: int, timeout: float | None) -> Runner:
    """The engine of that name. Raises InputError where there is none."""
    if name not in names():
        raise InputError(f"there is no engine {name!r}", key="engine",
                         hint=nearest(name, names()))
    module = importlib.import_module(f"{__name__}.{name}")
    return cast(Runner, module.Runner(workers=workers, threads=threads, timeout=timeout))
