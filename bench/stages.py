"""The stages of a cell that determine its numbers, in the order in which they happen.

data -> poison -> clean -> build and train -> harden -> (attack the trained model) -> evaluate.
What moves, stores and reports is elsewhere: this module's code is part of every key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import Attack, EmbeddingAttack, ProfileAttack
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin
    from bench.context import Context
    from bench.data import Dataset, Ints
    from bench.models.base import Recommender
    from bench.training import FitResult, Progress


@dataclass(frozen=True)
class Prepared:
    """The data of one training.

    Attributes:
        genuine: as loaded: what is evaluated on.
        attacked: with the fake users of a poisoning attack.
        train: what the model sees, after the defense cleaned it.
        targets: item indices that the poisoning promotes, or None.
    """

    genuine: Dataset
    attacked: Dataset
    train: Dataset
    targets: Ints | None


def poisons(attack: Attack) -> bool:
    """Whether the attack changes the train data, so that its cell needs a training of its own."""
    return isinstance(attack, ProfileAttack)


def prepare(data: Dataset, poison: Attack | None, defense: Defense, ctx: Context) -> Prepared:
    """Poison the data, then let the defense clean it."""
    attacked, targets = data, None
    if isinstance(poison, ProfileAttack):
        targets = poison.pick(data, ctx)
        attacked = poison.poison(data, ctx)
    return Prepared(data, attacked, defense.clean(attacked, ctx), targets)


def train(model: Recommender, defense: Defense, progress: Progress) -> FitResult:
    """Train the model that `bench.models.base.build` made."""
    return model.fit(defense, progress)


def make(plugin: ModelPlugin, prepared: Prepared, ctx: Context) -> Recommender:
    """The untrained model; clean and poisoned trainings share their initialisation."""
    from bench.models.base import build

    return build(plugin, prepared.train, ctx)


Facts = dict[str, Any]
Strike = Callable[[Any, "Recommender", "Dataset", "Context"],
                  contextlib.AbstractContextManager[Facts]]


@contextlib.contextmanager
def _nothing(attack: Attack, model: Recommender, data: Dataset, ctx: Context) -> Iterator[Facts]:
    yield {}


@contextlib.contextmanager
def _embeddings(attack: EmbeddingAttack, model: Recommender, data: Dataset,
                ctx: Context) -> Iterator[Facts]:
    from bench.models.base import TorchRecommender

    if not isinstance(model, TorchRecommender):
        raise BenchError(f"{attack.name} perturbs learned vectors, and the model as it is served "
                         f"({type(model).__name__}) has none")
    radii = attack.radii(model)  # before the perturbation, which changes the median row norm
    with model.perturbed(attack.perturbation(model, data, ctx)):
        yield {"radii": radii}


# What happens to the trained model, by the attack's base class. A poisoning has happened before.
_STRIKES: tuple[tuple[type[Attack], Strike], ...] = (
    (EmbeddingAttack, _embeddings),
    (ProfileAttack, _nothing),
)


def under_attack(attack: Attack, model: Recommender, data: Dataset,
                 ctx: Context) -> contextlib.AbstractContextManager[Facts]:
    """Inside, the model is under this attack; gives facts for the report.

    Args:
        data: what the model was trained on.
    """
    for base, strike in _STRIKES:
        if isinstance(attack, base):
            return strike(attack, model, data, ctx)
    return _nothing(attack, model, data, ctx)
