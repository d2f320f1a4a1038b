"""Lists made elsewhere: their own numbers come back; what is dropped is counted."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.keys import Keys
from bench.metrics import accuracy
from bench.metrics.ranks import Ranks
from bench.models.base import Recommender, build
from bench.models.given_lists import GivenLists
from bench.registry import Registry
from bench.testing import Skip, contracts


def toy() -> Dataset:
    """Users a, b, c and items i0 … i7; everybody has taken i0; i1 and i2 are a's, i3 is b's, i7
    c's to be found."""
    train = Interactions(np.array([0, 1, 2]), np.zeros(3, np.int64))
    test = Interactions(np.array([0, 0, 1, 2]), np.array([1, 2, 3, 7]))
    return Dataset("toy", ("a", "b", "c"), tuple(f"i{n}" for n in range(8)), train, train[:0], test)


def fitted(path: Path, **params: Any) -> tuple[Recommender, dict[str, Any]]:
    model = build(GivenLists(path=str(path), **params), toy(), Context(0))
    none: Any = Registry().make("defenses", {"name": "none"})
    return model, model.fit(none, lambda event: None).notes


def measured(model: Recommender, *metrics: str) -> dict[str, float]:
    return {m: v for m, g, v in evaluate(model, toy(), list(metrics)).values if g == "all"}


