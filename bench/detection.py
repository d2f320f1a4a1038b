"""Detectors: each user gets a suspicion, the most suspicious are flagged and not trained on."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.defense import Defense
from bench.detection_metrics import Flags, auc, best_cut, report
from bench.errors import InputError, PluginError
from bench.plugin import param

if TYPE_CHECKING:
    from bench.api import ModelPlugin, ProfileAttack
    from bench.models.base import Recommender

SHORTEST = 10  # items in an own fake, targets included

# Attacks whose profiles hold the same items and differ in ratings alone.
SAME_ITEMS = (frozenset({"random-profiles", "average-profiles"}),)


@dataclass(frozen=True)
class Verdict:
    """What a detector thinks of each user.

    Attributes:
        suspicion: higher is more suspicious; NaN for who could not be judged, (n_users,).
        flagged: who is left out of training, (n_users,).
        notes: how it was found, for the report.
    """

    suspicion: Floats
    flagged: Flags
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged(Dataset):
    """Data that went through a detector, with its verdict for the report."""

    verdict: Verdict | None = None


class Detector(Defense):
    """Flags users and trains without them. Authors write `suspicion`; this class does the rest.

    Guaranteed: the detector sees the train rows, and no sign of who is fake: neither their
    number, nor ids, nor missing attributes, nor any held-out row. At most `max_share` of the
    users are flagged, the most suspicious first. Flagged users lose their train rows and keep
    their place: a genuine user flagged by mistake is evaluated as one without a history. The
    report counts precision, recall, AUC and false alarms by user group afterwards.
    """

    max_share: float = param(0.2, "largest share of users that may be flagged; 0 flags nobody",
                             low=0, high=1)

    @abstractmethod
    def suspicion(self, data: Dataset, ctx: Context) -> Floats:
        """How suspicious each user is: float64 (n_users,), higher is more suspicious, NaN where a
        user cannot be judged (as one without rows).

        Args:
            data: train rows of all users, nameless; every user counts as genuine there.
            ctx: for randomness, by name; `ctx.notes` takes facts for the report.
        """

    def doubtful(self, suspicion: Floats) -> Flags:
        """Who lies above the detector's own cut, from the suspicion of those judged: (k,).

        Here: 3.5 robust deviations above the median, the usual cut for outliers (Iglewicz and
        Hoaglin, 1993).
        """
        return outlying(suspicion, 3.5)

    def examine(self, data: Dataset, ctx: Context) -> tuple[Floats, Flags, dict[str, Any]]:
        """Suspicion (n_users,), who is above the cut (n_users,), and notes for the report."""
        suspicion = _checked(self, self.suspicion(data, ctx), data.n_users)
        above = np.zeros(data.n_users, bool)
        known = np.isfinite(suspicion)
        if known.any():
            above[known] = self.doubtful(suspicion[known])
        return suspicion, above, {}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"max_share": 0.0}

    @final
    def verdict(self, data: Dataset, ctx: Context) -> Verdict:
        """What it thinks of each user, and whom it flags."""
        most = int(self.max_share * data.n_users)
        flagged = np.zeros(data.n_users, bool)
        if not most:
            return Verdict(np.full(data.n_users, np.nan), flagged)
        own = dataclasses.replace(ctx, victim=None, notes={})
        suspicion, above, notes = self.examine(nameless(data), own)
        # by chance among equals: by place, received fakes, who come last, would get away
        found = ctx.stream(self.name, "ties").permutation(np.flatnonzero(above))
        flagged[found[np.argsort(-suspicion[found], kind="stable")[:most]]] = True
        return Verdict(suspicion, flagged, {**notes, **own.notes})

    @final
    def flags(self, data: Dataset, ctx: Context | None = None) -> Flags:
        """Who is flagged, (n_users,). Users without train rows never are."""
        return self.verdict(data, ctx or Context(0)).flagged

    @final
    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        if not int(self.max_share * data.n_users):
            return data
        verdict = self.verdict(data, ctx)
        kept = data.without_users(verdict.flagged) if verdict.flagged.any() else data
        columns = {f.name: getattr(kept, f.name) for f in dataclasses.fields(Dataset)}
        return Judged(**columns, verdict=verdict)

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """What was flagged, and whom it wronged (see `bench.detection_metrics.report`)."""
        had = np.bincount(data.train.users, minlength=data.n_users) > 0
        has = np.bincount(cleaned.train.users, minlength=data.n_users) > 0
        verdict = cleaned.verdict if isinstance(cleaned, Judged) else None
        return {**report(data, had & ~has, None if verdict is None else verdict.suspicion),
                **({} if verdict is None else verdict.notes)}


class OwnFakes(Defense):
    """Base of defenses that learn from labelled users.

    A defender has no labels. It makes its own: it attacks its own copy of the data, which may be
    poisoned already, with the attacks named in `trained_on`. It does so in campaigns, each with
    targets, fillers and a length of its own: targets and fillers from streams that no attacker
    draws from, lengths from low to high quantiles of the received users', as an attacker may
    choose any (with one length for all, a classifier learns that length).

    What is trained on the very attack it then meets shows nothing (CATALOGUE J11): the report
    says `trained_on_evaluated_attack: true` there. List several with different `trained_on`, and
    read each attack by those that were trained on others.
    """

    trained_on: str = param("random-profiles,bandwagon-profiles", "the attacks that make its "
                            "own fakes, with their default parameters, joined by commas")
    train_budget: float = param(0.2, "own fakes as a share of users, all attacks together",
                                above=0, high=1)
    reads_ratings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in self.families():
            family(name)

    def families(self) -> tuple[str, ...]:
        """The names in `trained_on`."""
        names = tuple(dict.fromkeys(self.trained_on.replace(",", " ").split()))
        if not names:
            raise InputError(f"{self.name} needs an attack to be trained on", key="trained_on",
                             hint="trained_on: random-profiles,bandwagon-profiles")
        return names

    def idle(self) -> bool:
        """Whether its parameters leave nothing to it."""
        return self.params() == {**self.params(), **(self.neutral_params() or {})}

    def trained_against(self) -> str | None:
        return None if self.idle() else ", ".join(self.families())

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        for name in self.families():
            reason = family(name).from_params({}).unfit(model, data)
            if reason is not None:
                return f"{self.name} cannot make fakes of its own by {name}: {reason}"
        return None

    def uses(self) -> tuple[tuple[str, str], ...]:
        return tuple(("attacks", name) for name in self.families())

    def trained_on_attack(self, attack: str, ratings: bool) -> bool:
        """Whether an attack of this name is among those trained on, or makes the same rows where
        nobody reads `ratings`."""
        names = set(self.families())
        return attack in names or (not ratings and any(attack in same and names & same
                                                       for same in SAME_ITEMS))

    def sees_ratings(self, model: Recommender) -> bool:
        """Whether what it learns depends on the ratings of the data that this model is of."""
        return self.reads_ratings and model.data.train.ratings is not None

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        attack = getattr(model.intruder, "name", None)
        if attack is None or self.idle():
            return {}
        seen = self.trained_on_attack(attack, self.sees_ratings(model))
        return {"trained_on_evaluated_attack": seen}

    @final
    def with_own_fakes(self, data: Dataset, campaigns: int,
                       ctx: Context) -> tuple[Dataset, Ints]:
        """The train rows with those of own fakes after all others, without a sign of who they
        are; and the campaign of each, -1 for received users, (n_users,)."""
        received = grown = nameless(data)
        campaign = [np.full(data.n_users, -1, np.int64)]
        share = self.train_budget / len(self.families()) / campaigns
        count = np.bincount(data.train.users, minlength=data.n_users)
        middles = (np.arange(campaigns) + 0.5) / campaigns
        lengths = [max(int(n), SHORTEST) for n in np.quantile(count[count > 0], middles)]
        for name in self.families():
            for number in range(campaigns):
                apart = Context(ctx.number("own fakes", name, number))  # no stream of an attacker
                attack = family(name).from_params({"budget": share, "length": lengths[number]})
                poisoned = attack.poison(received, apart)
                made = poisoned.train[poisoned.train.users >= data.n_users]
                fresh = dataclasses.replace(made, users=made.users - data.n_users, labels=None)
                grown = grown.with_fakes(fresh, poisoned.n_fake)
                campaign.append(np.full(poisoned.n_fake, number))
        return nameless(grown), np.concatenate(campaign)


class TrainedDetector(OwnFakes, Detector):
    """A detector that learns from examples. Authors write `judge` in place of `suspicion`.

    The examples are fakes of its own (see `OwnFakes`), in `folds` campaigns: own fakes of one
    are judged by what was learned from the others, as an attacker's targets are not known either.
    Everybody else is taken for genuine. The cut is where own fakes are told from received users
    best, a false alarm costing `false_alarm_cost` times a miss (`best_cut`); no true number of
    fakes enters.
    """

    false_alarm_cost: float = param(5.0, "how many missed own fakes one false alarm outweighs, "
                                    "both as shares", above=0)
    folds: int = param(5, "campaigns of own fakes, and parts of the users, each judged by what "
                       "was learned from the others", low=2)

    @abstractmethod
    def judge(self, data: Dataset, campaign: Ints, ctx: Context) -> Floats:
        """How suspicious each user is: float64 (n_users,), no user being judged by its own label.

        Args:
            data: train rows of the received users, then of the own fakes.
            campaign: of each own fake, 0 to folds − 1; -1 for received users, (n_users,).
            ctx: for randomness, by name; `ctx.notes` takes facts for the report.
        """

    @final
    def suspicion(self, data: Dataset, ctx: Context) -> Floats:
        return self.examine(data, ctx)[0]

    @final
    def examine(self, data: Dataset, ctx: Context) -> tuple[Floats, Flags, dict[str, Any]]:
        labelled, campaign = self.with_own_fakes(data, self.folds, ctx)
        fake = campaign >= 0
        found = _checked(self, self.judge(labelled, campaign, ctx), labelled.n_users)
        known = np.isfinite(found)
        cut = best_cut(found[known & ~fake], found[known & fake], self.false_alarm_cost)
        received = found[:data.n_users]
        above = np.isfinite(received) & (np.nan_to_num(received, nan=-np.inf) >= cut)
        return received, above, {"trained_on": list(self.families()),
                                 "own_fakes": int(fake.sum()), "own_auc": auc(found, fake)}


def outlying(values: Floats, deviations: float) -> Flags:
    """Which values lie so many robust deviations (1.4826 · median absolute deviation) above the
    median: (k,). None, where half of them are equal."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    if not spread > 0:
        return np.zeros(len(values), bool)
    above: Flags = values > middle + deviations * spread
    return above


