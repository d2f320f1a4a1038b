"""Fake users added before training: the attack's author makes profiles, this class keeps to the
budget and to what the attacker may know."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from bench.attack import STRATA, Attack, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Floats, Interactions, Ints
from bench.errors import CannotActError, InputError, PluginError
from bench.plugin import param
from bench.profiles import fake_attributes, fake_times

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin


@dataclass(frozen=True)
class Profile:
    """One fake user.

    Attributes:
        items: (k,), distinct.
        ratings: (k,), where data is explicit.
        ordered: the items are in order of time, for models that read sequences. Otherwise times
            are dealt to them at random.
    """

    items: Ints
    ratings: Floats | None = None
    ordered: bool = False


class ProfileAttack(Attack):
    """Before training: adds fake users. Authors write `profiles`; this class keeps the budget.

    Guaranteed: round(budget · genuine users) fake users (at least one), each with at most the
    stated number of items, targets included; no item twice in a profile; ratings on the scale;
    real rows untouched and first; fakes only in train; no id moves; and an attacker is handed
    no more than `knowledge` says:

    - gray: the genuine train rows. What needs a model trains a surrogate of its own, from a seed
      of its own: `ctx.apart(…)`.
    - white: also `ctx.victim`, which trains the attacked pipeline itself, defense included, and
      with `as_attacked=True` from its own seed; only for classes that say (`asks_victim`) that
      their profiles depend on it, and with `adaptive`.
    - black: the train rows of a share `known` of the genuine users, from which lengths and times
      of profiles come, too, and `ctx.victim.lists`, which shows fake users their own
      recommendations.

    A nuke that rates its targets low is refused where the data cannot say low or the model does
    not read it (`gives` names neither ratings nor, with labelled data, dislikes).

    `adaptive` makes the attack against the defended pipeline (see `bench.adaptive`): of several
    disguises of its profiles, it keeps the one whose targets fare best after the defense has
    cleaned the data and a model has been trained with it. Where the surrogate can have nothing of
    the defense, the attack is not called adaptive (`unseen`).
    """

    budget: float = param(0.01, "fake users as a share of genuine users", above=0, high=1)
    length: int = param(0, "items per fake profile, targets included; 0: as genuine users (black: "
                        "the known ones) have on average, with 10 % spread", low=0)
    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    goal: str = param("push", "push the targets, or nuke them, where the attack can",
                      choices=("push", "nuke"))
    knowledge: str = param("gray", "gray: train data; white: also the attacked pipeline; black: "
                           "a share `known` of the users, and its own fakes' lists",
                           choices=("white", "gray", "black"))
    known: float = param(0.1, "share of genuine users whose rows a black-box attacker sees",
                         above=0, high=1)
    adaptive: bool = param(False, "made against the defended pipeline: the best of `tries` "
                           "disguises")
    tries: int = param(4, "disguises that an adaptive attacker compares", low=2)
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "push")
    explicit_only: ClassVar[bool] = False
    goals: ClassVar[tuple[str, ...]] = ("push",)  # which of the goals the attack can have
    holds_targets: ClassVar[bool] = True  # whether every profile must contain every target
    asks_victim: ClassVar[bool] = False  # whether a white-box `profiles` reads ctx.victim

    def __post_init__(self) -> None:
        if self.goal not in self.goals:
            raise InputError(f"{self.name} cannot {self.goal}", key="goal",
                             hint=f"its goal is {' or '.join(self.goals)}")
        if self.knowledge == "white" and not (self.asks_victim or self.adaptive):
            raise InputError(f"{self.name} makes the same profiles whatever the pipeline is",
                             key="knowledge", hint="set adaptive: true, or leave it at gray; a "
                             "class that does read ctx.victim says so by asks_victim = True")

    @abstractmethod
    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        """One profile per fake user.

        Args:
            data: genuine data; only its train split may be used.
            targets: item indices to promote.
            lengths: the most items each fake user may have, targets included, shape (n_fake,).
            ctx: for randomness, by name.
        """

    @property
    def trains(self) -> bool:
        return True

    @property
    def is_adaptive(self) -> bool:
        return self.adaptive or self.knowledge == "white"

    def unseen(self, defense: Defense, data: Dataset) -> str | None:
        """Who is not white-box meets the defense on a surrogate, where it can stand on one."""
        from bench.adaptive import unmet

        if not self.adaptive or self.knowledge == "white":
            return None
        return unmet(self, defense, data)

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        reason = super().unfit_defended(defense, model, data)
        if reason is None and self.knowledge == "white":
            lacks = defense.unfit(model, self._seen(data, Context(0)))
            if lacks is not None:
                return ("a white-box attacker trains the attacked pipeline on train rows alone, "
                        f"where it cannot stand: {lacks}")
        return reason

    def threat_model(self) -> ThreatModel:
        return dataclasses.replace(self.threat, knowledge=self.knowledge, goal=self.goal)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.explicit_only and data.train.ratings is None:
            return f"{self.name} needs ratings, and {data.name} is implicit"
        if self.goal == "nuke" and self.holds_targets:
            if data.train.ratings is None:
                return f"a nuke needs low ratings, and {data.name} is implicit"
            if data.threshold is not None and data.train.labels is None:
                return (f"a nuke needs low ratings, and {data.name} drops the rows below "
                        f"{data.threshold:g}")
            if not model.gives & ({"ratings", "dislikes"} if data.has_labels else {"ratings"}):
                return (f"a nuke's low ratings are no dislikes to {model.name}: "
                        + ("it reads positives alone" if "dislikes" not in model.gives else
                           f"without a threshold {data.name} labels none"))
        reason = too_many(self.targets, self.stratum, data)
        if reason is not None:
            return reason
        if self.length and self.length < self.targets:
            return f"profiles of {self.length} items cannot hold {self.targets} targets"
        return None

    def budget_text(self) -> str:
        whose = "known" if self.knowledge == "black" else "genuine"
        size = f"{self.length} items" if self.length else f"mean {whose} length"
        seen = f", sees {100 * self.known:.3g}% of the users" if self.knowledge == "black" else ""
        tries = f", best of {self.tries} disguises" if self.adaptive else ""
        return (f"{self.budget:.1%} fake users, {size}, {self.targets} targets ({self.stratum})"
                f"{seen}{tries}")

    def uses(self) -> tuple[tuple[str, str], ...]:
        from bench.adaptive import RATING_SURROGATE, SURROGATE

        made = (SURROGATE, RATING_SURROGATE) if self.adaptive else ()
        return tuple(("models", str(spec["name"])) for spec in made)

    def comparable(self) -> str:
        seen = f", sees {100 * self.known:.3g}% of the users" if self.knowledge == "black" else ""
        return (f"{self.goal}, {self.budget:.3g} fake users, {self.length} items, {self.targets} "
                f"targets ({self.stratum}){seen}")

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return self.pick(data, ctx)

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        return self.poison(data, ctx)

    def pick(self, data: Dataset, ctx: Context) -> Ints:
        """The target items of this attack on this data and seed."""
        return pick_targets(data, self.targets, self.stratum, ctx)

    @final
    def poison(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with the fake users added, budget, knowledge and contract enforced."""
        targets = self.pick(data, ctx)
        n_fake = max(1, round(self.budget * data.n_genuine))
        seen = self._seen(data, ctx)
        lengths = self._lengths(seen, n_fake, len(targets), ctx)
        made = self.profiles(seen, targets.copy(), lengths.copy(), self._told(data, ctx))
        self._enforce(made, data, targets, lengths)
        if self.adaptive:
            from bench.adaptive import best_disguise

            made = best_disguise(self, made, seen, targets, ctx)
            self._enforce(made, data, targets, lengths)
        return self.with_profiles(data, made, ctx)

    @final
    def with_profiles(self, data: Dataset, made: list[Profile], ctx: Context) -> Dataset:
        """The data with these profiles as fake users, at times and with attributes like those of
        the genuine users whom the attacker sees."""
        seen = self._seen(data, ctx)
        counts = np.array([len(p.items) for p in made])
        ratings = None
        if data.train.ratings is not None:
            ratings = np.concatenate([np.asarray(p.ratings, np.float64) for p in made])
        rows = Interactions(
            users=np.repeat(np.arange(len(made)), counts),
            items=np.concatenate([p.items for p in made]).astype(np.int64), ratings=ratings,
            times=fake_times(seen, counts, ctx.stream("fake-times"), [p.ordered for p in made]))
        return data.with_fakes(rows, len(made), fake_attributes(
            data, seen, len(made), ctx.stream("fake-attributes")))

    def _seen(self, data: Dataset, ctx: Context) -> Dataset:
        """What the attacker sees: train rows alone, of a share of the users where black. Of what
        is seen, the same is seen."""
        seen = data.replace(valid=data.valid[:0], test=data.test[:0])
        if self.knowledge != "black":
            return seen
        count = max(1, round(self.known * data.n_genuine))
        hidden = np.ones(data.n_users, bool)
        hidden[ctx.stream("known-users").permutation(data.n_genuine)[:count]] = False
        return seen.without_users(hidden).replace(user_attributes={})

    def _told(self, data: Dataset, ctx: Context) -> Context:
        """The context with as much of the victim as `knowledge` allows."""
        victim = ctx.victim
        if self.knowledge == "gray" or victim is None:
            return dataclasses.replace(ctx, victim=None)
        if self.knowledge == "black":
            from bench.victim import Lists

            victim = Lists(victim, data.replace(test=data.test[:0]), self.with_profiles, ctx)
        return dataclasses.replace(ctx, victim=victim)

    def _lengths(self, seen: Dataset, n_fake: int, n_targets: int, ctx: Context) -> Ints:
        if self.length:
            if self.length < n_targets:
                raise PluginError(f"{self.name}: length {self.length} cannot hold "
                                  f"{n_targets} targets; raise length or lower targets")
            return np.full(n_fake, min(self.length, seen.n_items), np.int64)
        active = seen.activity[seen.activity > 0]
        if not len(active):
            raise CannotActError(f"{self.name}: profiles are as long as those of users it knows, "
                                 "and it knows nobody with a train row; raise known or set length")
        mean = float(active.mean())
        drawn = ctx.stream("fake-lengths").normal(mean, 0.1 * mean, n_fake)
        return np.clip(np.rint(drawn), 1 + n_targets, seen.n_items).astype(np.int64)

    def _enforce(self, made: list[Profile], data: Dataset, targets: Ints, lengths: Ints) -> None:
        strange = [p for p in made if not isinstance(p, Profile)] if isinstance(
            made, (list, tuple)) else [made]
        if strange:
            raise PluginError(f"{self.name}: profiles() gives {type(strange[0]).__name__} where a "
                              "list of Profile(items, ratings) is needed, one per fake user")
        if len(made) != len(lengths):
            raise PluginError(f"{self.name}: {len(lengths)} fake users are the budget, "
                              f"{len(made)} came back")
        for k, (profile, most) in enumerate(zip(made, lengths, strict=True)):
            items = np.asarray(profile.items)
            if items.ndim != 1 or items.dtype.kind not in "iu":
                raise PluginError(f"{self.name}: the items of fake user {k} are "
                                  f"{items.dtype} of shape {items.shape}; one array of item "
                                  "indices, shape (k,), is needed")
            if len(items) > most:
                raise PluginError(f"{self.name}: fake user {k} has {len(items)} items, the "
                                  f"budget is {most} with targets included")
            if len(np.unique(items)) != len(items):
                raise PluginError(f"{self.name}: fake user {k} has an item twice")
            if len(items) and (items.min() < 0 or items.max() >= data.n_items):
                raise PluginError(f"{self.name}: fake user {k} has an item that is not in the "
                                  "catalogue")
            if self.holds_targets and not np.isin(targets, items).all():
                raise PluginError(f"{self.name}: fake user {k} misses a target")
            if data.train.ratings is not None:
                low, high = data.rating_scale or (float(data.train.ratings.min()),
                                                  float(data.train.ratings.max()))
                if profile.ratings is None or np.shape(profile.ratings) != items.shape:
                    raise PluginError(f"{self.name}: {data.name} is explicit, and fake user {k} "
                                      "has not one rating per item")
                ratings = np.asarray(profile.ratings, np.float64)
                if not ((ratings >= low) & (ratings <= high)).all():
                    raise PluginError(f"{self.name}: a rating of fake user {k} is outside "
                                      f"{low:g} to {high:g}")
