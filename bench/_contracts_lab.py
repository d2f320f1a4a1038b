"""The bench the contract tests work at: tiny data, trained models, hashes, watched randomness."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from bench.api import (
    Attack,
    Context,
    Dataset,
    DatasetPlugin,
    Defense,
    EmbeddingAttack,
    Interactions,
    ModelPlugin,
    ProfileAttack,
)
from bench.errors import InputError
from bench.models.base import Recommender, TorchRecommender, build
from bench.plugin import Plugin
from bench.stages import without_test
from bench.testing import Skip

if TYPE_CHECKING:
    from bench.registry import Registry

K = 10


@dataclass(frozen=True)
class Watched(Context):
    """A context that notes whether it was asked for randomness."""

    asked: list[str] = field(default_factory=list, compare=False)

    def number(self, *names: object) -> int:
        self.asked.append(" ".join(map(str, names)))
        return super().number(*names)


class Lab:
    """One plugin under test, and what it is tested with."""

    def __init__(self, kind: str, cls: type[Plugin], registry: Registry | None = None,
                 params: Mapping[str, Any] | None = None) -> None:
        self.kind, self.cls, self._registry = kind, cls, registry
        self.params = dict(cls.test_params() if params is None else params)

    @property
    def registry(self) -> Registry:
        from bench.registry import Registry

        if self._registry is None:
            self._registry = Registry()
        return self._registry

    def plugin(self, **changes: Any) -> Any:
        """The plugin with its test parameters, some of them changed."""
        return self.cls.from_params(self.params | changes)

    def data(self, explicit: bool = True) -> Dataset:
        return blocks(explicit)

    def model_plugin(self) -> ModelPlugin:
        """A model that the attack or defense can act on: bprmf, one that reads histories, or one
        that reads ratings.

        Raises Skip where it acts on none.
        """
        reasons = []
        for name, params in (("bprmf", BPRMF), ("SASRec", {"epochs": 2, "max_length": 8}),
                             ("als", {"feedback": "explicit", "dim": 8, "reg": 1.0}),
                             ("EASE", {}),
                             ("rating-mf", {"dim": 8, "epochs": 5, "batch_size": 256,
                                            "learning_rate": 0.01, "patience": 0}),
                             ("vbpr", {"dim": 16, "epochs": 15, "batch_size": 256,
                                       "learning_rate": 0.05, "patience": 0}),
                             ("text-cosine", {"model": "tiny-random", "whiten": 8}),
                             ("yes-no", {"model": "tiny-random", "candidates": 12,
                                         "history": 3}),
                             ("tallrec", {"model": "tiny-random", "tune": "full", "candidates": 6,
                                          "history": 2, "dtype": "float32", "shots": 32,
                                          "epochs": 2, "batch_size": 16, "learning_rate": 0.01,
                                          "patience": 0}),
                             ("dual-encoder", {"model": "tiny-random", "tune": "lora",
                                               "history": 2, "dtype": "float32", "negatives": 1,
                                               "epochs": 1, "patience": 0})):
            plugin = cast(ModelPlugin, self.registry.make("models", {"name": name,
                                                                     "params": params}))
            reason = self.plugin().unfit(plugin, self.data())
            if reason is None:
                return plugin
            reasons.append(reason)
        raise Skip(f"it acts on no model of the tests ({'; '.join(reasons)})")

    def context(self, seed: int, defense: Defense | None = None) -> Context:
        """A context as an attack gets it: it may have of the victim what its class allows."""
        from bench.victim import Victim

        plugin = self.model_plugin()
        victim = Victim(plugin, defense or no_defense(), Context(seed),
                        lambda: fit(plugin, self.data(), seed))
        return Watched(seed, victim=victim)

    def model(self, defense: Defense | None = None, seed: int = 0) -> Recommender:
        """A trained model that the plugin can act on; attacks get one that is shared."""
        plugin = self.model_plugin()
        if defense is None and plugin.name == "bprmf":
            return trained_bprmf(seed)
        return fit(plugin, self.data(), seed, defense)


BPRMF: dict[str, Any] = {"dim": 16, "epochs": 15, "batch_size": 256, "learning_rate": 0.05,
                         "patience": 0}


def _built_in(kind: str, name: str, **params: Any) -> Plugin:
    from bench.registry import Registry

    return Registry().make(kind, {"name": name, "params": params})


def blocks(explicit: bool = True) -> Dataset:
    """The synthetic data, made once."""
    return _blocks(explicit)


@functools.cache
def _blocks(explicit: bool) -> Dataset:
    return cast(DatasetPlugin, _built_in("datasets", "blocks", explicit=explicit)).load()


def with_other_items(data: Dataset, split: str) -> Dataset:
    """The data with other items in `split` ("valid" or "test"), new to their users."""
    rows: Interactions = getattr(data, split)
    taken: dict[int, set[int]] = {}
    for part in (data.train, data.valid, data.test):
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            taken.setdefault(user, set()).add(item)
    items = np.empty_like(rows.items)
    for row, user in enumerate(rows.users.tolist()):
        items[row] = next(i for i in range(data.n_items) if i not in taken[user])
        taken[user].add(int(items[row]))
    return data.replace(**{split: dataclasses.replace(rows, items=items)})


def no_defense() -> Defense:
    return cast(Defense, _built_in("defenses", "none"))


def bprmf(**changes: Any) -> ModelPlugin:
    return cast(ModelPlugin, _built_in("models", "bprmf", **(BPRMF | changes)))


def biased() -> ModelPlugin:
    """bprmf with a bias per item, which takes up popularity quickly."""
    return bprmf(bias=True)


def fit(plugin: ModelPlugin, data: Dataset, seed: int = 0, defense: Defense | None = None,
        ctx: Context | None = None) -> Recommender:
    """A model trained and served as a job would: the data cleaned, the model hardened."""
    ctx, defense = ctx or Context(seed), defense or no_defense()
    cleaned = defense.clean(without_test(data), ctx)
    model = build(plugin, cleaned.replace(test=data.test), ctx)
    model.fit(defense, lambda event: None)
    return defense.harden(model, without_test(model.data), ctx)


def trained_bprmf(seed: int = 0) -> TorchRecommender:
    """bprmf on the blocks data; tests leave it as it is, or put it back."""
    return _trained_bprmf(seed)


@functools.cache
def _trained_bprmf(seed: int) -> TorchRecommender:
    model = fit(bprmf(), blocks(), seed)
    assert isinstance(model, TorchRecommender)
    return model


def all_scores(model: Recommender, split: str = "test") -> torch.Tensor:
    """Scores of all genuine users: (users, items)."""
    users = torch.arange(model.data.n_genuine)
    quiet = model.evaluating() if isinstance(model, TorchRecommender) else contextlib.nullcontext()
    with torch.no_grad(), quiet:
        return model.scores(users, split).detach().cpu().clone()


def ndcg(model: Recommender, data: Dataset) -> float:
    from bench.evaluate import evaluate

    found = evaluate(model, data, [f"ndcg@{K}"])
    return next(v for m, g, v in found.values if g == "all")


# -- hashes ------------------------------------------------------------------------------------

def digest(*things: Any) -> str:
    """A hash of arrays, tensors and what holds them; equal content gives equal hashes in every
    process."""
    h = hashlib.sha256()
    for thing in things:
        _feed(h, thing)
    return h.hexdigest()[:16]


def _feed(h: Any, x: Any) -> None:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        h.update(f"{x.dtype}{x.shape}".encode())
        h.update(repr(x.tolist()).encode() if x.dtype == object
                 else np.ascontiguousarray(x).tobytes())
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        for f in dataclasses.fields(x):
            h.update(f.name.encode())
            _feed(h, getattr(x, f.name))
    elif isinstance(x, Mapping):
        for key in sorted(x, key=str):
            h.update(str(key).encode())
            _feed(h, x[key])
    elif isinstance(x, (list, tuple)):
        h.update(f"[{len(x)}".encode())
        for part in x:
            _feed(h, part)
    else:
        h.update(repr(x).encode())


def fingerprint(lab: Lab, seed: int) -> tuple[str, bool]:
    """What the plugin makes with this seed, as a hash, and whether it must depend on the seed."""
    from bench.device import computing

    with computing(1, "cpu"):
        return _fingerprint(lab, seed)


def _fingerprint(lab: Lab, seed: int) -> tuple[str, bool]:
    plugin, ctx = lab.plugin(), Watched(seed)
    if isinstance(plugin, DatasetPlugin):
        return digest(load(lab)), False
    if isinstance(plugin, ModelPlugin):
        refuse(plugin.unfit(lab.data()))
        model = fit(plugin, lab.data(), ctx=ctx)
        return digest(all_scores(model)), "gradients" in plugin.gives
    if isinstance(plugin, ProfileAttack):
        told = plugin._told(lab.data(), dataclasses.replace(ctx, victim=lab.context(seed).victim))
        made = plugin.profiles(lab.data(), *profile_task(), told)
        return digest([(np.asarray(p.items), p.ratings) for p in made]), bool(ctx.asked)
    if isinstance(plugin, EmbeddingAttack):
        model = lab.model()
        assert isinstance(model, TorchRecommender)
        return digest(plugin.perturbation(model, model.data, ctx)), bool(ctx.asked)
    if any(b.__name__ == "FeatureAttack" for b in type(plugin).__mro__):
        model = lab.model()
        targets = plugin.aims(model.data, Context(0))
        made = plugin.perturbation(model, targets, plugin.radius(model), model.data, ctx)
        return digest(made), bool(ctx.asked)
    if any(b.__name__ == "ClientAttack" for b in type(plugin).__mro__):
        from bench import _contracts_clients

        return _contracts_clients.fingerprint(lab, ctx), bool(ctx.asked)
    if any(b.__name__ == "HistoryAttack" for b in type(plugin).__mro__):
        from bench import _contracts_histories

        return _contracts_histories.fingerprint(lab, ctx), bool(ctx.asked)
    if any(b.__name__ == "TextAttack" for b in type(plugin).__mro__):
        from bench import _contracts_texts

        return _contracts_texts.fingerprint(lab, ctx), bool(ctx.asked)
    if any(b.__name__ == "NaturalNoise" for b in type(plugin).__mro__):
        noisy = plugin.before_training(lab.data(), ctx) if plugin.trains else plugin.shifted(
            lab.data(), ctx)
        return digest(noisy.train, noisy.test), bool(ctx.asked)
    if any(b.__name__ == "PrivacyAttack" for b in type(plugin).__mro__):
        from bench._contracts_inference import inferred

        return digest(inferred(lab, seed)[0]), False
    if isinstance(plugin, Defense):
        cleaned = plugin.clean(poisoned(), ctx)
        model = lab.model(plugin, seed)
        return digest(cleaned.train, all_scores(model)), True
    if isinstance(plugin, Attack) and plugin.trains:
        changed = plugin.before_training(lab.data(), ctx)
        return digest(changed.train, list(changed.item_text or ())), bool(ctx.asked)
    assert isinstance(plugin, Attack)
    return digest(plugin.params()), False


def load(lab: Lab) -> Dataset:
    """The dataset under test. Skip where it cannot do without files and got none."""
    plugin = cast(DatasetPlugin, lab.plugin())
    try:
        return plugin.load()
    except InputError as error:
        if lab.params:
            raise
        raise Skip(f"it needs files, which test_params does not name: {error.what}") from error


def refuse(reason: str | None) -> None:
    """Skip where the plugin cannot act on the test data."""
    if reason is not None:
        raise Skip(f"it cannot run on the test data: {reason}")


@functools.cache
def profile_task() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Targets and lengths handed to a profile attack."""
    return np.array([5, 17], np.int64), np.array([9, 10, 8], np.int64)


