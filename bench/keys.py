"""Keys: a hash of everything that determines a stored value, the code that made it included.

A comment, a docstring or the help text of a parameter changes no key; a formula changes exactly
the keys of what used it. What lies at a path counts, where that is does not. Device, workers, log
level and run names are in no key.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.api import Attack, DatasetPlugin, Defense, ModelPlugin, Plugin
from bench.code import file_hash, plugin_code, stage_code
from bench.errors import InputError, one_line

LIBRARIES = ("torch", "numpy", "scipy", "recbole")
"""Libraries whose version may change a trained model's numbers."""


def plain(value: Any) -> Any:
    """The value as JSON knows it: numpy values as numbers and lists, tuples and sets as lists,
    numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) has no form in JSON")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, floats by repr."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(*parts: Any) -> str:
    """20 hex digits that stand for these values."""
    return hashlib.sha256(canonical(list(parts)).encode()).hexdigest()[:20]


def spec(plugin: Plugin) -> dict[str, Any]:
    """A plugin as JSON: its name and all its parameters."""
    return {"name": plugin.name, "params": plugin.params()}


@functools.cache
def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions, without the local part ("+cpu"): the device is in no key."""
    import importlib.metadata

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class Keys:
    """Makes the keys of one plan, each part hashed once.

    Args:
        threads: of the computation; 1 is the default and stays out of the keys, another number
            may change sums in their last digits and enters.
    """

    def __init__(self, threads: int = 1) -> None:
        self._extra = {} if threads == 1 else {"threads": threads}
        self._stage = functools.cache(stage_code)
        self._codes: dict[type[Plugin], str] = {}
        self._data: dict[DatasetPlugin, str] = {}
        self._read: dict[Plugin, tuple[str, ...]] = {}

    def _plugin(self, plugin: Plugin | None) -> Any:
        if plugin is None:
            return None
        from bench.registry import Registry

        used = [self._code(Registry().get(kind, name)) for kind, name in plugin.uses()]
        if plugin not in self._read:
            self._read[plugin] = plugin.contents()
        return [plugin.name, plugin.keyed(), self._code(type(plugin)), *used,
                *self._read[plugin]]

    def _code(self, cls: type[Plugin]) -> str:
        if cls not in self._codes:
            self._codes[cls] = plugin_code(cls)
        return self._codes[cls]

    def data(self, dataset: DatasetPlugin) -> str:
        """H(dataset spec, its code, hashes of its files); where a file lies does not matter."""
        if dataset not in self._data:
            paths = _files(dataset)
            hashes = {p: file_hash(p) for p in paths}
            params = {k: _without_paths(v, hashes) for k, v in dataset.params().items()}
            self._data[dataset] = digest("data", dataset.name, params, list(hashes.values()),
                                         self._code(type(dataset)), self._stage("data"))
        return self._data[dataset]

    def train(self, data_key: str, poison: Attack | None, model: ModelPlugin, defense: Defense,
              seed: int) -> str:
        """H(data key, poisoning or none, model, defense, seed, code, library versions)."""
        return digest("train", data_key, self._plugin(poison), self._plugin(model),
                      self._plugin(defense), seed, self._stage("train"), versions(), self._extra)

    def cell(self, train_key: str, evasion: Attack | None, metrics: Sequence[str],
             groups: Mapping[str, Sequence[str]]) -> str:
        """H(train key, evasion or none, metrics, groups, code of the evaluation)."""
        return digest("cell", train_key, self._plugin(evasion), list(metrics), dict(groups),
                      self._stage("cell"))


def _files(dataset: DatasetPlugin) -> list[Path]:
    try:
        return [Path(p).expanduser() for p in dataset.files()]
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"dataset {dataset.label()} cannot name its files: "
                         f"{type(error).__name__}: {one_line(error)}",
                         hint="a mistake in its plugin: files() gives a list of paths") from error


def _without_paths(value: Any, hashes: Mapping[Path, str]) -> Any:
    """A parameter with the paths of hashed files, or of a folder that holds some, taken out."""
    if isinstance(value, (list, tuple)):
        return [_without_paths(v, hashes) for v in value]
    if isinstance(value, str) and value and hashes:
        resolved = {p.resolve(): h for p, h in hashes.items()}
        try:
            path = Path(value).expanduser()
            found, folder = path.resolve(), path.is_dir()
        except (OSError, ValueError, RuntimeError):  # no path: a null byte, an unknown ~user
            return value
        if found in resolved:
            return f"file {resolved[found]}"
        if folder and any(found in p.parents for p in resolved):
            return "folder"
    return value
