"""A job: one trained model with all its cells. It crosses process boundaries as JSON.

    {"train_key", "data_key", "seed", "dataset", "model", "defense", "poison": spec or null,
     "cells": [{"header": …, "attack": spec}], "metrics": [...], "groups": {"users", "items"},
     "plugins": [folders], "cache": folder, "results": folder, "device": "auto", "threads": 1,
     "fresh": false, "timeout": null, "estimate": 1.0}
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.device import Memory, computing, device_name, out_of_memory, pick_device
from bench.errors import BenchError, InputError, one_line
from bench.keys import plain
from bench.results import Folder, cell_json
from bench.store import Store

if TYPE_CHECKING:
    from bench.api import Attack, DatasetPlugin, Defense, ModelPlugin
    from bench.data import Dataset
    from bench.models.base import Recommender
    from bench.stages import Prepared
    from bench.training import FitResult

Job = Mapping[str, Any]
Tell = Callable[[dict[str, Any]], None]
"""Told what happens: {"event": "start" | "training" | "epoch" | "trained" | "cell" | "note" |
"end" | "lost", "job": train_key, …}."""

_KEPT_DATASETS = 2
_datasets: dict[str, Dataset] = {}


# -- what jobs of one process share -------------------------------------------------------------

def load_dataset(plugin: DatasetPlugin, data_key: str) -> Dataset:
    """The dataset, loaded once per process and key.

    Raises:
        InputError: it cannot be loaded; a mistake in the plugin is named with file and line.
    """
    if data_key not in _datasets:
        try:
            loaded = _loaded(plugin)
        except BenchError as error:
            raise error if isinstance(error, InputError) else InputError(str(error)) from error
        except (Exception, SystemExit) as error:
            raise InputError(f"dataset {plugin.label()} cannot be loaded: {describe(error)}",
                             hint="a mistake in the dataset's plugin, or data it does not expect"
                             ) from error
        while len(_datasets) >= _KEPT_DATASETS:
            _datasets.pop(next(iter(_datasets)))
        _datasets[data_key] = loaded
    return _datasets[data_key]


def _loaded(plugin: DatasetPlugin) -> Dataset:
    from bench.data import Dataset

    loaded = plugin.load()
    if not isinstance(loaded, Dataset):
        raise InputError(f"dataset {plugin.label()} gives {type(loaded).__name__}; load() must "
                         "return a Dataset of bench.data", hint="a mistake in its plugin")
    return loaded


# -- failures -----------------------------------------------------------------------------------

def describe(error: BaseException) -> str:
    """An unexpected error in one line: type, message, innermost line outside installed
    libraries (the last two parts of its path, so that it reads the same on every machine)."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename
           and not f.filename.startswith("<")] or list(frames)
    where = ""
    if own:
        where = f" ({'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno})"
    return f"{type(error).__name__}: {one_line(error)}{where}"


def reason(error: BaseException, device: str) -> str:
    """Why a cell failed, for its JSON."""
    if isinstance(error, BenchError):
        return str(error)
    if out_of_memory(error):
        return (f"out of memory on {device} ({type(error).__name__}); use a smaller batch_size "
                "or model, fewer workers, or a device with more memory")
    return describe(error)


# -- the job ------------------------------------------------------------------------------------

def run_job(job: Job, tell: Tell) -> None:
    """Train or load the job's model, then run its cells; each is written as soon as it is done.

    Whatever goes wrong inside a plugin or a model becomes a failed cell; nothing is raised but
    what interrupts the process.
    """
    tell({"event": "start", "job": job["train_key"]})
    _Run(job, tell).run()
    tell({"event": "end", "job": job["train_key"]})


