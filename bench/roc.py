"""How well scores tell members from non-members: AUC, and the true positives at a low false
positive rate, with intervals."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bench.data import Floats, Ints

RATES = (0.001, 0.01)  # CATALOGUE F7: what an attacker who must not be wrong achieves


def auc(members: Floats, others: Floats) -> float:
    """P(a member scores above a non-member) + ½·P(equal).

    >>> auc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    0.875
    """
    both = np.concatenate([members, others])
    _, place, size = np.unique(both, return_inverse=True, return_counts=True)
    below = np.concatenate([[0], np.cumsum(size)[:-1]])
    rank = below[place] + (size[place] + 1) / 2  # midranks, from 1
    total = float(rank[:len(members)].sum()) - len(members) * (len(members) + 1) / 2
    return total / (len(members) * len(others))


def tpr_at(members: Floats, others: Floats, rate: float) -> tuple[float, float]:
    """The largest true-positive rate with at most this false-positive rate, and its threshold.

    Every threshold flags what scores strictly above it; ties are never broken in favour.

    >>> tpr_at(np.array([3.0, 2.0, 0.0]), np.array([1.0, 0.5, 0.2, 0.1]), 0.25)
    (0.6666666666666666, 0.5)
    """
    allowed = math.floor(rate * len(others) + 1e-9)
    falling = np.sort(others)[::-1]
    cut = float(falling[allowed]) if allowed < len(falling) else -math.inf
    return float((members > cut).mean()), cut


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a binomial proportion (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


def highest_fpr(rate: float, others: int) -> float:
    """The upper end of the false-positive rate of a threshold that at most this share of the
    non-members pass: of few non-members, a low rate says little."""
    return clopper_pearson(math.floor(rate * others + 1e-9), others)[1]


def measured(scores: Floats, is_member: npt.NDArray[np.bool_], owners: Ints,
             rng: np.random.Generator, draws: int = 1000, *,
             exchangeable: bool = True) -> dict[str, float]:
    """AUC and TPR at 0.1 % and 1 % FPR, as `mia-…` with `-low` and `-high`.

    Args:
        scores: higher means more likely a member, (n,).
        is_member: the truth, (n,).
        owners: the user of each candidate, (n,): whole users are resampled, since the candidates
            of one user are alike.
        draws: of the bootstrap.
        exchangeable: nothing but membership tells members from non-members. Otherwise a model
            without memory of any of them may still tell them apart, and no ε is proven.

    The interval of a TPR is the wider of the bootstrap's and Clopper and Pearson's, whose lower
    end never reaches what chance alone could give. "mia-epsilon" is the ε that the attack itself
    proves, ln(TPR_low / FPR_high) at 1 % and δ = 0 with exact ends, at least 0: a promise below
    it is broken.
    """
    members, others = scores[is_member], scores[~is_member]
    users = np.unique(owners)
    where = {u: np.flatnonzero(owners == u) for u in users.tolist()}
    drawn: dict[str, list[float]] = {"auc": [], **{_name(r): [] for r in RATES}}
    for _ in range(draws):
        pick = np.concatenate([where[u] for u in rng.choice(users, len(users)).tolist()])
        inside, outside = scores[pick][is_member[pick]], scores[pick][~is_member[pick]]
        if not len(inside) or not len(outside):
            continue
        drawn["auc"].append(auc(inside, outside))
        for r in RATES:
            drawn[_name(r)].append(tpr_at(inside, outside, r)[0])
    found: dict[str, float] = {}
    _put(found, "mia-auc", auc(members, others), *_ends(drawn["auc"]))
    for r in RATES:
        value, cut = tpr_at(members, others, r)
        exact = clopper_pearson(int((members > cut).sum()), len(members))
        low, high = _ends(drawn[_name(r)])
        _put(found, f"mia-{_name(r)}", value, min(low, exact[0]), max(high, exact[1]))
        if r == 0.01 and exchangeable:
            false = clopper_pearson(int((others > cut).sum()), len(others))[1]
            found["mia-epsilon"] = max(0.0, math.log(max(exact[0], 1e-300) / max(false, 1e-300)))
    return found


def _name(rate: float) -> str:
    return f"tpr@{100 * rate:g}%fpr"


def _ends(values: list[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _put(found: dict[str, float], name: str, value: float, low: float, high: float) -> None:
    found[name] = value
    if math.isfinite(low) and math.isfinite(high):
        found[f"{name}-low"], found[f"{name}-high"] = low, high
