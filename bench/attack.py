"""What every attack is: a threat model, a budget, and the places where it enters a cell."""

from __future__ import annotations

import contextlib
from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import PluginError
from bench.plugin import Plugin, param

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared


@dataclass(frozen=True)
class ThreatModel:
    """Who the attacker is. The report prints it.

    Attributes:
        stage: train-poison, model-poison (federated clients), test-input, test-param,
            output-query or none.
        knowledge: white, gray (data, not model), black (queries) or none.
        goal: untargeted, push, nuke, infer or none (natural noise, which nobody aims).
        realisable: False for a probe of stability that no attacker could carry out as it is.
    """

    stage: str
    knowledge: str
    goal: str
    realisable: bool = True


@dataclass
class Struck:
    """What is evaluated while an attack lasts.

    Attributes:
        model: scores the lists; usually the model as it is served.
        data: what it is evaluated on.
        targets: item indices pushed or nuked, or None.
        facts: for the report: deterministic, JSON.
        privacy: what the attack measured: "mia-auc", "mia-tpr@1%fpr", …
        offer: items that a model which re-ranks candidates is offered for everybody where the
            exposure of targets is measured, and nowhere else: accuracy is as served.
    """

    model: Recommender
    data: Dataset
    targets: Ints | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    privacy: dict[str, float] = field(default_factory=dict)
    offer: Ints | None = None


class Attack(Plugin, ABC):
    """Base of all attacks; derive from a class that says where the attack enters.

    Those classes write `before_training` or `after_training` and keep the budget in them; an
    author writes the one method that the class asks for.

    `oracle_by` names the parameter that shows it the test positives where its value is "test";
    None where there is no such parameter.
    """

    kind: ClassVar[str] = "attacks"
    oracle_by: ClassVar[str | None] = None
    threat: ClassVar[ThreatModel]

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        """Why this attack cannot act on this model or data, or None."""
        return None

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        """Why this attack cannot act where this defense stands, or None."""
        return None

    def budget_text(self) -> str:
        """The budget in words, for the report."""
        return "none"

    def comparable(self) -> str:
        """What must be equal for two attacks to be compared as equals: the budget, not the
        method. The worst case of a family is over the attacks that share it."""
        return self.budget_text()

    def threat_model(self) -> ThreatModel:
        """Who the attacker is with these parameters."""
        return self.threat

    # -- where it enters -------------------------------------------------------------------

    @property
    def trains(self) -> bool:
        """Whether its cell needs a training of its own, as it acts before or during one."""
        return False

    @property
    def is_adaptive(self) -> bool:
        """Whether it is made against the defended pipeline, not against the undefended."""
        return False

    def unseen(self, defense: Defense, data: Dataset) -> str | None:
        """What an attack that means to be adaptive does not see of this defense on this data, in
        words: its cell is then not called adaptive, and says why. None where it sees the defense,
        or does not mean to."""
        return None

    @property
    def sees_test(self) -> bool:
        """Whether it is an oracle: the parameter named by `oracle_by` (`source: test`) shows it
        the test positives, which no attacker has. Nothing that sees them is compared with what
        does not. A class that always sees them says so here."""
        return self.oracle_by is not None and getattr(self, self.oracle_by, None) == "test"

    def aims(self, data: Dataset, ctx: Context) -> Ints | None:
        """The item indices it promotes or demotes, or None."""
        return None

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        """The data that is trained on; only asked where `trains`."""
        return data

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        """Inside, the trained model is under this attack.

        Args:
            model: as it is served, after the defense's `harden`.
            prepared: the data of its training.
            ctx: for randomness by name; `ctx.notes` takes facts for the report.
        """
        yield Struck(model, prepared.genuine, prepared.targets)


class ModelAttack(Attack):
    """Base of attacks made on a trained model: on the defended one, or, static, on the undefended
    one of the same seed and data, and then carried over."""

    adaptive: bool = param(True, "made on the model as it is defended; false: on the undefended "
                           "one")

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        if not self.adaptive and defense.name == "none":
            return "without a defense the static attack is the adaptive one"
        return None

    @property
    def is_adaptive(self) -> bool:
        return self.adaptive

    def made_on(self, model: Recommender, ctx: Context) -> Recommender:
        """The model that the attack is made on, where `model` is the one attacked."""
        if self.adaptive:
            return model
        if ctx.victim is None:
            raise PluginError(f"{self.name}: adaptive: false needs the undefended model")
        undefended: Recommender = ctx.victim.undefended()
        return undefended

    def static_text(self) -> str:
        """What `budget_text` ends with where the attack is static."""
        return "" if self.adaptive else ", made on the undefended model"


STRATA = {"head": (95, 100), "upper-torso": (75, 95), "lower-torso": (50, 75), "tail": (0, 50)}


def cuts(data: Dataset, stratum: str) -> tuple[int, int]:
    """Where a stratum begins and ends in the items sorted by popularity."""
    low, high = STRATA[stratum]
    return round(low * data.n_items / 100), round(high * data.n_items / 100)


def too_many(targets: int, stratum: str, data: Dataset) -> str | None:
    """Why a stratum cannot give so many targets, or None."""
    first, stop = cuts(data, stratum)
    if targets <= stop - first:
        return None
    return (f"{targets} targets are more than the {stop - first} items of stratum {stratum!r} on "
            f"{data.name}")


def pick_targets(data: Dataset, n: int, stratum: str, ctx: Context) -> Ints:
    """n target items drawn from a stratum of train popularity, sorted; the same for every attack.

    Strata are percentiles of the items' train counts (CATALOGUE 0.4): head above 95, upper
    torso 75 to 95, lower torso 50 to 75, tail below 50. Ties of popularity are cut by item
    index. Only genuine users count.
    """
    order = np.lexsort((np.arange(data.n_items), data.popularity))
    pool = order[slice(*cuts(data, stratum))]
    if n > len(pool):
        raise PluginError(f"{n} targets asked from stratum {stratum!r}, which has {len(pool)} "
                          f"items on {data.name!r}; ask for fewer or take another stratum")
    picked = ctx.stream("targets", stratum, n).choice(pool, size=n, replace=False)
    return np.sort(picked).astype(np.int64)
