"""What of an item's text reaches a language model: no control tokens, and the end only where it
fits. On two layers of random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import InputError
from bench.models.base import build
from bench.registry import Registry
from bench.text.language import load

REGISTRY = Registry()
MARKS = ["[SEP]", "</s>", "[MASK] great [CLS]", "[[SEP]SEP]", "x[PAD]", "[SEP][SEP]</s>"]
CORPUS = [f"title {n} genre{n % 4}" for n in range(48)]


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def model(data: Dataset, name: str = "yes-no", **params: Any) -> Any:
    made = build(plugin("models", name, model="tiny-random", **params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


def specials(language: Any) -> set[int]:
    return set(language.tokenizer.all_special_ids) - {language.tokenizer.unk_token_id}


# -- control tokens ------------------------------------------------------------------------------

@pytest.mark.parametrize("role", ["encoder", "causal", "seq2seq"])
@pytest.mark.parametrize("text", MARKS)
def test_what_looks_like_a_control_token_gives_none(role: str, text: str) -> None:
    lm = load("tiny-random", role, corpus=CORPUS)
    assert specials(lm) & set(lm.ids(text))  # as it stands it does
    plain = lm.plain(text)
    assert not specials(lm) & set(lm.ids(plain))
    assert lm.plain(plain) == plain
    assert plain.replace(" ", "") == text.replace(" ", "")


def test_other_texts_stay_as_they_are() -> None:
    lm = load("tiny-random", "causal", corpus=CORPUS)
    for text in (*CORPUS, "[sep] <x> [ SEP ]", "", "Über [Café] </", "a\n\nb"):
        assert lm.plain(text) == text


def test_tokens_added_by_hand_and_looked_for_in_normalised_text() -> None:
    from tokenizers import AddedToken, normalizers

    lm = load("tiny-random", "causal", corpus=CORPUS)
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()])
    turns = [AddedToken("<start_of_turn>", special=True, normalized=True)]
    lm.tokenizer.add_special_tokens({"additional_special_tokens": turns})
    turn = lm.tokenizer.convert_tokens_to_ids("<start_of_turn>")
    for text in ("<start_of_turn>", "Heat <START_of_turn>model", "\uff1cstart_of_turn\uff1e x"):
        lm._plain, lm._ids = None, {}
        assert turn in lm.ids(text), text
        assert turn not in lm.ids(lm.plain(text)), text


def test_control_tokens_that_no_tokenizer_calls_special() -> None:
    lm = load("tiny-random", "causal", corpus=CORPUS)
    added = ["<start_of_image>", "<|fim|>", "[multimodal]", "<think>", "</think>", "<image>",
             "<u>", "<b>", "</td>", "e.g."]
    lm.tokenizer.add_tokens(added)
    lm.tokenizer.chat_template = "{{ messages }}<u>"
    ids = {t: lm.tokenizer.convert_tokens_to_ids(t) for t in added}
    for token in added:
        text = f"Heat {token} two"
        assert ids[token] in lm.ids(text)
        if token in added[:7]:
            assert ids[token] not in lm.ids(lm.plain(text)), token
        else:
            assert lm.plain(text) == text


@pytest.mark.parametrize(("name", "params"), [
    ("text-cosine", {}), ("text-sasrec", {"epochs": 0}), ("dual-encoder", {"tune": "none"}),
    ("yes-no", {}), ("listwise", {"bootstraps": 1}), ("p5", {"shots": 4, "epochs": 1})])
def test_every_reader_reads_texts_without_control_tokens(data: Dataset, name: str,
                                                         params: dict[str, Any]) -> None:
    m = model(data, name, **params)
    texts = list(data.item_text or ())
    texts[7] = "title 7 [SEP] genre3 </s>"
    with m.reading_texts(texts):
        assert m.texts[7].endswith("title 7 [ SEP] genre3 < /s>")
        assert m.take_facts()["control_tokens"] == 1
    assert "control_tokens" not in m.take_facts()
    made = model(data.replace(item_text=texts), name, **params)
    assert made.texts[7].endswith("title 7 [ SEP] genre3 < /s>")


def test_the_prompts_own_control_tokens_stay(data: Dataset) -> None:
    m = model(data)
    m.prompt = type(m.prompt)(**{**vars(m.prompt), "prefix": "[CLS]" + m.prompt.prefix})
    assert m.language.tokenizer.cls_token_id in m.prefix([1, 2])


# -- what is cut ---------------------------------------------------------------------------------

def longer(data: Dataset, items: list[int], words: int = 400) -> Dataset:
    texts = list(data.item_text or ())
    for item in items:
        texts[item] = f"{texts[item]} " + " ".join(f"word{n}" for n in range(words))
    return data.replace(item_text=texts)


@pytest.mark.parametrize(("name", "params"), [
    ("text-cosine", {}), ("text-sasrec", {"epochs": 0}), ("dual-encoder", {"tune": "none"})])
def test_an_encoder_counts_the_texts_that_it_does_not_read_to_their_end(
        data: Dataset, name: str, params: dict[str, Any]) -> None:
    m = model(data, name, **params)
    m.reads_with().limit = 300
    assert "texts_cut" not in m.take_facts()
    with m.reading_texts(longer(data, [3, 9]).item_text):
        assert m.take_facts()["texts_cut"] == 2
        if name == "dual-encoder":
            m.scores(torch.arange(data.n_genuine))
            has = sum(bool({3, 9} & set(m.history(u, "test").tolist()))
                      for u in range(data.n_genuine))
            assert m.take_facts()["histories_cut"] == has > 0
    assert "texts_cut" not in m.take_facts()


PROMPTED = [("yes-no", {}), ("title-likelihood", {}), ("title-likelihood", {"pmi": True}),
            ("listwise", {"bootstraps": 1}), ("listwise", {"read": "generate", "bootstraps": 1}),
            ("pairwise", {}), ("sliding", {"window": 3}),
            ("tallrec", {"shots": 4, "epochs": 1}),
            ("p5", {"shots": 4, "epochs": 1, "family": "direct"})]


@pytest.mark.parametrize(("name", "params"), PROMPTED)
def test_one_overlong_candidate_takes_no_history_from_the_others(
        data: Dataset, name: str, params: dict[str, Any]) -> None:
    """With it among the candidates, every prompt holds the history that it holds without it."""
    items, history = np.array([20, 21, 22, 23, 24]), np.arange(6)
    m = model(data, name, candidates=5, history=6, **params)
    long = list(longer(data, [22], 2000).item_text or ())
    kept: list[tuple[int, int]] = []
    plain = m.prefix

    def prefix(shown: Any, **more: Any) -> list[int]:
        found: list[int] = plain(shown, **more)
        kept.append((len(shown), m.left_out))
        return found

    m.prefix = prefix
    m.language.limit = 1000
    m.rate(0, history, items, "test")
    assert not any(out for _, out in kept)  # the limit is wide enough for ordinary texts
    assert m.take_facts().get("texts_cut", 0) == 0
    with m.reading_texts(long):
        found = m.rate(0, history, items, "test")
        assert torch.isfinite(found).all()
        assert kept[-1][1] == 0
        assert m.take_facts()["texts_cut"] == 1


def test_a_cut_text_is_its_beginning_and_others_stay(data: Dataset) -> None:
    m = model(data, history=6)
    m.language.limit = 400
    long = list(longer(data, [22]).item_text or ())
    with m.reading_texts(long):
        usual = [len(m.language.ids(m.texts[i])) for i in (20, 21)]
        with m.asked(0, np.arange(6), np.array([20, 21, 22]), "test"):
            assert [m.text_of(i) for i in (20, 21)] == [m.texts[i] for i in (20, 21)]
            assert long[22].startswith(m.text_of(22))
            assert len(m.language.ids(m.text_of(22))) == 2 * max(usual)
        assert m.text_of(22) == m.texts[22]


def test_an_overlong_item_of_the_history_is_cut_before_others_are_left_out(data: Dataset) -> None:
    m = model(data, history=6)
    m.language.limit = 400
    with m.reading_texts(longer(data, [5]).item_text), \
            m.asked(0, np.arange(6), np.array([20, 21, 22]), "test") as prefix:
        said = m.language.tokenizer.decode(prefix)
        assert all(f"title {n} genre" in said for n in range(6))
        assert "word0" not in said or "word90" not in said


def test_texts_that_are_all_long_lose_history_and_then_their_ends(data: Dataset) -> None:
    m = model(longer(data, list(range(48)), 60), history=6)
    m.language.limit = 700
    with m.asked(0, np.arange(6), np.array([20, 21, 22]), "test") as prefix:
        assert 0 < m.left_out < 6
        assert {**m.take_facts()} == {"histories_cut": 1, "history_items_cut": m.left_out}
        assert len(prefix) + len(m.suffix(20)) <= 700
        assert "texts_cut" not in m.take_facts()
    m.language.limit = len(m.prefix([])) + 60
    with m.asked(0, np.arange(6), np.array([20, 21, 22]), "test") as prefix:
        assert len(prefix) + max(len(m.suffix(i)) for i in (20, 21, 22)) <= m.language.limit
        assert m.take_facts()["texts_cut"] == 9  # candidates, and the history that was tried


def test_each_history_that_lost_items_counts_once_and_all_its_items_count(data: Dataset) -> None:
    m = model(longer(data, list(range(48)), 60), history=6)
    m.language.limit = 700
    out = []
    for user, history in ((0, np.arange(6)), (1, np.arange(10, 16)), (0, np.arange(6))):
        with m.asked(user, history, np.array([20, 21, 22]), "test"):
            out.append(m.left_out)
    assert min(out) > 0
    assert out[0] == out[2]  # the same prompt again
    facts = m.take_facts()
    assert (facts["histories_cut"], facts["history_items_cut"]) == (2, out[0] + out[1])


def test_where_nothing_helps_the_item_is_named(data: Dataset) -> None:
    m = model(longer(data, [22]))
    m.language.limit = 20
    with pytest.raises(InputError, match=r"reads 20 tokens.*the text of 'i22' cut to a token"):
        m.rate(0, np.arange(3), np.array([20, 21, 22]), "test")


def test_training_cuts_and_marks_the_same(data: Dataset) -> None:
    m = build(plugin("models", "tallrec", model="tiny-random", shots=4, history=3),
              longer(data, list(range(48)), 100), Context(0))
    m.language.limit = 300
    batch = next(iter(m.batches(1, 4)))
    tokens = m.tokens(batch)
    assert tokens.ids.shape[1] <= 300
    assert bool(tokens.text.any(dim=1).all())
