"""Answers of remote language models on disk, so that no question is paid for twice."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import InputError

PLACE = "BENCH_ANSWERS"


def answers_file() -> Path:
    """$BENCH_ANSWERS, or answers.sqlite in the cache folder."""
    from bench.store import cache_folder

    own = os.environ.get(PLACE)
    return Path(own).expanduser().resolve() if own else cache_folder() / "answers.sqlite"


class Answers:
    """Answers by the hash of what was asked, shared by any number of processes: SQLite locks the
    file. Opened for each use, so that nothing is carried across a fork or between threads.

    Args:
        path: the file; made where it is absent.

    Raises:
        InputError: at first use, if it cannot be opened or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS answers "
                           "(key TEXT PRIMARY KEY, model TEXT, answer TEXT)")
                yield db
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"the stored answers cannot be used: {error}", file=self.path,
                             hint=f"set {PLACE} to a file that can be written; delete a damaged "
                             "one") from error

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are stored, by key."""
        found: dict[str, Any] = {}
        if not keys:
            return found
        with self._open() as db:
            for key in keys:
                row = db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = json.loads(row[0])
        return found

    def put(self, model: str, answers: Mapping[str, Any]) -> None:
        """Store answers; where another process was first, its answer stays."""
        if not answers:
            return
        with self._open() as db:
            db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                           [(k, model, json.dumps(a)) for k, a in answers.items()])
