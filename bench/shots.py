"""Few-shot data: everybody learns from the same few examples, and the same users are evaluated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.data import Dataset, Ints
from bench.errors import InputError

Marks = npt.NDArray[np.bool_]


def few_shot(data: Dataset, shots: int, history: int, seed: int) -> Dataset:
    """The data with so many examples to learn from.

    An example is what a model that is asked about a candidate gets to see in one (TALLRec, Bao et
    al., RecSys 2023, section 4): a train row, the latest `history` rows liked by its user before
    it, at least one, and, where there are labels, as many disliked ones. All rows of the examples
    become train; all others become `context`: known of their users when lists are made, and
    masked there, but learned from by nobody.

    Args:
        shots: how many examples, each of another user as long as there are more; the first of a
            larger number are those of a smaller. 0: the data as it is.
        history: most liked, and most disliked, rows before an example's row.
        seed: of the draw.

    Raises:
        InputError: there are not so many rows with a liked one before them.
    """
    if not shots:
        return data
    rows = data.train
    liked = np.ones(len(rows), bool) if rows.labels is None else rows.labels == 1
    times = np.zeros(len(rows)) if rows.times is None else rows.times
    order = np.lexsort((np.arange(len(rows)), times, rows.users))  # places in train
    able = order[_liked_before(rows.users[order], liked[order]) > 0]
    if shots > len(able):
        raise InputError(f"{shots} shots are asked for, and {len(able)} train rows of "
                         f"{data.name!r} have a liked row of their user before them", key="shots",
                         hint=f"take at most {len(able)}, or 0 for all")
    drawn = np.random.default_rng([seed, 11]).permutation(able)
    drawn = drawn[np.argsort(_turns(rows.users[drawn]), kind="stable")][:shots]
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))
    kept = np.zeros(len(rows), bool)
    kept[drawn] = True
    for row in drawn.tolist():
        begin = np.searchsorted(rows.users[order], rows.users[row])
        past = order[begin:rank[row]]  # oldest first
        for part in (past[liked[past]], past[~liked[past]]):
            kept[part[-history:]] = True
    return data.replace(
        train=rows[kept], context=rows[~kept],
        shots=np.stack([rows.users[drawn], rows.items[drawn]], axis=1), notes={
            **data.notes, "examples that are learned from": shots,
            "train rows known, not learned from": int((~kept).sum())})


def is_example(data: Dataset, users: Ints, items: Ints) -> Marks:
    """Which of these train rows are examples: all of them, but in few-shot data those drawn, and
    the rows of injected users."""
    if data.shots is None:
        return np.ones(len(users), bool)
    drawn = data.shots[:, 0] * data.n_items + data.shots[:, 1]
    return np.isin(users * data.n_items + items, drawn) | (users >= data.n_genuine)


def _liked_before(users: Ints, liked: Marks) -> Ints:
    """Of rows sorted by user and time: how many liked rows of the same user come before each."""
    before = np.concatenate([[0], np.cumsum(liked)])
    found: Ints = before[:-1] - before[np.searchsorted(users, users)]
    return found


def _turns(users: Ints) -> Ints:
    """Of each row, how many of the same user come before it in this order."""
    order = np.argsort(users, kind="stable")
    turns = np.empty(len(users), np.int64)
    turns[order] = np.arange(len(users)) - np.searchsorted(users[order], users[order])
    return turns
