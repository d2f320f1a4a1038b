"""What a training run costs in privacy: ε for given noise, and noise for a given ε.

The mechanism is the Poisson-subsampled Gaussian, composed over a fixed number of steps, under
adding or removing one user. The arithmetic is `dp_accounting`'s (maintained by Google).
"""

from __future__ import annotations

import functools
import logging
import math

import numpy as np

from bench.data import Dataset
from bench.errors import InputError

_CLOSE = 1e-3  # relative width to which the noise is found
_WIDEST = 100.0  # step of a grid of privacy losses, whose exponential must exist
_LARGEST = 1e8  # bound on ε above which no such grid is computed
_FAST = 1e6  # ε above which noise is first sought by Rényi divergences
_LEAST = 1e-5  # ε below which rounding errors of a grid count
_LESS = (1.0, 0.995, 0.99, 0.98, 0.96, 0.93, 0.9)  # shares of a noise that counts an infinite ε
_MOST_STEPS = 1_000_000  # beyond, composing privacy losses takes minutes
_MET = 0.9  # of a small ε asked for, the least that noise must spend for it to count as met


@functools.lru_cache(maxsize=256)
def epsilon_of(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
               accountant: str = "pld", once: float = 0.0) -> float:
    """ε at this δ after `steps` steps; infinite without noise, 0 without steps.

    "pld" composes privacy loss distributions (tight), "rdp" Rényi divergences (an upper bound,
    faster; it also stands in where the bound is above 1e8). `once`: noise multiplier of one
    further Gaussian over all users, 0 for none.

    It is 0 as well where δ alone is enough: with that much noise, what comes out with a user and
    without differs by no more than δ in total variation, which is (0, δ)-privacy. "rdp" goes
    there in one step, from 0.0035 at δ = 1e-5: it cannot tell smaller ε apart.
    """
    if not steps and not once:
        return 0.0
    if steps and not noise_multiplier:
        return math.inf
    bound = _composed(sample_rate, noise_multiplier, steps, delta, None, once)
    if accountant == "rdp":
        return bound
    if sample_rate == 1 or not steps:
        total = steps / noise_multiplier ** 2 if steps else 0.0  # Gaussians add up as 1/σ²
        total += 1 / once ** 2 if once else 0.0
        return gaussian_epsilon(total ** -0.5, delta)  # exact
    return _refined(sample_rate, noise_multiplier, steps, delta, bound, once)


def gaussian_epsilon(noise_multiplier: float, delta: float, times: int = 1) -> float:
    """ε at this δ of `times` Gaussians over all users, each of this noise multiplier: exact
    (Balle and Wang, ICML 2018). Together they are one Gaussian of noise over √times."""
    import dp_accounting

    if not noise_multiplier:
        return math.inf
    with np.errstate(divide="ignore"):  # a logarithm of 0 that is meant, where ε is 0 or huge
        return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(times), delta))


def gaussian_noise(epsilon: float, delta: float, times: int = 1) -> float:
    """The noise multiplier with which `times` Gaussians spend exactly ε: the inverse."""
    import dp_accounting

    with np.errstate(divide="ignore"):  # a logarithm of 0 that is meant, where ε is huge
        return float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * math.sqrt(times)


def _refined(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
             about: float, once: float) -> float:
    """ε by privacy loss distributions, on grids ten times finer each, from a thousandth of
    `about` on, until ε falls by less than a fifth. Every grid gives an upper bound, whose excess
    shrinks with the square of the width: what is left is a hundredth of the last fall."""
    if not 0 < about <= _LARGEST:
        return about
    found = math.inf
    for finer in (1e3, 1e4, 1e5):
        before, grid = found, min(about / finer, _WIDEST)
        found = min(before, _bounded(sample_rate, noise_multiplier, steps, delta, grid, once))
        if before - found <= 0.2 * found:
            break
    return found


def _bounded(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
             grid: float | None, once: float = 0.0) -> float:
    """As `_composed`, and finite where that overflows to a lone infinity, around ε = 709 (e^ε is no
    number any more) and there alone: what less noise spends bounds what this noise spends."""
    for less in _LESS:
        found = _composed(sample_rate, less * noise_multiplier, steps, delta, grid, once)
        if math.isfinite(found):
            break
    return found


def _composed(sample_rate: float, noise_multiplier: float, steps: int, delta: float,
              grid: float | None, once: float = 0.0) -> float:
    """ε by privacy loss distributions on a grid of that width, or by Rényi divergences."""
    import dp_accounting
    import numpy as np
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
        with np.errstate(over="ignore"):  # a ratio beyond all floats is compared, and larger
            return float(ledger.get_epsilon(delta))
    finally:
        log.setLevel(level)


