"""What a training run costs in privacy: ε for given noise, and noise for a given ε.

The mechanism is the Poisson-subsampled Gaussian, composed over a fixed number of steps, under
adding or removing one user. The arithmetic is `dp_accounting`'s (maintained by Google).
"""

from __future__ import annotations

import functools
import math

ACCOUNTANTS = ("pld", "rdp")
_CLOSE = 1e-3  # relative width to which the noise is found


@functools.lru_cache(maxsize=256)
def epsilon_of(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
               accountant: str = "pld") -> float:
    """ε at this δ after `steps` steps; infinite without noise, 0 without steps.

    "pld" composes privacy loss distributions (tight), "rdp" Rényi divergences (an upper bound,
    faster).
    """
    if not steps:
        return 0.0
    if not noise_multiplier:
        return math.inf
    import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(
        sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    if accountant == "rdp":
        from dp_accounting.rdp import RdpAccountant

        ledger = RdpAccountant()
    else:
        from dp_accounting.pld import PLDAccountant

        ledger = PLDAccountant()
    ledger.compose(event, steps)
    return float(ledger.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float,
              accountant: str = "pld") -> float:
    """A noise multiplier that spends at most ε, within 0.2 % of the smallest such."""
    def too_much(log_noise: float) -> bool:
        return epsilon_of(sample_rate, math.exp(log_noise), steps, delta, accountant) > epsilon

    high = 0.0
    if accountant == "pld":  # the looser accountant is fast and bounds the noise from above
        high = math.log(noise_for(epsilon, sample_rate, steps, delta, "rdp"))
    while too_much(high):
        high += 0.25
    low = high - 0.25
    while not too_much(low):
        high, low = low, low - 0.25
    while high - low > _CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return math.exp(high)
