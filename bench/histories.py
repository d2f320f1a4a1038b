"""A user's input at test time under attack: what the trained model reads of the user is edited,
what evaluation masks and looks for is not. The author edits, this class keeps the budget."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import STRATA, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import CannotActError, InputError, PluginError
from bench.inside import InsideAttack
from bench.plugin import param

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
        from bench.stages import without_test

        histories = model.histories()
        aim = np.zeros(0, np.int64) if targets is None else targets
        genuine = histories[:data.n_genuine]
        with source.evaluating():
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


@dataclass(frozen=True)
class Shown:
    """The recommendations that a black-box attacker gets to see for histories of its own.

    Args:
        _model: as it is served; not for the attacker.
        unasked: for the report, not for the attacker: no query is counted.
    """

    _model: Recommender
    unasked: bool = False

    @property
    def n_items(self) -> int:
        return self._model.data.n_items

    def lists(self, histories: Sequence[Ints], k: int, accounts: Ints | None = None) -> Ints:
        """The k best items of each history, best first, without what it holds: (n, k).

        Each history is a query. What comes back may depend on whose history it is: a model that
        knows its users, or takes candidates from one that does.

        Args:
            accounts: (n,) the user in whose place each history is read, one history of an account
                at a time; None: whoever asks has accounts of its own, for which those of the
                model's users stand, in turn.
        """
        import torch

        from bench.queries import uncounted

        own, n = self._model.histories(), len(histories)
        counts = uncounted(self._model) if self.unasked else contextlib.nullcontext()
        whose = np.arange(n) % len(own) if accounts is None else np.asarray(accounts, np.int64)
        found = np.empty((n, min(k, self.n_items)), np.int64)
        with torch.no_grad(), counts, self._model.evaluating():
            for round in rounds(whose):  # places in histories, each of another account
                read = list(own)
                for at in round.tolist():
                    read[int(whose[at])] = histories[at]
                with self._model.reading(read):
                    for first in range(0, len(round), 1024):
                        places = round[first:first + 1024]
                        users = torch.as_tensor(whose[places], device=self._model.ctx.device)
                        scores = self._model.scores(users).double().cpu().numpy().copy()
                        for row, at in enumerate(places.tolist()):
                            scores[row, histories[at]] = -np.inf
                        found[places] = best_items(scores, k)
        return found


def rounds(whose: Ints) -> list[Ints]:
    """Places of `whose`, in order, in as few parts as hold everybody once at most.

    >>> rounds(np.array([4, 2, 4, 4]))
    [array([0, 1]), array([2]), array([3])]
    """
    turn = np.empty(len(whose), np.int64)  # how many of the same stand before it
    seen: dict[int, int] = {}
    for at, one in enumerate(whose.tolist()):
        turn[at] = seen.get(one, 0)
        seen[one] = seen.get(one, 0) + 1
    return [np.flatnonzero(turn == n) for n in range(max(seen.values(), default=0))]


# -- what attacks share --------------------------------------------------------------------------

def best_items(scores: np.ndarray[Any, Any], k: int) -> Ints:
    """The k best items of each row, best first, the lower index first among equals: (n, k)."""
    k = min(k, scores.shape[1])
    least = -np.partition(-scores, k - 1, axis=1)[:, [k - 1]]  # (n, 1)
    order = np.where(scores >= least, -scores, np.inf)
    return np.argsort(order, axis=1, kind="stable")[:, :k].astype(np.int64)


def new_items(data: Dataset, history: Ints, barred: Ints, count: int, ctx: Context,
              user: int) -> Ints:
    """`count` distinct items uniform over the catalogue without the user's own and the barred;
    more begin with fewer, and all attacks draw the same: (≤ count,)."""
    free = np.ones(data.n_items, bool)
    free[history] = free[barred] = False
    order = ctx.stream("edits", user).permutation(data.n_items)
    return order[free[order]][:count].astype(np.int64)


def unit_vectors(model: Recommender) -> Any:
    """The vectors of items by which they are similar, each of length 1: (n_items, width).

    Of several item tables it is the one that histories are looked up in.
    """
    from bench.models.base import TorchRecommender, innermost
    from bench.perturb import TINY

    bare = innermost(model)
    tables = bare.tables() if isinstance(bare, TorchRecommender) else {}
    items = {k: t for k, t in tables.items() if t.role == "item"}
    if not items:
        raise CannotActError(f"{type(bare).__name__} has no vectors of items")
    rows = items.get("item_embedding", next(iter(items.values()))).rows().double()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(TINY)


class _Asked(Exception):
    """The model inside was asked."""


def asks_inside(model: Recommender) -> bool:
    """Whether what a wrapper serves comes from the model inside, or was fixed before."""
    import torch

    from bench.models.base import innermost
    from bench.queries import uncounted

    bare = innermost(model)
    if bare is model:
        return True

    def asking(*args: Any, **more: Any) -> Any:
        raise _Asked

    model.forget()
    with uncounted(model):  # the harness asks, nobody attacks
        bare.scores = asking  # type: ignore[method-assign]
        try:
            with torch.no_grad(), model.evaluating():
                model.scores(torch.zeros(1, dtype=torch.long, device=model.ctx.device))
        except _Asked:
            return True
        finally:
            del bare.scores
        model.forget()
    return False


def distance(was: Sequence[int], now: Sequence[int], most: int, changes: Sequence[str],
             replaceable: Any = lambda a, b: True) -> int | None:
    """The fewest edits of these kinds that make one sequence of the other; None: more than
    `most`, or not by these kinds. Items are replaced where `replaceable(old, new)`.

    >>> distance([1, 2, 3], [1, 3, 4], 5, ("insert", "delete"))
    2
    >>> distance([1, 2, 3], [1, 3, 4], 5, ("substitute",))
    2
    >>> distance([1, 2, 3], [1, 2, 3, 4], 5, ("append",))
    1
    """
    if "append" in changes and "insert" not in changes:
        others = [c for c in changes if c != "append"]
        found = [extra + rest for extra in range(min(most, len(now)) + 1)
                 if (rest := distance(was, now[:len(now) - extra], most - extra, others,
                                      replaceable)) is not None]
        return min(found, default=None)
    shared = min(len(was), len(now))  # an equal end is left alone in one of the shortest ways
    head = next((n for n in range(shared) if was[n] != now[n]), shared)
    tail = next((n for n in range(shared - head) if was[-1 - n] != now[-1 - n]), shared - head)
    was, now = was[head:len(was) - tail], now[head:len(now) - tail]
    if abs(len(was) - len(now)) > most:
        return None
    far = most + 1
    row = [j if "insert" in changes else (0 if j == 0 else far) for j in range(len(now) + 1)]
    for i, a in enumerate(was, start=1):
        before, row = row, [far] * (len(now) + 1)
        row[0] = i if "delete" in changes else far
        for j in range(max(1, i - most), min(len(now), i + most) + 1):  # others cost more
            b = now[j - 1]
            if a == b:
                row[j] = before[j - 1]
            elif "substitute" in changes and replaceable(a, b):
                row[j] = before[j - 1] + 1
            if "delete" in changes:
                row[j] = min(row[j], before[j] + 1)
            if "insert" in changes:
                row[j] = min(row[j], row[j - 1] + 1)
        if min(row) > most:
            return None
    return row[-1] if row[-1] <= most else None
