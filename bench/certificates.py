"""What can be proved of a list: certificates of voting ensembles and of randomised smoothing.

Voting (CATALOGUE D10; after Jia et al., "PORE: Provably Robust Recommender Systems against Data
Poisoning Attacks", USENIX Security 2023, whose bounds are tighter). p_i is the probability that
a member, trained on s of n users drawn without replacement, has item i among its N' picks for a
user; the N items of largest p are recommended. With e fake users a draw has none of them with
probability δ = C(n, s) / C(n + e, s), and is then a draw from the genuine users. So

    p'_i ≥ δ p_i        and, for any c items,        Σ p'_j ≤ δ Σ p_j + (1 − δ) min(N', c).

If fewer than r of a set of items stay in the top N, then one of its r items of largest p has
been passed by c = N − r + 1 items outside the set, all with p' at least its own. That cannot be
where δ p_(r) exceeds what the weakest of any c outsiders can reach, which after leaving out the
k strongest of them is at most the mean of the other c − k.

Smoothing (CATALOGUE D11; Cohen et al., "Certified Adversarial Robustness via Randomized
Smoothing", ICML 2019, Theorem 1, for two outcomes): the share p of noisy lists that hold an item,
noise N(0, σ²I), is at least Φ(Φ⁻¹(p) − r/σ) and at most Φ(Φ⁻¹(p) + r/σ) after any shift of l2
length r of the vector that the noise is added to.

Shares are estimated from a finite number of draws: everything here takes bounds on them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data import Floats, Ints

_ROUNDING = 1e-12  # an exact tie must not pass for "more" by the last bit


def untouched_share(n: int, s: int, fakes: int) -> float:
    """δ = C(n, s) / C(n + fakes, s): the share of subsets of s users that hold no fake user."""
    if not 0 <= s <= n:
        raise ValueError(f"a subset of {s} of {n} users")
    return math.exp(sum(math.log((n - s + k) / (n + k)) for k in range(1, fakes + 1)))


def binomial_bounds(draws: int, alpha: float) -> tuple[Floats, Floats]:
    """Clopper–Pearson bounds on a probability, each of confidence 1 − alpha, for 0 … draws
    successes: lower and upper, (draws + 1,) each."""
    from scipy.stats import beta

    k = np.arange(draws + 1)
    lower, upper = np.zeros(draws + 1), np.ones(draws + 1)
    lower[1:] = beta.ppf(alpha, k[1:], draws - k[1:] + 1)
    upper[:-1] = beta.ppf(1 - alpha, k[:-1] + 1, draws - k[:-1])
    return lower, upper


def certified_overlap(inside: Floats, outside: Floats, length: int, picks: int,
                      untouched: float) -> Ints:
    """How many items of a set are sure to be in each user's top `length` after the attack.

    Args:
        inside: lower bounds on p of the items of the set, descending, (U, R); −1 where a user's
            set has fewer than R.
        outside: upper bounds on p of all other items, descending, (U, C), the `length` largest;
            −1 where there are fewer.
        length: N, items recommended.
        picks: N', items that each member votes for.
        untouched: δ.

    Returns:
        r for each user, (U,).
    """
    users, most = len(inside), min(inside.shape[1], length)
    outside = np.pad(outside, ((0, 0), (0, max(0, length - outside.shape[1]))),
                     constant_values=-1.0)[:, :length]  # (U, N)
    present = (outside >= 0).sum(axis=1)  # (U,)
    summed = np.concatenate([np.zeros((users, 1)), np.maximum(outside, 0).cumsum(axis=1)], axis=1)
    sure = np.zeros(users, np.int64)
    for r in range(1, most + 1):
        c = length - r + 1
        reach = np.full(users, np.inf)  # what the weakest of c outsiders can reach
        for k in range(c):
            rest = untouched * (summed[:, c] - summed[:, k]) + (1 - untouched) * min(picks, c - k)
            reach = np.minimum(reach, rest / (c - k))
        reach[present < c] = -np.inf  # there are not as many outsiders
        holds = (inside[:, r - 1] >= 0) & (untouched * inside[:, r - 1] > reach + _ROUNDING)
        sure[holds] = r
    return sure


def ranked(values: Tensor, mask: Tensor, most: int) -> Floats:
    """The largest values (U, m) where the mask holds, descending, −1 behind them: (U, most)."""
    top = values.masked_fill(~mask, -1.0).topk(min(most, values.shape[1]), dim=1).values
    found: Floats = top.double().cpu().numpy()
    return found


# -- smoothing ---------------------------------------------------------------------------------

def majority_radius(lower: Floats, sigma: float) -> Floats:
    """R = σ Φ⁻¹(p̲): below it the item stays in more than half of the noisy lists; 0 where it is
    not certain to be in half of them now."""
    from scipy.special import ndtri

    radius: Floats = np.maximum(sigma * ndtri(lower), 0.0)
    return radius


def list_radius(lower: Floats, rival: Floats, sigma: float) -> Floats:
    """σ/2 (Φ⁻¹(p̲) − Φ⁻¹(p̄)): below it the item stays among the K items with most votes.

    Args:
        lower: lower bounds on the item's share of votes.
        rival: upper bound on the share of the K-th strongest other item (Jia et al., "Certified
            Robustness for Top-k Predictions against Adversarial Perturbations via Randomized
            Smoothing", ICLR 2020; without their bound on sums).
    """
    from scipy.special import ndtri

    with np.errstate(invalid="ignore"):
        radius = sigma / 2 * (ndtri(lower) - ndtri(rival))
    return np.where(np.isnan(radius), 0.0, np.maximum(radius, 0.0))


# -- lists -------------------------------------------------------------------------------------

def top_lists(scores: Tensor, k: int, order: Tensor | None = None) -> Tensor:
    """The k best items of each row of scores (B, m), best first: (B, k) indices.

    Equal scores are ranked by the place of the item in `order` (m,), which is by index where
    none is given: what `topk` does with them is nobody's choice.
    """
    import torch

    if order is not None:
        scores = scores[:, order]
    k = min(k, scores.shape[1])
    values, found = scores.topk(k, dim=1)
    repeated = (values[:, 1:] == values[:, :-1]).any(dim=1)
    tied = repeated | ((scores >= values[:, -1:]).sum(dim=1) > k)  # (B,)
    if bool(tied.any()):
        found[tied] = torch.sort(scores[tied], dim=1, descending=True, stable=True).indices[:, :k]
    return found if order is None else order[found]
