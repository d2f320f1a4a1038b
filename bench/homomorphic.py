"""Sums under homomorphic encryption: the server adds ciphertexts it cannot read.

The scheme is BFV (Fan and Vercauteren, "Somewhat practical fully homomorphic encryption", IACR
ePrint 2012/144) as the TenSEAL library has it: whole numbers modulo a prime, 8,192 of them in a
ciphertext, and sums are exact. All clients hold one secret key that the server has not, as in
Chai et al., "Secure federated matrix factorization" (IEEE Intelligent Systems 2021), who encrypt
by Paillier; there a ciphertext holds one number and takes a hundred times as long.

Slow and large beside plain uploads: see `tests/benchmarks/bench_federated.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bench.data import Ints
from bench.errors import InputError, PluginError

SLOTS = 8192
# The first prime above 2^40 that is 1 modulo 2 · SLOTS, as slots need: sums of up to 256 numbers
# of 32 bits fit with their sign.
MODULUS = 1_099_511_922_689


@functools.cache
def _contexts() -> tuple[Any, Any]:
    """(clients', with the secret key; the server's, without)."""
    try:
        import tenseal
    except ImportError as error:
        raise InputError("homomorphic encryption needs the tenseal package",
                         hint="pip install tenseal") from error
    clients = tenseal.context(tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=SLOTS,
                              plain_modulus=MODULUS, n_threads=1)
    server = clients.copy()
    server.make_context_public()
    return clients, server


def encrypt(values: Ints) -> list[bytes]:
    """Client side: whole numbers (P,) as ciphertexts of up to SLOTS numbers each."""
    import tenseal

    clients, _ = _contexts()
    return [tenseal.bfv_vector(clients, values[start:start + SLOTS].tolist()).serialize()
            for start in range(0, len(values), SLOTS)]


def decrypt(ciphertexts: list[bytes]) -> Ints:
    """Client side: the numbers of a sum, (P,)."""
    import tenseal

    clients, _ = _contexts()
    parts = [tenseal.bfv_vector_from(clients, c).decrypt() for c in ciphertexts]
    found = np.array([x for part in parts for x in part], np.int64)
    return np.where(found > MODULUS // 2, found - MODULUS, found)


class Round:
    """One round: clients encrypt and upload, the server adds, a client decrypts the sum.

    Args:
        size: numbers per upload.
    """

    def __init__(self, size: int) -> None:
        self.size, self.count, self.bytes_per_upload = size, 0, 0
        self._total: list[Any] = []

    def upload(self, client: int, values: Ints) -> None:
        """Encrypt the numbers of a client, (size,), and add them on the server."""
        import tenseal

        if values.shape != (self.size,) or np.abs(values).max(initial=0) >= 2**31:
            raise PluginError("an upload needs the round's many numbers, of 32 bits each")
        sent = encrypt(values)
        self.bytes_per_upload = sum(map(len, sent))
        _, server = _contexts()
        came = [tenseal.bfv_vector_from(server, c) for c in sent]
        self._total = [a + b for a, b in zip(self._total, came, strict=True)] if self.count \
            else came
        self.count += 1

    def sum(self) -> Ints:
        """The sum of the uploads, (size,), exactly."""
        if not self.count:
            return np.zeros(self.size, np.int64)
        if self.count > 256:
            raise PluginError("more than 256 clients in a round could leave the numbers' modulus")
        return decrypt([c.serialize() for c in self._total])