@functools.cache
def poisoned() -> Dataset:
    """The blocks data with random profiles, as a defender would meet them."""
    attack = cast(ProfileAttack, _built_in("attacks", "random-profiles", budget=0.1, targets=2))
    return attack.poison(blocks(), Context(0))


def start_over() -> None:
    """Make what is shared between checks anew, after a plugin has changed it."""
    for cached in (_blocks, _trained_bprmf, poisoned, profile_task):
        cached.cache_clear()


@contextlib.contextmanager
def global_generators(state: int) -> Iterator[None]:
    """Inside, the global generators are at a known state that no seed of a run knows of."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


def global_state() -> str:
    """The state of the three global generators, hashed."""
    return digest(repr(random.getstate()), repr(np.random.get_state(legacy=True)),
                  torch.random.get_rng_state())


# -- another process ---------------------------------------------------------------------------

def worker(payload: str) -> str:
    """In a spawned process: make each plugin from JSON and give its fingerprint, or the error."""
    from bench.registry import Registry

    torch.set_num_threads(1)
    asked = json.loads(payload)
    registry = Registry([Path(f) for f in asked["folders"]])
    found = []
    for kind, spec in asked["plugins"]:
        try:
            cls = type(registry.make(kind, spec))
            found.append(["ok", fingerprint(Lab(kind, cls, registry, spec["params"]), 0)[0]])
        except Skip as reason:
            found.append(["skip", str(reason)])
        except Exception as error:  # the parent shows it
            found.append(["error", f"{type(error).__name__}: {error}"])
    return json.dumps(found)


def spawn(labs: list[Lab]) -> list[tuple[str, str]]:
    """Fingerprints of plugins made in one freshly started process: (ok, skip or error, text)."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    folders = sorted({str(f) for lab in labs for f in lab.registry.folders})
    payload = json.dumps({"folders": folders, "plugins": [
        [lab.kind, {"name": lab.cls.name, "params": lab.plugin().params()}] for lab in labs]})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return [(state, text) for state, text in json.loads(
            pool.submit(worker, payload).result(timeout=300))]
