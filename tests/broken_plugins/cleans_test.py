"""Drops test rows that are hard to find."""

from bench.api import Defense

BREAKS = "cleaning-keeps-everybody"
BECAUSE = "it changes the validation or test split"


class CleansTest(Defense):
    """Drops test rows that are hard to find; no paper.

    Example: defenses: [cleans-test]
    """

    name = "cleans-test"
    def clean(self, data, ctx):
        return data.replace(test=data.test[::2])
