"""Order, negatives and histories drawn by hashing: uniform, exact, equal to slow references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.datasets.blocks import Blocks
from bench.sampling import Rows, Sequences, _mix, hash_rows

MASK = (1 << 64) - 1


def splitmix(z: int) -> int:
    """splitmix64 in Python's unbounded integers."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(z: int) -> int:
    return z - (1 << 64) if z >> 63 else z


@settings(deadline=None)
@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=50))
def test_mix_is_splitmix64(values: list[int]) -> None:
    assert _mix(torch.tensor(values)).tolist() == [signed(splitmix(v & MASK)) for v in values]


def test_splitmix_of_the_published_stream() -> None:
    """The first outputs of splitmix64 seeded with 1234567 (Vigna's reference code)."""
    golden, state, found = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        found.append(int(_mix(torch.tensor([signed(state)]))) & MASK)
        state = (state + golden) & MASK
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_rows_equals_its_definition() -> None:
    columns = [torch.tensor([0, 1, 5, 10**12]), torch.tensor([7, 7, 0, 3])]
    for seed in (0, 12345, (1 << 63) - 5):
        expected = []
        for row in zip(*(c.tolist() for c in columns), strict=True):
            h = splitmix(row[0] + seed & MASK)
            h = splitmix((h ^ row[1]) + seed & MASK)
            expected.append(splitmix((h ^ 9) + seed & MASK) & ((1 << 63) - 1))
        assert hash_rows(seed, *columns, 9).tolist() == expected


def test_hashes_are_unrelated_across_rows_columns_and_seeds() -> None:
    """Every bit is fair, and flips with probability one half when one column changes by one."""
    users, items = torch.arange(200).repeat_interleave(100), torch.arange(100).repeat(200)
    h = hash_rows(1, users, items, 3)
    assert len(torch.unique(h)) == len(h)
    bits = torch.arange(63)
    ones = ((h[:, None] >> bits) & 1).double().mean(dim=0)
    assert (ones - 0.5).abs().max() < 0.018  # 5 standard deviations of 20,000 draws
    others = [hash_rows(1, users + 1, items, 3), hash_rows(1, users, items + 1, 3),
              hash_rows(1, users, items, 4), hash_rows(2, users, items, 3),
              hash_rows(1, items, users, 3)]
    for other in others:
        keep = h != other  # (u, u) and (u, u) swapped are the same row
        flips = (((h ^ other)[keep, None] >> bits) & 1).double().mean(dim=0)
        assert (flips - 0.5).abs().max() < 0.018


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=60, items=48, length=12).load()


def test_order_is_a_permutation_that_epochs_do_not_share(data: Dataset) -> None:
    rows = Rows(data, Context(0))
    orders = [rows.order(e) for e in range(6)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(len(rows)))
    places = torch.stack([o.argsort() for o in orders]).double()
    r = np.corrcoef(torch.cat([places, torch.arange(len(rows))[None].double()]).numpy())
    assert np.abs(r - np.eye(7)).max() < 4.5 / np.sqrt(len(rows))
    assert torch.equal(rows.order(3), Rows(data, Context(0)).order(3))
    assert not torch.equal(rows.order(3), Rows(data, Context(1)).order(3))


def test_negatives_are_uniform_over_what_the_user_did_not_take(data: Dataset) -> None:
    rows = Rows(data, Context(0))
    taken = {(u, i) for u, i in zip(data.train.users.tolist(), data.train.items.tolist(),
                                    strict=True)}
    counts = np.zeros((60, 48))
    for epoch in range(30):
        drawn = rows.negatives(rows.users, rows.items, epoch, 5)
        assert drawn.shape == (len(rows), 5)
        np.add.at(counts, (rows.users.numpy()[:, None], drawn.numpy()), 1)
    p = []
    for u in range(60):
        free = np.array([(u, i) not in taken for i in range(48)])
        assert counts[u, ~free].sum() == 0
        p.append(stats.chisquare(counts[u, free]).pvalue)
    assert stats.kstest(p, "uniform").pvalue > 0.01  # sixty fair tests, not one lucky one


def test_negatives_of_rows_slots_and_epochs_are_unrelated(data: Dataset) -> None:
    rows = Rows(data, Context(0))
    drawn = torch.stack([rows.negatives(rows.users, rows.items, e, 3) for e in range(4)])
    flat = drawn.permute(1, 0, 2).reshape(len(rows), -1)  # (N, 12)
    same = (flat[:, :, None] == flat[:, None, :]).double().mean(dim=0)
    off = same[~torch.eye(12, dtype=torch.bool)]
    assert (off - 1 / 39).abs().max() < 5 * np.sqrt(1 / 39 / len(rows))  # 39 free items each


