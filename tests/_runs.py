"""Small runs for the tests of plan, store, engines and resume."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

GRID = """\
name: tiny
seeds: [0]
datasets: [{blocks: {users: 24, items: 24}}]
models: [pop, {bprmf: {dim: 4, epochs: 2, batch_size: 128}}]
attacks: [{noise: {eps: [0.1, 0.5]}}, {random-profiles: {budget: 0.1, targets: 2}}]
metrics: [hr@5, ndcg@5]
"""


@contextlib.contextmanager
def no_report(monkeypatch) -> Iterator[None]:
    """The leaderboard has tests of its own; here it would only take time."""
    with monkeypatch.context() as patch:
        patch.setattr("bench.report.report", lambda folder: 0)
        yield


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on when and where it ran: costs apart."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if name.parts[0] == "cells":
            cell = json.loads(path.read_text())
            cell.pop("cost")
            found[str(name)] = json.dumps(cell).encode()
        elif name.parts[0] in ("users", "items", "results.parquet", "plan.json", "grid.yaml"):
            found[str(name)] = path.read_bytes()
    return found


def cells(folder: Path) -> list[dict]:
    """The cells of a run, in no particular order."""
    return [json.loads(p.read_text()) for p in sorted((folder / "cells").glob("*.json"))]


def events(monkeypatch) -> list[dict]:
    """Collects what the jobs of the runs to come tell."""
    from bench.progress import Progress

    heard: list[dict] = []
    monkeypatch.setattr(Progress, "tell", lambda self, event: heard.append(dict(event)))
    return heard


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "bench", *args]
