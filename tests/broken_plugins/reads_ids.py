"""Flags users whose id says that they are fake."""

from bench.api import Defense

BREAKS = "not-told-who-is-fake"
BECAUSE = "what it removes depends on the users"


class ReadsIds(Defense):
    """Flags users whose id says that they are fake; no paper.

    Example: defenses: [reads-ids]
    """

    name = "reads-ids"
    def clean(self, data, ctx):
        import numpy as np

        return data.without_users(np.array([u.startswith("fake:") for u in data.user_ids]))
