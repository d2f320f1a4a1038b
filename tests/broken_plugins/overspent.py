"""Private training that adds half the noise it needs."""

from bench.defenses.dp_sgd import DpSgd
from bench.dp_steps import PrivateSteps

BREAKS = "epsilon-kept"
BECAUSE = "was asked for"


class Overspent(DpSgd):
    """DP-SGD that spends more than was asked for; no paper.

    Example: defenses: [overspent]
    """

    name = "overspent"

    def wrap(self, loop):
        private = PrivateSteps(self, loop)
        private.noise /= 2
        private.facts["noise_multiplier"] = private.noise
        return private.run_epoch