def crowded(free: int, n_items: int = 400) -> Dataset:
    """User 0 took all items but `free`; user 1 took one."""
    kept = np.setdiff1d(np.arange(n_items), np.linspace(0, n_items - 1, free).astype(int)
                        if free else [])
    rows = Interactions(np.r_[np.zeros(len(kept), int), 1], np.r_[kept, 5])
    return Dataset(name="crowded", user_ids=("a", "b"),
                   item_ids=tuple(map(str, range(n_items))), train=rows, valid=rows[:0],
                   test=rows[:1])


@pytest.mark.parametrize("free", [1, 2, 7])
def test_nearly_full_histories_still_get_exact_uniform_negatives(free: int) -> None:
    """Rejection alone would give positives here: 393 of 400 items are taken."""
    data = crowded(free)
    rows = Rows(data, Context(0))
    own = rows.users == 0
    drawn = torch.cat([rows.negatives(rows.users[own], rows.items[own], e, 4).flatten()
                       for e in range(3)])
    assert set(drawn.tolist()) == set(np.linspace(0, 399, free).astype(int).tolist())
    assert not rows.is_taken(torch.zeros_like(drawn), drawn).any()
    counts = torch.bincount(drawn)[torch.unique(drawn)].numpy()
    assert free == 1 or stats.chisquare(counts).pvalue > 0.001
    other = rows.negatives(rows.users[~own], rows.items[~own], 0, 1000)
    assert not (other == 5).any()
    assert len(torch.unique(other)) > 300


def test_a_full_history_gets_some_item() -> None:
    rows = Rows(crowded(0), Context(0))
    drawn = rows.negatives(rows.users, rows.items, 0, 2)
    assert ((drawn >= 0) & (drawn < 400)).all()


def test_negatives_depend_on_the_row_alone(data: Dataset) -> None:
    """Neither on the batch nor on what other users did."""
    rows = Rows(data, Context(0))
    whole = rows.negatives(rows.users, rows.items, 2, 2)
    pick = torch.tensor([5, 300, 17])
    assert torch.equal(rows.negatives(rows.users[pick], rows.items[pick], 2, 2), whole[pick])
    half = Rows(data.without_users(np.arange(60) % 2 == 1), Context(0))
    even = rows.users % 2 == 0
    assert torch.equal(half.negatives(half.users, half.items, 2, 2), whole[even])


def test_test_rows_avoid_every_known_positive(data: Dataset) -> None:
    rows = Rows(data, Context(0), "test")
    assert len(rows) == len(data.truth("test"))
    known = {(u, i) for part in (data.train, data.valid, data.test)
             for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)}
    drawn = rows.negatives(rows.users, rows.items, 0, 50)
    for u, items in zip(rows.users.tolist(), drawn.tolist(), strict=True):
        assert not any((u, i) in known for i in items)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("negatives", [1, 3])
def test_pairs_hold_each_row_once_per_negative(data: Dataset, size: int, negatives: int) -> None:
    rows = Rows(data, Context(0))
    batches = list(rows.pairs(4, size, negatives))
    assert all(len(b["users"]) == size * negatives for b in batches[:-1])
    joined = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    order = rows.order(4).repeat_interleave(negatives)
    assert torch.equal(joined["users"], rows.users[order])
    assert torch.equal(joined["items"], rows.items[order])
    expected = rows.negatives(rows.users, rows.items, 4, negatives)[rows.order(4)]
    assert torch.equal(joined["negatives"], expected.flatten())


def test_points_are_labelled(data: Dataset) -> None:
    labels = (data.train.ratings >= 4).astype(np.int8)
    cut = data.replace(threshold=4.0, train=replace(data.train, labels=labels))
    rows = Rows(cut, Context(0), labelled=True)
    assert len(rows) == len(data.train)
    batches = list(rows.points(0, 50, 2))
    users, items, y = (torch.cat([b[k] for b in batches]) for k in ("users", "items", "labels"))
    assert len(y) == len(labels) + 2 * labels.sum()
    likes = data.train[labels == 1]
    liked = set(zip(likes.users.tolist(), likes.items.tolist(), strict=True))
    for u, i, label in zip(users.tolist(), items.tolist(), y.tolist(), strict=True):
        assert ((u, i) in liked) == (label == 1)
    assert len(Rows(cut, Context(0))) == labels.sum()


