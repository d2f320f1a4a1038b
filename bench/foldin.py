"""Models that score a user they were not trained on, from that user's own history."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.context import Context
    from bench.data import Dataset, Interactions, Ints
    from bench.models.base import Recommender

# Of RecBole's models: what they learn belongs to items alone, and a user enters by his row of
# the interaction matrix (EASE, SLIM, ItemKNN: row times item weights) or by the encoder's input.
_FOLD_IN = ("ADMMSLIM", "EASE", "ItemKNN", "MultiDAE", "MultiVAE", "RecVAE", "SLIMElastic")


def unfit(model: ModelPlugin) -> str | None:
    """Why this model cannot score users it was not trained on, or None.

    A model of one's own says that it can by a class attribute `folds_in = True`: `load_state` on
    a model built for other users then gives one that scores those from their train rows.
    """
    if not getattr(model, "folds_in", model.name in _FOLD_IN):
        return (f"its members must score users they were not trained on from their history, and "
                f"{model.name} is not known to do that; take one of {', '.join(_FOLD_IN)}")
    if getattr(model, "knn_method", "item") != "item":
        return "with knn_method: user, a user's list is made of the users that were trained on"
    if "embeddings" in model.gives:
        return (f"attacks on the vectors of {model.name} would perturb a model that is not the "
                "one served")
    return None


def part(data: Dataset, users: Ints) -> Dataset:
    """These users alone, numbered from 0: their train and validation rows, all items, no test
    rows. Nothing in it depends on the users left out, not even on how many there are."""
    number = np.full(data.n_users, -1, np.int64)
    number[users] = np.arange(len(users))

    def of(rows: Interactions) -> Interactions:
        kept = rows[number[rows.users] >= 0]
        return dataclasses.replace(kept, users=number[kept.users])

    return data.replace(user_ids=tuple(data.user_ids[u] for u in users), train=of(data.train),
                        context=None if data.context is None else of(data.context), shots=None,
                        valid=of(data.valid), test=data.test[:0], user_attributes={}, n_fake=0)


class FoldIn:
    """Trains members on some users and scores everybody with them.

    Args:
        plugin: a model for which `unfit` gives None.
        data: everybody, with the train rows that scores are made from.
    """

    def __init__(self, plugin: ModelPlugin, data: Dataset, ctx: Context) -> None:
        from bench.models.base import build

        self.plugin, self.data = plugin, data
        self.server: Recommender = build(plugin, data.replace(n_fake=0), ctx)

    def member(self, users: Ints, ctx: Context) -> Recommender:
        """A recommender for everybody that has learned from these users alone. The one returned
        before is lost: all members share the same object."""
        from bench.defense import Defense
        from bench.models.base import build

        own = part(self.data, users)
        learned: Any = build(self.plugin, own, ctx)
        if self.plugin.name == "ItemKNN":  # its state is the product of rows and weights
            weights = item_weights(learned)
            server: Any = self.server
            server.learned = {"item_similarity": weights}
            return self.server
        learned.fit(Defense(), lambda event: None)
        self.server.load_state(learned.state())
        return self.server


def item_weights(model: Any) -> Any:
    """RecBole's ItemKNN for the data of this (unfitted) model: its similarities, (m, m) sparse."""
    from bench.models._recbole_compat import contained
    from bench.models._recbole_data import ArrayDataset
    from bench.models._recbole_fixes import model_class

    with contained(), model.ctx.seeded("train"):
        made: Any = model_class(model.hyper.model, model.known["module"])(
            model.settings, ArrayDataset(model.settings, model.data, attributes=False))
    return made.w.tocsr()[1:, 1:]
