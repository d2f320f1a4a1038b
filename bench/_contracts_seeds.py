"""Contract of attackers who do not know the attacked training: nothing it draws is theirs to draw.

An attacker whose surrogate starts from the victim's own weights, meets its negatives or sees the
noise of its defense knows what its threat model denies, and would be reported too strong.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.api import Attack, Context, Dataset, Defense, ModelPlugin, Profile, ProfileAttack
from bench.coerce import parameters
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.data import Floats, Ints
    from bench.models.base import Recommender

Drawn = set[tuple[int, tuple[str, ...]]]
"""Seeds and names of streams."""


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    if any(b.__name__ == "ClientAttack" for b in cls.__mro__):
        return []  # it acts within the attacked training, whose draws are not told from its own
    return [draws_apart]


def draws_apart(lab: Lab) -> None:
    """Gray and black box: no stream that it draws is one of the attacked training or defense."""
    from bench._contracts_lab import fit

    ran = False
    for plugin, data in _attackers(lab):
        for defense in (_Noisy(), _Choosy()) if getattr(plugin, "adaptive", 0) else (_Noisy(),):
            ran = True
            with drawn() as theirs:
                fit(lab.model_plugin(), data, 0, defense)
            model = None if isinstance(plugin, ProfileAttack) else lab.model()
            with drawn() as mine:
                _strike(lab, plugin, data, defense, model)
            both = sorted(" ".join(names) for _, names in mine & theirs)
            require(not both, f"{plugin.threat_model().knowledge} box, it draws what the attacked "
                    f"training draws: {', '.join(both)}", "train what it trains under "
                    "ctx.apart(…) or ctx.victim.trained(…) without as_attacked: the victim's "
                    "seed gives away its weights, negatives and noise")
    if not ran:
        raise Skip("it knows all of the training, or nothing of it")


def _attackers(lab: Lab) -> Iterator[tuple[Any, Dataset]]:
    """The attack with every knowledge short of white, static and (profiles) adaptive."""
    fields = parameters(lab.cls)
    known = fields["knowledge"].metadata.get("choices", ()) if "knowledge" in fields else ()
    for knowledge in known or (None,):
        for adapts in (False, True) if issubclass(lab.cls, ProfileAttack) else (None,):
            more: dict[str, Any] = {} if knowledge is None else {"knowledge": knowledge}
            if adapts is not None:
                more |= {"adaptive": adapts, "tries": 2, "targets": 2}
            if knowledge == "white" and not adapts:
                continue
            plugin = lab.plugin(**more)
            if plugin.threat_model().knowledge in ("gray", "black"):
                data = lab.data()
                yield plugin, data if plugin.unfit(lab.model_plugin(), data) is None else lab.data(
                    explicit=False)


def _strike(lab: Lab, plugin: Attack, data: Dataset, defense: Defense,
            model: Recommender | None) -> None:
    """The attack from its beginning to the moment of evaluation."""
    from bench._contracts_lab import no_defense
    from bench.stages import Prepared, under_attack
    from bench.victim import Victim

    own = lab.context(0)
    assert isinstance(own.victim, Victim)
    ctx = dataclasses.replace(own, victim=dataclasses.replace(own.victim, defense=defense))
    if plugin.trains:
        plugin.before_training(data, ctx)
    if model is None:
        return
    with answering(model.ctx), under_attack(plugin, model, Prepared(
            data, data, no_defense().clean(data, model.ctx), plugin.aims(data, ctx)), ctx):
        pass


class _Noisy(Defense):
    """Draws in every hook."""

    name = "noisy"

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        ctx.stream("noise of a defense")
        return data


class _Choosy(_Noisy):
    """Cannot stand on a surrogate."""

    name = "choosy"

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return "it stands on the attacked model alone"


_exempt: list[Context] = []
_stopped: list[int] = []


@contextlib.contextmanager
def answering(ctx: Context) -> Iterator[None]:
    """Inside, what this very context draws is drawn by the attacked system as it answers."""
    _exempt.append(ctx)
    try:
        yield
    finally:
        _exempt.pop()


@contextlib.contextmanager
def drawn() -> Iterator[Drawn]:
    """Seed and names of every stream that is asked for inside, but for what the attacked system
    draws to answer: `Lists`, and the context of `answering`."""
    from bench.victim import Lists

    found: Drawn = set()
    number, lists = Context.number, Lists.lists

    def noting(self: Context, *names: object) -> int:
        if not _stopped and not any(self is ctx for ctx in _exempt):
            found.add((self.seed, tuple(map(str, names))))
        return number(self, *names)

    def shown(self: Lists, profiles: Sequence[Profile], k: int) -> tuple[Ints, Floats]:
        _stopped.append(1)
        try:
            return lists(self, profiles, k)
        finally:
            _stopped.pop()

    Context.number, Lists.lists = noting, shown  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Context.number, Lists.lists = number, lists  # type: ignore[method-assign]
