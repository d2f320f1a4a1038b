"""Every parameter of attacks on vectors, features and histories does something, or is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bench._contracts_lab import blocks, bprmf, digest, fit, no_defense
from bench.api import Context, Dataset, EmbeddingAttack
from bench.coerce import parameters
from bench.defenses.adversarial_training import AdversarialTraining
from bench.defenses.randomised_smoothing import RandomisedSmoothing
from bench.errors import InputError
from bench.features import FeatureAttack
from bench.histories import HistoryAttack
from bench.models import recbole
from bench.models.base import Recommender
from bench.models.vbpr import VBPR
from bench.registry import Registry
from bench.stages import Prepared, under_attack

REGISTRY = Registry()
BASES = (EmbeddingAttack, FeatureAttack, HistoryAttack)
ATTACKS = [n for n in REGISTRY.names("attacks") if issubclass(REGISTRY.get("attacks", n), BASES)]
SEQUENCES: dict[str, Any] = {"max_length": 8, "epochs": 2, "patience": 0, "hidden_size": 16,
                             "inner_size": 32, "learning_rate": 0.01}

# Where the default stands at the end of what tiny data allow, another value that can be told.
OTHER: dict[Any, list[Any]] = {
    "pairs": [60], "similarity": [0.3], "looked": [2], "watched": [2], "depth": [3], "pool": [3],
    "places": [1], "k": [3], "epochs": [5], "sequences": [9], "length": [4], "targets": [2],
    "steps": [4], "tries": [2], "step": [0.7], "start": [0.01], "copies": [2], "edits": [1],
    "n_queries": [20], ("pollution", "step"): [0.01], ("substitution", "step"): [0.01],
    ("history-insertion", "looked"): [1], ("pollution", "tries"): [1]}
# What must stand beside a parameter so that it does something; without it, it is refused or is
# there for what the parameter beside it turns on.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    **{(n, key): {"goal": "push"} for n in ATTACKS for key in ("targets", "stratum")
       if issubclass(REGISTRY.get("attacks", n), HistoryAttack)},
    ("append-items", "what"): {"goal": "push"},
    **{("torchattacks", key): {"attack": "PGDL2", "k": 10, "steps": 3} for key in (
        "adaptive", "eps", "relative", "norm", "steps", "step", "item", "copies")},
    ("torchattacks", "n_queries"): {"attack": "Square", "steps": 10, "n_queries": 5},
    ("torchattacks", "c"): {"attack": "CW"},
    ("substitution", "fresh"): {"edits": 3}, ("pollution", "step"): {"edits": 6, "tries": 1},
    **{(n, "relative"): {"norm": "linf"} for n in ("feature-noise", "feature-pgd")},
    ("random-substitution", "adaptive"): {"similarity": 0.3},
    **{("pollution", key): {"knowledge": "black", "sequences": 30, "length": 6, "k": 4, "epochs": 2,
                            "edits": 6}
       for key in ("surrogate", "sequences", "length", "k", "epochs")}}
SLOW = ("AutoAttack", "Square", "FAB", "APGDT", "SPSA")  # each has a test of its own
# What changes nothing on its own, and why.
EXCUSED = {
    ("torchattacks", "tables"): "one choice", ("msap-published", "norm"): "one choice",
    ("pollution", "goal"): "one choice",
    ("feature-noise", "goal"): "a control looks at nothing; the report reads which way it counts",
}


def small(data: Dataset) -> Dataset:
    """A few users are evaluated, whom alone history-insertion attacks. The feature vectors are
    of any direction, so that their largest coordinates are not 1."""
    vectors = np.random.default_rng(0).normal(size=(data.n_items, 6)).astype(np.float32)
    return data.replace(asked=np.arange(6), item_features={"image": vectors})


class Scene:
    """A served model, and the same without defense."""

    def __init__(self, model: Any, data: Dataset, defense: Any) -> None:
        self.data, self.undefended_model = data, fit(model, data)
        self.served = fit(model, data, 0, defense) if defense else self.undefended_model
        self.plugin, self.defense = model, defense or no_defense()

    def undefended(self) -> Recommender:
        return self.undefended_model

    def outcome(self, attack: Any) -> str:
        """What is attacked and what comes of it, hashed; or the reason why not."""
        reason = attack.unfit(self.plugin, self.data) or attack.unfit_defended(
            self.defense, self.plugin, self.data)
        if reason:
            return str(reason)
        ctx = dataclasses.replace(Context(0), victim=self)
        with under_attack(attack, self.served, Prepared(self.data, self.data, self.served.data,
                                                        None), ctx) as struck:
            model: Any = struck.model
            inside = getattr(model, "base", model)
            histories = model.histories() if isinstance(attack, HistoryAttack) else []
            changed = [t.rows() for t in inside.tables().values()] + [
                self.read(inside) if histories else None]
            return digest(changed, struck.targets)

    def read(self, model: Any) -> Any:
        """Scores, which say which histories are read."""
        from bench._contracts_lab import all_scores

        return all_scores(model)


@pytest.fixture(scope="module")
def scenes() -> Any:
    made: dict[tuple[str, str], Scene] = {}

    def scene(kind: str, defense: str) -> Scene:
        if (kind, defense) not in made:
            models: dict[str, Any] = {
                "vectors": bprmf(epochs=5), "features": VBPR(features="image", dim=8, epochs=3,
                                                             batch_size=256, learning_rate=0.05,
                                                             patience=0),
                "histories": recbole.member("SASRec")(**SEQUENCES)}
            tables = "item" if kind == "histories" else "user"
            defenses: dict[str, Any] = {
                "none": None, "trained": AdversarialTraining(eps=0.3),
                "smoothed": RandomisedSmoothing(sigma=0.5, relative=True, draws=5, tables=tables)}
            made[kind, defense] = Scene(models[kind], small(blocks()), defenses[defense])
        return made[kind, defense]

    return scene


def kind_of(name: str) -> str:
    cls = REGISTRY.get("attacks", name)
    return next(word for base, word in zip(BASES, ("vectors", "features", "histories"),
                                           strict=True) if issubclass(cls, base))


def others(name: str, key: str) -> list[Any]:
    """Other allowed values of a parameter."""
    field = parameters(REGISTRY.get("attacks", name))[key]
    now = REGISTRY.get("attacks", name).test_params().get(key, field.default)
    if isinstance(field.default, bool):
        return [not now]
    if field.metadata.get("choices"):
        return [c for c in field.metadata["choices"] if c != now]
    if key in OTHER:
        return OTHER.get((name, key)) or [v for v in OTHER[key] if v != now] or [now + 1]
    return [now * 0.5] if isinstance(field.default, float) else [now + 1]


DECLARED = [(n, key) for n in ATTACKS for key in parameters(REGISTRY.get("attacks", n))]


@pytest.mark.parametrize(("name", "key"), DECLARED)
def test_a_parameter_changes_the_outcome_or_is_refused(scenes: Any, name: str, key: str) -> None:
    if (name, key) in EXCUSED:
        assert EXCUSED[name, key] != "one choice" or not others(name, key)
        return
    cls: Any = REGISTRY.get("attacks", name)
    beside = cls.test_params() | BESIDE.get((name, key), {})
    where = {"adaptive": "trained", "copies": "smoothed"}.get(key, "none")
    scene = scenes(kind_of(name), where)
    before, choices = scene.outcome(cls.from_params(beside)), others(name, key)
    assert choices
    for value in choices:
        try:
            other = cls.from_params(beside | {key: value})
        except InputError:
            continue
        if name == "torchattacks" and key == "attack" and other.attack in SLOW:
            continue
        assert scene.outcome(other) != before, f"{key}: {value} does what {key} does unchanged"
