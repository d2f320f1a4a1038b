"""Local randomisers of 0/1 vectors and of one item: what a user sends instead of the truth.

Each gives a bit that is 1 with probability p where the truth is 1 and q where it is 0. The
unbiased estimate of the truth is (x̃ − q) / (p − q), and of how many users have it the sum of that.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bench.data import Floats, Ints


def flip(epsilon: float) -> tuple[float, float]:
    """Randomised response of each bit by itself (Warner, JASA 1965): p = e^ε/(e^ε + 1), q = 1 − p.
    The likelihood ratio of one bit is e^ε."""
    p = 1 / (1 + math.exp(-epsilon))
    return p, 1 - p


def unary(epsilon: float) -> tuple[float, float]:
    """Optimised unary encoding of one item (Wang et al., USENIX Security 2017): p = ½,
    q = 1/(e^ε + 1). Two one-hot vectors differ in two bits: p (1 − q) / (q (1 − p)) = e^ε."""
    return 0.5, 1 - 1 / (1 + math.exp(-epsilon))


def direct(epsilon: float, n_items: int) -> tuple[float, float]:
    """k-ary randomised response of one item (Kairouz et al., ICML 2016): the item itself with
    p = e^ε/(e^ε + k − 1), any other with q = 1/(e^ε + k − 1), k = n_items."""
    p = 1 / (1 + (n_items - 1) * math.exp(-epsilon))
    return p, (1 - p) / (n_items - 1)


def answer(bits: npt.NDArray[np.bool_], p: float, q: float,
           rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Each bit's answer, drawn by itself."""
    found: npt.NDArray[np.bool_] = rng.random(bits.shape) < np.where(bits, p, q)
    return found


def answer_item(item: int | None, p: float, n_items: int, rng: np.random.Generator) -> int:
    """One item's answer in k-ary randomised response; of nothing (None): any item."""
    if item is None:
        return int(rng.integers(n_items))
    if rng.random() < p:
        return item
    other = int(rng.integers(n_items - 1))
    return other + (other >= item)


def unbiased(answers: Floats | npt.NDArray[np.bool_], p: float, q: float) -> Floats:
    """The estimate of each bit, with the bit as its mean."""
    return np.asarray((answers - q) / (p - q), np.float64)


def counts(answered: Ints, n: int, p: float, q: float) -> Floats:
    """How many of n users have each item, estimated from how many answers hold it: (items,)."""
    return np.asarray((answered - n * q) / (p - q), np.float64)
