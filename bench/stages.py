"""The stages of a cell that determine its numbers, in the order in which they happen.

data -> poison -> clean -> build and train -> harden -> (attack the trained model) -> evaluate.
Where an attack enters is its own base class's matter (`bench.attack`). What moves, stores and
reports is elsewhere: this module's code is part of every key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api import Attack, Defense, ModelPlugin
    from bench.attack import Struck
    from bench.context import Context
    from bench.data import Dataset, Ints
    from bench.models.base import Recommender
    from bench.training import FitResult, Progress


@dataclass(frozen=True)
class Prepared:
    """The data of one training.

    Attributes:
        genuine: as loaded: what is evaluated on.
        attacked: as an attack before training left it.
        train: what the model sees, after the defense cleaned it.
        targets: item indices that such an attack promotes or demotes, or None.
        intruder: the attack that acts before or during training, or None.
    """

    genuine: Dataset
    attacked: Dataset
    train: Dataset
    targets: Ints | None
    intruder: Attack | None = None


def prepare(data: Dataset, intruder: Attack | None, defense: Defense, ctx: Context) -> Prepared:
    """Let the attack change the data, then let the defense clean it. The defense sees no test
    row."""
    attacked, targets = data, None
    if intruder is not None:
        targets = intruder.aims(data, ctx)
        attacked = intruder.before_training(data, ctx)
    cleaned = defense.clean(without_test(attacked), ctx)
    # who is asked in the end is no reason to stop training earlier: everybody validates
    return Prepared(data, attacked, cleaned.replace(test=attacked.test, asked=None), targets,
                    intruder)


def without_test(data: Dataset) -> Dataset:
    """The data with an empty test split, as attackers and defenders see it."""
    return data.replace(test=data.test[:0])


def make(plugin: ModelPlugin, prepared: Prepared, ctx: Context) -> Recommender:
    """The untrained model; clean and poisoned trainings share their initialisation."""
    from bench.models.base import build

    model = build(plugin, prepared.train, ctx)
    model.intruder = prepared.intruder
    return model


def train(model: Recommender, defense: Defense, progress: Progress) -> FitResult:
    """Train the model that `make` made."""
    return model.fit(defense, progress)


def harden(model: Recommender, prepared: Prepared, defense: Defense, ctx: Context) -> Recommender:
    """The trained model as the defense serves it."""
    return defense.harden(model, without_test(prepared.train), ctx)


@contextlib.contextmanager
def under_attack(attack: Attack, model: Recommender, prepared: Prepared,
                 ctx: Context) -> Iterator[Struck]:
    """Inside, the model is under this attack. What the attack asked of the model that it is made
    on is counted in the facts as "queries" (`Context.count` says what one is): users whose lists
    it read, and rows whose loss it differentiated; static or adaptive alike."""
    from bench.queries import Asked, counting

    asked = Asked()
    with contextlib.ExitStack() as stack:
        with counting(model, ctx, asked) as counted:
            struck = stack.enter_context(attack.strike(model, prepared, counted))
        struck.facts = {**ctx.notes, **struck.facts}
        struck.facts["queries"] = struck.facts.get("queries", 0) + asked.queries
        yield struck
