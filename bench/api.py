"""The base classes an author derives from: one per kind, and one per place an attack enters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.context import Context
from bench.data import Dataset, Floats, Interactions, Ints
from bench.errors import PluginError
from bench.plugin import Plugin, param
from bench.profiles import fake_times

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, Recommender, TorchRecommender
    from bench.training import FitResult, Loop

__all__ = ["STRATA", "Attack", "Context", "Dataset", "DatasetPlugin", "Defense",
           "EmbeddingAttack", "Interactions", "ModelPlugin", "Plugin", "Profile",
           "ProfileAttack", "ThreatModel", "param", "pick_targets"]


class DatasetPlugin(Plugin, ABC):
    """Loads one dataset, filtered and split."""

    kind: ClassVar[str] = "datasets"

    @abstractmethod
    def load(self) -> Dataset:
        """The split dataset. Raises InputError with file and line for bad data."""

    def files(self) -> list[str]:
        """Paths whose contents determine the data; their hashes enter the keys."""
        return []


class ModelPlugin(Plugin, ABC):
    """A recommender with its hyper-parameters; `build` makes the thing that learns."""

    kind: ClassVar[str] = "models"

    @property
    @abstractmethod
    def gives(self) -> frozenset[str]:
        """What attacks and defenses may use. Among: "gradients" (a differentiable loss),
        "embeddings" (tables with a row per user or item), "histories" (reads sequences),
        "user-separable" (each user's loss depends on that user's own rows and on the
        parameters alone, so that per-user clipping bounds a user's influence)."""

    @abstractmethod
    def build(self, data: Dataset, ctx: Context) -> Recommender:
        """An untrained recommender for this data, drawn from torch's (seeded) generator."""

    def unfit(self, data: Dataset) -> str | None:
        """Why this model cannot run on this data, or None."""
        return None


# -- attacks -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class ThreatModel:
    """Who the attacker is. The report prints it.

    Attributes:
        stage: train-poison, test-input, test-param, output-query or none.
        knowledge: white, gray (data, not model), black (queries) or none.
        goal: untargeted, push, nuke, infer or none.
        realisable: False for a probe of stability that no attacker could carry out as it is.
    """

    stage: str
    knowledge: str
    goal: str
    realisable: bool = True


class Attack(Plugin, ABC):
    """Base of all attacks; derive from a class below that says where the attack enters."""

    kind: ClassVar[str] = "attacks"
    threat: ClassVar[ThreatModel]

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        """Why this attack cannot act on this model or data, or None."""
        return None

    def budget_text(self) -> str:
        """The budget in words, for the report."""
        return "none"


@dataclass(frozen=True)
class Profile:
    """One fake user: items (k,), distinct, and their ratings (k,) where data is explicit."""

    items: Ints
    ratings: Floats | None = None


STRATA = {"head": (95, 100), "upper-torso": (75, 95), "lower-torso": (50, 75), "tail": (0, 50)}


def _cuts(data: Dataset, stratum: str) -> tuple[int, int]:
    """Where a stratum begins and ends in the items sorted by popularity."""
    low, high = STRATA[stratum]
    return round(low * data.n_items / 100), round(high * data.n_items / 100)


def pick_targets(data: Dataset, n: int, stratum: str, ctx: Context) -> Ints:
    """n target items drawn from a stratum of train popularity, sorted; the same for every attack.

    Strata are percentiles of the items' train counts (CATALOGUE 0.4): head above 95, upper
    torso 75 to 95, lower torso 50 to 75, tail below 50. Ties of popularity are cut by item
    index. Only genuine users count.
    """
    order = np.lexsort((np.arange(data.n_items), data.popularity))
    pool = order[slice(*_cuts(data, stratum))]
    if n > len(pool):
        raise PluginError(f"{n} targets asked from stratum {stratum!r}, which has {len(pool)} "
                          f"items on {data.name!r}; ask for fewer or take another stratum")
    picked = ctx.stream("targets", stratum, n).choice(pool, size=n, replace=False)
    return np.sort(picked).astype(np.int64)


class ProfileAttack(Attack):
    """Before training: adds fake users. Authors write `profiles`; this class keeps the budget.

    Guaranteed: round(budget · genuine users) fake users (at least one), each with at most the
    stated number of items, targets included; no item twice in a profile; ratings on the scale;
    real rows untouched and first; fakes only in train; no id moves.
    """

    budget: float = param(0.01, "fake users as a share of genuine users", above=0, high=1)
    length: int = param(0, "items per fake profile, targets included; 0: as genuine users have "
                        "on average, with 10 % spread", low=0)
    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "push")
    explicit_only: ClassVar[bool] = False

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

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.explicit_only and data.train.ratings is None:
            return f"{self.name} needs ratings, and {data.name} is implicit"
        first, stop = _cuts(data, self.stratum)
        if self.targets > stop - first:
            return (f"{self.targets} targets are more than the {stop - first} items of stratum "
                    f"{self.stratum!r} on {data.name}")
        if self.length and self.length < self.targets:
            return f"profiles of {self.length} items cannot hold {self.targets} targets"
        return None

    def budget_text(self) -> str:
        size = f"{self.length} items" if self.length else "mean genuine length"
        return f"{self.budget:.1%} fake users, {size}, {self.targets} targets ({self.stratum})"

    def pick(self, data: Dataset, ctx: Context) -> Ints:
        """The target items of this attack on this data and seed."""
        return pick_targets(data, self.targets, self.stratum, ctx)

    @final
    def poison(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with the fake users added, budget and contract enforced."""
        targets = self.pick(data, ctx)
        n_fake = max(1, round(self.budget * data.n_genuine))
        lengths = self._lengths(data, n_fake, len(targets), ctx)
        blind = data.replace(valid=data.valid[:0], test=data.test[:0])  # only train may be used
        made = self.profiles(blind, targets.copy(), lengths.copy(), ctx)
        self._enforce(made, data, targets, lengths)
        counts = np.array([len(p.items) for p in made])
        ratings = None
        if data.train.ratings is not None:
            ratings = np.concatenate([np.asarray(p.ratings, np.float64) for p in made])
        rows = Interactions(
            users=np.repeat(np.arange(n_fake), counts),
            items=np.concatenate([p.items for p in made]).astype(np.int64), ratings=ratings,
            times=fake_times(data, counts, ctx.stream("fake-times")))
        return data.with_fakes(rows, n_fake)

    def _lengths(self, data: Dataset, n_fake: int, n_targets: int, ctx: Context) -> Ints:
        if self.length:
            if self.length < n_targets:
                raise PluginError(f"{self.name}: length {self.length} cannot hold "
                                  f"{n_targets} targets; raise length or lower targets")
            return np.full(n_fake, min(self.length, data.n_items), np.int64)
        active = data.activity[data.activity > 0]
        mean = float(active.mean())
        drawn = ctx.stream("fake-lengths").normal(mean, 0.1 * mean, n_fake)
        return np.clip(np.rint(drawn), 1 + n_targets, data.n_items).astype(np.int64)

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
            if not np.isin(targets, items).all():
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


class EmbeddingAttack(Attack):
    """After training: perturbs learned vectors. A probe of stability, not a realisable attack.

    Authors write `delta`; this class turns the stated ε into a radius per table, calls it, and
    refuses any row outside the ball of the declared norm. ε = 0 is the identity.
    """

    eps: float = param(0.5, "radius of the ball around each embedding row", low=0)
    relative: bool = param(False, "eps counts in median row norms of the table attacked")
    norm: str = param("l2", "norm of the ball: l2, or linf (largest coordinate)",
                      choices=("l2", "linf"))
    tables: str = param("both", "whose vectors are perturbed", choices=("both", "user", "item"))
    threat: ClassVar[ThreatModel] = ThreatModel("test-param", "white", "untargeted", False)

    @abstractmethod
    def delta(self, model: TorchRecommender, radii: Mapping[str, float], data: Dataset,
              ctx: Context) -> dict[str, Tensor]:
        """A perturbation per table.

        Args:
            model: trained, in evaluation mode; `model.tables()` lists its tables.
            radii: table key -> radius in the declared norm, for the tables under attack.
            data: what the model was trained on.
            ctx: for randomness, by name.

        Returns:
            table key -> tensor of the table's shape (rows, width), each row in its ball.
        """

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        missing = {"embeddings", "gradients"} - model.gives
        if missing:
            return f"{model.name} exposes no {' and no '.join(sorted(missing))}"
        return None

    def budget_text(self) -> str:
        unit = " median row norms" if self.relative else ""
        return f"{self.norm} row norm at most {self.eps:g}{unit}, {self.tables} vectors"

    def radii(self, model: TorchRecommender) -> dict[str, float]:
        """The radius of each table under attack, in the declared norm."""
        found = {}
        for key, table in model.tables().items():
            if self.tables in ("both", table.role):
                found[key] = self.eps * (table.median_norm(self.norm) if self.relative else 1.0)
        if not found:
            raise PluginError(f"{self.name}: the model has no {self.tables} table to perturb")
        return found

    @final
    def perturbation(self, model: TorchRecommender, data: Dataset,
                     ctx: Context) -> dict[str, Tensor]:
        """The checked perturbation: every row inside its ball."""
        import torch

        from bench.perturb import row_norms

        radii = self.radii(model)
        tables = {k: t for k, t in model.tables().items() if k in radii}
        if self.eps == 0:
            return {k: torch.zeros_like(t.rows()) for k, t in tables.items()}
        with model.evaluating():
            made = self.delta(model, radii, data, ctx)
        if set(made) != set(radii):
            raise PluginError(f"{self.name}: perturbs {sorted(made)}, and {sorted(radii)} were "
                              "asked for")
        for key, delta in made.items():
            if delta.shape != tables[key].rows().shape:
                raise PluginError(f"{self.name}: {key} has shape {tuple(tables[key].rows().shape)}"
                                  f", its perturbation {tuple(delta.shape)}")
            if not torch.isfinite(delta).all():
                raise PluginError(f"{self.name}: the perturbation of {key} is not finite")
            longest = float(row_norms(delta.double(), self.norm).max()) if delta.numel() else 0.0
            if longest > radii[key] * (1 + 1e-6):
                raise PluginError(f"{self.name}: a row of {key} moves {longest:.6g} in {self.norm}"
                                  f", the budget is {radii[key]:.6g}")
        return {k: d.detach() for k, d in made.items()}


# -- defenses ----------------------------------------------------------------------------------

class Defense(Plugin, ABC):
    """Hooks at up to five places; every hook's default changes nothing."""

    kind: ClassVar[str] = "defenses"

    @classmethod
    def neutral_params(cls) -> dict[str, Any] | None:
        """Parameters with which it does nothing at all: a contract test compares the result with
        `none`, bit for bit. None where there are no such parameters."""
        return None

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        """Why this defense cannot act on this model or data, or None."""
        return None

    def clean(self, data: Dataset, ctx: Context) -> Dataset:
        """The train data as the model shall see it (detect and filter, anonymise, resample).

        It sees what a defender sees: no flag says which users are fake, and `n_fake` must not
        be read.
        """
        return data

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        """The loss to descend on for this batch (adversarial training, robust losses)."""
        return clean_loss

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Take over the epochs (DP-SGD, federated rounds): a function from the epoch's number
        to its mean loss, or None to keep the plain loop. May set `loop.early_stopping = False`
        and write facts into `loop.notes`."""
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        """The trained model as it is served (smoothing, ensembles)."""
        return model

    def rerank(self, scores: Tensor, users: Tensor, data: Dataset) -> Tensor:
        """Scores (users, items) after re-ranking; -inf marks what is already known."""
        return scores

    def spent(self, fit: FitResult) -> dict[str, float]:
        """Privacy spent by this training: epsilon, delta; empty where none is promised."""
        return {}

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """What the defense did to the data, counted after the fact for the report."""
        return {}
