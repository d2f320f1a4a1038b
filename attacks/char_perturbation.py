"""Misspelt words: letters swapped, replaced, left out, put in, split off, or made to look alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.api import Context, Dataset, param
from bench.errors import InputError
from bench.text_attack import TextAttack
from bench.text_edits import greedy
from bench.text_shown import Shown

OPERATIONS = ("swap", "substitute", "delete", "insert", "space", "homoglyph")
# The swaps of TextBugger and TextAttack: letters of other scripts with the same shape.
HOMOGLYPHS = {"a": "ɑ", "b": "Ь", "c": "ϲ", "d": "ԁ", "e": "е", "g": "ɡ", "h": "հ", "i": "і",
              "j": "ϳ", "k": "𝒌", "l": "ⅼ", "m": "ｍ", "n": "ո", "o": "о", "p": "р", "q": "ԛ",
              "r": "ⲅ", "s": "ѕ", "t": "𝚝", "u": "ս", "v": "ѵ", "w": "ԝ", "x": "×", "y": "у",
              "z": "ᴢ"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class CharPerturbation(TextAttack):
    """Changes characters of the words that matter most, by query: each time the operation with
    which the attacker's users see the item most.

    Words are ranked by what their deletion does for the attacker. In each, at places drawn at
    random, first letters spared as in TextBugger, the `operations` are tried: swap two letters,
    substitute, delete or insert one, put a space between two (space), or replace one by a letter
    of another script that looks the same (homoglyph). The best is kept if it is better than no
    change. Gao et al., "Black-box Generation of Adversarial Text Sequences to Evade Deep Learning
    Classifiers" (DeepWordBug, 2018), and Li et al., "TextBugger" (NDSS 2019), with the goal of
    Zhang et al., "Stealthy Attack on Large Language Model based Recommendation" (ACL 2024): to
    show an item more often.

    Budget: `edits` characters (Levenshtein), 30 as in DeepWordBug. Homoglyphs are printable and
    pass the bound on unseen characters, but are not the letters that they seem to be: a reader
    does not notice them, a model gets other tokens.

    Example: attacks: [{char-perturbation: {edits: [5, 30], operations: [homoglyph]}}]
    """

    name = "char-perturbation"
    edits: int = param(30, "most characters inserted, deleted or substituted", low=0)
    operations: str = param("all", "which operations: all, or names joined by +, as swap+delete: "
                            + ", ".join(OPERATIONS))
    places: int = param(2, "places in a word at which each operation is tried", low=1)
    tries: int = param(10, "words tried, the most important ones first", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [o for o in self.kinds() if o not in OPERATIONS]
        if unknown:
            raise InputError(f"{self.name}: {unknown[0]!r} is no operation", key="operations",
                             hint=f"all, or some of {', '.join(OPERATIONS)} joined by +")

    def kinds(self) -> tuple[str, ...]:
        """The operations by name."""
        return OPERATIONS if self.operations == "all" else tuple(self.operations.split("+"))

    def comparable(self) -> str:
        seems = ", letters of other scripts that look alike among them" \
            if "homoglyph" in self.kinds() else ""
        return super().comparable() + seems

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        rng = ctx.stream(self.name, item)
        return greedy(text, item, shown, self.tries, lambda parts, at: (
            v for kind in self.kinds() for v in misspelt(parts[at], kind, self.places, rng)))


def misspelt(word: str, kind: str, places: int, rng: np.random.Generator) -> Iterator[str]:
    """The word after one operation, at up to `places` places behind its first letter."""
    last = {"swap": len(word) - 1, "insert": len(word) + 1}.get(kind, len(word))
    able = [i for i in range(1, last)
            if kind != "homoglyph" or word[i] in HOMOGLYPHS]
    for i in sorted(rng.permutation(len(able))[:places].tolist()):
        at = able[i]
        before, letter, after = word[:at], word[at:at + 1], word[at + 1:]
        if kind == "swap":
            yield before + word[at + 1] + letter + word[at + 2:]
        elif kind == "delete":
            yield before + after
        elif kind == "space":
            yield f"{before} {letter}{after}"
        elif kind == "homoglyph":
            yield before + HOMOGLYPHS[letter] + after
        else:
            other = LETTERS[int(rng.integers(len(LETTERS)))]
            yield before + other + (after if kind == "substitute" else letter + after)
