"""A copy of the recommender, learned from its answers to made-up histories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.api import Attack, Context, Dataset, ModelPlugin, ThreatModel, param
from bench.attack import Struck
from bench.extraction import DEFAULTS, WHAT, too_long

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.stages import Prepared


class ModelExtraction(Attack):
    """Data-free model extraction: how well a surrogate learned from lists ranks as the victim.

    Histories are grown item by item: a random first one, then a random one of the `k` shown. The
    surrogate learns from every list on the way,

        Σ_j max(0, s_{j+1} − s_j + ½) + Σ_j max(0, s_neg − s_j + ½)      (means over j),

    neighbours of the list in their order, and all of it above items drawn from outside. Yue, He,
    Zeng and McAuley, "Black-Box Attacks on Sequential Recommenders via Data-Free Model
    Extraction", RecSys 2021. No train row is seen.

    Nothing is done to the recommendations: the cell's lists are the clean ones. Measured is the
    share of the victim's top 10 that is in the surrogate's, over the histories of genuine users
    ("extraction-agreement@10"); beside it, what chance and the most popular items share with it.
    What stands on the copy is `pollution`.

    Budget: sequences · length queries (histories whose list is seen). Knowledge: black.

    Args:
        surrogate: SASRec or GRU4Rec with RecBole's defaults.
        sequences, length, k: how much is asked, and how long a list is seen.
        epochs: passes over what was asked.

    Example: attacks: [{model-extraction: {sequences: [100, 1000]}}]
    """

    name = "model-extraction"
    threat = ThreatModel("output-query", "black", "infer")
    surrogate: str = param(DEFAULTS["surrogate"], WHAT["surrogate"], choices=("SASRec", "GRU4Rec"))
    sequences: int = param(DEFAULTS["sequences"], WHAT["sequences"], low=1)
    length: int = param(DEFAULTS["length"], WHAT["length"], low=1)
    k: int = param(DEFAULTS["k"], WHAT["k"], low=2)
    epochs: int = param(DEFAULTS["epochs"], WHAT["epochs"], low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "histories" not in model.gives:
            return f"{model.name} reads no sequence, and what is copied is how one is answered"
        return too_long(self.length, data)

    def budget_text(self) -> str:
        return f"{self.sequences * self.length} lists of {self.k} items"

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.extraction import extract
        from bench.shown_lists import Shown

        copy = extract(Shown(model), self, ctx)
        found = self.measured(copy, model, prepared.genuine)
        yield Struck(model, prepared.genuine, prepared.targets, {"extraction": found},
                     {f"extraction-{name}": value for name, value in found.items()})

    @staticmethod
    def measured(copy: Any, model: Recommender, data: Dataset) -> dict[str, float]:
        """Agreement over genuine users, of the copy, of chance and of popularity."""
        import numpy as np

        from bench.extraction import agreement, surrogate_lists
        from bench.shown_lists import Shown, best_items

        own = [h for h in model.histories()[:data.n_genuine] if len(h)]
        theirs = Shown(model, unasked=True).lists(own, 10)
        popular = np.tile(data.popularity.astype(np.float64), (len(own), 1))
        for row, history in enumerate(own):
            popular[row, history] = -1.0
        chance = np.mean([10 / max(data.n_items - len(np.unique(h)), 10) for h in own])
        return {"agreement@10": agreement(theirs, surrogate_lists(copy, own, 10)),
                "popularity@10": agreement(theirs, best_items(popular, 10)),
                "chance@10": float(chance)}

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"sequences": 20, "length": 6, "epochs": 2}
