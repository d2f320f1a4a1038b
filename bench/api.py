"""The base classes an author derives from: one per kind, and one per place an attack enters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from bench.attack import STRATA, Attack, Struck, ThreatModel, pick_targets
from bench.context import Context
from bench.data import Dataset, Interactions
from bench.defense import Defense
from bench.embedding_attack import EmbeddingAttack
from bench.plugin import Plugin, param
from bench.profile_attack import Profile, ProfileAttack

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.training import FitResult

__all__ = ["STRATA", "Attack", "Context", "Dataset", "DatasetPlugin", "Defense",
           "EmbeddingAttack", "Interactions", "ModelPlugin", "Plugin", "Profile",
           "ProfileAttack", "Struck", "ThreatModel", "param", "pick_targets"]

# Bases of attacks that few files need, imported when asked for: a change in one of them then
# drops only the stored cells of the attacks that derive from it.
_LATER = {"FeatureAttack": "bench.features", "HistoryAttack": "bench.histories",
          "PrivacyAttack": "bench.inference", "ClientAttack": "bench.federated",
          "TextAttack": "bench.text_attack", "NaturalNoise": "bench.natural",
          "Detector": "bench.detection"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
        "features" (reads feature vectors of items, a table of role "feature"), "ratings"
        (reads the values of ratings), "dislikes" (reads rows labelled as disliked),
        "user-separable" (each user's loss depends on that user's own rows and on the
        parameters alone, so that per-user clipping bounds a user's influence)."""

    @property
    def table_roles(self) -> frozenset[str]:
        """Whose vectors are in the tables that "embeddings" promises: "user", "item"."""
        return frozenset({"user", "item"} if "embeddings" in self.gives else ())

    @property
    def whole_histories(self) -> bool:
        """Whether a row of its batches is all that one user took, so that no part of the loss
        belongs to one item."""
        return False

    @abstractmethod
    def build(self, data: Dataset, ctx: Context) -> Recommender:
        """An untrained recommender for this data, drawn from torch's (seeded) generator."""

    def spent(self, fit: FitResult) -> dict[str, float]:
        """Privacy spent by a training that is private by itself: epsilon, delta; else empty."""
        return {}

    def unfit(self, data: Dataset) -> str | None:
        """Why this model cannot run on this data, or None."""
        return None
