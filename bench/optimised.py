"""Profile attacks that learn their profiles: what they share beyond the budget.

An author writes `candidates`: the profiles the attack begins with, then what it has learned, each
with the target loss that its own surrogate gives them. The base class takes one of them, notes
the losses for the report, and lets a white-box attacker ask the attacked pipeline which is best.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from bench.attack import ThreatModel
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import CannotActError, PluginError
from bench.plugin import param
from bench.profile_attack import Profile, ProfileAttack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """Profiles that could be injected, and the attack's own loss with them: lower is better."""

    profiles: list[Profile]
    loss: float


class OptimisedProfiles(ProfileAttack):
    """Before training: adds fake users whose profiles are learned. Authors write `candidates`.

    Guaranteed besides what every profile attack guarantees: a loss that is not finite is an
    error, and the losses are in the facts of the cell ("target_loss": first, taken, and how
    many). White box: of `tries` candidates spread over the optimisation, the one is taken with
    which the attacked pipeline, trained with the genuine rows and these profiles, ranks the
    targets best for genuine users.
    """

    steps: int = param(30, "steps of optimisation; 0: the profiles it begins with", low=0)
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "push")
    goals: ClassVar[tuple[str, ...]] = ("push",)
    asks_victim: ClassVar[bool] = True
    takes: ClassVar[str] = "best"  # or "last": which candidate where nobody is asked

    @abstractmethod
    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        """What it begins with, then what it has learned; with `steps` 0 the former alone.

        Args: as of `ProfileAttack.profiles`. Each loss is of a surrogate that has learned from
        these very profiles, so that losses can be compared.
        """

    @final
    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        """The candidate that is injected."""
        if not len(data.train.positives()):
            raise CannotActError(f"{self.name} learns from what users liked, and knows nobody who "
                                 "liked anything; raise known")
        found = list(self.candidates(data, targets, lengths, ctx))
        losses = [c.loss for c in found]
        if not found or not all(map(math.isfinite, losses)):
            raise PluginError(f"{self.name}: the losses of its profiles are {losses}; lower the "
                              "learning rate, or what else is set to a size that overflows")
        at = int(np.argmin(losses)) if self.takes == "best" else len(found) - 1
        if self.knowledge == "white" and ctx.victim is not None:
            at = self._asked(found, at, data, targets, ctx)
        ctx.notes["target_loss"] = {"first": losses[0], "taken": losses[at],
                                    "lowest": min(losses), "candidates": len(found), "at": at}
        return found[at].profiles

    def _asked(self, found: Sequence[Candidate], favourite: int, data: Dataset, targets: Ints,
               ctx: Context) -> int:
        """Which candidate the attacked pipeline is most taken in by."""
        from bench.adaptive import asked_standing

        spread = np.linspace(0, len(found) - 1, self.tries).round().astype(int)
        asked = sorted({favourite, *spread.tolist()})
        pick = min if self.goal == "push" else max
        ranks = {k: asked_standing(self.with_profiles(data, found[k].profiles, ctx), data, targets,
                                   ctx) for k in asked}
        ctx.notes["asked"] = {str(k): rank for k, rank in ranks.items()}
        chosen: int = pick(asked, key=lambda k: ranks[k])
        return chosen

    def threat_model(self) -> ThreatModel:
        return dataclasses.replace(self.threat, knowledge=self.knowledge, goal=self.goal)

    def budget_text(self) -> str:
        asked = f", best of {self.tries} asked of the victim" if self.knowledge == "white" else ""
        return f"{super().budget_text()}, {self.steps} steps{asked}"


def below_zero(data: Dataset) -> str | None:
    """Why a matrix in which 0 is no rating cannot hold this data's ratings, or None."""
    if data.train.ratings is None or not len(data.train):
        return None
    low = data.rating_scale[0] if data.rating_scale else float(data.train.ratings.min())
    if low > 0:
        return None
    return f"its generator takes a rating of 0 or less for none, and {data.name} has such ratings"


def as_profiles(fake: Tensor, data: Dataset, targets: Ints, ctx: Context) -> list[Profile]:
    """Profiles of what is not 0 in each row of fake (fakes, items), targets first.

    Explicit data: targets at the highest rating; an item i that the attack chose is meant as one
    that the fake user likes, and gets a rating N(μᵢ, σᵢ) of that item's train ratings, but not
    one below the dataset's threshold, where there is one.
    """
    from bench.profiles import RatingModel

    model = None if data.train.ratings is None else RatingModel(data)
    made = []
    for user, row in enumerate(fake.numpy()):
        items = np.flatnonzero(row)
        items = items[~np.isin(items, targets)]
        ratings = None
        if model is not None:
            drawn = model.per_item(items, ctx, user)
            if data.threshold is not None:
                drawn = np.maximum(drawn, data.threshold)
            ratings = np.concatenate([np.full(len(targets), model.high), drawn])
        made.append(Profile(np.concatenate([targets, items]).astype(np.int64), ratings))
    return made


def templates(x: Tensor, targets: Ints, lengths: Ints, ctx: Context) -> Tensor:
    """Rows to begin with, (fakes, items): copies of random genuine users, brought to length.

    A user with too many items gives a random part of them; one with too few is filled up with
    items of others, drawn by popularity. Targets are in every row.
    """
    import torch

    from bench.surrogates import top

    popularity = x.sum(dim=0).double().numpy()  # (m,)
    made = np.empty((len(lengths), x.shape[1]))
    for user in range(len(lengths)):
        rng = ctx.stream("template", user)
        own = x[int(rng.integers(len(x)))].numpy() > 0
        draw = rng.random(x.shape[1])
        with np.errstate(divide="ignore"):  # weighted draw without replacement: u^(1/weight)
            other = np.where(popularity > 0, draw ** (1 / popularity), draw - 1)
        made[user] = np.where(own, 1 + draw, other)
    made[:, targets] = np.inf
    return top(torch.from_numpy(made), lengths).float()
