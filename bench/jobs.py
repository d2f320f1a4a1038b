"""A job: one trained model with all its cells. It crosses process boundaries as JSON.

    {"train_key", "data_key", "seed", "dataset", "model", "defense", "poison": spec or null,
     "undefended": train key of the same model without attack and defense,
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
from typing import TYPE_CHECKING, Any, cast

from bench.device import Memory, computing, device_name, out_of_memory, pick_device
from bench.errors import BenchError, CannotActError, InputError, one_line
from bench.keys import plain
from bench.results import Folder, cell_json
from bench.store import Store
from bench.warm import import_what_it_names

if TYPE_CHECKING:
    from bench.api import Attack, DatasetPlugin, Defense, ModelPlugin
    from bench.attack import Struck
    from bench.context import Context
    from bench.data import Dataset, Ints
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


def extreme(header: Mapping[str, Any]) -> str:
    """The parameters of a failed cell whose size may be why: float32 holds no squares of them."""
    found = [f"{header[kind]['name']} {key} {value:g}" for kind in ("model", "defense", "attack")
             for key, value in header[kind]["params"].items()
             if isinstance(value, (int, float)) and not isinstance(value, bool)
             and math.isfinite(value) and value and not 1e-12 < abs(value) < 1e12]
    return f" (float32 may not hold {', '.join(found)}: try a size nearer to 1)" if found else ""


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


class _Timed:
    """An attack that acts before training, with the seconds it takes."""

    def __init__(self, attack: Attack, spent: dict[str, float]) -> None:
        self._attack, self._spent = attack, spent

    def aims(self, data: Dataset, ctx: Context) -> Any:
        return self._attack.aims(data, ctx)

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        start = time.perf_counter()
        made = self._attack.before_training(data, ctx)
        self._spent["attack_seconds"] = time.perf_counter() - start
        return made


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
        from bench.stages import harden

        self.registry = Registry([Path(f) for f in self.job["plugins"]])
        self.store = Store(Path(self.job["cache"]),
                           warn=lambda text: self.tell("note", text=text))
        self.memory = Memory(self.device)
        self.ctx = Context(self.job["seed"], self.device)
        self.defense: Defense = self._make("defenses", self.job["defense"])
        prepared, costs, notes = self._prepare()
        prepared_mb = self.memory.peak()
        model, fit, spent = self._trained(prepared)
        costs |= spent
        costs["peak_memory_mb"] = max(costs["peak_memory_mb"], prepared_mb)
        start = time.perf_counter()
        model = harden(model, prepared, self.defense, self.ctx)
        costs["defense_seconds"] += time.perf_counter() - start
        plugin: ModelPlugin = self._make("models", self.job["model"])
        privacy = plain({**plugin.spent(fit), **self.defense.spent(fit)})
        # after `spent`: a defense may say here why it quotes nothing
        defense_facts = plain({**self.defense.facts(prepared.attacked, prepared.train),
                               **self.defense.served_facts(model)})
        for cell in self.job["cells"]:
            try:
                with self.memory.apart():  # not of the cells before
                    self._cell(cell, model, prepared, fit, defense_facts, privacy, dict(costs),
                               notes)
            except (Exception, SystemExit) as error:
                self._fail(cell["header"], error)

    def _make(self, kind: str, spec: Mapping[str, Any] | None) -> Any:
        if spec is None:
            return None
        made = self.registry.make(kind, spec)
        if kind in ("attacks", "defenses"):
            import_what_it_names(type(made))  # before their seconds are counted
        return made

    def _prepare(self) -> tuple[Prepared, dict[str, Any], dict[str, Any]]:
        """The data of the training; what attack and defense cost there; the attack's notes."""
        from bench.stages import prepare

        data = load_dataset(self._make("datasets", self.job["dataset"]), self.job["data_key"])
        self.genuine = data
        poison: Attack | None = self._make("attacks", self.job["poison"])
        ctx = self._attacker(poison)
        spent = {"attack_seconds": 0.0, "defense_seconds": 0.0}
        attack = None if poison is None else _Timed(poison, spent)
        start = time.perf_counter()
        prepared = prepare(data, cast("Attack | None", attack), self.defense, ctx)
        spent["defense_seconds"] = time.perf_counter() - start - spent["attack_seconds"]
        return dataclasses.replace(prepared, intruder=poison), spent, ctx.notes

    def _attacker(self, attack: Attack | None) -> Context:
        """A context for one attack: what it may have of the victim, and room for its notes."""
        from bench.blind import hidden
        from bench.victim import Victim

        victim = Victim(self._make("models", self.job["model"]), self.defense, self.ctx,
                        lambda: hidden(attack, self._undefended()))
        return dataclasses.replace(self.ctx, victim=victim, notes={})

    def _undefended(self) -> Recommender:
        """The model of this job without attack and defense, trained now or by its own job."""
        from bench.stages import prepare

        plain_defense = self.registry.make("defenses", {"name": "none"})
        prepared = prepare(self.genuine, None, cast("Defense", plain_defense), self.ctx)
        return self._kept(self.job["undefended"], prepared, cast("Defense", plain_defense))[0]

    def _trained(self, prepared: Prepared) -> tuple[Recommender, FitResult, dict[str, Any]]:
        """The model, trained now or by an earlier run; both give the same numbers."""
        model, meta, cached = self._kept(self.key, prepared, self.defense)
        self.tell("trained", cached=cached, seconds=meta["seconds"])
        fit = _fit_result(meta["fit"])
        return model, fit, {"train_seconds": meta["seconds"],
                            "train_samples_per_s": meta["fit"]["samples_per_second"],
                            "peak_memory_mb": meta["peak_memory_mb"]}

    def _kept(self, key: str, prepared: Prepared, defense: Defense
              ) -> tuple[Recommender, dict[str, Any], bool]:
        """The trained model of this key, its meta data, and whether the cache held it."""
        from bench.stages import make

        plugin: ModelPlugin = self._make("models", self.job["model"])
        model = make(plugin, prepared, self.ctx)
        with self.store.lock(key):
            fresh = self.job["fresh"] and key == self.key
            kept = None if fresh else self.store.load_model(key)
            if kept is not None:
                try:
                    model.load_state(kept[0])
                except (RuntimeError, KeyError) as error:  # not the tensors of this model
                    self.tell("note", text=f"model {key} of the cache does not fit "
                              f"({type(error).__name__}) and is trained again")
                    model, kept = make(plugin, prepared, self.ctx), None
            meta = self._train(model, key, defense) if kept is None else kept[1]
        return model, meta, kept is not None

    def _train(self, model: Recommender, key: str, defense: Defense) -> dict[str, Any]:
        from bench.stages import train
        from bench.training import synchronise

        def progress(event: Mapping[str, Any]) -> None:
            self.tell("epoch", **plain(event))

        self.tell("training")
        start = time.perf_counter()
        with self.memory.apart():  # the undefended model's is no matter of who had it trained
            fit = train(model, defense, progress)
            synchronise(self.device)
            peak = self.memory.peak()
        seconds = time.perf_counter() - start
        meta: dict[str, Any] = plain({"fit": dataclasses.asdict(fit), "seconds": seconds,
                                      "peak_memory_mb": peak,
                                      "device": device_name(self.device)})
        self.store.save_model(key, model.state(), meta)
        return meta

    def _cell(self, cell: Mapping[str, Any], model: Recommender, prepared: Prepared,
              fit: FitResult, defense_facts: Mapping[str, Any], privacy: Mapping[str, Any],
              costs: dict[str, Any], notes: Mapping[str, Any]) -> None:
        from bench.evaluate import evaluate
        from bench.models.base import innermost
        from bench.stages import under_attack
        from bench.store import write_table
        from bench.training import synchronise

        header = cell["header"]
        key, attack = header["key"], self._make("attacks", cell["attack"])
        ctx = self._attacker(attack)
        ctx.notes.update(notes)
        start = time.perf_counter()
        with under_attack(attack, model, prepared, ctx) as struck:
            synchronise(self.device)
            costs["attack_seconds"] += time.perf_counter() - start
            data, targets = struck.data, struck.targets
            told = getattr(innermost(struck.model), "take_facts", dict)
            told()  # what was asked before is not this evaluation's
            found = evaluate(struck.model, data, self.job["metrics"],
                             groups=_groups(self.job["groups"]), targets=targets,
                             defense=self.defense)
            if struck.offer is not None:
                found.values = self._offered(struck, found.values)
            scoring: dict[str, Any] = told()
        facts = dict(found.facts)
        if scoring:
            facts["scoring"] = plain(scoring)
        attack_facts = dict(struck.facts)
        costs["queries"] = attack_facts.pop("queries")
        # the training is none of what is done to a trained model
        own = attack.name != "none" and not attack.trains
        peaks = [self.memory.peak(), *([] if own else [costs["peak_memory_mb"]])]
        costs |= {"score_seconds": facts.pop("score_seconds", math.nan),
                  "score_users_per_s": facts.pop("score_users_per_s", math.nan),
                  "peak_memory_mb": max(peaks),
                  "device": device_name(self.device)}
        facts |= {"n_users": data.n_users, "n_items": data.n_items,
                  "n_fake": prepared.attacked.n_fake, "data_notes": data.notes,
                  "defense": defense_facts, "training": fit.notes, "epochs": fit.epochs,
                  "trained_against": self.defense.trained_against(),
                  "best_epoch": fit.best_epoch, **plain(attack_facts)}
        if targets is not None:
            facts["targets"] = [data.item_ids[i] for i in targets]
        write_table(self.folder.users(key), found.users)
        write_table(self.folder.items(key), found.items)
        made = cell_json(header, status="ok", values=found.values, facts=facts, cost=costs,
                         privacy={**privacy, **plain(struck.privacy)})
        self.folder.log(key).unlink(missing_ok=True)
        self.folder.write(made)
        self.store.save_cell(key, made, self.folder.users(key), self.folder.items(key))
        self.tell("cell", key=key, status="ok", reason=None)

    def _offered(self, struck: Struck, values: list[tuple[str, str, float]]
                 ) -> list[tuple[str, str, float]]:
        """The same values, with the exposure of targets measured where they are candidates."""
        from bench.evaluate import evaluate
        from bench.models.base import innermost
        from bench.text_shown import offering

        pushed = [m for m in self.job["metrics"] if str(m).startswith("target-")]
        if not pushed or not hasattr(innermost(struck.model), "offering"):
            return values
        with offering(struck.model, cast("Ints", struck.offer)):
            again = evaluate(struck.model, struck.data, pushed, targets=struck.targets,
                             defense=self.defense)
        return [v for v in values if v[0] not in pushed] + again.values

    def _fail(self, header: Mapping[str, Any], error: BaseException) -> None:
        why = reason(error, self.device)
        status = "skipped" if isinstance(error, CannotActError) else "failed"
        if status == "failed":
            why += extreme(header)
            self.folder.write_log(header["key"], "".join(traceback.format_exception(error)))
        self.folder.write(cell_json(header, status=status, reason=why))
        self.tell("cell", key=header["key"], status=status, reason=why)


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
