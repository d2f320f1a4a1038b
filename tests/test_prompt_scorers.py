"""Prompt scorers: title likelihood, listwise, sliding windows, pairwise, P5. On two layers of
random weights, or with answers put in the model's mouth."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.defenses.none import NoDefense
from bench.errors import InputError
from bench.evaluate import evaluate
from bench.models.base import build
from bench.registry import Registry
from bench.text.answers import completed, parse
from bench.text.asking import Asker, label_tokens
from bench.text.language import Language, load
from bench.text.likelihood import log_likelihood
from bench.text.listwise import LETTERS, _ranks, windows
from bench.text.scorer import language_of
from bench.text.trie import Trie

TEXTS = [f"title {n} genre{n % 4}" for n in range(48)]
REGISTRY = Registry()
NOTHING = np.empty(0, np.int64)


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def language(role: str) -> Language:
    return load("tiny-random", role, corpus=TEXTS)


def model(data: Dataset, name: str, seed: int = 0, **params: Any) -> Any:
    given = {"model": "tiny-random", "candidates": 6, "history": 3} | params
    made = build(plugin("models", name, **given), data, Context(seed))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


def scores(made: Any, users: int = 5) -> torch.Tensor:
    found: torch.Tensor = made.scores(torch.arange(users))
    return found


# -- title likelihood ------------------------------------------------------------------------------

def alone(lm: Language, prefix: list[int], title: list[int]) -> float:
    """(1/L) Σ log p, one token at a time from whole prompts without any cache."""
    total = 0.0
    for n, token in enumerate(title):
        ids = torch.tensor([[*prefix, *title[:n]]])
        if lm.role == "seq2seq":
            start = [int(lm.module.config.decoder_start_token_id)]  # type: ignore[union-attr, arg-type]
            out = lm.module(input_ids=torch.tensor([[*prefix, *lm.end]]),
                            decoder_input_ids=torch.tensor([[*start, *title[:n]]]))
        else:
            out = lm.module(input_ids=ids)
        total += float(out.logits[0, -1].log_softmax(dim=-1)[token])
    return total / len(title)


@pytest.mark.parametrize("role", ["causal", "seq2seq"])
def test_titles_are_as_likely_as_word_by_word(data: Dataset, role: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(plugin("models", "title-likelihood"))
    monkeypatch.setattr(cls, "roles", (role,))
    made = model(data, "title-likelihood")
    history, items = np.array([3, 7, 11]), np.array([0, 5, 20, 21])
    found = made.rate(0, history, items, "test")
    lead, titles = made.titles([made.texts[i] for i in items])
    prefix = [*made.prefix(history), *lead]
    with torch.no_grad():
        slow = torch.tensor([alone(made.language, prefix, t) for t in titles])
    assert torch.allclose(found, slow, atol=1e-4)


def test_a_title_s_own_tokens_alone_are_counted(data: Dataset) -> None:
    made = model(data, "title-likelihood")
    lead, titles = made.titles(["title 3 genre1"])
    assert made.language.tokenizer.decode(lead) == "-"
    assert made.language.tokenizer.decode(titles[0]) == " title 3 genre1"


def test_what_the_history_adds_is_nothing_without_a_history(data: Dataset) -> None:
    made = model(data, "title-likelihood", pmi=True)
    items = np.array([0, 5, 20])
    assert torch.equal(made.rate(0, NOTHING, items, "test"), torch.zeros(3))
    assert not torch.equal(made.rate(0, np.array([1, 2]), items, "test"), torch.zeros(3))


def test_what_the_history_adds_is_a_difference(data: Dataset) -> None:
    plain, pmi = model(data, "title-likelihood"), model(data, "title-likelihood", pmi=True)
    history, items = np.array([3, 7]), np.array([0, 5, 20])
    expected = plain.rate(0, history, items, "test") - plain.rate(0, NOTHING, items, "test")
    assert torch.allclose(pmi.rate(0, history, items, "test"), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["title-likelihood", "listwise", "pairwise", "sliding"])
def test_batches_and_padding_change_nothing(data: Dataset, name: str) -> None:
    one = scores(model(data, name, prompts_at_once=1), 3)
    assert torch.allclose(one, scores(model(data, name, prompts_at_once=7), 3), atol=1e-4)


def test_the_order_of_candidates_is_nothing_to_titles(data: Dataset) -> None:
    made = model(data, "title-likelihood")
    before = scores(made)
    with made.shuffled(3):
        assert torch.allclose(scores(made), before, atol=1e-5)


def test_an_empty_text_has_a_likelihood(data: Dataset) -> None:
    made = model(data, "title-likelihood")
    with made.reading_texts([""] * data.n_items):
        assert torch.isfinite(scores(made, 2)).all()


# -- reading answers -------------------------------------------------------------------------------

FILMS = ["Alien (1979). Genres: Horror", "Aliens (1986). Genres: Action", "Heat (1995)",
         "2001: A Space Odyssey (1968)"]


@pytest.mark.parametrize(("answer", "order"), [
    ("3, 1, 4, 2", [2, 0, 3, 1]),
    ("[3] > [1] > [4] > [2]", [2, 0, 3, 1]),
    ("3. 1. 4. 2.", [2, 0, 3, 1]),
    ("Sure! The order is (3), (1).", [2, 0]),
    ("1. [3]\n2. [1]\n3. [4]\n4. [2]", [2, 0, 3, 1]),
    ("1. Heat (1995)\n2. Aliens (1986)\n3. Alien (1979)", [2, 1, 0]),
    ("heat (1995), ALIENS (1986)", [2, 1]),
    ("2001: A Space Odyssey (1968)\nHeat (1995)", [3, 2]),
    ("3, 3, 3, 1, 17, 0", [2, 0]),
    ("I like films.", []),
    ("", []),
])
def test_answers_in_many_dresses(answer: str, order: list[int]) -> None:
    assert parse(answer, ["1", "2", "3", "4"], FILMS) == order


def test_answers_with_letters() -> None:
    assert parse("C, [A], (B)", "ABC") == [2, 0, 1]


def test_two_candidates_of_one_text() -> None:
    assert parse("Heat\nHeat", "12", ["Heat", "Heat"]) == [0, 1]


def test_what_is_missing_comes_last_in_the_order_given() -> None:
    assert completed([2], 4, [3, 1, 2, 0]) == [2, 3, 1, 0]


def test_equal_logits_share_a_position() -> None:
    assert _ranks(np.array([1.0, 3.0, 1.0, 0.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_labels_that_begin_alike_are_refused() -> None:
    with pytest.raises(InputError, match="does not tell the label"):
        label_tokens(language("causal"), ["A", "A"])


# -- listwise --------------------------------------------------------------------------------------

@pytest.mark.parametrize("role", ["causal", "seq2seq", "masked"])
def test_logits_after_a_kept_prefix_are_those_of_the_whole_prompt(role: str) -> None:
    lm = language(role)
    prefix, suffixes = lm.ids("title 1 genre1 title"), [lm.ids(t) for t in TEXTS[:7]]
    found = Asker(lm, 3).read(prefix, suffixes, lambda logits: logits)
    for row, suffix in zip(found, suffixes, strict=True):
        whole = [*prefix, *suffix, *([lm.tokenizer.mask_token_id] if role == "masked" else []),
                 *lm.end]
        more = {"decoder_input_ids": torch.tensor([[int(lm.module.config.decoder_start_token_id)]])  # type: ignore[union-attr, arg-type]
                } if role == "seq2seq" else {}
        with torch.no_grad():
            logits = lm.module(input_ids=torch.tensor([whole]), **more).logits[0]
        place = 0 if role == "seq2seq" else len(prefix) + len(suffix) - (role == "causal")
        assert torch.allclose(row, logits[place], atol=1e-4)


@pytest.mark.parametrize("role", ["causal", "seq2seq"])
def test_answers_written_together_are_those_written_alone(role: str) -> None:
    lm = language(role)
    prefix, suffixes = lm.ids("title 1 genre1 title"), [lm.ids(t) for t in TEXTS[3:12]]
    suffixes += [lm.ids(" ".join(TEXTS[:3]))]
    together = Asker(lm, 16).write(prefix, suffixes, 6)
    alone = []
    for suffix in suffixes:
        ids = torch.tensor([[*prefix, *suffix, *lm.end]])
        with torch.no_grad():
            out = lm.module.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,  # type: ignore[operator]
                                     num_beams=1, max_new_tokens=6)
        new = out[0, 1:] if role == "seq2seq" else out[0, ids.shape[1]:]
        alone.append(lm.tokenizer.decode(new, skip_special_tokens=True))
    assert together == alone


def test_each_user_and_each_bootstrap_has_another_permutation(data: Dataset) -> None:
    made = model(data, "listwise", candidates=20)
    drawn = [tuple(made.permutation(u, b, 20).tolist()) for u in range(20) for b in range(3)]
    assert len(set(drawn)) == 60
    assert all(sorted(p) == list(range(20)) for p in drawn)
    other = model(data, "listwise", candidates=20, seed=1)
    assert tuple(other.permutation(0, 0, 20).tolist()) != drawn[0]


def test_the_permutations_reach_the_prompts(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "listwise", bootstraps=3)
    asked: list[tuple[int, ...]] = []
    own = made.asker.read

    def read(prefix: list[int], suffixes: list[list[int]], pick: Any) -> torch.Tensor:
        asked.extend(map(tuple, suffixes))
        found: torch.Tensor = own(prefix, suffixes, pick)
        return found

    monkeypatch.setattr(made.asker, "read", read)
    history, items = np.array([1, 2]), np.arange(10, 16)
    for user in range(2):
        made.rate(user, history, items, "test")
    assert len(set(asked)) == len(asked) == 6


def test_the_order_of_candidates_moves_a_list(data: Dataset) -> None:
    made = model(data, "listwise", bootstraps=1)
    before = scores(made)
    with made.shuffled(3):
        assert not torch.equal(scores(made), before)


def test_a_position_is_worth_what_lies_below_it(data: Dataset,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "listwise", bootstraps=3)
    monkeypatch.setattr(made, "positions", lambda prefix, shown, rest: [
        np.argsort(np.argsort(items)).astype(float) for items in shown])
    found = made.rate(0, np.array([1]), np.array([7, 9, 4]), "test")
    assert found.tolist() == [6.0, 3.0, 9.0]  # 3 · (3 − position), by the number of the item


def oracle(made: Any, monkeypatch: pytest.MonkeyPatch, best: list[int], dress: str = "labels",
           ) -> list[int]:
    """Lets the decoder name the items in this order, of those that are shown. Gives how many
    prompts each call had."""
    calls: list[int] = []
    place = {made.texts[i]: n for n, i in enumerate(best)}

    def write(prefix: list[int], suffixes: list[list[int]], most: int) -> list[str]:
        answers = []
        calls.append(len(suffixes))
        for suffix in suffixes:
            shown = [line.split(". ", 1) for line in made.language.tokenizer.decode(suffix)
                     .splitlines() if line.split(". ", 1)[-1] in place]
            shown.sort(key=lambda pair: place[pair[1]])
            answers.append(", ".join(pair[dress == "titles"] for pair in shown))
        return answers

    monkeypatch.setattr(made.asker, "write", write)
    return calls


@pytest.mark.parametrize("dress", ["labels", "titles"])
def test_perfect_answers_give_the_perfect_order(data: Dataset, monkeypatch: pytest.MonkeyPatch,
                                                dress: str) -> None:
    made = model(data, "listwise", read="generate", candidates=12)
    items = np.arange(20, 32)
    best = np.random.default_rng(0).permutation(items).tolist()
    oracle(made, monkeypatch, best, dress)
    found = made.rate(0, np.array([1, 2]), items, "test")
    assert [int(items[n]) for n in found.argsort(descending=True)] == best
    facts = made.take_facts()
    assert facts["answers"] == 3
    assert facts["candidates_appended_at_random"] == 0
    assert made.take_facts() == {}


def test_nonsense_gives_a_random_order_and_is_counted(data: Dataset,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "listwise", read="generate", candidates=10, bootstraps=1)
    monkeypatch.setattr(made.asker, "write", lambda p, s, most: ["Well, hm."] * len(s))
    items, history = np.arange(20, 30), np.array([1, 2])
    found = torch.stack([made.rate(u, history, items, "test") for u in range(60)])
    assert all(sorted(row) == list(range(1, 11)) for row in found.tolist())
    assert len({tuple(row) for row in found.tolist()}) == 60
    assert (found.mean(dim=0) - 5.5).abs().max() < 1.6  # sd of a mean of 60: .37
    assert made.take_facts() == {
        "answers": 60, "answers_without_candidates": 60, "answers_incomplete": 60,
        "candidates_appended_at_random": 600}


def test_a_positive_that_an_answer_misses_is_like_any_other(
        data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(missed: int, labelled: int) -> tuple[list[float], int, int]:
        rows = data.test
        changed = data.replace(test=type(rows)(users=np.array([0]), items=np.array([labelled]),
                                               ratings=None if rows.ratings is None
                                               else np.array([5.0]), times=np.array([9e9])))
        made = model(changed, "listwise", read="generate", candidates=8)
        calls = oracle(made, monkeypatch, [i for i in range(20, 28) if i != missed])
        found = made.rate(0, np.array([1, 2]), np.arange(20, 28), "test")
        return found.tolist(), len(calls), made.take_facts()["candidates_appended_at_random"]

    assert asked(22, labelled=22) == asked(22, labelled=23)
    assert asked(22, labelled=22)[1:] == (1, 3)


def test_the_last_item_is_the_example_and_not_in_the_history(data: Dataset) -> None:
    made = model(data, "listwise", prompt="listwise-in-context")
    with made.before(np.array([3, 7]), np.arange(20, 26)) as prefix:
        text = made.language.tokenizer.decode(prefix)
    assert "- title 3 genre3\n" in text
    assert "- title 7" not in text
    assert "recommend title 7 genre3" in text
    recent = model(data, "listwise", prompt="listwise-recency")
    with recent.before(np.array([3, 7]), np.arange(20, 26)) as prefix:
        text = recent.language.tokenizer.decode(prefix)
    assert "- title 7 genre3\n" in text
    assert "most recent one is title 7 genre3" in text


def test_more_candidates_than_labels_are_refused() -> None:
    assert len(LETTERS) == 52
    for many in (53, 0):
        with pytest.raises(InputError, match="52"):
            plugin("models", "listwise", candidates=many)
    plugin("models", "listwise", candidates=60, read="generate")


def test_bert_is_asked_for_a_gap_and_writes_nothing(data: Dataset, tmp_path: Any) -> None:
    lm = language("masked")
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    found = language_of(plugin("models", "listwise", model=str(tmp_path)), data, Context(0))
    assert found.role == "masked"
    assert torch.isfinite(scores(model(data, "listwise", model=str(tmp_path)), 2)).all()
    with pytest.raises(InputError, match="fills gaps"):
        model(data, "listwise", model=str(tmp_path), read="generate")
    with pytest.raises(InputError, match="fills gaps"):
        model(data, "title-likelihood", model=str(tmp_path))


# -- sliding windows and pairs ---------------------------------------------------------------------

@pytest.mark.parametrize(("size", "window", "step"),
                         list(itertools.product((1, 3, 4, 9, 20), (2, 4), (1, 2))))
def test_windows_reach_from_the_back_to_the_front(size: int, window: int, step: int) -> None:
    starts = windows(size, window, step)
    assert starts[-1] == 0
    assert starts[0] == max(size - window, 0)
    assert all(0 < a - b <= step for a, b in itertools.pairwise(starts))


def sliding(data: Dataset, monkeypatch: pytest.MonkeyPatch, worst_first: list[int],
            passes: int) -> list[int]:
    made = model(data, "sliding", candidates=12, passes=passes, read="generate")
    items = np.arange(20, 32)
    base = torch.zeros(1, data.n_items)
    base[0, torch.tensor(worst_first)] = torch.arange(12.0)  # the retriever's order, reversed
    monkeypatch.setattr(made.retriever, "scores", lambda users, split="test": base)
    oracle(made, monkeypatch, worst_first)
    found = made.rate(0, np.array([1]), items, "test")
    return [int(items[n]) for n in found.argsort(descending=True)]


def test_one_pass_brings_the_two_best_from_the_back_to_the_front(
        data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    best = np.random.default_rng(1).permutation(np.arange(20, 32)).tolist()
    once = sliding(data, monkeypatch, best, 1)
    assert once[:2] == best[:2]
    assert once != best
    assert sliding(data, monkeypatch, best, 6) == best


def test_nonsense_about_windows_keeps_no_order_of_the_retriever(
        data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "sliding", candidates=12, read="generate")
    monkeypatch.setattr(made.asker, "write", lambda p, s, most: ["Well, hm."] * len(s))
    monkeypatch.setattr(made.retriever, "scores", lambda users, split="test": -torch.arange(
        float(data.n_items))[None])
    found = [made.rate(u, np.array([1]), np.arange(20, 32), "test").tolist() for u in range(9)]
    assert len(set(map(tuple, found))) == 9
    assert made.take_facts()["answers_without_candidates"] > 0


def test_pairs_are_asked_in_both_orders_and_averaged(data: Dataset) -> None:
    made = model(data, "pairwise")
    prefix = made.prefix(np.array([1, 2]))
    there, back = made.preferred(prefix, [(5, 9), (9, 5)]).tolist()
    assert there == pytest.approx(1 - back, abs=1e-6)
    first, second = made.answers
    margin = [float(made.asker.read(prefix, [made.question(a, b)], lambda z: (
        z[:, first].logsumexp(1) - z[:, second].logsumexp(1)))[0]) for a, b in ((5, 9), (9, 5))]
    one, two = (1 / (1 + np.exp(-m)) for m in margin)
    assert there == pytest.approx((one + 1 - two) / 2, abs=1e-6)
    assert abs(one - (1 - two)) > 1e-4  # there is a bias of position to be averaged out


def test_hard_votes_that_disagree_make_a_half(data: Dataset,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "pairwise", votes="hard")
    for answers, expected in (([2.0, 1.0], 0.5), ([2.0, -1.0], 1.0), ([-2.0, 1.0], 0.0)):
        monkeypatch.setattr(made, "kept", lambda p, s, ask, a=answers: torch.tensor(a))
        assert float(made.preferred([1], [(5, 9)])[0]) == expected


@pytest.mark.parametrize("method", ["all", "sliding"])
def test_a_judge_of_pairs_who_is_right_sorts(data: Dataset, monkeypatch: pytest.MonkeyPatch,
                                             method: str) -> None:
    made = model(data, "pairwise", method=method)
    items = np.arange(20, 30)
    best = np.random.default_rng(2).permutation(items).tolist()
    monkeypatch.setattr(made, "preferred", lambda prefix, pairs: torch.tensor(
        [float(best.index(a) < best.index(b)) for a, b in pairs]))
    found = made.rate(0, np.array([1]), items, "test")
    assert [int(items[n]) for n in found.argsort(descending=True)] == best


def test_a_pass_over_pairs_finds_the_best(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, "pairwise", method="sliding", passes=1)
    asked: list[tuple[int, int]] = []
    items = np.arange(20, 30)
    best = [*range(29, 19, -1)]
    monkeypatch.setattr(made.retriever, "scores", lambda users, split="test": -torch.arange(
        float(data.n_items))[None])

    def preferred(prefix: list[int], pairs: list[tuple[int, int]]) -> torch.Tensor:
        asked.extend(pairs)
        return torch.tensor([float(best.index(a) < best.index(b)) for a, b in pairs])

    monkeypatch.setattr(made, "preferred", preferred)
    found = made.rate(0, np.array([1]), items, "test")
    assert int(found.argmax()) == 9
    assert len(asked) == 9


def test_likelihood_of_bert_is_refused() -> None:
    lm = language("masked")
    with pytest.raises(InputError, match="no likelihood"):
        log_likelihood(lm, [1], [[2]], 4)


# -- p5 --------------------------------------------------------------------------------------------

def p5(data: Dataset, **params: Any) -> Any:
    given = {"shots": 8, "epochs": 1, "batch_size": 8, "patience": 0} | params
    return model(data, "p5", **given)


def test_users_are_timed_where_they_are_scored_and_not_where_answers_are_read_back(
        data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is scored untimed, to warm up, is looked up afterwards."""
    from bench.metrics import _stream
    from bench.text import likelihood

    made: Any = Registry().make("models", {"name": "yes-no", "params": {
        "model": "tiny-random", "candidates": 4}})
    model = build(made, data, Context(0))
    model.fit(NoDefense(), lambda event: None)
    timed, asked, inside = [], likelihood.yes_no, [False]

    class Watch(_stream._Watch):
        def __enter__(self) -> Any:
            inside[0] = True
            return super().__enter__()

        def __exit__(self, *rest: Any) -> Any:
            inside[0] = False
            return super().__exit__(*rest)

    monkeypatch.setattr(_stream, "_Watch", Watch)
    monkeypatch.setattr(likelihood, "yes_no",
                        lambda *a, **k: (timed.append(inside[0]), asked(*a, **k))[1])
    evaluate(model, data.replace(asked=np.arange(6)), ["ndcg@10"])
    assert len(timed) >= 6
    assert all(timed)


