"""A tiny dataset with everything that RecBole's models ask for, and models on it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from bench.api import Dataset, Interactions, ModelPlugin
from bench.context import Context
from bench.data import KnowledgeGraph
from bench.datasets.blocks import Blocks
from bench.defenses.none import NoDefense
from bench.models import recbole
from bench.models.base import Recommender, build

CTX = Context(0)


@cache
def data() -> Dataset:
    """20 users, 24 items, attributes of every kind, a knowledge graph, more items than users."""
    made = Blocks(users=20, items=24, length=8).load()
    genres = [column[0] for column in made.item_attributes["genre"]]
    ids = made.item_ids
    graph = KnowledgeGraph(heads=[f"e:{i}" for i in ids], relations=["genre"] * len(ids),
                           tails=genres, item_entities={i: f"e:{i}" for i in ids})
    age = np.asarray(made.user_attributes["age"], np.float64).copy()
    age[3] = np.nan
    year = np.array([1990.0 + k for k in range(24)])
    return made.replace(knowledge=graph, user_attributes={**made.user_attributes, "age": age},
                        item_attributes={**made.item_attributes, "year": year})


@cache
def poisoned() -> Dataset:
    rows = Interactions(users=np.repeat(np.arange(3), 4), items=np.tile([0, 5, 7, 11], 3),
                        ratings=np.full(12, 5.0), times=np.arange(12.0))
    return data().with_fakes(rows, 3)


def plugin(name: str, **given: object) -> ModelPlugin:
    cls = recbole.member(name)
    return cls(**{**cls.test_params(), **given})


def trained(name: str, on: Dataset, epochs: int = 1) -> Recommender:
    fields = recbole.member(name).__dataclass_fields__
    given = {"epochs": epochs} if "epochs" in fields else {}
    given |= {"patience": 0} if "patience" in fields else {}
    model = build(plugin(name, **given), on, CTX)
    model.fit(NoDefense(), lambda event: None)
    return model


def scores(model: Recommender, split: str = "test") -> torch.Tensor:
    return model.scores(torch.arange(model.data.n_users), split)
