"""A user's input at test time under attack: what the trained model reads of the user is edited,
what evaluation masks and looks for is not. The author edits, this class keeps the budget."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import STRATA, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.edit_distance import distance
from bench.errors import CannotActError, InputError, PluginError
from bench.inside import InsideAttack
from bench.plugin import param
from bench.shown_lists import Shown, asks_inside, unit_vectors

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared

CHANGES = ("insert", "delete", "substitute", "append")
PLACES = ("anywhere", "apart", "nowhere")


class HistoryAttack(InsideAttack):
    """At test time: edits the histories that the trained model reads (profile pollution).

    Authors write `edit`, which gets the histories of all genuine users at once. Guaranteed: at
    most `edits` items of a history are inserted, deleted or replaced (Levenshtein distance, made
    of the `changes` that the class declares); a replaced item and its replacement have a cosine
    of at least `similarity` in the item table of the model that the attack is made on; items are
    in the catalogue, and nobody loses a whole history; injected users stay as they are; target
    items are put only where the class says so. edits 0 is the identity, bit for bit.

    Evaluation masks and looks for what users really took. An attacker who may only ask (black)
    gets a `Shown` in place of the model, one who knows nothing gets None.

    Attributes:
        changes: of CHANGES; "append" is an insertion after the whole history.
        places_targets: "anywhere"; "apart": no two targets side by side; "nowhere".
        goals: of untargeted (away from what the model recommends) and push.
    """

    edits: int = param(1, "most items inserted, deleted or replaced per user", low=0)
    goal: str = param("untargeted", "untargeted: away from what is recommended; push: targets "
                      "into the lists", choices=("untargeted", "push"))
    targets: int = param(1, "how many items are pushed, all of them to every user", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    similarity: float = param(-1.0, "lowest cosine of a replaced item's vector and its "
                              "replacement's; -1: any", low=-1, high=1)
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "white", "untargeted")
    goals: ClassVar[tuple[str, ...]] = ("untargeted", "push")
    changes: ClassVar[tuple[str, ...]] = ("insert", "delete", "substitute")
    places_targets: ClassVar[str] = "anywhere"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not set(cls.changes) <= set(CHANGES) or cls.places_targets not in PLACES:
            raise TypeError(f"{cls.__name__}: changes are of {', '.join(CHANGES)}, places_targets "
                            f"is one of {', '.join(PLACES)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goal not in self.goals:
            raise InputError(f"{self.name} is not {self.goal}", key="goal",
                             hint=f"its goal is {' or '.join(self.goals)}")
        without = set(self.changed()) & {"targets", "stratum"}
        if self.goal != "push" and without:
            raise InputError(f"{self.name}: without a push there are no targets",
                             key=min(without), hint="set goal: push, or leave it out")
        if self.similarity > -1 and ("substitute" not in self.changes or self.knows == "none"):
            why = "replaces nothing" if "substitute" not in self.changes else \
                "does not see the vectors by which items are similar"
            raise InputError(f"{self.name} {why}", key="similarity", hint="leave it at -1")

    @abstractmethod
    def edit(self, model: Any, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        """The histories edited, in the same order.

        Args:
            model: white: the trained model (`TorchRecommender`), in evaluation mode, or what
                stands for it as it is served; black: a `Shown`; gray or none: None.
            histories: items of each genuine user, oldest first: the n-th of user n. Who has
                none may stay without.
            targets: item indices to push; empty where untargeted.
            data: genuine data, without test rows.
            ctx: for randomness, by name.
        """

    # -- who and when --------------------------------------------------------------------------

    @property
    def knows(self) -> str:
        """What the attacker has of the model: white, black, gray or none."""
        return str(getattr(self, "knowledge", self.threat.knowledge))

    def threat_model(self) -> ThreatModel:
        return dataclasses.replace(self.threat, knowledge=self.knows, goal=self.goal)

    @property
    def is_adaptive(self) -> bool:
        return self.adaptive and self.knows in ("white", "black")

    @property
    def looks_inside(self) -> bool:
        return self.knows == "white"

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.foldin import unfit

        if "histories" not in model.gives and unfit(model) is not None:
            return f"{model.name} reads no history when it scores a user"
        if self.knows == "white":
            missing = {"histories", "embeddings", "gradients"} - model.gives
            if missing:
                return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        if self.similarity > -1 and "embeddings" not in model.gives:
            return f"{model.name} has no vectors of items, by which similarity is measured"
        return too_many(self.targets, self.stratum, data) if self.goal == "push" else None

    def unfit_defended(self, defense: Defense, model: ModelPlugin, data: Dataset) -> str | None:
        reason = super().unfit_defended(defense, model, data)
        if reason is None and not self.adaptive and self.knows not in ("white", "black"):
            return "it does not look at the model, so that no defense changes it"
        return reason

    def comparable(self) -> str:
        bound = f", replacements of cosine {self.similarity:g}" if self.similarity > -1 else ""
        aim = f"push, {self.targets} targets ({self.stratum})" if self.goal == "push" else \
            "untargeted"
        return f"{aim}, {self.edits} edits of a history{bound}"

    def budget_text(self) -> str:
        return f"{self.comparable()} ({', '.join(self.changes)}){self.static_text()}"

    def aims(self, data: Dataset, ctx: Context) -> Ints | None:
        if self.goal != "push":
            return None
        return pick_targets(data, self.targets, self.stratum, ctx)

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        targets = self.aims(prepared.genuine, ctx)
        if not self.edits:
            yield Struck(model, prepared.genuine, targets)
            return
        put, facts = self.edited(model, self.made_on(model, ctx), prepared.genuine, targets, ctx)
        with model.reading(put):
            if not asks_inside(model):
                raise CannotActError(f"{self.name}: what the defense serves was made before, and "
                                     "no longer follows from what users do")
            yield Struck(model, prepared.genuine, targets, facts)

    # -- the budget ----------------------------------------------------------------------------

    @final
    def edited(self, model: Recommender, source: Recommender, data: Dataset,
               targets: Ints | None, ctx: Context) -> tuple[list[Ints], dict[str, Any]]:
        """The histories of all users with those of genuine users edited, budget and contract
        enforced; and facts for the report.

        Args:
            model: whose histories are edited. source: the model that the attack is made on.
        """
        from bench.blind import blind
        from bench.stages import without_test

        histories = model.histories()
        aim = np.zeros(0, np.int64) if targets is None else targets
        genuine = histories[:data.n_genuine]
        with source.evaluating(), blind(self, source):
            made = self.edit(self._told(source, ctx), [h.copy() for h in genuine], aim.copy(),
                             without_test(data), ctx)
        if len(made) != len(genuine):
            raise PluginError(f"{self.name}: {len(made)} histories come back of {len(genuine)}")
        similar = unit_vectors(source).cpu().numpy() if self.similarity > -1 else None
        spent = [self._enforce(user, genuine[user], np.asarray(items), aim, data, similar)
                 for user, items in enumerate(made)]
        put = [np.asarray(items, np.int64) for items in made]
        return put + histories[data.n_genuine:], {"edits": {
            "mean": float(np.mean(spent)), "users": int(np.count_nonzero(spent)),
            "of": len(genuine)}}

    def _told(self, source: Recommender, ctx: Context) -> Any:
        """As much of the model as the attacker has."""
        if self.knows == "black":
            return Shown(source)
        return self.stand_in(source, ctx) if self.knows == "white" else None

    def _enforce(self, user: int, was: Ints, now: np.ndarray[Any, Any], targets: Ints,
                 data: Dataset, vectors: Any) -> int:
        """The number of edits from one history to the other, refused where not allowed."""
        if not len(was) and not len(now):
            return 0
        if now.ndim != 1 or not len(now) or not np.issubdtype(now.dtype, np.integer):
            raise PluginError(f"{self.name}: the history of user {user} becomes an array of shape "
                              f"{now.shape} and type {now.dtype}; one item at least must be left")
        if now.min() < 0 or now.max() >= data.n_items:
            raise PluginError(f"{self.name}: the history of user {user} gets an item that is not "
                              "in the catalogue")

        def replaceable(a: int, b: int) -> bool:
            return vectors is None or float(vectors[a] @ vectors[b]) >= self.similarity - 1e-5

        spent = distance(was.tolist(), now.tolist(), self.edits, self.changes, replaceable)
        if spent is None:
            bound = f", replacements of cosine {self.similarity:g}" if vectors is not None else ""
            raise PluginError(f"{self.name}: the history of user {user} is not within "
                              f"{self.edits} edits ({', '.join(self.changes)}{bound})")
        if self.places_targets != "anywhere" and len(targets):
            before, after = (np.isin(h, targets) for h in (was, now))
            if self.places_targets == "nowhere" and after.sum() > before.sum():
                raise PluginError(f"{self.name}: a target is put into the history of user {user}")
            if (after[1:] & after[:-1]).sum() > (before[1:] & before[:-1]).sum():
                raise PluginError(f"{self.name}: two targets stand side by side in the history "
                                  f"of user {user}")
        return spent