@functools.lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float,
              accountant: str = "pld", once: float = 0.0) -> float:
    """A noise multiplier that spends at most ε by `epsilon_of`, within about 0.5 % of the
    smallest such (ε up to 1e4, and beyond while Rényi divergences count no more than 1e8; then, and
    for ε between 650 and 850, it may be more noise than that). `once` is as there.

    Raises:
        InputError: that one Gaussian alone spends ε; ε is below 1e-5; or the accountant counts
            more than ε with a little less noise, and far less than ε with any that is enough
            ("rdp" of small ε).
    """
    from scipy.optimize import brentq

    if accountant == "pld" and steps > _MOST_STEPS:
        raise InputError(f"{steps:,} steps are more than accountant pld can compose in minutes",
                         key="accountant", hint=f"take accountant: rdp, or at most "
                         f"{_MOST_STEPS:,} steps (epochs / sample_rate)")
    if epsilon < _LEAST:
        raise InputError(f"an epsilon of {epsilon:g} is too small to be counted by an accountant",
                         key="epsilon", hint=f"ask for {_LEAST:g} or more, or give the "
                         "noise itself as noise_multiplier")
    if once and gaussian_epsilon(once, delta) >= epsilon:
        raise InputError(f"noise of {once:g} in the selection alone spends an ε of "
                         f"{gaussian_epsilon(once, delta):.3g}, and {epsilon:g} is all there is",
                         hint="give the selection more noise, or a larger epsilon")

    rough = None if accountant == "rdp" or epsilon > _FAST else min(epsilon / 1e3, _WIDEST)

    def excess(log_noise: float) -> float:  # of an upper bound, which is fast
        spent = _bounded(sample_rate, math.exp(log_noise), steps, delta, rough, once)
        return math.log(max(spent, 1e-12) / epsilon)

    high = math.log(gaussian_noise(epsilon, delta, max(steps, 1)))  # enough if all are drawn
    while excess(high) > 0:  # `once` takes its part of ε, and "rdp" is looser
        high += 0.25
    while excess(low := high - 0.25) <= 0:
        high = low
    found = float(brentq(excess, low, high, xtol=_CLOSE / 2))
    slope = (excess(low) - excess(high)) / 0.25  # of log ε, nearly a line

    def over(log_noise: float) -> float:  # how far the noise is from what ε needs
        spent = epsilon_of(sample_rate, math.exp(log_noise), steps, delta, accountant, once)
        return math.log(max(spent, 1e-12) / epsilon) / slope

    for _ in range(5):  # the fast bound is looser where many steps cost little each
        found += (more := over(found))
        if abs(more) < 2 * _CLOSE:
            break
    while (more := over(found)) > 0:
        found += max(more, _CLOSE / 2)
    if more > -5 * _CLOSE:
        return math.exp(found)
    step = 0.25  # it is no such line here: halve where it leaps or bends
    while over(low := found - step) <= 0:
        found, step = low, 2 * step
    while found - low > _CLOSE:
        middle = (low + found) / 2
        low, found = (middle, found) if over(middle) > 0 else (low, middle)
    spent, before = (epsilon_of(sample_rate, math.exp(at), steps, delta, accountant, once)
                     for at in (found, low))
    if spent < _MET * epsilon < _MET:
        raise InputError(f"no noise spends an epsilon of {epsilon:g} by accountant {accountant}: "
                         f"it counts {before:.3g} with a little less noise than {spent:.3g}",
                         key="epsilon", hint=f"ask for {before:.3g} or more, or "
                         + ("take accountant: pld, which tells smaller ones apart" if accountant
                            == "rdp" else "give the noise itself as noise_multiplier"))
    return math.exp(found)


def no_promise(delta: float, data: Dataset) -> str | None:
    """Why a user-level (ε, δ) promises nothing on this data, or None."""
    return chosen_together(data) or too_likely(delta, data)


def chosen_together(data: Dataset) -> str | None:
    """Why no mechanism that sees one user at a time protects anybody here, or None: which rows of
    a user are learned from depends on all other users (`bench.shots`, `Dataset.together`)."""
    if data.shots is None:
        return None if data.together is None else (
            f"user-level privacy would be claimed falsely: one user more or less in {data.name} "
            f"changes which rows of others are learned from ({data.together})")
    return (f"user-level privacy would be claimed falsely: the {len(data.shots)} shots of "
            f"{data.name} are drawn from everybody's rows together, so that one user more or less "
            "changes those of others; set shots of the dataset to 0")


def too_likely(delta: float, data: Dataset) -> str | None:
    """Why this δ promises nothing on this data, or None: from one over the number of users on,
    publishing the whole history of a user drawn at random is (0, δ)-private (Dwork and Roth, "The
    Algorithmic Foundations of Differential Privacy", 2014, section 2.3)."""
    n = data.n_genuine  # as in the data without injected users, so that both are refused or none
    if delta < 1 / n:
        return None
    return (f"user-level privacy would be claimed falsely: with delta {delta:g}, not below one "
            f"over the {n} users of {data.name}, one of them may be published whole; take a delta "
            f"well below {1 / n:.2g}")
