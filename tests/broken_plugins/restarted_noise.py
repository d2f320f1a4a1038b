"""Private training whose noise starts over at each step."""

from bench.defenses.dp_sgd import DpSgd
from bench.dp_steps import PrivateSteps

BREAKS = "noise-differs-between-steps"
BECAUSE = "the noise repeats itself: two steps have a cosine of"


class Restarted(PrivateSteps):
    def noise_like(self, key, p):
        self.noise_stream = self.model.ctx.torch_stream("dp-noise")
        return super().noise_like(key, p)


class RestartedNoise(DpSgd):
    """DP-SGD that asks for its noise stream anew at each step; no paper.

    Example: defenses: [restarted-noise]
    """

    name = "restarted-noise"

    def wrap(self, loop):
        return Restarted(self, loop).run_epoch
