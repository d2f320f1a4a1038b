"""What an attacker may have of the attacked system, handed over as `ctx.victim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data import Dataset, Floats, Ints
from bench.errors import PluginError

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin, Profile
    from bench.context import Context
    from bench.models.base import Recommender


@dataclass(frozen=True)
class Victim:
    """The pipeline under attack, for an attacker who may train it (white box, shadow models).

    What an attacker trains has a seed of the attacker's: another one's initial weights, negatives
    and noise are known to nobody. Only the attacked system itself, retrained with what it was
    given (black box), and an attacker who knows all of its training (white box) have its seed.

    Attributes:
        model, defense: the plugins, with their settings.
        ctx: seed and device of the attacked training.
        undefended: gives the trained model without defense, same data and seed.
    """

    model: ModelPlugin
    defense: Defense
    ctx: Context
    undefended: Callable[[], Recommender]

    def context(self, *, seed: int | None = None, as_attacked: bool = False) -> Context:
        """What a training of an attacker runs under; the arguments are those of `trained`."""
        if as_attacked:
            if seed is not None:
                raise PluginError("a training has the attacked system's seed or a seed of its own; "
                                  "give seed or as_attacked=True, not both")
            return dataclasses.replace(self.ctx, victim=None, notes={})
        apart = self.ctx.apart("attacker")
        return apart if seed is None else dataclasses.replace(apart, seed=seed)

    def trained(self, data: Dataset, *, model: ModelPlugin | None = None, defended: bool = True,
                seed: int | None = None, as_attacked: bool = False) -> Recommender:
        """The pipeline trained on this data: cleaned, fitted and hardened by the defense.

        Args:
            data: only its train and valid splits are used; without valid rows nothing stops
                the training early.
            model: a surrogate in place of the attacked model.
            defended: with the defense, or plainly.
            seed: of the training; if not given, one of the attacker's, the same in every call.
            as_attacked: with the attacked training's own seed. For the system's own answers and
                for white-box attackers alone.

        Raises:
            PluginError: both seed and as_attacked are given.
        """
        from bench.models.base import build
        from bench.registry import Registry

        ctx = self.context(seed=seed, as_attacked=as_attacked)
        defense: Any = self.defense if defended else Registry().make("defenses",
                                                                     {"name": "none"})
        blind = data.replace(test=data.test[:0])
        cleaned = defense.clean(blind, ctx)
        made = build(model or self.model, cleaned, ctx)
        made.fit(defense, lambda event: None)
        served: Recommender = defense.harden(made, cleaned, ctx)
        return served


@dataclass(frozen=True)
class Lists:
    """The recommendations that an attacker's own fake users are shown (black box). What it takes
    to show them is not for the attacker."""

    _victim: Victim
    _data: Dataset
    _add: Callable[[Dataset, list[Profile], Context], Dataset]
    _ctx: Context
    asked: list[int] = field(default_factory=list)

    def lists(self, profiles: Sequence[Profile], k: int) -> tuple[Ints, Floats]:
        """Items and their scores, (profiles, k) each, best first, what a profile holds left out.

        Each call trains the attacked system with these fake users in its data, as registering
        them and waiting for the next update would: one training, and one query per profile.
        """
        import torch

        from bench.models.base import TorchRecommender

        with_fakes = self._add(self._data, list(profiles), self._ctx)
        model = self._victim.trained(with_fakes, as_attacked=True)
        users = torch.arange(self._data.n_users, with_fakes.n_users, device=self._ctx.device)
        quiet = model.evaluating() if isinstance(model, TorchRecommender) else None
        with torch.no_grad():
            if quiet is None:
                scores = model.scores(users).double().cpu().numpy().copy()
            else:
                with quiet:
                    scores = model.scores(users).double().cpu().numpy().copy()
        for row, profile in enumerate(profiles):
            scores[row, profile.items] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)
        self.asked.append(len(profiles))
        self._ctx.count(len(profiles), trainings=1)
        return best, np.take_along_axis(scores, best, axis=1)
