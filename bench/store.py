"""The cache folder: trained models and finished cells, each under its key; nothing is pickled.

    models/<key>/{weights.safetensors, meta.json}
    cells/<key>/{cell.json, users.parquet, items.parquet}

An entry appears at once: it is written under a hidden name in the same folder, then renamed. The
JSON of an entry holds the hashes of all its parts, so that a truncated or altered file is noticed
and the entry computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.code import file_hash
from bench.errors import InputError
from bench.keys import canonical, plain
from bench.locks import BEAT, STALE, lock

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CACHE = ".bench-cache"
_LEFTOVER = 3600.0  # seconds after which a hidden temporary entry counts as abandoned


class CacheWarning(UserWarning):
    """An entry of the cache could not be used and is computed again."""


def cache_folder() -> Path:
    """$BENCH_CACHE, or .bench-cache in the current folder."""
    return Path(os.environ.get("BENCH_CACHE") or CACHE).expanduser().resolve()


def write_atomically(path: Path, content: bytes | str) -> None:
    """The file appears whole or not at all; its folder is made where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Columns of equal length as a parquet file whose bytes depend on the columns alone."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({k: pa.array(v.tolist() if v.dtype == object else v)
                             for k, v in columns.items()}), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class StoredCell:
    """A finished cell: what cell.json says of it, and where its tables are."""

    cell: dict[str, Any]
    users: Path
    items: Path


def _warn(text: str) -> None:
    warnings.warn(text, CacheWarning, stacklevel=4)


class Store:
    """The cache under one folder, shared by any number of processes.

    Args:
        folder: made where it is absent. Raises InputError where it cannot be written.
        beat, stale: seconds between heartbeats, and without one until a lock is taken over.
        warn: told of every damaged entry; the default gives a CacheWarning.
    """

    def __init__(self, folder: Path, *, beat: float = BEAT, stale: float = STALE,
                 warn: Callable[[str], None] = _warn) -> None:
        self.folder, self.beat, self.stale, self.warn = folder, beat, stale, warn
        try:
            for kind in ("models", "cells"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the cache folder cannot be made: {error.strerror}", file=folder,
                             hint="set BENCH_CACHE to a folder that can be written") from error

    # -- entries -----------------------------------------------------------------------------

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key

    def has(self, kind: str, key: str, main: str) -> bool:
        return (self.path(kind, key) / main).is_file()

    def _publish(self, kind: str, key: str, fill: Mapping[str, bytes]) -> None:
        """Write an entry under a hidden name, then rename it over whatever was there."""
        final = self.path(kind, key)
        temporary = final.with_name(f".{key}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            for name, content in fill.items():
                (temporary / name).write_bytes(content)
            for _ in range(100):
                try:
                    os.replace(temporary, final)
                    return
                except OSError:  # a folder with content cannot be replaced: move it away first
                    self.drop(kind, key)
            raise OSError(f"{final} cannot be replaced")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry, at once for every reader."""
        final = self.path(kind, key)
        grave = final.with_name(f".{key}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(final, grave)
            shutil.rmtree(grave, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left behind under hidden names."""
        for path in [p for k in ("models", "cells") for p in (self.folder / k).glob(".*")]:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _warn(self, kind: str, key: str, why: object) -> None:
        self.warn(f"{self.path(kind, key)} is damaged ({why}) and is computed again")

    # -- models ------------------------------------------------------------------------------

    def has_model(self, key: str) -> bool:
        return self.has("models", key, "meta.json")

    def save_model(self, key: str, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep a trained model: its tensors, and what training told (plain JSON)."""
        from safetensors.torch import save

        weights = save({k: v.contiguous() for k, v in state.items()})
        text = {"schema": 1, "meta": plain(meta), "bytes": len(weights),
                "sha256": hashlib.sha256(weights).hexdigest()}
        self._publish("models", key, {"weights.safetensors": weights,
                                      "meta.json": json.dumps(text, indent=1).encode()})

    def load_model(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """(tensors, meta), or None where there is no such entry or it is damaged."""
        if not self.has_model(key):
            return None
        folder = self.path("models", key)
        try:
            text = json.loads((folder / "meta.json").read_bytes())
            weights = (folder / "weights.safetensors").read_bytes()
            if hashlib.sha256(weights).hexdigest() != text["sha256"]:
                raise ValueError("weights.safetensors has other bytes than were written")
            from safetensors.torch import load

            return load(weights), dict(text["meta"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._warn("models", key, error)
            return None

    # -- cells -------------------------------------------------------------------------------

    def has_cell(self, key: str) -> bool:
        return self.has("cells", key, "cell.json")

    def save_cell(self, key: str, cell: Mapping[str, Any], users: Path, items: Path) -> None:
        """Keep a finished cell with copies of its two tables."""
        tables = {"users.parquet": users.read_bytes(), "items.parquet": items.read_bytes()}
        hashes = {k: hashlib.sha256(v).hexdigest() for k, v in tables.items()}
        hashes["cell"] = hashlib.sha256(canonical(cell).encode()).hexdigest()
        text = json.dumps({"schema": 1, "cell": plain(cell), "sha256": hashes}, indent=1)
        self._publish("cells", key, {**tables, "cell.json": text.encode()})

    def load_cell(self, key: str) -> StoredCell | None:
        """The cell, or None where there is no such entry or it is damaged."""
        if not self.has_cell(key):
            return None
        folder = self.path("cells", key)
        try:
            text = json.loads((folder / "cell.json").read_bytes())
            cell, hashes = dict(text["cell"]), text["sha256"]
            found = {name: file_hash(folder / name) for name in ("users.parquet", "items.parquet")}
            found["cell"] = hashlib.sha256(canonical(cell).encode()).hexdigest()
            for name, value in found.items():
                if hashes[name] != value:
                    raise ValueError(f"{name} has other bytes than were written")
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            self._warn("cells", key, error)
            return None
        return StoredCell(cell, folder / "users.parquet", folder / "items.parquet")

    def lock(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process holds the lock of this model (see `bench.locks`)."""
        return lock(self.folder / "models" / f".{key}.lock", beat=self.beat, stale=self.stale)
