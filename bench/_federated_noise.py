"""Differential privacy of a round's sum, with noise that the clients add themselves.

Each client shortens its whole upload to norm C and adds its share of Gaussian noise before the
upload is masked or encrypted; the server sees the sum, in which the shares of h clients add up to
N(0, (z C)²) on every number (Dwork et al., "Our Data, Ourselves", EUROCRYPT 2006). A client who
vanishes, or keeps its share back, is no harm while h others are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import PluginError

_TAIL = 10.0  # deviations of a client's noise that 32 bits leave room for: beyond, 2e-23 a number
_FINE = 4.0  # steps per deviation, from which on rounded noise is Gaussian up to e^(−2π² 16)


@dataclass(frozen=True)
class Shares:
    """What one client does to its upload.

    Attributes:
        multiplier: z, the noise of the sum in units of `clip`; 0: none.
        clip: C, largest norm of a whole upload, over all parameters; infinite: none.
        honest: share of a round's clients whose noise must reach the sum.
    """

    multiplier: float
    clip: float
    honest: float

    def needed(self, clients: int) -> int:
        """h: whose noise must reach the sum, of so many who begin a round."""
        return max(1, math.ceil(self.honest * clients - 1e-9))

    def deviation(self, clients: int) -> float:
        """The standard deviation of one client's noise: z C / √h."""
        if not self.multiplier:
            return 0.0
        return self.multiplier * self.clip / math.sqrt(self.needed(clients))

    def bound(self, clients: int, row_clip: float) -> float:
        """How large a number of an upload can be, in a round of so many clients."""
        return row_clip + _TAIL * self.deviation(clients)

    def __call__(self, uploads: Mapping[str, Tensor], clients: int, masks: Mapping[str, Tensor],
                 stream: torch.Generator, step: float | None = None) -> dict[str, Tensor]:
        """Uploads (K, *shape) of K clients, shortened and with noise of their own.

        Args:
            clients: who began the round.
            masks: parameter -> 0 where it is padding, which gets no noise.
            stream: made once and kept; noise is drawn on the CPU.
            step: what numbers will be rounded to: they are cut to it towards 0 before the noise
                comes, which makes no upload longer, so that the sum is one of whole numbers plus
                rounded noise.
        """
        short = shortened(uploads, self.clip)
        deviation = self.deviation(clients)
        if not deviation:
            return short
        if step is not None and deviation < _FINE * step:
            raise PluginError(f"noise of {deviation:.3g} is lost between the steps of {step:.3g} "
                              "that numbers are rounded to; raise noise_multiplier")
        found = {}
        for key, g in short.items():
            g = g.double()
            if step is not None:
                g = (g / step).trunc() * step
            drawn = torch.randn(g.shape, generator=stream, dtype=torch.float64).to(g.device)
            found[key] = g + deviation * drawn * masks[key]
        return found


def shortened(uploads: Mapping[str, Tensor], most: float) -> dict[str, Tensor]:
    """Uploads (K, *shape), each client's shortened to this norm over all parameters together."""
    if math.isinf(most) or not uploads:
        return dict(uploads)
    squares = torch.stack([g.double().flatten(1).square().sum(dim=1) for g in uploads.values()])
    norms = squares.sum(dim=0).sqrt()  # (K,)
    factor = (most / norms.clamp_min(1e-300)).clamp_max(1.0)
    return {k: (g.double() * factor.reshape(-1, *(1,) * (g.dim() - 1))).to(g.dtype)
            for k, g in uploads.items()}
