"""Cornac's published table on MovieLens-100K, digit by digit, through our evaluator.

The table stands in Cornac's README (https://github.com/PreferredAI/cornac): a ratio split with
seed 123 of the 100,000 ratings in their original order, full ranking, items liked from 4 stars.
Cornac trains; its scores go through `bench.evaluate`. Two habits of its protocol are expressed
through the data, none in the evaluator:

- only train rows of 4 stars and more are masked, so the train split given to the evaluator holds
  those rows alone (items a user rated lower in train stay candidates);
- items and users that occur in test alone are left out.

Cornac counts ties against the relevant item where we take the expectation; real-valued scores
have next to none.
"""

import csv
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.api import Context, Dataset, Interactions
from bench.evaluate import evaluate
from bench.models.base import Recommender

PUBLISHED = {  # AUC, MAP, NDCG@10, Precision@10, Recall@10
    "MF": ("0.7445", "0.0548", "0.0761", "0.0675", "0.0463"),
    "PMF": ("0.7744", "0.0671", "0.0969", "0.0813", "0.0639"),
    "BPR": ("0.8695", "0.1042", "0.1500", "0.1110", "0.1195"),
}
METRICS = ("auc", "map", "ndcg@10", "precision@10", "recall@10")
LIKED = 4.0


def ratings():
    """(user, item, rating) in the order of u.data, which the copy in the recbole wheel keeps."""
    found = importlib.util.find_spec("recbole")
    if found is None or not found.submodule_search_locations:
        pytest.skip("recbole, whose wheel carries ml-100k, is not installed")
    path = Path(found.submodule_search_locations[0]) / "dataset_example/ml-100k/ml-100k.inter"
    with path.open(encoding="utf-8") as lines:
        made = [(r[0], r[1], float(r[2])) for r in list(csv.reader(lines, delimiter="\t"))[1:]]
    assert len(made) == 100_000
    return made


class CornacScores(Recommender):
    """The scores of a fitted Cornac model for all items that it knows."""

    def __init__(self, model, data):
        super().__init__(data, Context(0))
        self.model = model

    def scores(self, users, split="test"):
        return torch.from_numpy(np.stack([np.array(self.model.score(int(u)), np.float64)
                                          for u in users]))

    def fit(self, defense, progress):
        raise NotImplementedError

    def state(self):
        return {}

    def load_state(self, state):
        raise NotImplementedError


@pytest.fixture(scope="module")
def split():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eval_methods = pytest.importorskip("cornac.eval_methods",
                                           reason="cornac 3.0.1 is needed for this comparison")
    return eval_methods.RatioSplit(data=ratings(), test_size=0.2, rating_threshold=LIKED, seed=123)


def as_dataset(split):
    """Cornac's split as our dataset: liked rows alone, indices as Cornac numbers them."""
    train, test = split.train_set, split.test_set

    def liked(part):
        users, items, stars = (np.asarray(c) for c in part.uir_tuple)
        keep = (stars >= LIKED) & (users < train.num_users) & (items < train.num_items)
        return Interactions(users[keep].astype(np.int64), items[keep].astype(np.int64))

    rows = liked(train)
    return Dataset(name="cornac ml-100k", user_ids=tuple(list(train.uid_map)[:train.num_users]),
                   item_ids=tuple(list(train.iid_map)[:train.num_items]), train=rows,
                   valid=rows[:0], test=liked(test))


def model_of(name):
    from cornac import models

    return {"MF": lambda: models.MF(k=10, max_iter=25, learning_rate=0.01, lambda_reg=0.02,
                                    use_bias=True, seed=123, num_threads=1),
            "PMF": lambda: models.PMF(k=10, max_iter=100, learning_rate=0.001, lambda_reg=0.001,
                                      seed=123),
            "BPR": lambda: models.BPR(k=10, max_iter=200, learning_rate=0.001, lambda_reg=0.01,
                                      seed=123, num_threads=1)}[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_digits(split, name):
    model = model_of(name).fit(split.train_set)
    data = as_dataset(split)
    result = evaluate(CornacScores(model, data), data, METRICS)
    got = {n: f"{v:.4f}" for n, _, v in result.values}
    assert got == dict(zip(METRICS, PUBLISHED[name], strict=True))
