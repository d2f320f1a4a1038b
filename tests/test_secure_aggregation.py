"""Sums that show no single upload: masks that cancel, secrets that come back, ciphertexts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from bench import homomorphic
from bench import secure_aggregation as sec
from bench._rounds import Rounds
from bench.api import Context
from bench.datasets.blocks import Blocks
from bench.defenses.federated import Federated
from bench.errors import PluginError
from bench.models.base import build
from bench.models.bprmf import BPRMF
from bench.training import Loop


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- the parts ---------------------------------------------------------------------------------

def test_any_threshold_of_shares_give_the_secret_and_fewer_nothing():
    secret = sec._bits(generator())
    shares = sec.deal(secret, [0, 3, 4, 9, 17], 3, generator(1))
    for some in itertools.combinations(shares, 3):
        assert sec.recover({u: shares[u] for u in some}) == secret
    assert sec.recover(shares) == secret
    for two in itertools.combinations(shares, 2):
        assert sec.recover({u: shares[u] for u in two}) != secret
    # two shares fit every secret: some polynomial of degree 2 goes through them and it
    others = [sec.deal(s, [0, 3, 4], 3, generator(2)) for s in (1, 2)]
    assert others[0][0] != others[1][0]


@pytest.mark.parametrize("bound", [0.01, 1.0, 37.5])
@pytest.mark.parametrize("clients", [1, 3, 256, 1000])
def test_no_sum_leaves_32_bits_and_steps_are_no_longer_than_needed(bound, clients):
    step = sec.step_for(bound, clients)
    largest = np.abs(sec.quantise(np.array([bound, -bound]), step)).max() * clients
    assert largest < 2**31
    assert largest > 2**29  # half the step would leave them, or nearly
    assert math.log2(step).is_integer()
    x = generator().uniform(-bound, bound, 500)
    assert np.abs(sec.quantise(x, step) * step - x).max() <= step / 2


def test_without_a_bound_there_is_no_step():
    with pytest.raises(PluginError, match="finite bound"):
        sec.step_for(math.inf, 4)


# -- a round -----------------------------------------------------------------------------------

def filled(clients: list[int], here: list[int], neighbours: int = 0, threshold: float = 0.5,
           size: int = 200, seed: int = 0) -> tuple[sec.Round, np.ndarray]:
    """A round in which those here have uploaded, and their plain sum."""
    made = sec.Round(clients, size, neighbours, threshold, generator(seed))
    most = (2**31 - 1) // len(clients) - 1
    values = generator(seed + 1).integers(-most, most, (len(clients), size))
    for client, row in zip(clients, values, strict=True):
        if client in here:
            made.upload(client, row)
    return made, values[np.isin(clients, here)].sum(axis=0)


@pytest.mark.parametrize("neighbours", [0, 4])
@pytest.mark.parametrize("clients", [[5], [2, 9], list(range(3, 23))])
def test_the_sum_is_the_plain_sum_exactly(clients, neighbours):
    made, expected = filled(clients, clients, neighbours)
    assert np.array_equal(made.sum(), expected)


@pytest.mark.parametrize("neighbours", [0, 6])
@pytest.mark.parametrize("gone", [[4], [3, 9, 17], [10, 11]])
def test_with_dropouts_the_sum_of_those_who_stayed_is_exact(gone, neighbours):
    clients = list(range(3, 23))
    here = [u for u in clients if u not in gone]
    made, expected = filled(clients, here, neighbours, threshold=0.4)
    assert np.array_equal(made.sum(), expected)


def test_too_many_dropouts_lose_the_round():
    made, _ = filled(list(range(12)), list(range(4)), threshold=0.6)
    with pytest.raises(sec.LostRoundError, match="needed to unmask"):
        made.sum()


def test_a_single_upload_looks_uniform_and_unlike_what_it_hides():
    clients, size = list(range(12)), 20000
    made = sec.Round(clients, size, 4, 0.5, generator())
    small = generator(1).integers(-5, 6, (12, size))
    for client, row in zip(clients, small, strict=True):
        made.upload(client, row)
    for client in clients:
        share = made.received[client] / 2.0**32
        assert stats.kstest(share, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(share, small[client])[0, 1]) < 0.04
    assert np.array_equal(made.sum(), small.sum(axis=0))


def test_the_same_numbers_are_masked_otherwise_in_the_next_round_and_by_the_next_client():
    rng = generator()
    masked = []
    for _ in range(2):
        made = sec.Round([0, 1, 2], 50, 0, 0.5, rng)
        for client in (0, 1, 2):
            made.upload(client, np.zeros(50, np.int64))
            masked.append(made.received[client])
    for a, b in itertools.combinations(masked, 2):
        assert (a != b).mean() > 0.95


def test_a_partial_sum_is_masked_too():
    """Whoever adds up all uploads but one sees no sum: pair masks are left, and own ones."""
    made, _ = filled(list(range(8)), list(range(8)), size=20000)
    part = np.zeros(20000, np.uint32)
    for client in range(7):
        part += made.received[client]
    assert stats.kstest(part / 2.0**32, "uniform").pvalue > 1e-3


def test_of_each_client_one_secret_alone_is_asked_for(monkeypatch):
    """Both would bare its upload: of who uploaded the own mask's, of who is gone the key's."""
    asked = []
    handed = sec.Round._handed
    monkeypatch.setattr(sec.Round, "_handed", lambda self, client, which: (
        asked.append((client, which)), handed(self, client, which))[1])
    made, _ = filled(list(range(10)), list(range(1, 10)))
    made.sum()
    assert sorted(asked) == [(0, 0), *((u, 1) for u in range(1, 10))]


def test_numbers_that_could_overflow_are_refused():
    made = sec.Round([0, 1], 3, 0, 0.5, generator())
    with pytest.raises(PluginError, match="leave 32 bits"):
        made.upload(0, np.array([0, 2**30, 0]))


@pytest.mark.parametrize(("neighbours", "degree"), [(0, 9), (4, 4), (5, 6), (100, 9)])
def test_neighbours_are_mutual(neighbours, degree):
    made = sec.Round(list(range(10)), 1, neighbours, 0.5, generator())
    for u, others in made.neighbours.items():
        assert len(others) == degree
        assert u not in others
        assert all(u in made.neighbours[v] for v in others)


# -- homomorphic encryption --------------------------------------------------------------------

def test_the_modulus_is_a_prime_that_gives_slots():
    m = homomorphic.MODULUS
    assert m % (2 * homomorphic.SLOTS) == 1
    assert all(pow(a, m - 1, m) == 1 for a in (2, 3, 5, 7, 11, 13))
    assert all(m % d for d in range(3, int(m**0.5) + 1, 2))
    assert m > 2 * 256 * 2**31


def test_the_encrypted_sum_is_the_plain_sum_exactly():
    pytest.importorskip("tenseal")
    size = homomorphic.SLOTS + 5
    values = generator().integers(-(2**31) + 1, 2**31, (3, size))
    made = homomorphic.Round(size)
    for client, row in enumerate(values):
        made.upload(client, row)
    assert np.array_equal(made.sum(), values.sum(axis=0))
    assert made.bytes_per_upload > 4 * size


def test_the_server_cannot_decrypt_and_equal_numbers_give_other_ciphertexts():
    tenseal = pytest.importorskip("tenseal")
    numbers = np.arange(20)
    one, two = homomorphic.encrypt(numbers), homomorphic.encrypt(numbers)
    assert one != two
    assert np.array_equal(homomorphic.decrypt(one), homomorphic.decrypt(two))
    _, server = homomorphic._contexts()
    with pytest.raises(ValueError, match="secret"):
        tenseal.bfv_vector_from(server, one[0]).decrypt()


# -- in a training -----------------------------------------------------------------------------

def trained(**params: object) -> tuple[torch.Tensor, dict]:
    data = Blocks(users=24, items=20).load()
    model = build(BPRMF(dim=4, init_std=0.3, optimizer="sgd", learning_rate=0.5,
                        reduction="sum"), data, Context(0))
    defense = Federated(**{"clients": 8, "clip": 0.2, **params})
    with model.ctx.seeded("train"):
        engine = Rounds(defense, Loop(model, defense))
        for epoch in (1, 2):
            engine.run_epoch(epoch)
    return model.module.items.weight.detach(), engine.loop.notes["federated"]


@pytest.mark.parametrize("how", ["masks", "encrypted"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_model_is_the_same_up_to_the_stated_step(how, dropout, steps):
    if how == "encrypted":
        pytest.importorskip("tenseal")
    common = {"dropout": dropout, "local_steps": steps, "local_rate": 0.1, "threshold": 0.3}
    plain, _ = trained(**common)
    hidden, facts = trained(**common, secure=how)
    assert facts["step"] == sec.step_for(0.2, 8) < 1e-9
    assert facts["rounds_lost"] == 0
    # 6 rounds of at most 8 uploads, each off by half a step, times the rate; and float32
    assert float((plain - hidden).abs().max()) < 6 * 8 * facts["step"] * 0.5 * 0.5 + 2e-6
    assert not torch.equal(plain, trained()[0]) or (dropout, steps) == (0.0, 1)


def test_uploads_that_are_hidden_are_whole_tables():
    _, plain = trained()
    _, masks = trained(secure="masks", neighbours=2)
    assert plain["bytes_up_per_client"] < 20 * 4 * 4 + 20 * 4
    assert masks["bytes_up_per_client"] == 20 * 4 * 4 + 16 * (1 + 2 * 2)
    assert masks["bytes_down_per_client"] == plain["bytes_down_per_client"] == 20 * 4 * 4


def test_a_lost_round_changes_nothing():
    bare, facts = trained(secure="masks", dropout=0.9, threshold=1.0)
    assert facts["rounds_lost"] > 0
    assert bool(bare.isfinite().all())