def test_the_trie_allows_exactly_the_catalogue(data: Dataset) -> None:
    made = p5(data)
    assert made.trie.all() == sorted(map(tuple, made.ids))
    assert len(made.trie.all()) == data.n_items
    assert made.trie.next(made.ids[3]) == []
    assert made.trie.next([*made.ids[3], 0]) == []
    assert made.trie.next([]) == sorted({row[0] for row in made.ids})
    with pytest.raises(ValueError, match="beginning"):
        Trie([[1, 2], [1, 2, 3]])


def test_probabilities_of_ids_add_up_to_one(data: Dataset) -> None:
    made = p5(data)
    source = made.source(0, [1, 2])
    assert float(made.id_likelihoods(source, made.ids).exp().sum()) == pytest.approx(1, abs=1e-4)
    free = p5(data, constrained=False)
    assert float(free.id_likelihoods(source, free.ids).exp().sum()) < 0.5


@pytest.mark.parametrize("constrained", [True, False])
def test_ids_are_as_likely_as_token_by_token(data: Dataset, constrained: bool) -> None:
    made = p5(data, constrained=constrained, prompts_at_once=3)
    source, items = made.source(0, [1, 2]), [0, 8, 9, 10, 47]
    found = made.id_likelihoods(source, [made.ids[i] for i in items])
    lm = made.language
    start = int(lm.module.config.decoder_start_token_id)
    for score, item in zip(found.tolist(), items, strict=True):
        slow, row = 0.0, made.ids[item]
        for n, token in enumerate(row):
            with torch.no_grad():
                logits = lm.module(input_ids=torch.tensor([[*source, *lm.end]]),
                                   decoder_input_ids=torch.tensor([[start, *row[:n]]])
                                   ).logits[0, -1]
            among = sorted({r[n] for r in made.ids if r[:n] == row[:n]}) if constrained \
                else list(range(len(logits)))
            slow += float(logits[token] - logits[among].logsumexp(dim=0))
        assert score == pytest.approx(slow, abs=1e-4)