def nameless(data: Dataset) -> Dataset:
    """The data as a defender may look at it: train rows alone, and no sign of who is fake, such
    as rows of few-shot data that are known of genuine users alone."""
    return data.replace(user_ids=tuple(map(str, range(data.n_users))), user_attributes={},
                        n_fake=0, context=None, shots=None, valid=data.valid[:0],
                        test=data.test[:0])


@functools.cache
def family(name: str) -> type[ProfileAttack]:
    """The profile attack of that name, for fakes of the defender's own.

    Raises:
        InputError: there is none among the built-in attacks, or it makes no profiles.
    """
    from bench.profile_attack import ProfileAttack
    from bench.registry import Registry

    try:
        found = Registry().get("attacks", name)
    except InputError as error:
        raise InputError(f"trained_on: {error.what}", key="trained_on", hint=error.hint) from error
    if not issubclass(found, ProfileAttack):
        raise InputError(f"trained_on: {name} makes no fake profiles", key="trained_on",
                         hint="name attacks such as random-profiles")
    return found


def _checked(detector: Detector, suspicion: Floats, n_users: int) -> Floats:
    found = np.asarray(suspicion, np.float64)
    if found.shape != (n_users,):
        raise PluginError(f"{detector.name}: one suspicion per user is needed, {(n_users,)}; "
                          f"{found.shape} came back")
    if np.isinf(found).any():
        raise PluginError(f"{detector.name}: a suspicion is infinite; NaN says that a user "
                          "cannot be judged")
    return found
