"""Tests with a parameter that it does not have."""

from bench.datasets.blocks import Blocks

BREAKS = "parameters"
BECAUSE = "test_params names colour, which it does not have"


class UnseenParams(Blocks):
    """Tests with a parameter that it does not have; no paper.

    Example: datasets: [unseen-params]
    """

    name = "unseen-params"

    def load(self):
        return super().load()

    @classmethod
    def test_params(cls):
        return {"colour": "red"}
