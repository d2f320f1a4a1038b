"""Few-shot data: which rows anybody learns from, which are only known when lists are made, and
that models keep to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.detection import nameless
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.foldin import part
from bench.inference import matched_pairs
from bench.models.base import build
from bench.registry import Registry
from bench.sampling import Rows, Sequences
from bench.shots import few_shot
from bench.text.examples import Examples

REGISTRY = Registry()
Pair = tuple[int, int]


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def whole() -> Dataset:
    """Rows of users mixed, those rated below 3 disliked."""
    made: Dataset = plugin("datasets", "blocks", noise=0.2, length=16).load()
    parts = {s: dataclasses.replace(rows, labels=(rows.ratings >= 3).astype(np.int8))
             for s in ("train", "valid", "test") for rows in [getattr(made, s)]}
    mixed = np.random.default_rng(0).permutation(len(parts["train"]))
    return made.replace(threshold=3.0, **parts | {"train": parts["train"][mixed]})


def pairs(rows: Interactions | None) -> list[Pair]:
    assert rows is not None
    return list(zip(rows.users.tolist(), rows.items.tolist(), strict=True))


def before(data: Dataset, user: int, item: int, label: int) -> list[Pair]:
    """What the user took before this row in the whole of train, with this label, oldest first."""
    t = data.train
    assert t.times is not None
    assert t.labels is not None
    rows = list(zip(pairs(t), t.times.tolist(), t.labels.tolist(), strict=True))
    when = next(time for pair, time, _ in rows if pair == (user, item))
    found = [(time, pair) for pair, time, y in rows
             if pair[0] == user and time < when and y == label]
    return [pair for _, pair in sorted(found)]


def fitted(data: Dataset, name: str, **params: Any) -> Any:
    made = build(plugin("models", name, **params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


# -- the rows ------------------------------------------------------------------------------------

def test_train_is_the_examples_with_what_is_shown_before_them(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    assert made.shots is not None
    shots = [tuple(p) for p in made.shots.tolist()]
    assert len(set(shots)) == len({u for u, _ in shots}) == 16
    expected = set(shots)
    for u, i in shots:
        liked, disliked = (before(whole, u, i, y) for y in (1, 0))
        assert liked
        expected |= set(liked[-3:]) | set(disliked[-3:])
    assert set(pairs(made.train)) == expected
    assert len(made.train) == len(expected) < len(whole.train)
    assert sorted(pairs(made.train) + pairs(made.context)) == sorted(pairs(whole.train))
    kept = [p for p in pairs(whole.train) if p in expected]
    assert pairs(made.train) == kept  # in their order, with all their columns
    at = [pairs(whole.train).index(p) for p in kept]
    for column in ("ratings", "times", "labels"):
        assert np.array_equal(getattr(made.train, column), getattr(whole.train, column)[at])


def test_the_same_users_are_evaluated_and_nothing_known_is_found_again(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    for split in ("valid", "test"):
        assert sorted(pairs(made.known(split))) == sorted(pairs(whole.known(split)))
        assert pairs(made.truth(split)) == pairs(whole.truth(split))
    random = plugin("models", "random")
    found = [evaluate(build(random, d, Context(0)), d, ["ndcg@10", "hr@5"]) for d in (whole, made)]
    assert found[0].values == found[1].values


def test_more_shots_hold_fewer_and_other_seeds_draw_others(whole: Dataset) -> None:
    def drawn(n: int, seed: int = 0) -> set[Pair]:
        shots = few_shot(whole, n, 3, seed).shots
        assert shots is not None
        return {(int(u), int(i)) for u, i in shots}

    assert drawn(8) < drawn(20) < drawn(whole.n_users + 10)
    assert drawn(8) == drawn(8) != drawn(8, 1)
    assert np.bincount([u for u, _ in drawn(whole.n_users + 10)]).max() == 2
    with pytest.raises(InputError, match="shots") as error:
        few_shot(whole, 100_000, 3, 0)
    assert "at most" in str(error.value)
    assert few_shot(whole, 0, 3, 0) is whole


def test_injection_and_filters_keep_what_is_known(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    fakes = Interactions(np.zeros(2, np.int64), np.array([1, 2]), np.full(2, 5.0), np.zeros(2))
    more = made.with_fakes(fakes, 1)
    assert pairs(more.context) == pairs(made.context)
    assert len(more.known("test")) == len(made.known("test")) + 2
    flagged = np.zeros(made.n_users, bool)
    flagged[:7] = True
    left = made.without_users(flagged)
    assert all(u >= 7 for u, _ in pairs(left.train) + pairs(left.context))
    users = Examples(more, Context(0), 3, 1).of("train")["users"].tolist()
    assert more.n_users - 1 in users  # whoever is injected is learned from


def test_nobody_else_is_confused_by_what_is_only_known(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    some = part(made, np.array([5, 2, 9]))  # numbered anew
    assert [(int([5, 2, 9][u]), i) for u, i in pairs(some.context)] == [
        (u, i) for u, i in pairs(made.context) if u in (2, 5, 9)]
    seen = nameless(made)  # a detector sees no row that genuine users alone can have
    assert seen.context is None
    for seed in range(3):
        drawn, member = matched_pairs(made, 60, Context(seed))
        own = set(zip(drawn.users[~member].tolist(), drawn.items[~member].tolist(), strict=True))
        assert own
        assert not own & set(pairs(whole.train))


# -- what is learned from ------------------------------------------------------------------------

@pytest.mark.parametrize("labels", [True, False])
def test_models_that_are_asked_learn_from_the_examples_alone(whole: Dataset, labels: bool) -> None:
    if not labels:
        whole = whole.replace(threshold=None, **{s: dataclasses.replace(
            getattr(whole, s), labels=None) for s in ("train", "valid", "test")})
    made = few_shot(whole, 16, 3, 0)
    full = Examples(whole, Context(0), 3, 1).of("train")
    few = Examples(made, Context(0), 3, 1)
    rows = few.of("train")
    assert len(few) == 16
    assert made.shots is not None
    assert sorted(zip(rows["users"].tolist(), rows["items"].tolist(), strict=True)) == sorted(
        map(tuple, made.shots.tolist()))
    place = {p: n for n, p in enumerate(zip(full["users"].tolist(), full["items"].tolist(),
                                            strict=True))}
    for n, pair in enumerate(zip(rows["users"].tolist(), rows["items"].tolist(), strict=True)):
        for column in full:  # asked with the same history as among all rows
            assert torch.equal(rows[column][n], full[column][place[pair]]), column
    for batch in few.batches(1, 8):  # nothing that the user is known to have is a sampled dislike
        for u, i, y in zip(batch["users"].tolist(), batch["items"].tolist(),
                           batch["labels"].tolist(), strict=True):
            assert y == 1 or labels or (u, i) not in set(pairs(whole.train))


def test_sequences_are_learned_from_train_and_read_with_all_that_is_known(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    own, full = Sequences(made, Context(0), 20), Sequences(whole, Context(0), 20)
    liked = set(pairs(made.train.positives()))
    targets = 0
    for batch in own.batches(1, 32):
        for u, i, history in zip(batch["users"].tolist(), batch["items"].tolist(),
                                 batch["histories"].tolist(), strict=True):
            assert {(u, x) for x in [i, *history] if x >= 0} <= liked
            targets += 1
    assert targets == len(liked) - len({u for u, _ in liked})
    users = torch.arange(made.n_users)
    for split in ("valid", "test"):
        for a, b in zip(own.histories(users, split), full.histories(users, split), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("name", "params"), [
    ("bprmf", {"dim": 8, "epochs": 3, "patience": 0}), ("pop", {}),
    ("SASRec", {"epochs": 2, "max_length": 8, "patience": 0}), ("EASE", {}),
    ("text-sasrec", {"model": "tiny-random", "dtype": "float32", "epochs": 2, "patience": 0}),
    ("tallrec", {"model": "tiny-random", "dtype": "float32", "tune": "full", "epochs": 2,
                 "patience": 0, "candidates": 5, "history": 3})])
def test_no_weight_depends_on_a_row_that_is_only_known(whole: Dataset, name: str,
                                                       params: dict[str, Any],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Without those rows the same is learned; negatives apart, which avoid them."""
    made = few_shot(whole, 16, 3, 0)
    bare = made.replace(context=None)
    seen = Rows(made, Context(0))._taken
    begun = Rows.__init__

    def init(self: Any, *args: Any, **more: Any) -> None:
        begun(self, *args, **more)
        self._taken = seen

    monkeypatch.setattr(Rows, "__init__", init)
    learned = [fitted(d, name, **params).state() for d in (made, bare)]
    assert learned[0].keys() == learned[1].keys()
    for key, value in learned[0].items():
        assert torch.equal(value, learned[1][key]), key


