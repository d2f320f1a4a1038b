"""Has an attribute for all users but one."""

from bench.datasets.blocks import Blocks

BREAKS = "columns-aligned"
BECAUSE = "entries, there are"


class ShortColumn(Blocks):
    """Has an attribute for all users but one; no paper.

    Example: datasets: [short-column]
    """

    name = "short-column"

    def load(self):
        data = super().load()
        return data.replace(user_attributes={"age": data.user_attributes["age"][1:]})
