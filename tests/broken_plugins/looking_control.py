"""A control that looks at the parameters it is sent."""

import torch

from bench.attacks.random_clients import RandomClients

BREAKS = "noise-of-full-size"
BECAUSE = "changes with the parameters"


class LookingControl(RandomClients):
    """Random clients who turn their noise to the side where the rows already are; no paper.

    Example: attacks: [looking-control]
    """

    name = "looking-control"

    def upload(self, sent, own, targets, ctx):
        made = super().upload(sent, own, targets, ctx)
        return {k: torch.where((g * sent.shared[k]).reshape(len(g), -1).sum(dim=1).reshape(
            -1, *[1] * (g.dim() - 1)) > 0, -g, g) for k, g in made.items()}
