"""Flags as many users as there are fakes."""

from bench.api import Defense

BREAKS = "not-told-who-is-fake"
BECAUSE = "what it removes depends on n_fake"


class ToldDetector(Defense):
    """Flags as many users as there are fakes; no paper.

    Example: defenses: [told-detector]
    """

    name = "told-detector"
    def clean(self, data, ctx):
        import numpy as np

        flagged = np.zeros(data.n_users, bool)
        flagged[np.argsort(np.bincount(data.train.users))[:data.n_fake]] = True
        return data.without_users(flagged)
