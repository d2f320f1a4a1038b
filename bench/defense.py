"""What every defense is: hooks at up to five places, each of which changes nothing by default."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bench.context import Context
from bench.data import Dataset
from bench.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import ModelPlugin
    from bench.models.base import Batch, Recommender, TorchRecommender
    from bench.training import FitResult, Loop


def no_tables(model: ModelPlugin, whose: str) -> str | None:
    """Why this model has no table with vectors of these ("user", "item", or "both", which either
    will do for), or None where it has."""
    if "embeddings" not in model.gives:
        return f"{model.name} exposes no embeddings"
    if model.table_roles & ({"user", "item"} if whose == "both" else {whose}):
        return None
    return f"{model.name} has no table with a vector per {whose.replace('both', 'user or item')}"


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

        It sees what a defender sees: an empty test split, and no flag that says which users are
        fake; `n_fake` must not be read. The test split is put back afterwards.
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
        """The trained model as it is served (smoothing, ensembles, re-ranking of all users).

        The data has an empty test split. What wraps a model derives from
        `bench.models.base.Wrapped`, so that attacks still reach the vectors inside.
        """
        return model

    def rerank(self, scores: Tensor, users: Tensor, data: Dataset) -> Tensor:
        """Scores (users, items) after re-ranking; -inf marks what is already known. The data
        has an empty test split."""
        return scores

    def unseen(self) -> str | None:
        """What this does when serving that no attack on the model's vectors can differentiate, in
        words: such an attack is made on the model inside and is not called adaptive. None where
        the trained model is served, or where what wraps it gives something that has slopes
        (`bench.models.base.Wrapped.stand_in`)."""
        if type(self).harden is Defense.harden and type(self).rerank is Defense.rerank:
            return None
        return "nothing says how what is served follows from the vectors of the model inside"

    @property
    def noisy(self) -> bool:
        """Whether what is served is made of many draws of noise on the model's vectors."""
        return False

    def spent(self, fit: FitResult) -> dict[str, float]:
        """Privacy spent by this training: epsilon, delta; empty where none is promised."""
        return {}

    def facts(self, data: Dataset, cleaned: Dataset) -> dict[str, Any]:
        """What the defense did to the data, counted after the fact for the report."""
        return {}

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """What the report should say of the model as it is served (certificates, votes)."""
        return {}

    def trained_against(self) -> str | None:
        """Label of the attack, or of the family, that this defense was trained with; for the
        table of every defense against every attack."""
        return None
