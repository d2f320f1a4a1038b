"""P5's ids: beam search within a trie against exact scores, and prompts that list candidates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset
from bench.errors import InputError
from bench.models.base import build
from bench.registry import Registry
from bench.text.beams import scored, search
from bench.text.trie import Trie

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", users=24, items=32).load()
    return made


def p5(data: Dataset, **params: Any) -> Any:
    given = {"model": "tiny-random", "candidates": 6, "history": 2, "dtype": "float32",
             "shots": 8, "epochs": 1, "batch_size": 8, "patience": 0} | params
    made: Any = build(plugin("models", "p5", **given), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


# -- the search ------------------------------------------------------------------------------------

TABLE = {(): [0.0, 0.6, 0.4, 0.0, 0.0, 0.0], (1,): [0.0, 0.0, 0.0, 0.5, 0.4, 0.1],
         (2,): [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}


def by_table(begins: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor([TABLE[b] for b in begins]).log()


def test_a_worked_example() -> None:
    """.6 · .5 and .6 · .4 through token 1, .4 through 2: one beam alone goes the wrong way."""
    trie = Trie([[1, 3], [1, 4], [2, 5]])
    narrow, wide = search(by_table, trie, 1), search(by_table, trie, 2)
    assert [row for row, _ in narrow] == [(1, 3)]
    assert [row for row, _ in wide] == [(2, 5), (1, 3)]
    assert [math.exp(v) for _, v in wide] == pytest.approx([0.4, 0.3])
    among = search(by_table, trie, 3, among=trie)  # where 3 and 4 alone can follow 1
    assert dict(among) == pytest.approx({
        (2, 5): math.log(0.4), (1, 3): math.log(0.6 * 5 / 9), (1, 4): math.log(0.6 * 4 / 9)})
    found = scored(wide, [[1, 4], [2, 5], [1, 3]])
    assert found.tolist() == pytest.approx([math.log(0.3) - 1, math.log(0.4), math.log(0.3)])


def test_sequences_of_unequal_length_compete_by_their_probability() -> None:
    rows = {(): [0.0, 0.5, 0.5], (1,): [0.9, 0.1, 0.0], (2,): [0.0, 1.0, 0.0],
            (2, 1): [0.2, 0.0, 0.8]}

    def logits(begins: list[tuple[int, ...]]) -> Tensor:
        return torch.tensor([rows[b] for b in begins]).log()

    found = search(logits, Trie([[1, 0], [1, 1], [2, 1, 0], [2, 1, 2]]), 2)
    assert [row for row, _ in found] == [(1, 0), (2, 1, 2)]
    assert [math.exp(v) for _, v in found] == pytest.approx([0.45, 0.4])


@pytest.mark.parametrize("constrained", [True, False])
def test_with_a_beam_for_every_item_all_are_found_with_their_exact_scores(
        data: Dataset, constrained: bool) -> None:
    made = p5(data, constrained=constrained, decode="beam", beams=data.n_items, prompts_at_once=5)
    source, items = made.source(0, [1, 2]), list(range(data.n_items))
    exact = made.id_likelihoods(source, made.ids)
    assert torch.allclose(made.id_scores(source, items), exact, atol=1e-4)
    some = [3, 9, 10, 11, 30]  # a search among them scores as one among all
    assert torch.allclose(made.id_scores(source, some), exact[some], atol=1e-4)


def test_fewer_beams_find_some_of_them_and_share_a_place_behind(data: Dataset) -> None:
    wide, made = (p5(data, decode="beam", beams=n, candidates=0) for n in (data.n_items, 5))
    for user in range(4):
        source, items = made.source(user, [1, 2]), np.arange(3, data.n_items)
        exact = dict(zip(items.tolist(), wide.id_scores(source, items.tolist()).tolist(),
                         strict=True))
        found = made.rate(user, np.array([1, 2]), items, "test")
        kept = [i for i, v in zip(items.tolist(), found.tolist(), strict=True)
                if v > float(found.min())]
        assert len(kept) == 5
        for i, v in zip(items.tolist(), found.tolist(), strict=True):
            if i in kept:
                assert v == pytest.approx(exact[i], abs=1e-4)
        assert int((found == found.min()).sum()) == len(items) - 5
        assert max(exact.values()) >= float(found.max()) - 1e-4


def test_it_is_the_search_of_transformers_where_ids_are_equally_long(data: Dataset) -> None:
    made = p5(data, constrained=False, decode="beam", beams=3)
    longest = max(map(len, made.ids))
    items = [n for n, row in enumerate(made.ids) if len(row) == longest]
    assert len(items) > 8
    trie, lm = Trie([made.ids[i] for i in items]), made.language
    for user in range(3):
        source = made.source(user, [1, 2])
        theirs = lm.module.generate(
            input_ids=torch.tensor([[*source, *lm.end]]), num_beams=3, num_return_sequences=3,
            do_sample=False, length_penalty=0.0, early_stopping=False, max_new_tokens=longest,
            prefix_allowed_tokens_fn=lambda _, ids: trie.next(ids.tolist()[1:]) or [0],
            return_dict_in_generate=True, output_scores=True)
        ours = made.beams(source, items)
        assert [list(row) for row, _ in ours] == theirs.sequences[:, 1:longest + 1].tolist()
        assert [v for _, v in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)


def test_what_is_kept_by_prompt_goes_when_weights_change(data: Dataset) -> None:
    made = p5(data, decode="beam", beams=4)
    source = made.source(0, [1])
    before = made.id_scores(source, [4, 5, 6])
    with torch.no_grad():
        for weight in made.trained().values():
            weight.mul_(1.5)
    assert torch.equal(made.id_scores(source, [4, 5, 6]), before)
    made.relearned()
    assert not torch.allclose(made.id_scores(source, [4, 5, 6]), before)


# -- prompts that list candidates ------------------------------------------------------------------

def test_a_prompt_lists_the_candidates_and_each_user_in_another_order(data: Dataset) -> None:
    made = p5(data, family="direct-list", show="id")
    items = np.arange(8, 14)
    asked = []
    made.id_scores = lambda source, of: asked.append(
        made.language.tokenizer.decode(source)) or torch.zeros(len(of))
    for user in range(3):
        made.rate(user, np.array([1]), items, "test")
    for user, text in enumerate(asked):
        assert f"user_{user + 1} has liked" in text
        assert "item_2, which one of these" in text
        shown = text.split("recommend? ")[1].rstrip(", ").split(", ")
        assert sorted(shown) == sorted(f"item_{i + 1}" for i in items)
    assert len({text.split("recommend? ")[1] for text in asked}) == 3


def test_training_lists_what_was_liked_among_what_was_not_taken(data: Dataset) -> None:
    made = p5(data, family="direct-list", candidates=5, shots=0)
    train = data.train
    taken = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    places = []
    for batch in made.batches(1, 16):
        for user, item, listed in zip(*(batch[k].tolist() for k in ("users", "items", "listed")),
                                      strict=True):
            assert len(listed) == 5
            assert [i for i in listed if (user, i) in taken] == [item]
            places.append(listed.index(item))
    assert np.bincount(places, minlength=5).min() > 0.1 * len(places)  # no place gives it away


def test_the_loss_is_the_likelihood_of_the_right_id_after_the_list(data: Dataset) -> None:
    made = p5(data, family="direct-list", constrained=False)
    batch = next(iter(made.batches(1, 4)))
    with torch.no_grad(), made.evaluating():
        loss = float(made.batch_loss(batch))
    keys = ("users", "histories", "lengths", "items", "listed")
    slow = [float(made.id_likelihoods(made.choosing(u, h[:n], list(dict.fromkeys(listed))),
                                      [made.ids[i]])[0])
            for u, h, n, i, listed in zip(*(batch[k].tolist() for k in keys), strict=True)]
    assert loss == pytest.approx(-np.mean(slow), abs=1e-4)


def test_it_learns_and_the_order_of_the_list_reaches_it(data: Dataset) -> None:
    before = p5(data, family="direct-list", tune="none")
    made = p5(data, family="direct-list", epochs=30, learning_rate=0.01)
    batch = next(iter(made.batches(1, 8)))
    with torch.no_grad(), made.evaluating(), before.evaluating():
        assert float(made.batch_loss(batch)) < 0.5 * float(before.batch_loss(batch))
    plain = made.scores(torch.arange(4))
    with made.shuffled(3):
        assert not torch.equal(made.scores(torch.arange(4)), plain)
    attack = plugin("attacks", "candidate-permutation")
    assert attack.unfit(made.plugin, data) is None
    assert "each candidate alone" in attack.unfit(plugin("models", "p5", model="tiny-random"), data)


def test_what_does_not_fit_together_is_refused(data: Dataset) -> None:
    lone = plugin("models", "p5", model="tiny-random", family="direct-list", candidates=0)
    assert "candidates to 2 or more" in lone.unfit(data)
    with pytest.raises(InputError, match="does not ask what family direct asks"):
        plugin("models", "p5", model="tiny-random", family="direct", prompt="p5-direct-list")
    with pytest.raises(InputError, match="does not ask what family direct-list asks"):
        plugin("models", "p5", model="tiny-random", family="direct-list", prompt="p5-direct")
