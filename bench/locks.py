"""A lock between processes: a file whose owner touches it as long as it lives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

BEAT = 5.0  # seconds between heartbeats
STALE = 60.0  # seconds without one after which the owner counts as dead


@contextlib.contextmanager
def lock(path: Path, *, beat: float = BEAT, stale: float = STALE) -> Iterator[None]:
    """Inside, no other process owns the lock file.

    A lock without heartbeat for `stale` seconds, or of a process of this machine that is gone,
    is taken over. Two may own one lock where an owner slept that long and woke up: what it
    guards must stand that (models do: both write the same bytes).
    """
    token = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
    while not _claim(path, token):
        if _abandoned(path, beat, stale):
            _bury(path)
        else:
            time.sleep(min(0.2, beat))
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, beat, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == token:
                path.unlink()


def _abandoned(path: Path, beat: float, stale: float) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
        host, pid, _ = path.read_text().split(" ")
    except FileNotFoundError:
        return False
    except ValueError:  # its owner was killed before it could sign
        return age > beat
    return age > stale or (host == socket.gethostname() and not _alive(int(pid)))


def _claim(path: Path, token: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as stream:
        stream.write(token)
    return True


def _bury(path: Path) -> None:
    grave = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, grave)
        grave.unlink()


def _beat(path: Path, seconds: float, done: threading.Event) -> None:
    while not done.wait(seconds):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
