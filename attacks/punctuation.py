"""An apostrophe or a hyphen inside words: the smallest edit that a reader forgives."""

from __future__ import annotations

from bench.api import Context, Dataset, param
from bench.text_attack import TextAttack
from bench.text_edits import greedy
from bench.text_shown import Shown


class Punctuation(TextAttack):
    """Inserts ' or - inside a word, at the place with which the attacker's users see the item
    most, word by word while it helps.

    Words are ranked by what their deletion does for the attacker; in each, both marks are tried
    at every position behind the first letter, and the best is kept if it is better than none.
    Formento et al., "Using Punctuation as an Adversarial Attack on Deep Learning-Based NLP
    Systems" (EACL 2023), as Zhang et al., "Stealthy Attack on Large Language Model based
    Recommendation" (ACL 2024), turn it on recommenders ("Punc").

    Budget: `edits` characters in all, one per word.

    Example: attacks: [{punctuation: {edits: [1, 5]}}]
    """

    name = "punctuation"
    edits: int = param(30, "most characters inserted", low=0)
    tries: int = param(10, "words tried, the most important ones first", low=1)

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        def marked(parts: list[str], at: int) -> list[str]:
            word = parts[at]
            return [f"{word[:i]}{mark}{word[i:]}" for mark in "'-" for i in range(1, len(word))]

        return greedy(text, item, shown, self.tries, marked)