def test_a_user_without_an_example_is_read_all_the_same(whole: Dataset) -> None:
    made = few_shot(whole, 16, 3, 0)
    without = sorted(set(range(made.n_users)) - {u for u, _ in pairs(made.train)})
    model = fitted(made, "tfidf")
    assert torch.equal(model.scores(torch.tensor(without)),
                       fitted(whole, "tfidf").scores(torch.tensor(without)))
    chance = next(v for n, g, v in evaluate(build(plugin("models", "random"), made, Context(0)),
                                            made, ["ndcg@10"]).values if g == "all")
    read = next(v for n, g, v in evaluate(model, made, ["ndcg@10"]).values if g == "all")
    assert read > 1.5 * chance


# -- the dataset's parameters --------------------------------------------------------------------

def test_a_dataset_takes_shots(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.tsv"
    path.write_text("user\titem\trating\ttime\n" + "".join(
        f"u{u}\ti{i}\t{rng.integers(1, 6)}\t{t}\n" for u in range(30)
        for t, i in enumerate(rng.permutation(40)[:12])))
    given = {"path": str(path), "rating": "rating", "time": "time", "user": "user", "item": "item",
             "threshold": 3, "split": "leave-one-out"}
    full, few = (plugin("datasets", "table", **given, **more).load()
                 for more in ({}, {"shots": 8, "shot_history": 2, "ask_users": 10}))
    assert len(few.shots) == 8
    assert few.notes["examples that are learned from"] == 8
    assert few.notes["train rows known, not learned from"] == len(few.context)
    assert len(few.asked) == 10
    assert len(few.train) + len(few.context) == len(full.train)
    assert sorted(pairs(few.train) + pairs(few.context)) == sorted(pairs(full.train))
    assert pairs(few.test) == pairs(full.test)
    assert few.truth("test").users.tolist() == [u for u in full.truth("test").users.tolist()
                                                if u in few.asked.tolist()]
