"""Is another dataset each time."""

from bench.datasets.blocks import Blocks

BREAKS = "same-seed"
BECAUSE = "the same seed gives another output when run again"


class RandomData(Blocks):
    """Is another dataset each time; no paper.

    Example: datasets: [random-data]
    """

    name = "random-data"

    def load(self):
        import numpy as np

        data = super().load()
        return data.replace(train=data.train[np.random.permutation(len(data.train))])
