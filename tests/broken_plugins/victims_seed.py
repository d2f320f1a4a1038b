"""Trains the attacked model from the attacked system's own initial weights."""

from bench.api import Context
from bench.attacks.random_profiles import RandomProfiles

BREAKS = "draws-apart"
BECAUSE = "gray box, it draws what the attacked training draws: init"


class VictimsSeed(RandomProfiles):
    """Trains the attacked model from the attacked system's own initial weights; no paper.

    Example: attacks: [{victims-seed: {budget: 0.05}}]
    """

    name = "victims-seed"

    def profiles(self, data, targets, lengths, ctx: Context):
        from bench.models.base import build
        from bench.registry import Registry

        params = {"dim": 4, "epochs": 1, "patience": 0}
        build(Registry().make("models", {"name": "bprmf", "params": params}), data, ctx)
        return super().profiles(data, targets, lengths, ctx)
