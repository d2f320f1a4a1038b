"""What a training run costs in privacy: ε for given noise, and noise for a given ε.

The mechanism is the Poisson-subsampled Gaussian, composed over a fixed number of steps, under
adding or removing one user. The arithmetic is `dp_accounting`'s (maintained by Google).
"""

from __future__ import annotations

import functools
import logging
import math

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
    return _composed(sample_rate, noise_multiplier, steps, delta,
                     None if accountant == "rdp" else 1e-4)


def _composed(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
              grid: float | None) -> float:
    """ε by privacy loss distributions on a grid of that width, or by Rényi divergences."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    event = dp_accounting.PoissonSampledDpEvent(
        sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    ledger = RdpAccountant() if grid is None else PLDAccountant(value_discretization_interval=grid)
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of orders left out, which only loosens the bound
    try:
        ledger.compose(event, steps)
        return float(ledger.get_epsilon(delta))
    finally:
        log.setLevel(level)


@functools.lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float,
              accountant: str = "pld") -> float:
    """A noise multiplier that spends at most ε, within about 0.5 % of the smallest such.

    The search uses a coarser grid of privacy losses than `epsilon_of`: that only loosens the
    bound, and is ten times faster.
    """
    from scipy.optimize import brentq

    grid = None if accountant == "rdp" else min(1e-3, epsilon / 1e3)

    def excess(log_noise: float) -> float:
        spent = _composed(sample_rate, math.exp(log_noise), steps, delta, grid)
        return math.log(max(spent, 1e-12) / epsilon)

    high = 0.0
    if accountant == "pld":  # the looser accountant is fast and bounds the noise from above
        high = math.log(noise_for(epsilon, sample_rate, steps, delta, "rdp"))
    while excess(high) > 0:
        high += 0.25
    low = high - 0.25
    while excess(low) <= 0:
        low, high = low - 0.25, low
    found = float(brentq(excess, low, high, xtol=_CLOSE / 2))  # nearly linear: few evaluations
    while excess(found) > 0:
        found += _CLOSE / 2
    return math.exp(found)
