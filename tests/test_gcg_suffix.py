"""The optimised suffix: what it may write, that it climbs, that it survives being read. On two
layers of random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, InputError
from bench.models.base import build
from bench.registry import Registry
from bench.stages import Prepared, under_attack
from bench.text import likelihood
from bench.text.gcg import Suffix, writable
from bench.text.token_target import margins
from bench.text_shown import Shown, levenshtein

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


def attack(**params: Any) -> Any:
    known = REGISTRY.get("attacks", "gcg-suffix").test_params()
    return plugin("attacks", "gcg-suffix", **dict(known) | params)


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks", users=24, items=24).load()
    return made


@pytest.fixture(scope="module")
def asked(data: Dataset) -> Any:
    made: Any = build(plugin("models", "yes-no", model="tiny-random", candidates=6, history=3),
                      data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    with torch.no_grad():  # left as it is, a random model goes by the length of a prompt alone
        made.module.transformer.wpe.weight.zero_()
        made.module.transformer.wte.weight.mul_(10)
    return made


def text_of(data: Dataset, item: int = 13) -> str:
    return list(data.item_text or ())[item]


def suffix(data: Dataset, asked: Any, tokens: int = 4, users: int = 5) -> Suffix:
    return Suffix(asked, 13, text_of(data), np.arange(users), tokens, writable(asked.language),
                  lambda text: True)


def alone(data: Dataset, asked: Any, text: str, users: int = 5) -> float:
    """The mean margin of prompts that are written out as texts and read one by one."""
    found = []
    for user in range(users):
        history = asked.history(user, "test")
        if 13 in history:
            continue
        prompt = asked.prompt.before([text_of(data, int(i)) for i in history[-3:]])
        ids = asked.language.ids(prompt) + asked.language.ids("".join(asked.prompt.after(text)))
        with torch.no_grad():
            logits = asked.language.module(input_ids=torch.tensor([ids])).logits[0, -1:]
        found.append(float(likelihood.margins(logits, asked.yes, asked.no)))
    assert found
    return sum(found) / len(found)


def test_only_visible_ascii_is_written(asked: Any) -> None:
    able = writable(asked.language).tolist()
    texts = [asked.language.tokenizer.decode([n]) for n in able]
    assert all(t.isascii() and t.isprintable() and t.strip() for t in texts)
    assert len(able) > 90
    assert not set(able) & set(asked.language.tokenizer.all_special_ids)


def test_no_token_hides_spaces(asked: Any) -> None:
    known = [" a", "a", "!", "  a", "a b", "a ", " ", "", "é", "\ta", "[SEP]"]

    class Tokenizer:
        all_special_ids = (10,)

        def __len__(self) -> int:
            return len(known)

        def batch_decode(self, rows: list[list[int]], **more: Any) -> list[str]:
            return [known[n] for (n,) in rows]

    class Model:
        tokenizer, device = Tokenizer(), "cpu"

        def embeddings(self) -> Any:
            return torch.nn.Embedding(len(known), 2)

    model: Any = Model()
    assert writable(model).tolist() == [0, 1, 2]


def test_margins_are_exact(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked)
    texts = [text_of(data), text_of(data) + " ! !", text_of(data) + " genre1"]
    assert made.exact(texts).tolist() == pytest.approx([alone(data, asked, t) for t in texts],
                                                       abs=1e-5)


def test_the_span_is_the_suffix(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked)
    found = made.span(made.now)
    assert found is not None
    tokenizer = asked.language.tokenizer
    assert tokenizer.decode([found.suffix[n] for n in found.places]) == " ! ! ! !"
    assert made.span(text_of(data)) is None


def test_the_slopes_are_those_of_finite_differences(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked)
    found = made.span(made.now)
    assert found is not None
    slopes, table = made.slopes(found), asked.language.embeddings().weight
    for place, token in ((0, 3), (1, 40), (len(found.places) - 1, 77)):
        step = torch.zeros(len(found.places), table.shape[1])
        step[place] = table[made.able[token]] * 0.3
        ends = [float(margins(asked, [(p, found, sign * step) for p in made.target.prefixes])
                      .mean()) for sign in (1, -1)]
        assert float(slopes[place, token]) == pytest.approx((ends[0] - ends[1]) / 0.6, rel=0.05,
                                                            abs=2e-4)


def test_the_margin_never_falls_and_is_that_of_the_text(data: Dataset, asked: Any) -> None:
    made, random = suffix(data, asked), np.random.default_rng(0)
    for _ in range(6):
        assert made.round(16, 32, random)
        assert made.margin == pytest.approx(alone(data, asked, made.now), abs=1e-5)
    assert made.best == sorted(made.best)
    assert made.best[-1] > made.best[0]
    assert len(made.best) == 7
    for _ in range(20):  # one option drawn at random is mostly a worse one
        made.round(1, 10_000, random)
    assert made.best == sorted(made.best)


def test_options_differ_by_one_token_and_survive_being_read(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked)
    found = made.span(made.now)
    assert found is not None
    slopes = made.slopes(found)
    options = made.options(found, slopes, 60, 20, np.random.default_rng(0))
    assert len(options) > 5
    best = made.able[slopes.topk(20, dim=1).indices].tolist()
    for text in options:
        assert text.startswith(text_of(data))
        ids = asked.language.ids("".join(asked.prompt.after(text)))
        changed = [n for n, (a, b) in enumerate(zip(ids, found.suffix, strict=True)) if a != b]
        assert len(changed) == 1
        assert ids[changed[0]] in best[found.places.index(changed[0])]


def test_the_slope_leads_to_better_options_than_its_opposite(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked, tokens=6)
    found = made.span(made.now)
    assert found is not None
    slopes = made.slopes(found)
    up, down = (made.exact(made.options(found, s, 80, 16, np.random.default_rng(0))).mean()
                for s in (slopes, -slopes))
    assert float(up) > float(down)


def test_a_text_out_of_bounds_is_no_option(data: Dataset, asked: Any) -> None:
    made = suffix(data, asked)
    made.allowed = lambda text: "e" not in text.removeprefix(text_of(data))
    found = made.span(made.now)
    assert found is not None
    options = made.options(found, made.slopes(found), 80, 200, np.random.default_rng(0))
    assert options
    assert not any("e" in t.removeprefix(text_of(data)) for t in options)


def strike(made: Any, data: Dataset, **params: Any) -> tuple[Any, list[str], Tensor]:
    with under_attack(attack(**params), made, Prepared(data, data, data, None),
                      Context(0)) as struck, torch.no_grad():
        return struck, list(made.texts), made.scores(torch.arange(data.n_genuine)).clone()


def test_in_a_cell_targets_alone_get_a_suffix_and_rise(data: Dataset, asked: Any) -> None:
    targets = attack().aims(data, Context(0))
    with asked.offering(targets), torch.no_grad():
        clean = asked.scores(torch.arange(data.n_genuine))
    before = list(asked.texts)
    struck, texts, _ = strike(asked, data, candidates=24, iterations=12)
    for item, (was, now) in enumerate(zip(before, texts, strict=True)):
        if item in targets:
            assert now.startswith(was)
            assert (levenshtein(was, now) or 0) <= 200
        else:
            assert now == was
    assert any(texts[t] != before[t] for t in targets)
    assert struck.facts["queries"] > 2 * 12 * 2
    assert asked.texts == before
    with asked.offering(targets), torch.no_grad():
        assert torch.equal(asked.scores(torch.arange(data.n_genuine)), clean)


def test_few_characters_hold_it_back(data: Dataset, asked: Any) -> None:
    targets = attack().aims(data, Context(0))
    before = list(asked.texts)
    _, texts, _ = strike(asked, data, edits=9, candidates=24, iterations=4)
    assert all((levenshtein(before[t], texts[t]) or 0) <= 9 for t in targets)
    assert strike(asked, data, edits=0)[1] == before


def test_a_suffix_that_no_budget_lets_begin_is_refused_or_counted(data: Dataset,
                                                                  asked: Any) -> None:
    with pytest.raises(InputError, match=r"tokens\].*4 characters.*tokens: at most 1"):
        attack(tokens=2, edits=3)
    assert attack(tokens=2, edits=4).edits == 4
    struck, texts, _ = strike(asked, data, share=0.01)  # two words more are more than that
    assert texts == list(asked.data.item_text or ())
    assert struck.facts["targets_out_of_bounds"] == 2
    assert "targets_out_of_bounds" not in strike(asked, data)[0].facts


def test_a_suffix_that_does_not_help_is_left_out(data: Dataset, asked: Any) -> None:
    chosen = attack(iterations=0)
    shown = Shown(asked, chosen, np.arange(12), list(asked.texts))
    left_out = 0
    for item in range(12):
        text = asked.texts[item]
        written = chosen.search(text, item, shown, Context(0)).now
        better = shown.gain(item, written) > shown.gain(item, text)
        assert chosen.rewrite(text, item, shown, data, Context(0)) == (written if better else text)
        left_out += not better
    assert left_out


def test_it_reads_what_a_defense_lets_through(data: Dataset, asked: Any) -> None:
    asked.filtered(lambda texts: [t.split(" !")[0] for t in texts])  # no suffix gets through
    try:
        before = list(asked.data.item_text or ())
        assert strike(asked, data)[1] == before
    finally:
        asked.filters.clear()
        asked._now = None
        asked.forget()


def test_other_models_are_refused_with_a_reason(data: Dataset) -> None:
    for other in ("bprmf", "text-cosine", "listwise"):
        assert "yes or no" in attack().unfit(plugin("models", other), data)
    assert attack().unfit(plugin("models", "yes-no", model="tiny-random"), data) is None
    served: Any = build(plugin("models", "text-cosine", model="tiny-random"), data, Context(0))
    shown = Shown(served, attack(), np.arange(3), list(data.item_text or ()))
    with pytest.raises(CannotActError, match="gradient"):
        attack().rewrite("a", 0, shown, data, Context(0))
