"""Which candidates a prompt scorer asks about, and what it says of its retriever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.models.base import build
from bench.registry import Registry

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def model(data: Dataset, name: str = "yes-no", **params: Any) -> Any:
    made = build(plugin("models", name, model="tiny-random", **params), data, Context(0))
    made.notes = made.fit(plugin("defenses", "none"), lambda event: None).notes
    return made


def with_dislikes(data: Dataset) -> Dataset:
    """Every user dislikes the two most popular items that this user has not taken."""
    parts = {s: getattr(data, s) for s in ("train", "valid", "test")}
    labelled = {s: Interactions(r.users, r.items, r.ratings, r.times, np.ones(len(r), np.int8))
                for s, r in parts.items()}
    order = np.argsort(-data.popularity, kind="stable")
    users, items = [], []
    for user in range(data.n_users):
        had = np.concatenate([r.items[r.users == user] for r in parts.values()])
        mine = [i for i in order.tolist() if i not in had][:2]
        users += [user] * len(mine)
        items += mine
    n, train = len(users), labelled["train"]
    more = Interactions(np.array(users), np.array(items),
                        None if train.ratings is None else np.ones(n),
                        None if train.times is None else np.zeros(n), np.zeros(n, np.int8))
    return data.replace(**{**labelled, "train": train.plus(more)}, threshold=1.0)


def test_no_candidate_is_one_that_evaluation_leaves_out(data: Dataset) -> None:
    made = with_dislikes(data)
    m = model(made, candidates=6)
    base = m.retriever.scores(torch.arange(made.n_users)).numpy()
    for split in ("valid", "test"):
        known = made.known(split)
        for user in range(0, made.n_genuine, 5):
            masked = known.items[known.users == user]
            free = [i for i in np.argsort(-base[user], kind="stable") if i not in masked]
            assert set(m.chosen(base[user], user, split).tolist()) == set(free[:6])
            assert len(masked) > len(m.history(user, split))  # the disliked ones are not read


def test_disliked_items_leave_as_many_candidates_to_rank(data: Dataset) -> None:
    made = with_dislikes(data)
    known = model(made, candidates=6)
    scores, masked = known.scores(torch.arange(made.n_genuine)), made.known("test")
    keep = masked.users < made.n_genuine
    scores[masked.users[keep], masked.items[keep]] = -torch.inf
    # who is no candidate stands at or under −1
    assert (scores > -1).sum(dim=1).tolist() == [6] * made.n_genuine


def test_offered_items_that_a_user_disliked_are_no_candidates(data: Dataset) -> None:
    made = with_dislikes(data)
    m = model(made, candidates=6)
    base = m.retriever.scores(torch.arange(made.n_users)).numpy()
    offered = made.train.items[made.train.labels == 0][:3]
    with m.offering(offered):
        for user in range(made.n_genuine):
            masked = made.train.items[made.train.users == user]
            assert not set(m.chosen(base[user], user, "test").tolist()) & set(masked.tolist())


@pytest.mark.parametrize(("name", "params"), [
    ("yes-no", {}), ("tallrec", {"tune": "none"}), ("tallrec", {"shots": 4, "epochs": 1}),
    ("p5", {"shots": 4, "epochs": 1})])
def test_what_the_retrievers_training_noted_is_told(data: Dataset, name: str,
                                                    params: dict[str, Any]) -> None:
    notes = model(data, name, retriever="bprmf(dim=4, epochs=2, patience=0)", **params).notes
    assert notes["retriever"]["epochs"] == 2
    words = model(data, name, retriever="tfidf", **params).notes
    assert words["retriever"]["vocabulary"] > 0
    assert "retriever" not in model(data, name, **params).notes  # pop learns nothing
