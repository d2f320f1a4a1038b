"""Keywords appended to an item's text: what a seller with no skill would try."""

from __future__ import annotations

from bench.api import Context, Dataset, ModelPlugin, param
from bench.text_attack import TextAttack
from bench.text_shown import Shown

POSITIVE = ("good", "best", "great", "perfect", "amazing", "excellent", "must-have", "popular",
            "favourite", "award-winning")


class KeywordInsertion(TextAttack):
    """Appends up to `words` words, each time the one with which the attacker's users see the item
    most (greedy), and stops when none helps.

    Zhang et al., "Stealthy Attack on Large Language Model based Recommendation" (ACL 2024), the
    trivial attack with word insertion. Words are praise, words that stand in the texts of the
    popular items more often than elsewhere (TF-IDF), or the item's own categories.

    Example: attacks: [{keyword-insertion: {words: 3, source: [praise, popular]}}]
    """

    name = "keyword-insertion"
    words: int = param(3, "most words appended", low=0)
    source: str = param("praise", "where the words are from",
                        choices=("praise", "popular", "categories"))

    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        pool = keywords(data, self.source, item, shown.texts)
        for _ in range(self.words):
            longer = shown.best(item, text, [f"{text} {word}" for word in pool
                                             if word not in text.split()])
            if longer == text:
                break
            text = longer
        return text

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.source == "categories" and not any(
                keywords(data, "categories", item, []) for item in range(data.n_items)):
            return f"{data.name} has no categories of items"
        return super().unfit(model, data)

    def comparable(self) -> str:
        return f"{super().comparable()}, {self.words} words appended"


def keywords(data: Dataset, source: str, item: int, texts: list[str], n: int = 10) -> list[str]:
    """The words to choose from, at most n: praise; words of the 20 items with the most train rows,
    by their mean TF-IDF there; or the item's categories."""
    import numpy as np

    if source == "praise":
        return list(POSITIVE)[:n]
    if source == "categories":
        found = [v for column in data.item_attributes.values()
                 for v in (column[item] if isinstance(column[item], tuple) else (column[item],))
                 if isinstance(v, str) and v]
        return list(dict.fromkeys(w for v in found for w in v.split()))[:n]
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader = TfidfVectorizer(token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
    try:
        matrix = reader.fit_transform(texts)
    except ValueError:  # no text has a word of three letters
        return []
    popular = np.argsort(-data.popularity, kind="stable")[:20]
    weight = np.asarray(matrix[popular].mean(axis=0)).ravel()
    names = reader.get_feature_names_out()
    return [str(names[i]) for i in np.argsort(-weight, kind="stable")[:n] if weight[i] > 0]