def test_full_lists_give_exactly_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("a\ti1\t2\na\ti5\t1\nb\ti3\t1\nb\ti6\t2\nc\ti5\t1\nc\ti1\t2\n")
    model, _ = fitted(path, rank="3")
    found = measured(model, "ndcg@2", "hr@2", "recall@2", "precision@2", "coverage@2")
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@2"] == pytest.approx((1 / math.log2(3) / ideal + 1 + 0) / 3)
    assert found["hr@2"] == pytest.approx(2 / 3)
    assert found["recall@2"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["precision@2"] == pytest.approx(2 / 6)
    assert found["coverage@2"] == pytest.approx(4 / 8)


def test_ranks_scores_rows_and_lists_say_the_same(tmp_path: Path) -> None:
    texts = {"rank.tsv": ("a\ti5\t2\na\ti1\t1\nb\ti3\t1\n", {"rank": "3"}),
             "score.csv": ("who,what,how\na,i5,.5\na,i1,1e1\nb,i3,-2\n",
                           {"user": "who", "item": "what", "score": "how"}),
             "turned.tsv": ("i1 x a\ni5 x a\ni3 x b\n",
                            {"user": "3", "item": "1", "separator": "space"}),
             "lists.txt": ("a i1 i5\nb i3\n", {"layout": "lists", "separator": "space"})}
    made = []
    for name, (text, params) in texts.items():
        (tmp_path / name).write_text(text)
        made.append(fitted(tmp_path / name, **params)[0].scores(torch.arange(3)))
    assert all(torch.equal(made[0], other) for other in made[1:])
    assert made[0].argmax(dim=1).tolist()[:2] == [1, 3]
    assert made[0][0].tolist() == [0, 2, 0, 0, 0, 1, 0, 0]
    assert not made[0][2].any()


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("a\ti0\t1\na\ti5\t2\na\tnew\t3\na\ti1\t4\na\ti5\t5\nnobody\ti1\t1\n"
                    "b\ti6\t1\n")
    model, notes = fitted(path, rank="3")
    assert notes == {"list_users": 2, "users_without_list": 1, "rows_of_unknown_users": 1,
                     "rows_of_unknown_items": 1, "rows_repeated": 1, "rows_already_known": 1,
                     "rows_used": 3}
    assert measured(model, "mrr@2")["mrr@2"] < 0.5  # i0 is passed over, i1 moves up to rank 2
    scores = model.scores(torch.tensor([0]))[0]
    assert scores[5] > scores[1] > scores[2]


def test_equal_ranks_tie(tmp_path: Path) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("a\ti5\t1\na\ti1\t1\na\ti6\t2\nb\ti3\t1\n")
    scores = fitted(path, rank="3")[0].scores(torch.tensor([0]))[0]
    assert scores[5] == scores[1] > scores[6] > scores[0]


@pytest.mark.parametrize("rest", ["tie", "rare-first"])
def test_what_is_in_no_list_fills_the_places_left(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("b\ti6\t1\n")
    model, _ = fitted(path, rank="3", rest=rest)
    hits = evaluate(model, toy(), ["hr@1", "coverage@1"])
    each = dict(zip(hits.users["user"], hits.users["hr@1"], strict=True))
    if rest == "tie":  # of seven items that are left, two are a's and one is c's
        assert each == pytest.approx({"a": 2 / 7, "b": 0, "c": 1 / 7})
    else:  # i1 is the first of those that nobody took
        assert each == {"a": 1.0, "b": 0.0, "c": 0.0}
        assert {m: v for m, _, v in hits.values}["coverage@1"] == 2 / 8


@pytest.mark.parametrize(("text", "params", "said"), [
    ("a\ti1\t1\na\ti2\tfirst\n", {"rank": "3"}, r"lists\.tsv:2: rank is not a finite number"),
    ("a\ti1\t1\na\t\t2\n", {"rank": "3"}, r"lists\.tsv:2: empty item id"),
    ("a\ti1\t1\na\ti2\n", {"rank": "3"}, r"lists\.tsv:2: 2 fields where the first line has 3"),
    ("a\ti1\t1\n", {"rank": "4"}, "no column 4"),
    ("z\ti1\t1\n", {}, r"none of the users is in toy: the file has 'z', the data 'a'"),
    ("a\tX\t1\n", {}, r"none of the items is in toy: the file has 'X', the data 'i0'"),
    ("\n", {}, "the file is empty")])
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, params: dict[str, Any],
                                        said: str) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        fitted(path, **params)


def test_broken_rows_can_be_dropped_and_no_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("a\ti1\t1\na\ti2\tfirst\n")
    assert fitted(path, rank="3", bad_rows="drop")[1]["rows dropped, rank is not a finite number"]
    assert "no file is named" in str(GivenLists().unfit(toy()))
    with pytest.raises(InputError, match="no such file"):
        GivenLists(path=str(tmp_path / "lost.tsv")).contents()
    with pytest.raises(InputError, match="both a rank and a score"):
        GivenLists(path="x", rank="3", score="4")


def test_other_lists_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    path, none = tmp_path / "lists.tsv", Registry().make("defenses", {"name": "none"})
    keys = []
    for text in ("a\ti1\n", "a\ti2\n"):
        path.write_text(text)
        keys.append(Keys().train("d", None, GivenLists(path=str(path)), none, 0))  # type: ignore[arg-type]
    assert keys[0] != keys[1]


def test_the_contracts_of_models_hold(tmp_path: Path) -> None:
    path = tmp_path / "lists.tsv"
    path.write_text("".join(f"u{u}\ti{i}\n" for u in range(60) for i in range(u % 4, 48, 4)))
    ran = 0
    for check in contracts("models", GivenLists, registry=Registry(), params={"path": str(path)}):
        if check.name in ("spawned-worker",):
            continue
        try:
            check.run()
            ran += 1
        except Skip:
            pass
    assert ran >= 8


@pytest.mark.parametrize("seed", range(4))
def test_graded_ndcg_is_the_mean_over_all_orders_of_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, k = rng.integers(0, 3, 6), 3
    ratings = {int(i): float(rng.integers(1, 6)) / 2 for i in rng.choice(6, 3, replace=False)}
    values = []
    for order in itertools.permutations(range(6)):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            dcg = sum((2 ** (ratings[i] + 1) - 1) / math.log2(n + 2)
                      for n, i in enumerate(order[:k]) if i in ratings)
            best = sorted((2 ** (r + 1) - 1 for r in ratings.values()), reverse=True)[:k]
            values.append(dcg / sum(g / math.log2(n + 2) for n, g in enumerate(best)))
    items = sorted(ratings, key=lambda i: int((scores > scores[i]).sum()))
    better = np.array([(scores > scores[i]).sum() for i in items])
    tied = np.array([(scores == scores[i]).sum() for i in items])
    # a second user, whose rows must not mix with the first one's
    ranks = Ranks.make(np.array([0, 0, 0, 1]), np.append(better, 0), np.append(tied, 1),
                       np.array([6, 6]))
    found = accuracy.ndcg_graded(ranks, k, np.array([*(ratings[i] for i in items), 2.0]))
    assert found.tolist() == pytest.approx([float(np.mean(values)), 1.0])
