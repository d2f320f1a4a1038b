"""Gives two users the same id."""

from bench.datasets.blocks import Blocks

BREAKS = "ids-unique"
BECAUSE = "user ids stand twice"


class DoubleIds(Blocks):
    """Gives two users the same id; no paper.

    Example: datasets: [double-ids]
    """

    name = "double-ids"

    def load(self):
        data = super().load()
        return data.replace(user_ids=(data.user_ids[1], *data.user_ids[1:]))