def test_the_loss_is_what_scores_are_made_of(data: Dataset) -> None:
    made = p5(data, constrained=False)
    batch = next(iter(made.batches(1, 4)))
    with torch.no_grad(), made.evaluating():
        loss = float(made.batch_loss(batch))
    scored = [float(made.id_likelihoods(made.source(u, h[:n]), [made.ids[i]])[0])
              for u, h, n, i in zip(*(batch[k].tolist() for k in (
                  "users", "histories", "lengths", "items")), strict=True)]
    assert loss == pytest.approx(-np.mean(scored), abs=1e-4)


def test_an_item_that_is_disliked_is_no_next_item(data: Dataset) -> None:
    made = p5(data, shots=0)
    liked = data.train.positives()
    pairs = set(zip(liked.users.tolist(), liked.items.tolist(), strict=True))
    for batch in made.batches(1, 64):
        assert set(zip(batch["users"].tolist(), batch["items"].tolist(), strict=True)) <= pairs


def test_an_id_alone_reads_no_text(data: Dataset) -> None:
    assert "text" not in plugin("models", "p5", show="id").gives
    made = p5(data, show="id")
    before = scores(made, 2)
    with made.reading_texts([f"other {t}" for t in data.item_text or ()]):
        assert torch.equal(scores(made, 2), before)
    reads = p5(data, show="both")
    before = scores(reads, 2)
    with reads.reading_texts([f"other {t}" for t in data.item_text or ()]):
        assert not torch.equal(scores(reads, 2), before)


