"""An order of candidates read out of what a language model wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_NUMBERED = re.compile(r"\s*(\d+)\s*[.):]\s+(\S.*)")
_SHORTEST = 4  # characters: of a text cut at its first full stop, "Dr" names nobody


def parse(answer: str, labels: Sequence[str], texts: Sequence[str] = ()) -> list[int]:
    """Places of the candidates in the order in which the answer names them, each once.

    A line that holds texts of candidates names those; of other lines the labels count, in any
    dress: "2, 1", "[2] > [1]", "2. 1.", "(2)". In a list numbered 1, 2, … whose lines hold labels
    the numbers are no labels. Nothing is known of which candidate would be right.

    >>> parse("[2] > [3] > [1]", "123")
    [1, 2, 0]
    >>> parse("1. [3]\\n2. [1]", "123")
    [2, 0]
    >>> parse("1. Heat\\n2. Alien", "123", ["Alien", "Aliens", "Heat"])
    [2, 0]
    """
    label = re.compile(r"(?<!\w)(?:" + "|".join(
        re.escape(x) for x in sorted(labels, key=len, reverse=True)) + r")(?!\w)")
    named = _names(texts)
    title = re.compile(r"(?<!\w)(?:" + "|".join(
        re.escape(x) for x in sorted(named, key=len, reverse=True)) + r")(?!\w)") if named else None
    place = {x: n for n, x in enumerate(labels)}
    found: dict[int, None] = {}
    for line in _lines(answer, label):
        titles = title.findall(_plain(line)) if title else []
        for text in titles:  # two candidates of one text: the first, then the second
            new = [n for n in named[text] if n not in found]
            found.update(dict.fromkeys(new[:1]))
        if not titles:
            found.update(dict.fromkeys(place[x] for x in label.findall(line)))
    return list(found)


def _lines(answer: str, label: re.Pattern[str]) -> Iterator[str]:
    lines = [line for line in answer.splitlines() if line.strip()]
    rows = [_NUMBERED.fullmatch(line.rstrip()) for line in lines]
    whole = [r for r in rows if r is not None]
    if (len(whole) == len(lines) > 1 and [int(r[1]) for r in whole] == [*range(1, len(lines) + 1)]
            and all(label.search(r[2]) for r in whole)):
        return iter([r[2] for r in whole])
    return iter(lines)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _names(texts: Sequence[str]) -> dict[str, list[int]]:
    """What names a candidate: its text, and the text up to the first full stop, bar or line
    break where no other candidate has that."""
    names: dict[str, list[int]] = {}
    for n, text in enumerate(texts):
        if _plain(text):
            names.setdefault(_plain(text), []).append(n)
    short: dict[str, list[int]] = {}
    for n, text in enumerate(texts):
        first = re.split(r"\. |\n| \| ", text.strip(), maxsplit=1)[0]
        short.setdefault(_plain(first), []).append(n)
    for name, places in short.items():
        if len(places) == 1 and len(name) >= _SHORTEST:
            names.setdefault(name, places)
    return names


def completed(order: Sequence[int], size: int, rest: Sequence[int]) -> list[int]:
    """The order with the places it lacks appended, in the order of `rest`, a permutation."""
    assert sorted(rest) == list(range(size))
    return [*order, *(n for n in rest if n not in set(order))]
