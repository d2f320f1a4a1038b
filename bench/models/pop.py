"""Recommend what is popular: the floor that every model must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, ModelPlugin

if TYPE_CHECKING:
    from bench.models._simple import FixedScores


class Pop(ModelPlugin):
    """Score of an item: its number of train positives, injected users counted like all others.

    The non-personalised baseline (e.g. Cremonesi et al., RecSys 2010, "TopPop").

    Example: models: [pop]
    """

    name = "pop"

    @property
    def gives(self) -> frozenset[str]:
        return frozenset()

    def build(self, data: Dataset, ctx: Context) -> FixedScores:
        import numpy as np

        from bench.models._simple import FixedScores

        counts = np.bincount(data.train.positives().items, minlength=data.n_items)
        return FixedScores(data, ctx, counts.astype(np.float32))