def ndcg(made: Any, data: Dataset) -> float:
    return next(v for m, g, v in evaluate(made, data, ["ndcg@10"]).values if g == "all")


@pytest.mark.slow
def test_p5_learns_what_comes_next() -> None:
    data = plugin("datasets", "blocks", noise=0.0, length=10).load().replace(asked=np.arange(20))
    given: dict[str, Any] = {"candidates": 0, "shots": 0, "batch_size": 32, "history": 5,
                             "learning_rate": 0.01, "prompts_at_once": 48, "show": "id"}
    untaught, taught = p5(data, **given, tune="none"), p5(data, **given, epochs=18)
    assert ndcg(taught, data) > ndcg(untaught, data) + 0.08
    assert ndcg(taught, data) > 0.18  # chance: .10


@pytest.mark.parametrize("family", ["direct", "rating"])
def test_p5_learns_answers(data: Dataset, family: str) -> None:
    rows = data.train
    assert rows.ratings is not None
    judged = data.replace(train=dataclasses.replace(
        rows, labels=(rows.ratings >= 4).astype(np.int8)))
    made = p5(judged, family=family, shots=12, batch_size=12, epochs=100, learning_rate=0.01)
    batch = next(iter(made.batches(0, 12)))
    right = batch["labels"].tolist() if family == "direct" else [
        made._rated[pair] for pair in zip(batch["users"].tolist(), batch["items"].tolist(),
                                          strict=True)]
    shares = np.unique(right, return_counts=True)[1] / len(right)
    blind = -float((shares * np.log(shares)).sum())  # of whoever knows the shares alone
    assert float(made.batch_loss(batch).detach()) < 0.75 * blind


def test_ratings_that_are_not_there_are_missed(data: Dataset) -> None:
    implicit = plugin("datasets", "blocks", explicit=False).load()
    found = plugin("models", "p5", model="tiny-random", family="rating").unfit(implicit)
    assert "no ratings" in found
