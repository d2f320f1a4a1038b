"""What attacks on single words share: the words of a text, their importance, the greedy walk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from bench.text_shown import Shown

_WORD = re.compile(r"([^\W\d_]+(?:['’-][^\W\d_]+)*)")

Variants = Callable[[list[str], int], Iterable[str]]
"""Replacements of one word: of the parts of a text, and of the place of the word among them."""


def parts_of(text: str) -> list[str]:
    """The text in parts, which joined give it back: words at odd places, the rest at even ones.

    >>> parts_of("Toy Story (1995)")
    ['', 'Toy', ' ', 'Story', ' (1995)']
    """
    return _WORD.split(text)


def with_part(parts: list[str], place: int, part: str) -> list[str]:
    """The parts, one of them replaced."""
    return [*parts[:place], part, *parts[place + 1:]]


def by_importance(parts: list[str], item: int, shown: Shown) -> list[int]:
    """Places of the words, the one whose deletion serves the attacker most first (TextFooler,
    DeepWordBug: a word's importance is the goal's change when it is deleted). One query each."""
    places = range(1, len(parts), 2)
    gain = {p: shown.gain(item, "".join(with_part(parts, p, ""))) for p in places}
    return sorted(places, key=lambda p: -gain[p])


def greedy(text: str, item: int, shown: Shown, tries: int, variants: Variants) -> str:
    """The words in order of importance, at most `tries` of them, each replaced by the variant
    with the highest gain within the bounds, or left where none is better."""
    parts = parts_of(text)
    for place in by_importance(parts, item, shown)[:tries]:
        options = {"".join(with_part(parts, place, v)): v for v in variants(parts, place)}
        chosen = shown.best(item, "".join(parts), options)
        if chosen in options:
            parts = with_part(parts, place, options[chosen])
    return "".join(parts)