def test_user_batches_hold_each_user_once(data: Dataset) -> None:
    rows = Rows(data.without_users(np.arange(60) < 10), Context(0))
    a, b = (torch.cat([x["users"] for x in rows.user_batches(e, 7)]) for e in (0, 1))
    assert a.sort().values.tolist() == list(range(10, 60))
    assert not torch.equal(a, b)


# -- sequences ---------------------------------------------------------------------------------

def histories_by_hand(data: Dataset, user: int, split: str) -> list[int]:
    rows = data.train if split == "valid" else data.train.plus(data.valid)
    own = [(t, k, i) for k, (u, i, t) in enumerate(zip(
        rows.users.tolist(), rows.items.tolist(), rows.times.tolist(), strict=True)) if u == user]
    return [i for _, _, i in sorted(own)]


@pytest.fixture(scope="module")
def shuffled(data: Dataset) -> Dataset:
    """Rows out of order, users of different lengths, some with one row and one with none."""
    rng = np.random.default_rng(0)
    keep = rng.permutation(len(data.train))[:300]
    train = data.train[keep]
    train = train[(train.users != 3) & ~((train.users == 4)
                                         & (train.items != train.items[train.users == 4][0]))]
    valid = data.valid[data.valid.users != 3]
    return data.replace(train=replace(train, times=np.floor(train.times / 7200)), valid=replace(
        valid, times=valid.times), test=data.test)


@pytest.mark.parametrize("length", [1, 3, 50])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_histories_are_the_newest_items_left_aligned(shuffled: Dataset, length: int,
                                                     split: str) -> None:
    sequences = Sequences(shuffled, Context(0), length)
    users = torch.tensor([0, 3, 4, 59, 0])
    found, lengths = sequences.histories(users, split)
    assert found.shape == (5, length)
    for k, u in enumerate(users.tolist()):
        expected = histories_by_hand(shuffled, u, split)[-length:]
        assert lengths[k] == len(expected)
        assert found[k].tolist() == expected + [-1] * (length - len(expected))


@pytest.mark.parametrize("length", [2, 50])
def test_sequence_rows_predict_each_item_from_what_came_before(shuffled: Dataset,
                                                               length: int) -> None:
    sequences = Sequences(shuffled, Context(0), length)
    expected = []
    for u in range(60):
        own = histories_by_hand(shuffled, u, "valid")
        expected += [(u, own[k], tuple(own[max(0, k - length):k])) for k in range(1, len(own))]
    found = []
    for batch in sequences.batches(1, 13):
        for u, i, h, n in zip(*(batch[c].tolist() for c in (
                "users", "items", "histories", "lengths")), strict=True):
            assert h[n:] == [-1] * (length - n)
            found.append((u, i, tuple(h[:n])))
    assert sorted(found) == sorted(expected)
    assert found != sorted(found)
    again = [b["items"] for b in sequences.batches(1, 13)]
    other = [b["items"] for b in sequences.batches(2, 13)]
    assert [i for _, i, _ in found] == torch.cat(again).tolist() != torch.cat(other).tolist()


@pytest.mark.parametrize("size", [1, 17])
def test_test_positives_are_predicted_from_train_and_valid(shuffled: Dataset, size: int) -> None:
    sequences = Sequences(shuffled, Context(0), 6)
    found = []
    for batch in sequences.batches(0, size, "test"):
        assert len(batch["users"]) > 0  # an empty batch has no mean loss
        for u, i, h, n in zip(*(batch[c].tolist() for c in (
                "users", "items", "histories", "lengths")), strict=True):
            assert h[:n] == histories_by_hand(shuffled, u, "test")[-6:]
            found.append((u, i))
    rows = shuffled.truth("test")
    expected = [(u, i) for u, i in zip(rows.users.tolist(), rows.items.tolist(), strict=True)
                if histories_by_hand(shuffled, u, "test")]
    assert found == expected
    assert len(expected) == len(rows) - 2  # user 3 has no history


def test_genuine_sequences_do_not_move_when_fakes_are_added(shuffled: Dataset) -> None:
    fake = Interactions(np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([5.0, 4.0, 3.0]),
                        np.array([1.0, 0.0, 2.0]))
    both = [list(Sequences(d, Context(0), 5).batches(1, 1)) for d in (
        shuffled, shuffled.with_fakes(fake, 2))]
    rows = [[(int(b["users"]), int(b["items"]), b["histories"].tolist()) for b in batches]
            for batches in both]
    assert [r for r in rows[1] if r[0] < 60] == rows[0]
    assert [r for r in rows[1] if r[0] >= 60] == [(60, 1, [[2, -1, -1, -1, -1]])]