class _Run:
    def __init__(self, job: Job, tell: Tell) -> None:
        self.job, self.key = job, job["train_key"]
        self._tell = tell
        self.folder = Folder(Path(job["results"]))
        self.device = "cpu"

    def tell(self, event: str, **more: Any) -> None:
        self._tell({"event": event, "job": self.key, **more})

    def run(self) -> None:
        try:
            self.device = pick_device(self.job["device"])
            with computing(self.job["threads"], self.device):
                self._run()
        except (Exception, SystemExit) as error:
            for cell in self.job["cells"]:
                self._fail(cell["header"], error)

    def _run(self) -> None:
        from bench.context import Context
        from bench.registry import Registry

        self.registry = Registry([Path(f) for f in self.job["plugins"]])
        self.store = Store(Path(self.job["cache"]),
                           warn=lambda text: self.tell("note", text=text))
        self.memory = Memory(self.device)
        self.ctx = Context(self.job["seed"], self.device)
        self.defense: Defense = self._make("defenses", self.job["defense"])
        prepared, poison_seconds = self._prepare()
        model, fit, costs = self._trained(prepared)
        model = self.defense.harden(model, prepared.train, self.ctx)
        defense_facts = plain(self.defense.facts(prepared.attacked, prepared.train))
        privacy = plain(self.defense.spent(fit))
        for cell in self.job["cells"]:
            try:
                self._cell(cell, model, prepared, fit, defense_facts, privacy,
                           {**costs, "attack_seconds": poison_seconds})
            except (Exception, SystemExit) as error:
                self._fail(cell["header"], error)

    def _make(self, kind: str, spec: Mapping[str, Any] | None) -> Any:
        return None if spec is None else self.registry.make(kind, spec)

    def _prepare(self) -> tuple[Prepared, float]:
        from bench.stages import prepare

        data = load_dataset(self._make("datasets", self.job["dataset"]), self.job["data_key"])
        poison: Attack | None = self._make("attacks", self.job["poison"])
        start = time.perf_counter()
        prepared = prepare(data, poison, self.defense, self.ctx)
        return prepared, time.perf_counter() - start if poison else 0.0

    def _trained(self, prepared: Prepared) -> tuple[Recommender, FitResult, dict[str, Any]]:
        """The model, trained now or by an earlier run; both give the same numbers."""
        from bench.stages import make

        plugin: ModelPlugin = self._make("models", self.job["model"])
        model = make(plugin, prepared, self.ctx)
        with self.store.lock(self.key):
            kept = None if self.job["fresh"] else self.store.load_model(self.key)
            if kept is not None:
                try:
                    model.load_state(kept[0])
                except (RuntimeError, KeyError) as error:  # not the tensors of this model
                    self.tell("note", text=f"model {self.key} of the cache does not fit "
                              f"({type(error).__name__}) and is trained again")
                    model, kept = make(plugin, prepared, self.ctx), None
            meta = self._train(model) if kept is None else kept[1]
        self.tell("trained", cached=kept is not None, seconds=meta["seconds"])
        fit = _fit_result(meta["fit"])
        return model, fit, {"train_seconds": meta["seconds"],
                            "train_samples_per_s": meta["fit"]["samples_per_second"],
                            "peak_memory_mb": meta["peak_memory_mb"]}

    def _train(self, model: Recommender) -> dict[str, Any]:
        from bench.stages import train
        from bench.training import synchronise

        def progress(event: Mapping[str, Any]) -> None:
            self.tell("epoch", **plain(event))

        self.tell("training")
        start = time.perf_counter()
        fit = train(model, self.defense, progress)
        synchronise(self.device)
        seconds = time.perf_counter() - start
        meta: dict[str, Any] = plain({"fit": dataclasses.asdict(fit), "seconds": seconds,
                                      "peak_memory_mb": self.memory.peak(),
                                      "device": device_name(self.device)})
        self.store.save_model(self.key, model.state(), meta)
        return meta

    def _cell(self, cell: Mapping[str, Any], model: Recommender, prepared: Prepared,
              fit: FitResult, defense_facts: Mapping[str, Any], privacy: Mapping[str, Any],
              costs: dict[str, Any]) -> None:
        from bench.evaluate import evaluate
        from bench.stages import under_attack
        from bench.store import write_table
        from bench.training import synchronise

        header, data = cell["header"], prepared.genuine
        key, attack = header["key"], self._make("attacks", cell["attack"])
        start = time.perf_counter()
        with under_attack(attack, model, prepared.train, self.ctx) as attack_facts:
            synchronise(self.device)
            costs["attack_seconds"] += time.perf_counter() - start
            found = evaluate(model, data, self.job["metrics"], groups=_groups(self.job["groups"]),
                             targets=prepared.targets, defense=self.defense)
        facts = dict(found.facts)
        costs |= {"score_seconds": facts.pop("score_seconds", math.nan),
                  "score_users_per_s": facts.pop("score_users_per_s", math.nan),
                  "peak_memory_mb": max(costs["peak_memory_mb"], self.memory.peak()),
                  "device": device_name(self.device)}
        facts |= {"n_users": data.n_users, "n_items": data.n_items,
                  "n_fake": prepared.attacked.n_fake, "data_notes": data.notes,
                  "defense": defense_facts, "training": fit.notes, "epochs": fit.epochs,
                  "best_epoch": fit.best_epoch, **attack_facts}
        if prepared.targets is not None:
            facts["targets"] = [data.item_ids[i] for i in prepared.targets]
        write_table(self.folder.users(key), found.users)
        write_table(self.folder.items(key), found.items)
        made = cell_json(header, status="ok", values=found.values, facts=facts, privacy=privacy,
                         cost=costs)
        self.folder.log(key).unlink(missing_ok=True)
        self.folder.write(made)
        self.store.save_cell(key, made, self.folder.users(key), self.folder.items(key))
        self.tell("cell", key=key, status="ok", reason=None)

    def _fail(self, header: Mapping[str, Any], error: BaseException) -> None:
        why = reason(error, self.device)
        self.folder.write_log(header["key"], "".join(traceback.format_exception(error)))
        self.folder.write(cell_json(header, status="failed", reason=why))
        self.tell("cell", key=header["key"], status="failed", reason=why)


def _fit_result(kept: Mapping[str, Any]) -> FitResult:
    """A FitResult back from JSON, where numbers that are not finite are null."""
    from bench.training import FitResult

    values: dict[str, Any] = {k: math.nan if v is None else v for k, v in kept.items()}
    return FitResult(**values)


def _groups(groups: Mapping[str, Sequence[str]]) -> Any:
    from bench.grid import Groups

    return Groups(users=tuple(groups["users"]), items=tuple(groups["items"]))


def decode(text: bytes) -> Job:
    """A job back from the bytes that crossed a process boundary."""
    job: Job = json.loads(text)
    return job
