"""Secure aggregation, simulated: the server learns the sum of whole numbers and no single upload.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017;
on a sparse graph of neighbours as in Bell et al., "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020. In a round, client u
- makes a key pair (a_u, g^a_u) and a seed b_u, and deals Shamir shares of a_u and b_u to its
  neighbours, of which any t together give the secret back;
- agrees with each neighbour v on a seed s_uv = H(g^(a_u a_v));
- uploads y_u = x_u + PRG(b_u) + Σ_{v>u} PRG(s_uv) − Σ_{v<u} PRG(s_uv) modulo 2³².
Pairwise masks cancel in the sum of all. For a client who dropped out after dealing, the neighbours
hand their shares of a_u, so that its pair masks can be taken out of the others' uploads; for one
who uploaded, those of b_u; never both, which would bare x_u.

What is simulated: all parties run in one process, messages are not encrypted or signed, the group
(modulo the Mersenne prime 2^127 − 1) and the generator of masks (Philox) are not hard enough for
real use, and seeds come from the run's. What is exact: the algebra, and so the sum.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data import Floats, Ints
from bench.errors import BenchError, PluginError

Words = npt.NDArray[np.uint32]

BITS = 32
FIELD = 2**127 - 1  # a prime: the field of the shares, and the group of the key agreement
_GENERATOR = 3
_SECRET = 120  # bits of keys and seeds
_WIDTH = 16  # bytes of a number of the field


class LostRoundError(BenchError):
    """Too many clients are gone to take the masks off the sum."""


def step_for(bound: float, clients: int) -> float:
    """The smallest power of two in steps of which no sum of so many clients' numbers, each at most
    `bound` in size, leaves 32 bits with sign."""
    if not math.isfinite(bound) or bound <= 0:
        raise PluginError("numbers need a finite bound to be laid into 32 bits; give a finite clip")
    return 2.0 ** math.ceil(math.log2(bound * max(clients, 1) / (2 ** (BITS - 1) - clients - 1)))


def quantise(values: Floats, step: float) -> Ints:
    """Numbers in whole steps, to the nearest: (P,) -> (P,)."""
    return np.rint(values / step).astype(np.int64)


def _bits(rng: np.random.Generator, bits: int = _SECRET) -> int:
    return int.from_bytes(rng.bytes(bits // 8), "big")


def deal(secret: int, names: Sequence[int], threshold: int,
         rng: np.random.Generator) -> dict[int, int]:
    """Shamir shares of a secret (CACM 1979): values at name + 1 of a random polynomial of degree
    threshold − 1 whose constant is the secret. Any `threshold` of them determine it, fewer say
    nothing."""
    coefficients = [secret, *(_bits(rng, 256) % FIELD for _ in range(threshold - 1))]
    shares = {}
    for name in names:
        value = 0
        for c in reversed(coefficients):
            value = (value * (name + 1) + c) % FIELD
        shares[name] = value
    return shares


def recover(shares: dict[int, int]) -> int:
    """The secret from at least as many shares as the threshold: Lagrange interpolation at 0."""
    secret = 0
    for i, value in shares.items():
        top = bottom = 1
        for j in shares:
            if j != i:
                top = top * (j + 1) % FIELD
                bottom = bottom * (j - i) % FIELD
        secret = (secret + value * top * pow(bottom, -1, FIELD)) % FIELD
    return secret


def words(seed: int, size: int) -> Words:
    """Pseudo-random 32-bit words of a seed, (size,)."""
    key = int.from_bytes(hashlib.sha256(seed.to_bytes(_WIDTH, "big")).digest()[:16], "big")
    drawn: Words = np.random.Generator(np.random.Philox(key=key)).integers(
        0, 2**BITS, size, dtype=np.uint32)
    return drawn


@dataclass(frozen=True)
class _Keys:
    """What a client keeps to itself, and what it has published."""

    secret: int
    seed: int
    public: int


class Round:
    """One round: keys are dealt when it is made, then uploads come in, then the server sums.

    Args:
        clients: names of those who begin the round, whole numbers from 0.
        size: numbers per upload.
        neighbours: with how many others each client shares masks and shares; 0: with all.
        threshold: how many of its neighbours, as a share, give a client's secret back.
        rng: for keys and shares.

    Attributes:
        received: the masked uploads, by client: all that the server sees of them.
    """

    def __init__(self, clients: Sequence[int], size: int, neighbours: int, threshold: float,
                 rng: np.random.Generator) -> None:
        self.clients, self.size = list(clients), size
        self.received: dict[int, Words] = {}
        ring = [self.clients[k] for k in rng.permutation(len(self.clients))]
        self.neighbours = _around(ring, neighbours)
        self._keys, self._shares = dict[int, _Keys](), dict[int, tuple[dict[int, int], ...]]()
        self.threshold = {}
        for u in self.clients:
            secret, seed = _bits(rng), _bits(rng)
            self._keys[u] = _Keys(secret, seed, pow(_GENERATOR, secret, FIELD))
            others = sorted(self.neighbours[u])
            self.threshold[u] = max(1, math.ceil(threshold * len(others)))
            self._shares[u] = tuple(deal(s, others, self.threshold[u], rng)
                                    for s in (secret, seed))
        degree = max((len(v) for v in self.neighbours.values()), default=0)
        self.bytes_per_upload = 4 * size + _WIDTH * (1 + 2 * degree)  # words, a key, shares

    def upload(self, client: int, values: Ints) -> None:
        """Client side: mask the numbers, (size,), and hand them over."""
        if values.shape != (self.size,) or np.abs(values).max(initial=0) * len(
                self.clients) >= 2 ** (BITS - 1):
            raise PluginError("numbers that large could leave 32 bits in the sum; raise the step")
        keys = self._keys[client]
        masked = values.astype(np.uint32)  # modulo 2³²
        masked += words(keys.seed, self.size)
        for other in self.neighbours[client]:
            shared = pow(self._keys[other].public, keys.secret, FIELD)
            _add(masked, words(shared, self.size), other > client)
        self.received[client] = masked

    def sum(self) -> Ints:
        """Server side: the sum of the uploads that came in, (size,), exactly.

        Raises:
            LostRoundError: too many neighbours of a client are gone to give its secret back.
        """
        total = np.zeros(self.size, np.uint32)
        for masked in self.received.values():
            total += masked
        for u in self.clients:
            here = u in self.received
            if not here and not any(v in self.received for v in self.neighbours[u]):
                continue  # its masks are in no upload
            secret = self._handed(u, which=1 if here else 0)
            if here:
                total -= words(secret, self.size)
                continue
            for v in self.neighbours[u]:
                if v in self.received:  # v added its half of the pair's mask, u did not
                    pair = words(pow(self._keys[v].public, secret, FIELD), self.size)
                    _add(total, pair, not u > v)
        return total.astype(np.int32).astype(np.int64)

    def _handed(self, client: int, which: int) -> int:
        """A secret of a client from the shares of its neighbours who are still there."""
        shares = {v: s for v, s in self._shares[client][which].items() if v in self.received}
        need = self.threshold[client]
        if len(shares) < need:
            if not self.neighbours[client]:  # alone in the round: nobody to hide among
                return self._keys[client].seed
            raise LostRoundError(f"{len(shares)} of the {len(self.neighbours[client])} neighbours "
                                 f"of client {client} are left, {need} are needed to unmask the "
                                 "round")
        return recover(dict(list(shares.items())[:need]))


def _add(total: Words, mask: Words, plus: bool) -> None:
    if plus:
        total += mask
    else:
        total -= mask


def _around(ring: Sequence[int], neighbours: int) -> dict[int, set[int]]:
    """Each client's neighbours: the nearest on either side of a random ring, or all."""
    n = len(ring)
    half = n if not neighbours else max(1, math.ceil(neighbours / 2))
    return {u: {ring[(k + d) % n] for d in range(-min(half, n - 1), min(half, n - 1) + 1)} - {u}
            for k, u in enumerate(ring)}
