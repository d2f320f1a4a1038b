"""Random scores: what no information is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, ModelPlugin

if TYPE_CHECKING:
    from bench.models._simple import RandomScores


class Random(ModelPlugin):
    """Scores drawn uniformly per user and item, by hash of the seed: nothing is learned.

    The chance level that every accuracy metric has (e.g. Cremonesi et al., RecSys 2010).

    Example: models: [random]
    """

    name = "random"

    @property
    def gives(self) -> frozenset[str]:
        return frozenset()

    def build(self, data: Dataset, ctx: Context) -> RandomScores:
        from bench.models._simple import RandomScores

        return RandomScores(data, ctx)
