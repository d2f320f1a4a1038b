"""A control that is easy to beat: it spends half of what attacks may."""

from bench.attacks.random_clients import RandomClients

BREAKS = "noise-of-full-size"
BECAUSE = "long, 0.5 is allowed"


class FaintControl(RandomClients):
    """Random clients with rows of half the length; no paper.

    Example: attacks: [faint-control]
    """

    name = "faint-control"

    def upload(self, sent, own, targets, ctx):
        return {k: 0.5 * g for k, g in super().upload(sent, own, targets, ctx).items()}
