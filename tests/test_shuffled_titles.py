"""shuffled-titles: who reads texts loses by it, who does not stays; learned from, it tells those
who take texts for ids from those who read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.evaluate import evaluate
from bench.models.base import build
from bench.registry import Registry
from bench.stages import Prepared, prepare, under_attack

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", noise=0.0, items=96).load()
    return made


def fitted(data: Dataset, name: str, **params: Any) -> Any:
    made = build(plugin("models", name, **params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


def ndcg(model: Any, data: Dataset) -> float:
    return next(v for n, g, v in evaluate(model, data, ["ndcg@10"]).values if g == "all")


def shuffling(attack: Any, model: Any, data: Dataset, seed: int = 0) -> Any:
    return under_attack(attack, model, Prepared(data, data, data, None), Context(seed))


def texts_under(data: Dataset, seed: int = 0, **params: Any) -> list[str]:
    model = fitted(data, "tfidf")
    with shuffling(plugin("attacks", "shuffled-titles", **params), model, data, seed):
        return list(model.texts)


def test_every_item_gets_the_text_of_another_and_all_texts_stay(data: Dataset) -> None:
    before = list(data.item_text or ())
    for seed in range(5):
        after = texts_under(data, seed)
        assert sorted(after) == sorted(before)
        assert all(a != b for a, b in zip(after, before, strict=True))
    assert texts_under(data, 0) == texts_under(data, 0) != texts_under(data, 1)


def test_within_groups_texts_go_to_items_about_as_popular(data: Dataset) -> None:
    before = list(data.item_text or ())
    order = np.lexsort((np.arange(data.n_items), data.popularity))
    place = {int(item): n * 6 // data.n_items for n, item in enumerate(order)}
    after = texts_under(data, alike=6)
    came_from = [before.index(t) for t in after]
    assert all(place[item] == place[origin] for item, origin in enumerate(came_from))
    assert all(item != origin for item, origin in enumerate(came_from))
    most = data.n_items // 2
    assert all(a != b for a, b in zip(texts_under(data, alike=most), before, strict=True))
    reads = plugin("models", "text-cosine", model="tiny-random")
    assert plugin("attacks", "shuffled-titles", alike=most).unfit(reads, data) is None
    assert f"at most {most}" in plugin("attacks", "shuffled-titles", alike=most + 1).unfit(
        reads, data)


def test_who_reads_falls_to_chance_and_is_put_back(data: Dataset) -> None:
    model = fitted(data, "tfidf")
    users = torch.arange(data.n_users)
    before, clean = model.scores(users), ndcg(model, data)
    chance = ndcg(fitted(data, "random"), data)
    found = []
    for seed in range(4):
        with shuffling(plugin("attacks", "shuffled-titles"), model, data, seed) as struck:
            found.append(ndcg(struck.model, data))
            assert struck.facts["texts_exchanged"] == data.n_items
            assert struck.facts["same_text"] == 0
    assert torch.equal(model.scores(users), before)
    assert clean > 3 * chance
    assert np.mean(found) < 1.5 * chance


def test_who_goes_by_places_or_ids_is_not_moved(data: Dataset) -> None:
    model = fitted(data, "yes-no", model="tiny-random", candidates=6, history=2)
    users, attack = torch.arange(8), plugin("attacks", "shuffled-titles")
    for rate in (lambda u, h, c, s: -torch.arange(len(c)).float(),
                 lambda u, h, c, s: torch.from_numpy(c % 7).float()):
        model.rate = rate
        before = model.scores(users)
        with shuffling(attack, model, data):
            assert torch.equal(model.scores(users), before)
    del model.rate
    before = model.scores(users)
    with shuffling(attack, model, data):
        assert not torch.equal(model.scores(users), before)
    assert "reads no texts" in attack.unfit(plugin("models", "bprmf"), data)
    assert attack.unfit(plugin("models", "tfidf"), data) is None


def test_learned_from_shuffled_texts_a_name_does_and_a_meaning_does_not(data: Dataset) -> None:
    """Texts that are mere names are learned anew by text-sasrec, which is then as good as before;
    tfidf, which learns nothing, and needs texts that mean something, is not."""
    quick = {"model": "tiny-random", "dtype": "float32", "dim": 64, "inner": 64, "layers": 1,
             "dropout": 0.1, "max_length": 8, "epochs": 30, "batch_size": 32,
             "learning_rate": 0.01, "patience": 0}
    letters = np.random.default_rng(0).integers(97, 123, (data.n_items, 12))
    named = data.replace(item_text=["".join(map(chr, row)) for row in letters])
    late, early = (plugin("attacks", "shuffled-titles", retrained=r) for r in (False, True))
    assert (late.trains, early.trains) == (False, True)
    prepared = prepare(named, early, plugin("defenses", "none"), Context(0))
    assert (prepared.train.train, prepared.genuine.item_text) == (named.train, named.item_text)
    model = fitted(named, "text-sasrec", **quick)
    clean = ndcg(model, named)
    with shuffling(late, model, named):
        shuffled = ndcg(model, named)
        assert list(model.texts) == prepared.train.item_text
    again = fitted(prepared.train, "text-sasrec", **quick)
    with under_attack(early, again, prepared, Context(0)) as struck:
        retrained = ndcg(struck.model, struck.data)
        assert struck.facts["same_text"] == 0
    assert shuffled < 0.5 * clean
    assert retrained > max(0.6 * clean, 2 * shuffled)
    read = prepare(data, early, plugin("defenses", "none"), Context(0)).train
    assert read.item_text == texts_under(data)
    assert ndcg(fitted(read, "tfidf"), data) < 0.6 * ndcg(fitted(data, "tfidf"), data)
