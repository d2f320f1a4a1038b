"""Prompts that list what a user disliked: which items, in training and at test time, and nothing
where there is nothing to list."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.models.base import build
from bench.registry import Registry
from bench.text import likelihood
from bench.text.prompts import load
from bench.text.token_target import Target, moving

REGISTRY = Registry()
QUICK: dict[str, Any] = {"model": "tiny-random", "candidates": 6, "history": 2, "dtype": "float32"}
TUNED = {**QUICK, "tune": "full", "shots": 0, "epochs": 1, "batch_size": 8, "patience": 0}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", noise=0.2).load()
    return made.replace(item_text=[f"<<{n}>>" for n in range(made.n_items)])


@pytest.fixture(scope="module")
def labelled(data: Dataset) -> Dataset:
    """The same rows; those rated below 3 are disliked."""
    parts = {s: dataclasses.replace(rows, labels=(rows.ratings >= 3).astype(np.int8))
             for s in ("train", "valid", "test") for rows in [getattr(data, s)]}
    return data.replace(threshold=3.0, **parts)


def fitted(data: Dataset, name: str = "yes-no", **params: Any) -> Any:
    given = (TUNED if name == "tallrec" else QUICK) | params
    made = build(plugin("models", name, **given), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


def by_time(rows: Interactions, user: int, label: int, before: float = np.inf) -> list[int]:
    """Items of a user with this label, oldest first, by hand."""
    assert rows.times is not None
    assert rows.labels is not None
    found = [(t, i) for u, i, t, y in zip(rows.users.tolist(), rows.items.tolist(),
                                          rows.times.tolist(), rows.labels.tolist(), strict=True)
             if u == user and y == label and t < before]
    return [i for _, i in sorted(found)]


def listed(items: list[int]) -> str:
    return "".join(f"- <<{i}>>\n" for i in items)


def test_at_test_time_both_lists_are_the_latest_known_ones(labelled: Dataset) -> None:
    made = fitted(labelled, prompt="likes-dislikes")
    none = 0
    for split, rows in (("valid", labelled.train), ("test", labelled.train.plus(labelled.valid))):
        for user in range(labelled.n_users):
            likes, dislikes = (by_time(rows, user, y)[-2:] for y in (1, 0))
            said = made.language.tokenizer.decode(made.opening(
                user, made.history(user, split)[-2:], split))
            expected = "A user liked the following, oldest first:\n" + (
                listed(likes) or "(nothing yet)\n")
            if dislikes:
                expected += "The user disliked the following, oldest first:\n" + listed(dislikes)
            none += not dislikes
            assert said == expected
    assert 0 < none < labelled.n_users


def test_scores_are_of_these_prompts(labelled: Dataset) -> None:
    made = fitted(labelled, prompt="likes-dislikes")
    user = next(u for u in range(labelled.n_users) if by_time(labelled.train, u, 0))
    history, items = made.history(user, "test")[-2:], np.array([0, 9])
    known = labelled.train.plus(labelled.valid)
    texts, against = ([made.texts[i] for i in by_time(known, user, y)[-2:]] for y in (1, 0))
    ahead = made.language.ids(made.prompt.before(texts, disliked=against))
    found = made.rate(user, history, items, "test")
    for n, item in enumerate(items.tolist()):
        row = ahead + made.language.ids("".join(made.prompt.after(made.texts[item])))
        logits = likelihood.first_logits(made.language, [row])
        assert float(found[n]) == pytest.approx(float(likelihood.margins(
            logits, made.yes, made.no)[0]), abs=1e-4)
    plain = fitted(labelled, prompt="yes-no").rate(user, history, items, "test")
    assert not torch.allclose(found, plain)


def test_a_training_prompt_lists_what_was_disliked_before_and_nothing_later(
        labelled: Dataset) -> None:
    made = fitted(labelled, "tallrec")
    assert made.prompt.name == "likes-dislikes"
    train, seen, both = labelled.train, 0, 0
    assert train.times is not None
    when = dict(zip(zip(train.users.tolist(), train.items.tolist(), strict=True),
                    train.times.tolist(), strict=True))
    for batch in made.batches(1, 64):
        tokens = made.tokens(batch)
        for row, (user, item) in enumerate(zip(batch["users"].tolist(), batch["items"].tolist(),
                                               strict=True)):
            said = made.language.tokenizer.decode(tokens.ids[row][tokens.mask[row] == 1].tolist())
            likes, dislikes = (by_time(train, user, y, when[user, item])[-2:] for y in (1, 0))
            texts, against = ([made.texts[i] for i in part] for part in (likes, dislikes))
            assert said == made.prompt.before(texts, disliked=against) + "".join(
                made.prompt.after(made.texts[item]))
            seen, both = seen + 1, both + bool(dislikes)
    assert seen == len(made.examples)
    assert 0 < both < seen


def test_without_dislikes_nothing_is_listed_and_everything_is_as_with_yes_no(
        data: Dataset) -> None:
    users, found = torch.arange(6), []
    made = fitted(data, "tallrec")
    batch = next(iter(made.batches(1, 16)))
    assert "disliked" not in batch
    for name in ("likes-dislikes", "yes-no"):
        made.prompt = load(name, "pointwise")
        made.relearned()
        found.append((made.tokens(batch).ids, made.scores(users)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_shots_are_the_same_whatever_the_prompt_lists(labelled: Dataset) -> None:
    drawn = [fitted(labelled, "tallrec", prompt=p, shots=16).examples.of("train")["items"]
             for p in ("likes-dislikes", "yes-no")]
    assert torch.equal(*drawn)


def test_where_it_does_not_fit_the_longer_list_loses_its_oldest(labelled: Dataset) -> None:
    made = fitted(labelled, prompt="likes-dislikes", history=20)
    likes, dislikes = [1, 2, 3, 4, 5, 6], [11, 12, 13]
    whole = len(made.prefix(likes, disliked=dislikes))
    made.language.limit = whole + 2 - 1
    for kept, against in (([2, 3, 4, 5, 6], dislikes), ([3, 4, 5, 6], dislikes)):
        said = made.language.tokenizer.decode(made.prefix(likes, disliked=dislikes))
        assert said == made.prompt.before([made.texts[i] for i in kept], disliked=[
            made.texts[i] for i in against])
        made.language.limit = len(made.prefix(likes, disliked=dislikes)) + 2 - 1
    made.language.limit = len(made.prefix([], disliked=[])) + 2
    assert made.prefix(likes, disliked=dislikes) == made.prefix([])


def test_attacks_on_tokens_see_the_same_prompts(labelled: Dataset) -> None:
    made = fitted(labelled, prompt="likes-dislikes")
    user = next(u for u in range(labelled.n_users) if by_time(labelled.train, u, 0))
    item = next(i for i in range(labelled.n_items) if i not in made.history(user, "test")
                and i not in made.disliked(user, "test"))
    target = Target(made, item, np.array([user]))
    history = made.history(user, "test")[-2:]
    clean = made.rate(user, history, np.array([item, 3]), "test")
    assert target.mean(target.still)[0] == pytest.approx(float(clean[0]), abs=1e-4)
    with moving(made, {item: (target.span, target.still)}):
        moved = made.rate(user, history, np.array([item, 3]), "test")
    assert torch.allclose(moved, clean, atol=1e-4)


def test_the_delimiting_variant_says_the_same(labelled: Dataset) -> None:
    plain, made = load("likes-dislikes", "pointwise"), load("likes-dislikes-delimited", "pointwise")
    assert made.before(["a"], disliked=["b"]).endswith(
        "- <item>a</item>\nThe user disliked the following, oldest first:\n- <item>b</item>\n")
    assert (made.yes, made.no) == (plain.yes, plain.no)
    defense = plugin("defenses", "delimited-prompt")
    assert defense.unfit(plugin("models", "tallrec", **TUNED), labelled) is None


@pytest.mark.parametrize(("change", "what"), [
    ({"disliked": ""}, "'disliked'"), ({"disliked": "Disliked: nothing"}, "{history}"),
    ({"disliked": "{items}"}, "no slot"), ({"prefix": "{history}"}, "{disliked}"),
    ({"kind": "title"}, "pointwise")])
def test_mistakes_in_such_a_prompt_are_named(tmp_path: Path, change: dict[str, str],
                                             what: str) -> None:
    import yaml

    given = {"name": "mine", "version": "1", "kind": "pointwise", "prefix": "{history}{disliked}",
             "disliked": "Not:\n{history}", "candidate": "{item}?", "yes": ["Yes"], "no": ["No"]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(given | change))
    with pytest.raises(InputError) as error:
        load(str(path), change.get("kind", "pointwise"))
    assert what in str(error.value)


def test_what_a_user_disliked_goes_to_a_server_too(labelled: Dataset,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.text.remote import Endpoint

    sent: list[str] = []

    def answer(self: Any, prompts: list[str]) -> list[dict[str, float]]:
        sent.extend(prompts)
        return [{"Yes": -1.0, "No": -2.0} for _ in prompts]

    monkeypatch.setattr(Endpoint, "first_tokens", answer)
    made = build(plugin("models", "remote-yes-no", endpoint="http://localhost:1/v1", model="m",
                        candidates=3, history=2, prompt="likes-dislikes"), labelled, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    made.scores(torch.arange(labelled.n_users))
    known = labelled.train.plus(labelled.valid)
    for user in range(labelled.n_users):
        dislikes = by_time(known, user, 0)[-2:]
        if dislikes:
            own = made.prompt.before([made.texts[i] for i in by_time(known, user, 1)[-2:]],
                                     disliked=[made.texts[i] for i in dislikes])
            assert any(s.startswith(own) for s in sent)
