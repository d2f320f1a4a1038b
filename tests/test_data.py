"""What Interactions and Dataset promise: rows stay, ids never move, labels follow the rating."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import Dataset, Interactions, check
from bench.datasets.blocks import Blocks
from bench.errors import InputError

COLUMNS = ("users", "items", "ratings", "times", "labels")


def dataset(labelled: bool = False) -> Dataset:
    data = Blocks(users=12, items=16).load()
    if not labelled:
        return data
    parts = {}
    for split in ("train", "valid", "test"):
        rows = getattr(data, split)
        labels = (rows.ratings >= 3).astype(np.int8)
        parts[split] = Interactions(rows.users, rows.items, rows.ratings, rows.times, labels)
    return data.replace(**parts, threshold=3.0)


def fakes(users: list[int], items: list[int], ratings: list[float]) -> Interactions:
    return Interactions(np.array(users), np.array(items), np.array(ratings),
                        np.zeros(len(users)))


def same(a: Interactions, b: Interactions) -> bool:
    return all((x is None and y is None) or np.array_equal(x, y)
               for x, y in ((getattr(a, c), getattr(b, c)) for c in COLUMNS))


# -- injection ---------------------------------------------------------------------------------

@pytest.mark.parametrize("labelled", [False, True])
def test_fakes_come_after_all_real_rows_and_move_no_id(labelled: bool):
    data = dataset(labelled)
    poisoned = data.with_fakes(fakes([0, 0, 1], [3, 4, 3], [5, 1, 5]), 2)
    n = len(data.train)
    assert same(poisoned.train[:n], data.train)
    assert poisoned.train.users[n:].tolist() == [12, 12, 13]
    assert poisoned.train.items[n:].tolist() == [3, 4, 3]
    assert poisoned.user_ids[:12] == data.user_ids
    assert poisoned.item_ids == data.item_ids
    assert (poisoned.n_users, poisoned.n_genuine, poisoned.n_fake) == (14, 12, 2)
    assert poisoned.valid is data.valid
    assert poisoned.test is data.test
    assert len(data.train) == n  # the clean data is as it was
    if labelled:
        assert poisoned.train.labels[n:].tolist() == [1, 0, 1]
    else:
        assert poisoned.train.labels is None


def test_a_second_injection_stands_behind_the_first_with_ids_of_its_own():
    once = dataset().with_fakes(fakes([0], [1], [5]), 1)
    twice = once.with_fakes(fakes([0, 1], [2, 3], [5, 5]), 2)
    assert twice.train.users[-3:].tolist() == [12, 13, 14]
    assert len(set(twice.user_ids)) == 15
    assert same(twice.genuine().train, dataset().train)


def test_fakes_without_rows_are_users_all_the_same():
    data = dataset()
    poisoned = data.with_fakes(fakes([], [], [])[:0], 3)
    assert poisoned.n_users == 15
    assert same(poisoned.train, data.train)


def test_genuine_is_the_inverse_of_injection():
    data = dataset(labelled=True)
    back = data.with_fakes(fakes([0, 1], [3, 3], [5, 5]), 2).genuine()
    assert same(back.train, data.train)
    assert (back.user_ids, back.n_fake) == (data.user_ids, 0)
    assert data.genuine() is data


@pytest.mark.parametrize(("users", "items", "message"), [
    ([2], [0], "numbered 0 to 1"), ([-1], [0], "numbered 0 to 1"),
    ([0], [16], "numbered 0 to 15"), ([0], [-1], "numbered 0 to 15")])
def test_fakes_outside_their_range_are_refused(users, items, message):
    with pytest.raises(ValueError, match=message):
        dataset().with_fakes(fakes(users, items, [5.0]), 2)


def test_fakes_do_not_count_as_popularity_or_activity():
    data = dataset()
    poisoned = data.with_fakes(fakes([0, 1], [3, 3], [5, 5]), 2)
    assert np.array_equal(poisoned.popularity, data.popularity)
    assert np.array_equal(poisoned.activity, data.activity)


def test_flagged_users_lose_their_rows_and_nobody_is_renumbered():
    data = dataset().with_fakes(fakes([0, 1], [3, 3], [5, 5]), 2)
    flagged = np.zeros(14, bool)
    flagged[[2, 13]] = True
    cleaned = data.without_users(flagged)
    assert cleaned.user_ids == data.user_ids
    assert not np.isin(cleaned.train.users, [2, 13]).any()
    assert same(cleaned.train, data.train[~np.isin(data.train.users, [2, 13])])
    assert 2 in cleaned.test.users  # still evaluated
    with pytest.raises(ValueError, match="one flag per user"):
        data.without_users(np.zeros(12, bool))


# -- rows --------------------------------------------------------------------------------------

def test_rows_are_selected_with_all_their_columns():
    rows = dataset(labelled=True).train
    picked = rows[np.array([4, 2])]
    for column in COLUMNS:
        assert np.array_equal(getattr(picked, column), getattr(rows, column)[[4, 2]])
    assert len(rows[:0]) == 0
    assert Interactions.empty(rows).labels is not None
    assert Interactions.empty().labels is None


def test_a_column_must_be_in_both_sets_of_rows_or_in_neither():
    timed = Interactions(np.array([0]), np.array([1]), times=np.array([2.0]))
    bare = Interactions(np.array([1]), np.array([0]))
    with pytest.raises(ValueError, match="'times'"):
        timed.plus(bare)
    assert same(timed.plus(bare[:0]), timed)  # no rows have no columns to miss
    assert same(bare[:0].plus(timed), timed)
    assert timed.plus(timed).times.tolist() == [2, 2]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1)), max_size=20))
def test_positives_are_the_rows_labelled_one(rows):
    users, items, labels = np.array(rows, np.int64).reshape(-1, 3).T
    marked = Interactions(users, items, labels=labels.astype(np.int8))
    assert [tuple(r) for r in zip(marked.positives().users, marked.positives().items)] == \
        [(u, i) for u, i, liked in rows if liked]
    unmarked = Interactions(users, items)
    assert unmarked.positives() is unmarked


def test_popularity_counts_liked_train_rows_alone():
    data = dataset(labelled=True)
    expected = [int(((data.train.items == i) & (data.train.labels == 1)).sum())
                for i in range(data.n_items)]
    assert data.popularity.tolist() == expected


def test_known_and_truth_keep_the_parts_apart():
    data = dataset(labelled=True)
    assert same(data.known("valid"), data.train)
    assert len(data.known("test")) == len(data.train) + len(data.valid)
    assert (data.truth("test").labels == 1).all()
    with pytest.raises(ValueError, match="'valid' or 'test'"):
        data.known("train")


# -- what cannot be evaluated ------------------------------------------------------------------

def test_check_passes_sound_data_through():
    data = dataset()
    assert check(data) is data


def test_check_refuses_data_with_nothing_to_learn_or_to_find():
    data = dataset(labelled=True)
    disliked = {c: getattr(data.train, c) for c in COLUMNS} | {
        "labels": np.zeros(len(data.train), np.int8)}
    with pytest.raises(InputError, match=r"no positive train interactions.*threshold"):
        check(data.replace(train=Interactions(**disliked)))
    with pytest.raises(InputError, match="no user has a positive test item"):
        check(data.replace(test=data.test[:0]))


def test_check_refuses_injected_users_in_valid_or_test():
    data = dataset().with_fakes(fakes([0], [3], [5]), 1)
    rows = Interactions(np.array([12]), np.array([3]), np.array([5.0]), np.array([0.0]))
    for split in ("valid", "test"):
        with pytest.raises(ValueError, match=f"{split} holds rows of injected users"):
            check(data.replace(**{split: getattr(data, split).plus(rows)}))


def test_fakes_below_the_threshold_are_dropped_where_real_rows_were() -> None:
    """A dataset without labels but with a threshold has dropped its disliked rows."""
    data = Blocks().load().replace(threshold=4.0)
    rows = Interactions(np.array([0, 0]), np.array([1, 2]), ratings=np.array([5.0, 2.0]),
                        times=np.zeros(2))
    added = data.with_fakes(rows, 1).train[len(data.train):]
    assert added.items.tolist() == [1]
    assert added.ratings is not None
    assert added.ratings.tolist() == [5.0]
