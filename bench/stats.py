"""Intervals and tests for tables of paired per-user values (numpy and scipy.special).

The unit is the user: the same users are scored clean and attacked, with each seed. Users and
seeds are crossed, not nested (each user is there in each seed), so a draw of the bootstrap
resamples the seeds and, once for all seeds and all cells, the users (the pigeonhole bootstrap,
Owen, Annals of Applied Statistics 2007). Clean and attacked values are thereby resampled
together, and ratios are taken of the resampled means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000
FLIPS = 9999
LEVEL = 0.95
CLEAN_FLOOR = 1e-6  # a ratio to a clean value below this has no meaning
T_FROM = 100  # users from which the paired t test is used for means
_KEEP = 20_000_000  # weights kept in memory; larger sets are drawn again when needed


class Bootstrap:
    """Resampled means for cells that share their users and seeds.

    Args:
        n_seeds, n_users: shape of every cell's values.
        draws: how many resamples.
        seed: the same seed gives the same resamples, whatever was asked before.
    """

    def __init__(self, n_seeds: int, n_users: int, draws: int = DRAWS, seed: int = 0) -> None:
        self.n_seeds, self.n_users, self.draws, self.seed = n_seeds, n_users, draws, seed
        picked = np.random.default_rng([seed, 1]).integers(n_seeds, size=(draws, n_seeds))
        self._seed_weights = _counts(picked, n_seeds)  # (draws, n_seeds)
        self._kept: list[Array] | None = None

    def _user_weights(self) -> Iterator[Array]:
        """Blocks (draws of the block, n_users): how often each user is drawn."""
        if self._kept is not None:
            yield from self._kept
            return
        rng = np.random.default_rng([self.seed, 2])
        size = max(1, min(self.draws, 2_000_000 // max(self.n_users, 1)))
        blocks: list[Array] = []
        for start in range(0, self.draws, size):
            count = min(size, self.draws - start)
            block = _counts(rng.integers(self.n_users, size=(count, self.n_users)), self.n_users)
            if self.draws * self.n_users <= _KEEP:
                blocks.append(block)
            yield block
        if blocks:
            self._kept = blocks

    def means(self, values: Array) -> Array:
        """The mean of each cell in each resample: (cells, draws).

        Args:
            values: (cells, n_seeds, n_users); NaN where a seed or user is missing, which is
                left out of the mean.
        """
        cells = values.shape[0]
        flat = values.reshape(cells * self.n_seeds, self.n_users)
        there = ~np.isnan(flat)
        patterns, which = _patterns(there)
        filled = np.where(there, flat, 0.0)
        above = np.empty((len(flat), self.draws))
        below = np.empty((len(patterns), self.draws))
        done = 0
        for weights in self._user_weights():
            part = slice(done, done + len(weights))
            above[:, part] = filled @ weights.T
            below[:, part] = patterns @ weights.T
            done += len(weights)
        shape = (cells, self.n_seeds, self.draws)
        seeds = self._seed_weights.T[None]  # (1, n_seeds, draws)
        total = (above.reshape(shape) * seeds).sum(axis=1)
        count = (below[which].reshape(shape) * seeds).sum(axis=1)
        means: Array = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return means


def _counts(picked: npt.NDArray[np.int64], n: int) -> Array:
    """How often each of n is picked in each row: (rows, n)."""
    rows = len(picked)
    flat = (picked + np.arange(rows)[:, None] * n).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def _patterns(there: npt.NDArray[np.bool_]) -> tuple[Array, npt.NDArray[np.int64]]:
    """The distinct rows, and which of them each row is."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in there], np.int64)
    distinct = np.array([np.frombuffer(key, np.bool_) for key in seen], np.float64)
    return distinct.reshape(len(seen), there.shape[1]), which


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled values; (NaN, NaN) where nothing is finite."""
    kept = draws[np.isfinite(draws)]
    if not len(kept):
        return math.nan, math.nan
    tail = 50 * (1 - level)
    low, high = np.percentile(kept, [tail, 100 - tail])
    return float(low), float(high)


def seed_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean over seeds: for what is not a mean over users (coverage,
    Gini, target exposure). (NaN, NaN) with fewer than two seeds."""
    x = np.asarray([v for v in values if math.isfinite(v)])
    if len(x) < 2:
        return math.nan, math.nan
    from scipy import special  # light, where scipy.stats takes a second to import

    half = float(special.stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean() - half), float(x.mean() + half)


