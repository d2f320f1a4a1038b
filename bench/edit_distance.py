"""How many edits of which kinds make one sequence of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distance(was: Sequence[int], now: Sequence[int], most: int, changes: Sequence[str],
             replaceable: Any = lambda a, b: True) -> int | None:
    """The fewest edits of these kinds that make one sequence of the other; None: more than
    `most`, or not by these kinds. Items are replaced where `replaceable(old, new)`.

    >>> distance([1, 2, 3], [1, 3, 4], 5, ("insert", "delete"))
    2
    >>> distance([1, 2, 3], [1, 3, 4], 5, ("substitute",))
    2
    >>> distance([1, 2, 3], [1, 2, 3, 4], 5, ("append",))
    1
    """
    if "append" in changes and "insert" not in changes:
        others = [c for c in changes if c != "append"]
        found = [extra + rest for extra in range(min(most, len(now)) + 1)
                 if (rest := distance(was, now[:len(now) - extra], most - extra, others,
                                      replaceable)) is not None]
        return min(found, default=None)
    shared = min(len(was), len(now))  # an equal end is left alone in one of the shortest ways
    head = next((n for n in range(shared) if was[n] != now[n]), shared)
    tail = next((n for n in range(shared - head) if was[-1 - n] != now[-1 - n]), shared - head)
    was, now = was[head:len(was) - tail], now[head:len(now) - tail]
    if abs(len(was) - len(now)) > most:
        return None
    far = most + 1
    row = [j if "insert" in changes else (0 if j == 0 else far) for j in range(len(now) + 1)]
    for i, a in enumerate(was, start=1):
        before, row = row, [far] * (len(now) + 1)
        row[0] = i if "delete" in changes else far
        for j in range(max(1, i - most), min(len(now), i + most) + 1):  # others cost more
            b = now[j - 1]
            if a == b:
                row[j] = before[j - 1]
            elif "substitute" in changes and replaceable(a, b):
                row[j] = before[j - 1] + 1
            if "delete" in changes:
                row[j] = min(row[j], before[j] + 1)
            if "insert" in changes:
                row[j] = min(row[j], row[j - 1] + 1)
        if min(row) > most:
            return None
    return row[-1] if row[-1] <= most else None
