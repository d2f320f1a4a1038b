"""The recommender behind `tfidf`: texts as counts of words, without any language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.errors import InputError
from bench.text.reader import TextReader

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.tfidf import TfIdf
    from bench.training import FitResult, Progress

Matrix = Any  # scipy.sparse.csr_matrix
WORD = r"(?u)\b\w+\b"  # one letter or digit is a word, too: "Alien 3"


class WordRecommender(TextReader):
    """See `bench.models.tfidf.TfIdf`. Vocabulary, idf and mean length are those of the catalogue
    as the dataset gives it: what an attacker writes moves no other item, and words that the
    catalogue did not have count for nothing (BM25: but for length)."""

    score_kind = "other"

    def __init__(self, hyper: TfIdf, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper = hyper
        catalogue = list(data.item_text or ())
        self._vectorizer = self._made(catalogue)
        self._words = self._vectorizer.build_analyzer()
        counts = self._counts(catalogue)
        self._mean_length = max(float(self._lengths(catalogue).mean()), 1e-12)
        n, has = len(catalogue), np.asarray((counts > 0).sum(axis=0)).ravel()  # (V,)
        self._bm25_idf = np.log1p((n - has + 0.5) / (has + 0.5))
        self._items: tuple[Matrix, Matrix] | None = None

    def _made(self, catalogue: list[str]) -> Any:
        """scikit-learn's TfidfVectorizer, fitted."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        made = TfidfVectorizer(token_pattern=WORD, sublinear_tf=self.hyper.sublinear)
        try:
            return made.fit(catalogue)
        except ValueError as error:
            raise InputError(f"the item texts of {self.data.name!r} hold no word",
                             hint="name a column with words: text") from error

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        return FitResult(notes={"vocabulary": len(self._vectorizer.vocabulary_)})

    def _counts(self, texts: list[str]) -> Matrix:
        """How often each text has each word of the vocabulary, (items, V)."""
        from sklearn.feature_extraction.text import CountVectorizer

        vocabulary = self._vectorizer.vocabulary_
        return CountVectorizer(token_pattern=WORD, vocabulary=vocabulary, dtype=np.float64
                               ).transform(texts).tocsr()

    def _lengths(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Words of each text, known or not."""
        return np.array([len(self._words(t)) for t in texts], np.float64)

    def items(self) -> tuple[Matrix, Matrix]:
        """Rows (items, V) as they stand in a user's profile, and as they are scored."""
        if self._items is None:
            if self.hyper.weighting == "tfidf":
                unit = self._vectorizer.transform(self.texts).tocsr()
                self._items = unit, unit
            else:
                counts = self._counts(self.texts)
                self._items = counts, self._bm25(counts, self._lengths(self.texts))
        return self._items

    def _bm25(self, counts: Matrix, lengths: np.ndarray[Any, np.dtype[np.float64]]) -> Matrix:
        """idf · tf (k1 + 1) / (tf + k1 (1 − b + b |d| / mean |d|)), (items, V)."""
        k1, b = self.hyper.k1, self.hyper.b
        made = counts.copy()
        rows = np.repeat(np.arange(made.shape[0]), np.diff(made.indptr))
        whole = k1 * (1 - b + b * lengths[rows] / self._mean_length)
        made.data = self._bm25_idf[made.indices] * made.data * (k1 + 1) / (made.data + whole)
        return made

    def forget(self) -> None:
        self._items = None

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        from scipy.sparse import csr_matrix

        profile, scored = self.items()
        taken: list[Ints] = [self.history(u, split) for u in users.tolist()]
        weights = [self.hyper.decay ** np.arange(len(t) - 1, -1, -1.0) for t in taken]
        starts = np.cumsum([0, *map(len, taken)])
        columns = np.concatenate([*taken, np.empty(0, np.int64)])
        history = csr_matrix((np.concatenate([*weights, np.empty(0)]), columns, starts),
                             shape=(len(taken), self.data.n_items))
        wanted = history @ profile  # (B, V)
        found = (wanted @ scored.T).toarray()  # (B, items)
        if self.hyper.weighting == "tfidf":
            norm = np.sqrt(np.asarray(wanted.multiply(wanted).sum(axis=1)))  # (B, 1)
            found = found / np.maximum(norm, 1e-12)
        return torch.from_numpy(found.astype(np.float32)).to(users.device)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.forget()