def relative_drop(clean: Array | float, attacked: Array | float) -> Array:
    """(clean − attacked) / clean of population means; NaN where clean is below 1e-6."""
    c, a = np.asarray(clean, np.float64), np.asarray(attacked, np.float64)
    usable = c >= CLEAN_FLOOR
    return np.where(usable, (c - a) / np.where(usable, c, 1.0), np.nan)


# -- tests -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Paired:
    """A paired comparison over users: the mean difference, its test and its size.

    Attributes:
        difference: mean over users of (first − second), each averaged over the seeds.
        p: two-sided.
        effect: difference / standard deviation of the users' differences (Cohen's d_z); 0 where
            no user differs.
        users: how many users were compared.
        test: "paired t", "sign flips" or "McNemar".
    """

    difference: float
    p: float
    effect: float
    users: int
    test: str


def compare(first: Array, second: Array, *, binary: bool = False, seed: int = 0) -> Paired:
    """Test whether two sets of values (seeds, users) differ in the mean over users.

    Only (seed, user) pairs present in both count. Each user's difference is averaged over the
    seeds. Then: McNemar's exact test for a hit rate of 0s and 1s; the paired t test from 100
    users on; sign flips (9,999) otherwise, and for hit rates that are averages.
    """
    paired = first - second
    there = ~np.isnan(paired)
    users = there.any(axis=0)
    if not users.any():
        return Paired(math.nan, math.nan, math.nan, 0, "no common users")
    d = np.where(there, paired, 0.0)[:, users].sum(axis=0) / there[:, users].sum(axis=0)
    mean, sd = float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else 0.0
    effect = mean / sd if sd > 0 else (0.0 if mean == 0 else math.copysign(math.inf, mean))
    if binary and np.isin(d, (-1.0, 0.0, 1.0)).all():
        return Paired(mean, mcnemar(int((d > 0).sum()), int((d < 0).sum())), effect, len(d),
                      "McNemar")
    if len(d) >= T_FROM and not binary:
        return Paired(mean, paired_t(d), effect, len(d), "paired t")
    return Paired(mean, sign_flips(d, seed=seed), effect, len(d), "sign flips")


def paired_t(d: Array) -> float:
    """Two-sided p of the paired t test on differences (n,); 1 where none differs."""
    from scipy import special

    sd = float(d.std(ddof=1))
    if sd == 0:
        return 1.0 if float(d.mean()) == 0 else 0.0
    t = float(d.mean()) / (sd / math.sqrt(len(d)))
    return float(2 * special.stdtr(len(d) - 1, -abs(t)))


def sign_flips(d: Array, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test: exact up to 12 users, sampled beyond.

    Sampled p is (1 + as extreme) / (1 + flips), so it is never 0.
    """
    d = d[d != 0]  # a zero keeps its value under either sign
    if not len(d):
        return 1.0
    scale = float(np.abs(d).max())
    seen = abs(float(d.sum())) - 1e-9 * scale * len(d)
    if len(d) <= 12:
        signs = 1 - 2.0 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
        return float((np.abs(signs @ d) >= seen).mean())
    rng, extreme, left = np.random.default_rng([seed, 3]), 0, flips
    while left:
        count = min(left, max(1, 4_000_000 // len(d)))
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(count, len(d)), dtype=np.int8)
        extreme += int((np.abs(signs @ d) >= seen).sum())
        left -= count
    return (1 + extreme) / (1 + flips)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test of the discordant counts (binomial with p = 1/2)."""
    if gained + lost == 0:
        return 1.0
    from scipy import special

    return min(1.0, float(2 * special.bdtr(min(gained, lost), gained + lost, 0.5)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given; NaN stays NaN and does not count."""
    found = [(value, i) for i, value in enumerate(p) if not math.isnan(value)]
    adjusted = [math.nan] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(sorted(found)):
        highest = max(highest, min(1.0, value * (len(found) - rank)))
        adjusted[i] = highest
    return adjusted
