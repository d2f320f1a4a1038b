"""Counts items from one."""

from bench.datasets.blocks import Blocks

BREAKS = "indices-in-range"
BECAUSE = "test has item indices outside"


class OutOfRange(Blocks):
    """Counts items from one; no paper.

    Example: datasets: [out-of-range]
    """

    name = "out-of-range"

    def load(self):
        import dataclasses

        data = super().load()
        return data.replace(test=dataclasses.replace(data.test, items=data.test.items + 1))
