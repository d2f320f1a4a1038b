"""TF-IDF and BM25: the words of a user's history against the words of each item."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, ModelPlugin, param

if TYPE_CHECKING:
    from bench.text.words import WordRecommender


class TfIdf(ModelPlugin):
    """The control that reads texts and is no language model: what does an attack on texts do, and
    what does a language model add, beyond the overlap of words?

    tfidf: cosine of the item's vector and the user's, who is the mean of the unit vectors of the
    items taken, weighted by decay^(how long ago), the last one 1 (scikit-learn's weights: tf
    times ln((1 + n)/(1 + df)) + 1). bm25: Σ_t q_t · ln(1 + (n − df + ½)/(df + ½)) · tf (k1 + 1) /
    (tf + k1 (1 − b + b |d|/mean |d|)), where q_t counts the word in the texts taken, weighted
    likewise (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009; the idf that
    is never negative). Vocabulary, idf and mean length are those of the catalogue before any
    attack.

    Example: models: [{tfidf: {weighting: [tfidf, bm25], decay: 0.9}}]
    """

    name = "tfidf"
    weighting: str = param("tfidf", "how words are weighted", choices=("tfidf", "bm25"))
    decay: float = param(0.9, "weight of an item against the next newer one", above=0, high=1)
    sublinear: bool = param(False, "tfidf: 1 + ln tf in place of tf")
    k1: float = param(1.2, "bm25: how soon repeating a word stops counting; 0: at once", low=0)
    b: float = param(0.75, "bm25: how much long texts are discounted; 0: not", low=0, high=1)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"text", "histories"})

    def contents(self) -> tuple[str, ...]:
        from bench.keys import versions

        return (str(versions(("scikit-learn",))),)  # its tokens and weights are that library's

    def build(self, data: Dataset, ctx: Context) -> WordRecommender:
        from bench.text.words import WordRecommender

        return WordRecommender(self, data, ctx)

    def unfit(self, data: Dataset) -> str | None:
        from bench.text.reader import no_text

        return no_text(data)
