"""What a training run costs in privacy: ε for given noise, and noise for a given ε.

The mechanism is the Poisson-subsampled Gaussian, composed over a fixed number of steps, under
adding or removing one user. The arithmetic is `dp_accounting`'s (maintained by Google).
"""

from __future__ import annotations

import functools
import logging
import math

from bench.errors import InputError

_CLOSE = 1e-3  # relative width to which the noise is found


@functools.lru_cache(maxsize=256)
def epsilon_of(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
               accountant: str = "pld", once: float = 0.0) -> float:
    """ε at this δ after `steps` steps; infinite without noise, 0 without steps.

    "pld" composes privacy loss distributions (tight), "rdp" Rényi divergences (an upper bound,
    faster). `once`: noise multiplier of one further Gaussian over all users, 0 for none.
    """
    if not steps and not once:
        return 0.0
    if steps and not noise_multiplier:
        return math.inf
    return _composed(sample_rate, noise_multiplier, steps, delta,
                     None if accountant == "rdp" else 1e-4, once)


def gaussian_epsilon(noise_multiplier: float, delta: float, times: int = 1) -> float:
    """ε at this δ of `times` Gaussians over all users, each of this noise multiplier: exact
    (Balle and Wang, ICML 2018). Together they are one Gaussian of noise over √times."""
    import dp_accounting

    if not noise_multiplier:
        return math.inf
    return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(times), delta))


def gaussian_noise(epsilon: float, delta: float, times: int = 1) -> float:
    """The noise multiplier with which `times` Gaussians spend exactly ε: the inverse."""
    import dp_accounting

    return float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * math.sqrt(times)


def _composed(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
              grid: float | None, once: float = 0.0) -> float:
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
        if steps:
            ledger.compose(event, steps)
        if once:
            ledger.compose(dp_accounting.GaussianDpEvent(once))
        return float(ledger.get_epsilon(delta))
    finally:
        log.setLevel(level)


@functools.lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float,
              accountant: str = "pld", once: float = 0.0) -> float:
    """A noise multiplier that spends at most ε, within about 0.5 % of the smallest such.

    The search uses a coarser grid of privacy losses than `epsilon_of`: that only loosens the
    bound, and is ten times faster. `once` is as there.

    Raises:
        InputError: that one Gaussian alone spends ε.
    """
    from scipy.optimize import brentq

    if once and gaussian_epsilon(once, delta) >= epsilon:
        raise InputError(f"noise of {once:g} in the selection alone spends an ε of "
                         f"{gaussian_epsilon(once, delta):.3g}, and {epsilon:g} is all there is",
                         hint="give the selection more noise, or a larger epsilon")

    grid = None if accountant == "rdp" else min(1e-3, epsilon / 1e3)

    def excess(log_noise: float) -> float:
        spent = _composed(sample_rate, math.exp(log_noise), steps, delta, grid, once)
        return math.log(max(spent, 1e-12) / epsilon)

    high = 0.0
    if accountant == "pld":  # the looser accountant is fast and bounds the noise from above
        high = math.log(noise_for(epsilon, sample_rate, steps, delta, "rdp", once))
    while excess(high) > 0:
        high += 0.25
    low = high - 0.25
    while excess(low) <= 0:
        low, high = low - 0.25, low
    found = float(brentq(excess, low, high, xtol=_CLOSE / 2))  # nearly linear: few evaluations
    while excess(found) > 0:
        found += _CLOSE / 2
    return math.exp(found)
