"""What an attack that has not declared itself an oracle is handed: no test row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.errors import PluginError
from bench.stages import without_test

if TYPE_CHECKING:
    from bench.attack import Attack
    from bench.data import Dataset
    from bench.models.base import Recommender


def shown(attack: Attack, data: Dataset) -> Dataset:
    """The data as this attack may see it. What evaluation masks are train and valid rows, which
    stay."""
    return data if attack.sees_test else without_test(data)


@contextlib.contextmanager
def blind(attack: Attack, model: Recommender) -> Iterator[None]:
    """Inside, the model and those inside it hold no test row, and make no batch of any, unless
    the attack is a declared oracle.

    Raises:
        PluginError: batches of the test rows are asked for.
    """
    if attack.sees_test:
        yield
        return
    with contextlib.ExitStack() as stack:
        for part in _parts(model):
            stack.enter_context(_blinded(attack.name, part))
        yield


def hidden(attack: Attack | None, model: Recommender) -> Recommender:
    """The model, which nobody but the attacker uses, without any test row from now on; as it is
    for a declared oracle."""
    if attack is None or not attack.sees_test:
        for part in _parts(model):
            _hide(attack.name if attack is not None else "the attack", part)
    return model


def _parts(model: Any) -> list[Recommender]:
    """The model, what it wraps or stands for, and what makes its lists."""
    found: list[Recommender] = []
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if part is None or any(part is known for known in found):
            continue
        found.append(part)
        waiting += [getattr(part, "base", None), getattr(part, "served", None)]
    return [part for part in found if hasattr(part, "data")]


@contextlib.contextmanager
def _blinded(name: str, part: Any) -> Iterator[None]:
    data, batches = part.data, hasattr(part, "batches")
    _hide(name, part)
    try:
        yield
    finally:
        part.data = data
        if batches:
            del part.batches


def _hide(name: str, part: Any) -> None:
    """Take the test rows out of this part, through the object's own attributes."""
    batches: Any = getattr(part, "batches", None)

    def without(epoch: int, size: int, source: str = "train") -> Any:
        if source == "test":
            raise PluginError(f"{name} asks for batches of the test rows, and has not said "
                              "that it sees them; name the parameter whose value test means it in "
                              "the class, as oracle_by = \"source\", or take the train rows")
        return batches(epoch, size, source)

    part.data = without_test(part.data)
    if batches is not None:
        part.batches = without
