"""Texts with named slots in braces; a brace that is text is written twice, {{ or }}."""

from __future__ import annotations

import functools
import string


@functools.lru_cache(4096)
def pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """Each text and the slot that follows it; None where none does.

    Raises:
        ValueError: a brace stands alone, or a slot has a conversion or a format, {item!r:>20}.
    """
    found = []
    for text, slot, form, conversion in string.Formatter().parse(template):
        if form or conversion:
            raise ValueError(f"{{{slot}{'!' + conversion if conversion else ''}"
                             f"{':' + form if form else ''}}} is no slot: a name alone stands in "
                             f"the braces, as in {{{slot}}}")
        found.append((text, slot))
    return tuple(found)


def slots(template: str) -> frozenset[str]:
    """The names of its slots."""
    return frozenset(slot for _, slot in pieces(template) if slot is not None)


def fill(template: str, **values: str) -> str:
    """The template with its slots filled, in one pass: a title with braces fills nothing. Slots
    without a value stay as they are."""
    return _joined(pieces(template), values)


def around(template: str, slot: str, **values: str) -> tuple[str, str]:
    """What stands before the first place of this slot, and what stands behind it, both filled.

    Raises:
        ValueError: it has no such slot.
    """
    parts = pieces(template)
    at = [s for _, s in parts].index(slot)
    return (_joined(parts[:at], values) + parts[at][0], _joined(parts[at + 1:], values))


def _joined(parts: tuple[tuple[str, str | None], ...], values: dict[str, str]) -> str:
    return "".join(text + ("" if slot is None else values.get(slot, "{" + slot + "}"))
                   for text, slot in parts)
