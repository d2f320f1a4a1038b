"""Encoders that learn from unlabelled item texts first: masked tokens, dropout pairs, pairs of
items that users took together."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.context import Context
from bench.data import Dataset, Interactions
from bench.errors import InputError
from bench.models.base import build
from bench.models.text_cosine import TextCosine
from bench.models.text_sasrec import TextSASRec
from bench.models.unisrec import UniSRec
from bench.registry import Registry
from bench.text import pretraining
from bench.text.encode import Encoder, hidden_states, pool, rows_of
from bench.text.language import Language, load
from bench.text.objectives import IGNORED, Partners, info_nce, masked, next_tokens

TEXTS = [f"title {n} genre{n % 4}" for n in range(48)]
REGISTRY = Registry()
TRAINED: dict[str, Any] = {"dim": 16, "inner": 32, "layers": 1, "max_length": 8, "epochs": 2}
MODELS: list[tuple[Any, dict[str, Any]]] = [(TextCosine, {"whiten": 8}), (TextSASRec, TRAINED),
                                            (UniSRec, {**TRAINED, "experts": 2})]


def no_defense() -> Any:
    return REGISTRY.make("defenses", {"name": "none"})


@cache
def data(**params: Any) -> Dataset:
    made: Any = REGISTRY.make("datasets", {"name": "blocks", "params": params})
    loaded: Dataset = made.load()
    return loaded


def language(role: str) -> Language:
    return load("tiny-random", role, corpus=TEXTS)


def fitted(cls: Any = TextCosine, on: Dataset | None = None, **params: Any
           ) -> tuple[Any, dict[str, Any]]:
    """The model, and the notes of its training."""
    chosen = {"model": "tiny-random", "dtype": "float32", "pretrain_rate": 1e-3, **params}
    model = build(cls(**chosen), on or data(), Context(0))
    return model, model.fit(no_defense(), lambda event: None).notes


def vectors_of(model: Any) -> torch.Tensor:
    made: torch.Tensor = model.encoder(model.data.item_text)
    return made


# -- masked tokens -------------------------------------------------------------------------------

def test_fifteen_percent_are_masked_eighty_ten_ten_and_never_a_special_token() -> None:
    lm = language("masked")
    first, last = lm.tokenizer.cls_token_id, lm.tokenizer.sep_token_id
    rows = rows_of(lm, [*TEXTS, "a longer one with some more words in it"])
    ids, mask = lm.batch([[first, *row, last] for row in rows])
    special = torch.isin(ids, torch.tensor(lm.tokenizer.all_special_ids))
    assert special.any()
    assert (mask == 0).any()
    stream = torch.Generator().manual_seed(0)
    chosen = hidden = other = tokens = 0
    for _ in range(200):
        read, wanted = masked(lm, ids, mask, stream)
        at = wanted != IGNORED
        assert not (at & special).any()
        assert not (at & (mask == 0)).any()
        assert torch.equal(read[~at], ids[~at])
        assert torch.equal(wanted[at], ids[at])
        chosen, tokens = chosen + int(at.sum()), tokens + int((~special).sum())
        hidden += int((read[at] == lm.tokenizer.mask_token_id).sum())
        changed = read[at][(read[at] != lm.tokenizer.mask_token_id) & (read[at] != ids[at])]
        assert not torch.isin(changed, torch.tensor(lm.tokenizer.all_special_ids)).any()
        other += len(changed)
    assert chosen / tokens == pytest.approx(0.15, abs=0.005)
    assert hidden / chosen == pytest.approx(0.8, abs=0.015)
    assert other / chosen == pytest.approx(0.1, abs=0.015)


def test_the_loss_of_masked_tokens_falls() -> None:
    _, notes = fitted(pretrain="mlm", pretrain_epochs=25, pretrain_rate=5e-3)
    losses = notes["pretrain"]["losses"]
    assert len(losses) == 25
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert notes["pretrain"]["learned"] == "masked tokens"


def test_masked_tokens_begin_at_the_encoder_and_end_in_it(monkeypatch: Any) -> None:
    """The model inside the head is the encoder before a step, and the encoder is it after."""
    seen: list[Any] = []
    own = pretraining._descend

    def watched(module: Any, *rest: Any) -> Any:
        seen.append({k: v.clone() for k, v in module.base_model.state_dict().items()})
        found = own(module, *rest)
        seen.append({k: v.clone() for k, v in module.base_model.state_dict().items()})
        return found

    monkeypatch.setattr(pretraining, "_descend", watched)
    plain, _ = fitted()
    model, _ = fitted(pretrain="mlm")
    for inner, encoder in zip(seen, (plain, model), strict=True):
        weights = encoder.encoder.language.module.state_dict()
        assert all(torch.equal(v, weights[k]) for k, v in inner.items())
    assert not torch.equal(vectors_of(plain), vectors_of(model))


def test_a_causal_model_learns_the_next_token_and_says_so(tmp_path: Path) -> None:
    lm = language("causal")
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    plain, _ = fitted(model=str(tmp_path))
    model, notes = fitted(model=str(tmp_path), pretrain="mlm", pretrain_epochs=5)
    assert notes["pretrain"]["learned"].startswith("the next token")
    assert notes["pretrain"]["losses"][-1] < notes["pretrain"]["losses"][0]
    assert not torch.equal(vectors_of(plain), vectors_of(model))


def test_next_tokens_stop_where_padding_begins() -> None:
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert next_tokens(ids, mask).tolist() == [[6, 7, IGNORED], [9, IGNORED, IGNORED]]


def test_a_model_that_gives_no_words_is_refused(tmp_path: Path) -> None:
    lm = language("seq2seq")
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="neither fills gaps nor continues"):
        fitted(model=str(tmp_path), pretrain="mlm")


# -- pairs ---------------------------------------------------------------------------------------

def test_info_nce_against_the_sum_written_out() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    barred = torch.zeros(5, 5, dtype=torch.bool)
    barred[1, 3] = barred[2, 2] = True
    slow = 0.0
    for i in range(5):
        cosines = [float(F.cosine_similarity(a[i], b[j], dim=0)) / 0.1 for j in range(5)]
        others = [c for j, c in enumerate(cosines) if j == i or not barred[i, j]]
        slow += float(np.log(np.exp(others).sum()) - cosines[i]) / 5
    assert float(info_nce(a, b, 0.1, barred)) == pytest.approx(slow, rel=1e-5)


def test_a_partner_was_taken_by_a_user_of_the_item_in_train() -> None:
    train = data().train
    taken = [set(train.items[train.users == u].tolist()) for u in range(data().n_users)]
    partners, seen = Partners(data(), 7), set()
    for epoch in range(1, 30):
        first, second = partners.draw(epoch)
        assert len(set(first.tolist())) == len(first)
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            assert a != b
            assert any({a, b} <= t for t in taken)
            seen.add((a, b))
    possible = {(a, b) for t in taken for a in t for b in t if a != b}
    assert len(seen) > 0.5 * len(possible)
    again = Partners(data().replace(test=data().valid, valid=data().test), 7)
    for mine, theirs in zip(partners.draw(3), again.draw(3), strict=True):
        assert torch.equal(mine, theirs)


def test_every_other_item_of_a_user_is_a_partner_and_whoever_has_one_item_has_none() -> None:
    rows = Interactions(users=np.array([0, 0, 0, 1]), items=np.array([3, 5, 7, 9]),
                        times=np.arange(4.0))
    partners, seen = Partners(data().replace(train=rows), 7), set()
    for epoch in range(60):
        seen |= set(zip(*(x.tolist() for x in partners.draw(epoch)), strict=True))
    assert seen == {(a, b) for a in (3, 5, 7) for b in (3, 5, 7) if a != b}


def similarity(model: Any, pairs: torch.Tensor) -> float:
    """Mean cosine of pairs (2, P), less that of all items with each other."""
    x = F.normalize(vectors_of(model), dim=1)
    cosines = x @ x.T
    return float(cosines[pairs[0], pairs[1]].mean() - cosines.mean())


def test_items_taken_together_become_similar() -> None:
    apart = data(blocks=6, length=8, noise=0.0)  # few other items of a batch are taken together too
    partners = Partners(apart, 3)
    pairs = torch.cat([torch.stack(partners.draw(e)) for e in range(20)], dim=1)
    plain, _ = fitted(on=apart)
    model, notes = fitted(on=apart, pretrain="contrastive-pairs", pretrain_epochs=20,
                          pretrain_batch=16)
    assert similarity(model, pairs) > similarity(plain, pairs) + 0.1
    assert notes["pretrain"]["losses"][-1] < notes["pretrain"]["losses"][0]


def test_a_text_under_two_dropouts_becomes_similar_against_the_others() -> None:
    def gap(model: Any) -> float:
        lm = model.encoder.language
        ids, mask = lm.batch(rows_of(lm, TEXTS))
        lm.module.train()
        torch.manual_seed(1)
        with torch.no_grad():
            a, b = (F.normalize(pool(hidden_states(lm, ids, mask), mask, "mean"), dim=1)
                    for _ in range(2))
        lm.module.eval()
        cosines = a @ b.T
        return float(cosines.diag().mean() - cosines.mean())

    plain, _ = fitted()
    model, notes = fitted(pretrain="contrastive-dropout", pretrain_epochs=10)
    assert gap(model) > gap(plain) + 0.1
    assert notes["pretrain"]["losses"][-1] < notes["pretrain"]["losses"][0]


def test_a_model_without_dropout_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    lm = language("encoder")
    config: Any = lm.module.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no dropout"):
        fitted(model=str(tmp_path), pretrain="contrastive-dropout")


# -- what stays ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("cls", "params"), MODELS)
def test_no_epochs_are_no_pretraining_bit_for_bit(cls: Any, params: dict[str, Any]) -> None:
    users = torch.arange(data().n_genuine)
    plain, _ = fitted(cls, **params)
    none, notes = fitted(cls, pretrain="mlm", pretrain_epochs=0, **params)
    assert torch.equal(plain.scores(users), none.scores(users))
    assert "pretrain" not in notes
    assert not any(k.startswith("language.") for k in none.state())


@pytest.mark.parametrize(("cls", "params"), MODELS)
def test_a_saved_model_reads_new_texts_by_the_encoder_that_learned(cls: Any,
                                                                   params: dict[str, Any]) -> None:
    users = torch.arange(data().n_genuine)
    chosen = {"pretrain": "contrastive-pairs", "pretrain_epochs": 3, "pretrain_rate": 1e-3,
              "model": "tiny-random", "dtype": "float32", **params}
    model, _ = fitted(cls, **chosen)
    again, _ = fitted(cls, **chosen)
    assert torch.equal(model.scores(users), again.scores(users))
    fresh = build(cls(**chosen), data(), Context(0))
    fresh.load_state({k: v.clone() for k, v in model.state().items()})
    assert torch.equal(model.scores(users), fresh.scores(users))
    texts = [t + " excellent" for t in data().item_text or ()]
    with model.reading_texts(texts), fresh.reading_texts(texts):
        assert torch.equal(model.scores(users), fresh.scores(users))
        untaught = Encoder(load("tiny-random", "encoder", corpus=data().item_text or (),
                                seed=Context(0).number("language") % 2**31))
        assert not torch.allclose(model.encoder(texts), untaught(texts), atol=1e-3)
    assert not any(p.requires_grad for p in model.encoder.language.module.parameters())


def test_no_privacy_of_users_is_promised_where_pairs_of_theirs_enter_the_encoder() -> None:
    def gives(**params: Any) -> frozenset[str]:
        return UniSRec(model="tiny-random", **params).gives

    assert "user-separable" in gives()
    assert "user-separable" in gives(pretrain="mlm")
    assert "user-separable" not in gives(pretrain="contrastive-pairs")
    assert "user-separable" in gives(pretrain="contrastive-pairs", pretrain_epochs=0)
