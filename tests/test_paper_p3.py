"""Lists that chat models wrote, against the published figures of Di Palma et al. (UMUAI 2025).

Their data are not ours to ship: the test skips where they are not, and is told by
$BENCH_SHARED_DATA where they are (default: shared/data beside the checkout).
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.datasets.table import Table
from bench.evaluate import evaluate
from bench.grid import load_grid
from bench.metrics import accuracy
from bench.metrics._stream import stream
from bench.metrics.plan import make_plan
from bench.metrics.ranks import Ranks
from bench.models.base import Recommender, build
from bench.models.given_lists import GivenLists
from bench.models.pop import Pop

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("BENCH_SHARED_DATA", CHECKOUT.parent / "shared" / "data")) \
    / "ml-small-llm"
GRID = CHECKOUT / "bench" / "grids" / "papers" / "chat-lists-ml-small.yaml"


@pytest.fixture(scope="module")
def data() -> Dataset:
    if not (FOLDER / "chatgpt.tsv").is_file():
        pytest.skip("ml-small-llm is not in the data folder; set BENCH_SHARED_DATA")
    return Table(called="ml-small-llm", train=str(FOLDER / "train.tsv"),
                 test=str(FOLDER / "test.tsv"), rating="3").load()


def lists(who: str, data: Dataset, **params: Any) -> Recommender:
    plugin = GivenLists(path=str(FOLDER / f"{who}.tsv"), rank="3", **params)
    return build(plugin, data, Context(0))


def measured(model: Recommender, data: Dataset) -> dict[str, float]:
    """Means over users; "graded" is nDCG@10 with graded gain, "covered" counts items."""
    asked = ["recall@10", "precision@10", "hr@10", "ndcg@10", "arp@10", "coverage@10"]
    found = {m.removesuffix("@10"): v for m, g, v in evaluate(model, data, asked).values
             if g == "all"}
    plan = make_plan(data, "test")
    counts = stream(model, data, plan, split="test", cutoffs=())
    keep = plan.relevant
    owner, better = plan.pair_owner[keep], counts.better[keep]
    ratings = dict(zip(zip(data.test.users.tolist(), data.test.items.tolist(), strict=True),
                       np.asarray(data.test.ratings).tolist(), strict=True))
    each = np.array([ratings[u, i] for u, i in zip(plan.users[owner].tolist(),
                                                   plan.pair_item[keep].tolist(), strict=True)])
    ranks = Ranks.make(owner, better, counts.tied[keep], counts.eligible[:plan.n_evaluated])
    graded = accuracy.ndcg_graded(ranks, 10, each[np.lexsort((better, owner))])
    return found | {"graded": float(graded.mean()), "covered": found["coverage"] * data.n_items}


def tens(model: Recommender, data: Dataset) -> dict[int, list[int]]:
    """At most ten items of each evaluated user that are in the list and not known."""
    known = data.known("test")
    scores = model.scores(torch.arange(data.n_users))
    scores[known.users, known.items] = 0
    return {u: [i for i in scores[u].argsort(descending=True)[:10].tolist() if scores[u, i] > 0]
            for u in np.unique(data.test.users).tolist()}


def test_the_grid_file_names_the_lists() -> None:
    grid = load_grid(GRID)
    assert [m.name for m in grid.models[:2]] == ["pop", "ItemKNN"]
    assert [m.label() for m in grid.models[2:]] == [
        *(f"given-lists({who}, rest=rare-first)"
                 for who in ("gpt-3.5-turbo", "davinci", "palm"))]


def test_the_most_popular_items(data: Dataset) -> None:
    assert (data.n_users, len(data.train), len(data.test)) == (603, 44309, 12629)
    found = measured(build(Pop(), data, Context(0)), data)
    assert found["graded"] == pytest.approx(0.147814, abs=5e-4)
    assert found["ndcg"] == pytest.approx(0.171720, abs=5e-4)
    assert found["hr"] == pytest.approx(0.605705, abs=3e-3)
    assert found["arp"] == pytest.approx(182.55, abs=0.01)
    assert found["covered"] == pytest.approx(40, abs=2)


@pytest.mark.slow
def test_sixty_neighbours_of_each_item(data: Dataset) -> None:
    """RecBole's reads no ratings, the published one does."""
    plugin: Any = load_grid(GRID).models[1]
    model, none = build(plugin, data, Context(0)), load_grid(GRID).defenses[0]
    model.fit(none, lambda event: None)
    found = measured(model, data)
    assert found["hr"] == pytest.approx(0.817114, abs=5e-3)
    assert found["recall"] == pytest.approx(0.178436, abs=2e-3)
    assert found["precision"] == pytest.approx(0.261745, abs=3e-3)
    assert found["covered"] == pytest.approx(672, abs=10)
    assert found["graded"] == pytest.approx(0.266566, abs=0.01)


@pytest.mark.parametrize("rest", ["tie", "rare-first"])
def test_gpt(data: Dataset, rest: str) -> None:
    model = lists("chatgpt", data, rest=rest)
    found = measured(model, data)
    assert 0.1511975 < found["graded"] < 0.151420
    assert found["hr"] == pytest.approx(0.582215, abs=1e-6 if rest == "rare-first" else 1e-3)
    assert found["arp"] == pytest.approx(121.65, abs=1)
    shown = {i for ten in tens(model, data).values() for i in ten}
    assert len(shown) == 408
    assert found["covered"] < 408 + (10 if rest == "rare-first" else 56)  # empty places filled


def test_davinci(data: Dataset) -> None:
    model = lists("davinci", data)
    found = measured(model, data)
    assert found["graded"] == pytest.approx(0.142416, abs=5e-4)
    assert found["recall"] == pytest.approx(0.082483, abs=5e-4)
    made = tens(model, data)
    truth = defaultdict(set)
    for user, item in zip(data.test.users.tolist(), data.test.items.tolist(), strict=True):
        truth[user].add(item)
    hits = [bool(truth[u] & set(ten)) for u, ten in made.items()]
    assert np.mean(hits) == pytest.approx(0.583893, abs=1e-6)
    assert len([ten for ten in made.values() if ten]) == 587  # published as UserCoverage
    assert len({i for ten in made.values() for i in ten}) == pytest.approx(344, abs=5)


def test_published_precision_counts_repeated_items_twice(data: Dataset) -> None:
    """Why ours is lower: an item that the model wrote twice is two hits in the published code."""
    user = {u: n for n, u in enumerate(data.user_ids)}
    item = {i: n for n, i in enumerate(data.item_ids)}
    known = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    truth = set(zip(data.test.users.tolist(), data.test.items.tolist(), strict=True))
    rows = [line.split("\t") for line in (FOLDER / "chatgpt.tsv").read_text().splitlines()]
    for twice, precision in ((True, 0.12969798657718123), (False, None)):
        taken: dict[int, list[int]] = defaultdict(list)
        for who, what, _ in sorted(rows, key=lambda r: float(r[2])):
            u, i = user[who], item.get(what, -1)
            if i >= 0 and (u, i) not in known and (twice or i not in taken[u]):
                taken[u].append(i)
        users = sorted({u for u, _ in truth})
        found = np.mean([sum((u, i) in truth for i in taken[u][:10]) / 10 for u in users])
        ours = measured(lists("chatgpt", data, rest="rare-first"), data)["precision"]
        assert found == pytest.approx(ours if precision is None else precision, abs=1e-9)
