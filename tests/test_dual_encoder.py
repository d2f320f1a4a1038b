"""dual-encoder: the softmax over a batch, what its two towers read, and what it learns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.evaluate import evaluate, validation_score
from bench.models.base import build
from bench.registry import Registry
from bench.text.encode import Encoder
from bench.text.fitting import marked
from bench.text.pairs import in_batch_logits
from bench.text.trainable import TokenTrained
from bench.text.tuning import WAYS

REGISTRY = Registry()
QUICK: dict[str, Any] = {"model": "tiny-random", "tune": "full", "history": 3, "dtype": "float32",
                         "epochs": 1, "batch_size": 64, "learning_rate": 0.003, "patience": 0}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def fresh(data: Dataset, seed: int = 0, **params: Any) -> Any:
    return build(plugin("models", "dual-encoder", **{**QUICK, **params}), data, Context(seed))


def fit(model: Any, events: list[Any] | None = None) -> Any:
    seen = [] if events is None else events
    return model.fit(plugin("defenses", "none"), seen.append)


def ndcg(model: Any, data: Dataset) -> float:
    return next(v for n, g, v in evaluate(model, data, ["ndcg@10"]).values if g == "all")


@pytest.fixture(scope="module")
def taught(data: Dataset) -> Any:
    model = fresh(data, epochs=10)
    fit(model)
    return model


def test_the_loss_is_the_corrected_softmax_written_out(data: Dataset) -> None:
    model = fresh(data)
    model.module.eval()
    batch = next(iter(model.batches(1, 24)))
    assert len(set(batch["items"].tolist())) < 24  # some item stands twice
    counts = np.bincount(model.examples.of("train")["items"].numpy(), minlength=data.n_items)
    encode = Encoder(model.language, "mean")
    total = 0.0
    for b, item in enumerate(batch["items"].tolist()):
        history = batch["histories"][b, :int(batch["lengths"][b])].tolist()
        u = encode(["; ".join(data.item_text[i] for i in history[::-1])])[0]  # type: ignore[index]
        terms = []
        for j, other in enumerate(batch["items"].tolist()):
            if other == item and j != b:
                continue
            v = encode([data.item_text[other]])[0]  # type: ignore[index]
            cosine = float(u @ v / (u.norm() * v.norm()))
            terms.append((j, cosine / 0.05 - math.log(counts[other] / counts.sum())))
        top = max(t for _, t in terms)
        total += top + math.log(sum(math.exp(t - top) for _, t in terms)) - dict(terms)[b]
    assert float(model.batch_loss(batch).detach()) == pytest.approx(total / 24, abs=1e-3)


def test_the_correction_undoes_that_popular_items_are_drawn_more_often() -> None:
    """With logits log p(j|u) + log q_j … the corrected softmax is p(j|u) over the batch."""
    torch.manual_seed(0)
    p, q = torch.rand(5).softmax(0), torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    scores = (p.log() + q.log()).expand(5, 5)
    found = in_batch_logits(scores, torch.arange(5), q.log(), 1.0).softmax(dim=1)
    assert torch.allclose(found, (p / p.sum()).expand(5, 5), atol=1e-6)
    plain = in_batch_logits(scores, torch.arange(5), torch.zeros(5), 1.0).softmax(dim=1)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_rows_with_the_same_item_are_no_negatives_of_each_other() -> None:
    logits = in_batch_logits(torch.zeros(3, 3), torch.tensor([7, 8, 7]), torch.zeros(3), 1.0)
    assert logits.isneginf().tolist() == [[False, False, True], [False, False, False],
                                          [True, False, False]]


def test_no_history_holds_the_item_or_what_came_after_it(data: Dataset) -> None:
    model = fresh(data, history=50)
    times = {(int(u), int(i)): float(t) for u, i, t in zip(
        data.train.users, data.train.items, data.train.times, strict=True)}  # type: ignore[arg-type]
    rows = 0
    for batch in model.batches(1, 64):
        for u, i, h, n in zip(*(batch[k].tolist() for k in (
                "users", "items", "histories", "lengths")), strict=True):
            earlier = [t for (v, _), t in times.items() if v == u and t < times[u, i]]
            assert sorted(times[u, x] for x in h[:n]) == sorted(earlier)
            assert [times[u, x] for x in h[:n]] == sorted(times[u, x] for x in h[:n])
            rows += 1
    assert rows == len(data.train) - data.n_users  # each user's first row has no history


def test_it_learns_what_the_texts_say(data: Dataset, taught: Any) -> None:
    pop = build(plugin("models", "pop"), data, Context(0))
    fit(pop)
    frozen = fresh(data, tune="none")
    fit(frozen)
    assert ndcg(taught, data) > max(1.5 * ndcg(pop, data), 1.2 * ndcg(frozen, data))


def test_what_is_learned_is_stored_and_comes_back(data: Dataset, taught: Any) -> None:
    users = torch.arange(9)
    again = fresh(data, epochs=10)
    before = again.scores(users)
    again.load_state(taught.state())
    assert torch.equal(again.scores(users), taught.scores(users))
    assert not torch.allclose(before, again.scores(users), atol=0.1)
    with pytest.raises(KeyError, match="differ"):
        again.load_state({})


@pytest.mark.parametrize("tune", WAYS)
def test_every_way_trains_and_stores_what_it_learned_alone(data: Dataset, tune: str) -> None:
    events: list[Any] = []
    params = {"tune": tune, "virtual_tokens": 4, "epochs": 3, "learning_rate": 0.02, "history": 2,
              "batch_size": 240, "warmup": 0.0, "lora_dropout": 0.0}
    model = fresh(data, **params)
    for module in model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = next(iter(model.batches(1, 200)))
    with torch.no_grad():
        start = float(model.batch_loss(batch) - model.tuning.penalty())
    result = fit(model, events)
    if tune == "none":
        assert (events, model.state(), result.epochs) == ([], {}, 0)
        return
    with torch.no_grad():
        after = float(model.batch_loss(batch) - model.tuning.penalty())
    assert after < start
    stored = model.state()
    assert sum(v.numel() for v in stored.values()) == result.notes["learned_parameters"]
    if tune != "full":
        assert all("lora_" in n or "ia3_" in n or "prompt_encoder" in n or ".adapter." in n
                   for n in stored)
    other = fresh(data, **params)
    other.load_state(stored)
    assert torch.equal(other.scores(torch.arange(5)), model.scores(torch.arange(5)))


def test_blocks_of_users_and_padding_change_nothing(data: Dataset, taught: Any) -> None:
    users = torch.arange(12)
    whole = taught.scores(users)
    taught.encoder.relearned()
    alone = torch.cat([taught.scores(u[None]) for u in users])
    assert torch.allclose(whole, alone, atol=1e-4)


def test_an_edited_text_moves_that_item_s_score_alone_where_nobody_took_it(
        data: Dataset, taught: Any) -> None:
    user = 4
    free = int(np.setdiff1d(np.arange(data.n_items), taught.history(user, "test"))[0])
    before = taught.scores(torch.tensor([user]))[0]
    texts = list(data.item_text or ())
    texts[free] += " genre0 genre1"
    with taught.reading_texts(texts):
        after = taught.scores(torch.tensor([user]))[0]
    moved = (before - after).abs() > 1e-6
    assert moved.nonzero().flatten().tolist() == [free]
    assert torch.equal(taught.scores(torch.tensor([user]))[0], before)


def test_tokens_vectors_outputs_and_loss_fit_together(data: Dataset) -> None:
    model = fresh(data, item_prefix="item: ")
    model.module.eval()
    assert isinstance(model, TokenTrained)
    batch = next(iter(model.batches(1, 8)))
    tokens = model.tokens(batch)
    assert len(tokens.ids) == 16
    assert not tokens.text[:8].any()
    for row, item in enumerate(batch["items"].tolist()):
        marked = tokens.ids[8 + row][tokens.text[8 + row]].tolist()
        assert model.language.tokenizer.decode(marked).strip() == (data.item_text or ())[item]
    vectors = model.vectors(tokens)
    plain, handed = model.outputs(tokens), model.outputs(tokens, vectors)
    assert torch.allclose(plain, handed, atol=1e-5)
    assert torch.equal(model.token_loss(plain, tokens), model.batch_loss(batch))
    slope, = torch.autograd.grad(model.token_loss(handed, tokens), vectors)
    assert bool((slope[tokens.text] != 0).any())
    assert not bool((slope[tokens.mask == 0] != 0).any())
    longer = dataclasses.replace(tokens, **{
        k: torch.nn.functional.pad(getattr(tokens, k), (0, 5)) for k in ("ids", "mask", "text")})
    assert torch.allclose(model.outputs(longer), plain, atol=1e-4)


def test_words_that_a_tokenizer_joins_with_the_space_before_them_are_marked(data: Dataset) -> None:
    """gemma reads "passage: Alien" as "passage", ":", " Alien"; "passage: " alone has one more."""
    names = ["Alien", "Toy Story", "Heat"]
    told = data.replace(item_text=[names[n % 3] for n in range(data.n_items)])
    model = fresh(told, item_prefix="passage: ", user_prefix=" Alien Toy Story Heat " * 20)
    language = model.language
    assert len(language.ids("passage: Alien")) == len(language.ids("passage: "))
    tokens = model.tokens(next(iter(model.batches(1, 8))))
    for row, item in enumerate(tokens.items.tolist(), len(tokens.labels)):
        found = tokens.ids[row][tokens.text[row]].tolist()
        assert language.tokenizer.decode(found) == " " + names[item % 3]
    language.limit = len(language.begin) + len(language.end) + len(language.ids("passage: "))
    short = model.tokens(next(iter(model.batches(1, 8))))  # one token of each title is left
    assert short.text.sum(dim=1).tolist() == [0] * 8 + [1] * 8
    assert not bool((short.text & (short.mask == 0)).any())


@pytest.mark.parametrize("fast", [True, False])
def test_marks_are_those_of_the_whole_text(data: Dataset, fast: bool) -> None:
    model = fresh(data, item_prefix="passage: ", user_prefix=" Alien Toy Story Heat " * 20)
    language = dataclasses.replace(model.language, _ids={})

    class Slow:
        is_fast = False

        def __call__(self, text: str, **how: Any) -> Any:
            return model.language.tokenizer(text, **how)

    language.tokenizer = model.language.tokenizer if fast else Slow()
    for lead, text, follow, wanted in (
            ("passage: ", "Alien", "", " Alien"), ("passage: ", "Toy Story", "\n", " Toy Story"),
            ("", "Heat", " Heat", "Heat"), ("Heat", "", " Alien", ""), ("", "", "", "")):
        ids, marks = language.ids(lead + text + follow), marked(language, lead, text, follow)
        assert len(ids) == len(marks)
        kept = [i for i, m in zip(ids, marks, strict=True) if m]
        assert model.language.tokenizer.decode(kept) == wanted


def test_validation_asks_so_many_users_and_the_same_ones(data: Dataset) -> None:
    asked: list[list[int]] = []
    model = fresh(data, epochs=2, patience=1, validate_users=7)
    plain = type(model).scores

    def watched(users: Any, split: str = "test") -> Any:
        asked.append(users.tolist())
        return plain(model, users, split)

    model.scores = watched
    result = fit(model)
    del model.scores
    assert len(result.history) == 2
    seen = [u for block in asked for u in block]
    assert len(set(seen)) == 7
    assert model.data is data
    small = model.data.replace(asked=np.array(sorted(set(seen))))
    model.data = small
    assert validation_score(model, "ndcg@10") == pytest.approx(result.best_score)


def test_the_best_epoch_s_weights_come_back(data: Dataset) -> None:
    model = fresh(data, tune="lora", rank=2, epochs=4, patience=4, learning_rate=0.05)
    result = fit(model)
    with model.evaluating():
        model.data = model.data.__dict__["_validated 100 0"]
        assert validation_score(model, "ndcg@10") == pytest.approx(result.best_score)
