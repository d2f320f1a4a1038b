"""Private training that clips at ten times the stated norm."""

import dataclasses

from bench.defenses.dp_sgd import DpSgd
from bench.dp_steps import PrivateSteps

BREAKS = "one-user-is-clipped"
BECAUSE = "one user moves a step by"


class Unclipped(DpSgd):
    """DP-SGD whose clipping bound is not the one it accounts for; no paper.

    Example: defenses: [unclipped]
    """

    name = "unclipped"

    def wrap(self, loop):
        return PrivateSteps(dataclasses.replace(self, clip=10 * self.clip), loop).run_epoch
