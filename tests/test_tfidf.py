"""TF-IDF and BM25 against their formulas, written out word by word."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.models.base import Recommender, build
from bench.models.tfidf import TfIdf
from bench.registry import Registry

TEXTS = ["a red red apple", "a green apple pie", "red wine", "blue blue blue sky", "the sky is red",
         "pie"]
HISTORY = [1, 0, 4]  # of user 0, oldest first; items 2, 3, 5 are new


def toy(texts: list[str] = TEXTS) -> Dataset:
    users, items = np.array([0, 0, 0, 1, 1]), np.array([*HISTORY, 3, 5])
    train = Interactions(users, items, times=np.arange(5.0))
    test = Interactions(np.array([0, 1]), np.array([2, 0]), times=np.array([9.0, 9.0]))
    return Dataset("toy", ("u", "v"), tuple("ABCDEF"), train, train[:0], test, item_text=texts)


def model(data: Dataset, **params: Any) -> Recommender:
    made = build(TfIdf(**params), data, Context(0))
    none: Any = Registry().make("defenses", {"name": "none"})
    made.fit(none, lambda event: None)
    return made


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def slow_tfidf(texts: list[str], history: list[int], item: int, decay: float) -> float:
    n = len(texts)
    df = Counter(w for t in texts for w in set(words(t)))

    def vector(text: str) -> dict[str, float]:
        raw = {w: c * (math.log((1 + n) / (1 + df[w])) + 1)
               for w, c in Counter(words(text)).items()}
        norm = math.sqrt(sum(v * v for v in raw.values()))
        return {w: v / norm for w, v in raw.items()}

    user: dict[str, float] = {}
    for age, taken in enumerate(reversed(history)):
        for w, v in vector(texts[taken]).items():
            user[w] = user.get(w, 0) + decay ** age * v
    norm = math.sqrt(sum(v * v for v in user.values()))
    return sum(user.get(w, 0) * v for w, v in vector(texts[item]).items()) / norm


def slow_bm25(texts: list[str], history: list[int], item: int, decay: float, k1: float,
              b: float) -> float:
    n, mean = len(texts), sum(len(words(t)) for t in texts) / len(texts)
    df = Counter(w for t in texts for w in set(words(t)))
    tf, length = Counter(words(texts[item])), len(words(texts[item]))
    total = 0.0
    for age, taken in enumerate(reversed(history)):
        for w in set(words(texts[taken])) & set(tf):
            idf = math.log(1 + (n - df[w] + 0.5) / (df[w] + 0.5))
            total += decay ** age * words(texts[taken]).count(w) * idf * tf[w] * (k1 + 1) / (
                tf[w] + k1 * (1 - b + b * length / mean))
    return total


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_tfidf_is_the_cosine_written_out(decay: float) -> None:
    found = model(toy(), decay=decay).scores(torch.tensor([0]))[0].tolist()
    slow = [slow_tfidf(TEXTS, HISTORY, i, decay) for i in range(6)]
    assert found == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize(("decay", "k1", "b"), [(1.0, 1.2, 0.75), (0.5, 2.0, 0.3), (0.9, 0, 1)])
def test_bm25_is_the_formula_written_out(decay: float, k1: float, b: float) -> None:
    made = model(toy(), weighting="bm25", decay=decay, k1=k1, b=b)
    slow = [slow_bm25(TEXTS, HISTORY, i, decay, k1, b) for i in range(6)]
    assert made.scores(torch.tensor([0]))[0].tolist() == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
def test_with_little_weight_on_the_past_the_last_item_alone_counts(weighting: str) -> None:
    made = model(toy(), weighting=weighting, decay=1e-9)
    alone = model(toy(), weighting=weighting)
    with alone.reading([np.array([4]), np.array([3])]):
        expected = alone.scores(torch.tensor([0]))
    assert torch.allclose(made.scores(torch.tensor([0])), expected, atol=1e-6)


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
def test_what_an_attacker_writes_moves_its_item_alone(weighting: str) -> None:
    made = model(toy(), weighting=weighting)
    before = made.scores(torch.tensor([0]))[0]
    attacked = [*TEXTS[:5], "pie red apple sky unheard-of words"]
    with made.reading_texts(attacked):
        after = made.scores(torch.tensor([0]))[0]
    assert torch.equal(before[:5], after[:5])
    assert after[5] > before[5]
    assert torch.equal(made.scores(torch.tensor([0]))[0], before)


def test_unknown_words_lengthen_a_text_for_bm25() -> None:
    made = model(toy(), weighting="bm25")
    with made.reading_texts([*TEXTS[:2], "red wine", *TEXTS[3:]]):
        short = made.scores(torch.tensor([0]))[0, 2]
    with made.reading_texts([*TEXTS[:2], "red wine zzz yyy", *TEXTS[3:]]):
        long = made.scores(torch.tensor([0]))[0, 2]
    assert 0 < long < short


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
def test_who_has_no_history_or_no_words_scores_nothing(weighting: str) -> None:
    made = model(toy(["...", *TEXTS[1:]]), weighting=weighting)
    with made.reading([np.empty(0, np.int64), np.array([0])]):
        assert not made.scores(torch.tensor([0, 1])).any()


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
def test_it_beats_popularity_where_texts_tell_the_blocks(weighting: str) -> None:
    dataset: Any = Registry().make("datasets", {"name": "blocks"})
    data, pop = dataset.load(), Registry().make("models", {"name": "pop"})
    values = []
    for one in (TfIdf(weighting=weighting), pop):
        found = evaluate(build(one, data, Context(0)), data, ["ndcg@10"])  # type: ignore[arg-type]
        values.append({m: v for m, g, v in found.values if g == "all"}["ndcg@10"])
    assert values[0] > 1.2 * values[1]


def test_a_catalogue_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="hold no word"):
        model(toy(["...", "!", "", "-", "?", "."]))
    assert TfIdf().unfit(toy().replace(item_text=None)) == "toy has no item texts"
