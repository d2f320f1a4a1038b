"""Attacks on the texts of items. Everything on two layers of random weights, or on words alone."""

from __future__ import annotations

import contextlib
import importlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench._contracts_lab import digest
from bench._contracts_texts import levenshtein, random_edit
from bench.context import Context
from bench.data import Dataset
from bench.errors import CannotActError, InputError, PluginError
from bench.evaluate import evaluate
from bench.models.base import Wrapped, build
from bench.plugin import param
from bench.registry import Registry
from bench.stages import Prepared, under_attack
from bench.text.language import load
from bench.text_attack import MEASURED, TextAttack
from bench.text_edits import by_importance, parts_of
from bench.text_shown import Shown, offering, visible

REGISTRY = Registry()
PARAMS: dict[str, dict[str, Any]] = {
    "keyword-insertion": {}, "char-perturbation": {}, "punctuation": {},
    "word-substitution": {"writer": "tiny-random", "candidates": 8}, "prompt-injection": {},
    "paraphrase": {"judge": "tiny-random", "similarity": 0.5, "longest": 1.6}}


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


def attack(name: str, **params: Any) -> Any:
    return plugin("attacks", name, **(PARAMS[name] | {"targets": 3} | params))


def module(name: str) -> Any:
    return importlib.import_module(f"bench.attacks.{name}")


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def fitted(data: Dataset, name: str = "text-cosine", **params: Any) -> Any:
    made = build(plugin("models", name, **params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


@pytest.fixture(scope="module")
def model(data: Dataset) -> Any:
    return fitted(data, model="tiny-random", whiten=8)


@contextlib.contextmanager
def struck(made: Any, model: Any, data: Dataset, seed: int = 0, **ctx: Any) -> Iterator[Any]:
    with under_attack(made, model, Prepared(data, data, data, None), Context(seed, **ctx)) as s:
        yield s


def shown(made: Any, model: Any, data: Dataset, users: Any = None) -> Shown:
    users = np.arange(data.n_genuine) if users is None else users
    return Shown(model, made, users, list(data.item_text or ()))


# -- the base class ------------------------------------------------------------------------------

class _Says(TextAttack):
    """Writes what it is told, for tests; no paper."""

    name = "says"
    text: str = param("{}", "what is written, with {} for the text")

    def rewrite(self, text: str, item: int, shown: Any, data: Any, ctx: Any) -> str:
        return self.text.replace("{}", text)


Says: Any = _Says  # the type checker does not see that parameters have defaults


@pytest.mark.parametrize("name", PARAMS)
def test_no_edits_change_nothing(name: str, model: Any, data: Dataset) -> None:
    with struck(attack(name, edits=0), model, data) as s:
        found = evaluate(s.model, s.data, MEASURED, targets=s.targets)
        assert {m: v for m, g, v in found.values if g == "all"} == s.facts["clean_targets"]
        assert s.facts["texts"]["changed"] == s.facts["queries"] == 0


@pytest.mark.parametrize(("bounds", "text", "said"), [
    ({"edits": 3}, "{} four", "more than 3 characters"),
    ({"share": 0.3}, "{} one", "1 of 3 words"),
    ({"similarity": 0.999, "judge": "tiny-random"}, "{} completely other words", "has cosine"),
    ({}, "{}\u200b", r"U\+200B, which nobody sees"), ({}, "{}\u3164", "nobody sees"),
    ({}, "{}\U000e0041", "nobody sees"), ({}, "{}\u202e", "nobody sees")])
def test_what_is_out_of_bounds_is_refused(bounds: dict[str, Any], text: str, said: str, model: Any,
                                          data: Dataset) -> None:
    with pytest.raises(PluginError, match=said), struck(Says(text=text, **bounds), model, data):
        pass


def test_an_odd_character_that_was_there_before_may_stay(data: Dataset) -> None:
    odd = data.replace(item_text=[f"{t}\u00a0\u200b" for t in data.item_text or ()])
    with struck(Says(text="{} x"), fitted(odd, model="tiny-random"), odd) as s:
        assert s.facts["texts"]["changed"] == 5
    assert not visible("\u200b")


def test_only_the_text_of_a_target_may_change(model: Any, data: Dataset) -> None:
    made, texts = Says(), list(data.item_text or ())
    with pytest.raises(PluginError, match="item 7 is no target"):
        made.bounded(shown(made, model, data), [*texts[:7], "other", *texts[8:]], np.array([3]))


class _Served(Wrapped):
    """Serves what the model scores."""

    def scores(self, users: Any, split: str = "test") -> Any:
        return self.base.scores(users, split)


@pytest.mark.parametrize("served", ["bare", "wrapped", "undefended"])
def test_who_rewrites_is_handed_no_test_row(served: str, model: Any, data: Dataset) -> None:
    """Neither of the data nor of the model that it asks; all come back."""
    handed: list[tuple[int, int, int]] = []

    class Looks(_Says):
        name = "looks"

        def rewrite(self, text: str, item: int, shown: Any, data: Any, ctx: Any) -> str:
            asked = shown._model
            handed.append((len(data.test), len(asked.data.test),
                           len(getattr(asked, "base", asked).data.test)))
            return text

    class Victim:
        def undefended(self) -> Any:
            return model

    assert len(model.data.test)
    plain: Any = Looks
    made = plain(targets=2, adaptive=served != "undefended")
    struck_on = {"bare": model, "wrapped": _Served(model)}.get(served) or fitted(
        data, model="tiny-random", whiten=2)
    with struck(made, struck_on, data, victim=Victim()):
        assert handed == [(0, 0, 0)] * 2
    assert model.data is data
    assert struck_on.data is data


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_query_counts_once_and_the_harness_makes_none(wrapped: bool, model: Any, data: Dataset
                                                        ) -> None:
    made = attack("prompt-injection")
    tried: set[tuple[int, str]] = set()
    free: dict[int, int] = {}
    seen = made.crowd(data, Context(0))[0]
    known = data.known("test")
    with struck(made, _Served(model) if wrapped else model, data) as s:
        for t in s.targets.tolist():
            own = set(known.users[known.items == t].tolist())
            free[t] = sum(u not in own for u in seen.tolist())
            tried |= {(t, made.put(data.item_text[t], x))  # type: ignore[index]
                      for x in module("prompt_injection").TEMPLATES.values()}
            tried.add((t, data.item_text[t]))  # type: ignore[index]
        assert s.facts["queries"] == sum(free[t] for t, _ in tried)


def test_ranks_are_those_of_the_evaluation(model: Any, data: Dataset) -> None:
    """Exposure among all users is target-hr, but for users whose test items the target is."""
    made, target = Says(), 9
    test_users = data.test.users[data.test.items == target]
    users = np.setdiff1d(np.arange(data.n_genuine), test_users)
    found = evaluate(model, data.replace(asked=users), ["target-hr@20"], targets=[target])
    expected = next(v for _, _, v in found.values)
    text = data.item_text[target]  # type: ignore[index]
    assert shown(made, model, data, users).exposure(target, text) == pytest.approx(expected)


def test_offered_targets_reach_what_a_wrapper_keeps(data: Dataset) -> None:
    class Keeps(Wrapped):
        kept: Any = None

        def scores(self, users: Any, split: str = "test") -> Any:
            if self.kept is None:
                self.kept = self.base.scores(torch.arange(self.data.n_users), split)
            return self.kept[users]

        def forget(self) -> None:
            self.kept = None
            super().forget()

    made = Keeps(fitted(data, "yes-no", model="tiny-random", candidates=4, history=2))
    users, rare = torch.arange(6), np.array([47])
    before = made.scores(users)
    with offering(made, rare):
        inside = made.scores(users)
    assert (inside[:, 47] > before[:, 47]).any()
    assert torch.equal(made.scores(users), before)


def test_a_static_attack_asks_the_undefended_model(model: Any, data: Dataset) -> None:
    class Victim:
        def undefended(self) -> Any:
            return model

    defended = fitted(data, model="tiny-random", whiten=2)
    with struck(attack("punctuation"), model, data) as s:
        expected = s.facts["rewritten"]
    with struck(attack("punctuation", adaptive=False), defended, data, victim=Victim()) as s:
        assert s.facts["rewritten"] == expected
        assert s.facts["queries"] > 0


def test_what_the_judge_is_enters_the_key(tmp_path: Path) -> None:
    lm = load("tiny-random", "encoder", corpus=["a b"])
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    made = attack("punctuation", judge=str(tmp_path), similarity=0.5)
    before = made.contents()
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert made.contents() != before


# -- what they reach -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", PARAMS)
def test_no_greedy_step_loses(name: str, model: Any, data: Dataset,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[float, float]] = []
    own = Shown.best

    def watched(self: Shown, item: int, now: str, options: Any) -> str:
        chosen = own(self, item, now, options)
        steps.append((self.gain(item, now), self.gain(item, chosen)))
        return chosen

    monkeypatch.setattr(Shown, "best", watched)
    with struck(attack(name), model, data):
        assert len(steps) >= 3
        assert all(after >= before for before, after in steps)
        assert any(after > before for before, after in steps)


@pytest.mark.parametrize("name", PARAMS)
def test_targets_are_shown_to_more_users_never_seen(name: str, model: Any, data: Dataset) -> None:
    lifts = []
    for seed in range(2):
        with struck(attack(name), model, data, seed) as s:
            found = evaluate(s.model, s.data, ["target-hr@10"], targets=s.targets)
            lifts.append(found.values[0][2] - s.facts["clean_targets"]["target-hr@10"])
    assert np.mean(lifts) > 0.05


@pytest.mark.parametrize("name", ["char-perturbation", "punctuation"])
def test_characters_that_were_chosen_reach_more_than_as_many_at_random(
        name: str, model: Any, data: Dataset) -> None:
    """Not so of the others: long additions are as new to random weights as noise of their size,
    and natural words less so."""
    mine, chance = [], []
    for seed in range(2):
        made = attack(name)
        unseen = shown(made, model, data, made.crowd(data, Context(seed))[1])
        with struck(made, model, data, seed) as s:
            after = {t: model.texts[t] for t in s.targets.tolist()}
        for t, text in after.items():
            rng, was = np.random.default_rng((seed, t)), unseen.texts[t]
            size = levenshtein(was, text)
            mine.append(unseen.gain(t, text))
            chance += [unseen.gain(t, random_edit(was, size, rng)) for _ in range(4)]
    assert np.mean(mine) > np.mean(chance)


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
@pytest.mark.parametrize("position", ["start", "end"])
def test_an_injection_is_words_to_a_model_of_words(weighting: str, position: str, data: Dataset
                                                   ) -> None:
    """Without a language model a template does what those of its words do that the catalogue
    has; one that shares none does nothing."""
    m, users = fitted(data, "tfidf", weighting=weighting, b=0.0), torch.arange(data.n_genuine)
    made, texts = attack("prompt-injection", position=position), list(data.item_text or ())
    words = set(" ".join(texts).split())
    overlaps, clean = 0, m.scores(users)
    for template in module("prompt_injection").TEMPLATES.values():
        shared = [w for w in "".join(c if c.isalnum() else " " for c in template.lower()).split()
                  if w in words]
        overlaps += bool(shared)
        found = []
        for text in (made.put(texts[9], template), " ".join([texts[9], *shared])):
            with m.reading_texts([*texts[:9], text, *texts[10:]]):
                found.append(m.scores(users))
        assert torch.allclose(found[0], found[1], atol=1e-6)
        if not shared:
            assert torch.equal(found[0], clean)
    assert 0 < overlaps < 10  # "10" and "5" are words of titles


# -- characters ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "most"), [("swap", 2), ("substitute", 1), ("delete", 1),
                                            ("insert", 1), ("space", 1), ("homoglyph", 1)])
def test_each_operation_spares_the_first_letter_and_costs_what_it_says(kind: str, most: int
                                                                       ) -> None:
    rng = np.random.default_rng(0)
    made = [v for _ in range(20) for v in module("char_perturbation").misspelt("house", kind, 3,
                                                                               rng)]
    assert len(set(made)) > 2
    assert {levenshtein("house", v) for v in made} <= set(range(most + 1))
    assert all(v[0] == "h" for v in made)
    lengths = {"delete": 4, "insert": 6, "space": 6}
    assert {len(v) for v in made} == {lengths.get(kind, 5)}
    if kind == "swap":
        assert all(sorted(v) == sorted("house") for v in made)


def test_short_words_break_nothing() -> None:
    rng = np.random.default_rng(0)
    for kind in module("char_perturbation").OPERATIONS:
        for word in ("a", "ab", "I", "ÄÖ"):
            assert all(levenshtein(word, v) <= 2 for v in module("char_perturbation").misspelt(
                word, kind, 3, rng))


def test_a_sanitiser_undoes_every_homoglyph() -> None:
    lookalikes = pytest.importorskip("bench.text.lookalikes")
    for letter, other in module("char_perturbation").HOMOGLYPHS.items():
        assert other != letter
        assert visible(other)
        assert lookalikes.latin(unicodedata.normalize("NFKC", f"s{other}me")) == f"s{letter}me"


def test_an_operation_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="'swop' is no operation"):
        attack("char-perturbation", operations="delete+swop")
    assert "look alike" in attack("char-perturbation").budget_text()
    assert "look alike" not in attack("char-perturbation", operations="swap").budget_text()


def test_marks_are_tried_at_every_position(model: Any, data: Dataset,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def noting(self: Shown, item: int, now: str, options: Any) -> str:
        tried.extend(options)
        return now

    monkeypatch.setattr(Shown, "best", noting)
    made = attack("punctuation")
    made.rewrite("a cat", 3, shown(made, model, data), data, Context(0))
    assert sorted(tried) == ["a c'at", "a c-at", "a ca't", "a ca-t"]


def test_the_word_without_which_a_target_is_seen_most_comes_first(model: Any, data: Dataset
                                                                  ) -> None:
    look = shown(attack("punctuation"), model, data)
    parts = parts_of("title of genre")
    assert "".join(parts) == "title of genre"
    slow = {1: look.gain(3, " of genre"), 3: look.gain(3, "title  genre"),
            5: look.gain(3, "title of ")}
    assert by_importance(parts, 3, look) == sorted(slow, key=lambda p: -slow[p])


# -- words ---------------------------------------------------------------------------------------

def test_words_of_popular_items_against_plain_counting(data: Dataset) -> None:
    texts = list(data.item_text or ())
    popular = np.argsort(-data.popularity, kind="stable")[:20]
    # "genre0" has a digit inside and is read as no word of letters; "title" is
    found = module("keyword_insertion").keywords(data, "popular", 0, texts)
    assert found == ["title"]
    named = [" ".join(["film", *("abc"[i % 3] * 3 for i in range(n, n + 2))])
             for n in range(len(texts))]
    bags = [n.split() for n in named]
    idf = {w: np.log((1 + len(bags)) / (1 + sum(w in b for b in bags))) + 1
           for b in bags for w in b}
    weight: dict[str, float] = dict.fromkeys(idf, 0.0)
    for i in popular:
        row = {w: bags[i].count(w) * idf[w] for w in bags[i]}
        norm = np.sqrt(sum(v * v for v in row.values()))
        for w, v in row.items():
            weight[w] += v / norm
    assert module("keyword_insertion").keywords(data, "popular", 0, named) == sorted(
        weight, key=lambda w: -weight[w])


def test_categories_are_the_items_own_and_missed_where_there_are_none(data: Dataset) -> None:
    assert module("keyword_insertion").keywords(data, "categories", 6, []) == ["genre2"]
    made, yes = attack("keyword-insertion", source="categories"), plugin(
        "models", "text-cosine", model="tiny-random")
    assert made.unfit(yes, data) is None
    assert "no categories" in made.unfit(yes, data.replace(item_attributes={}))


def test_likely_words_are_those_of_the_whole_prompt() -> None:
    lm = load("tiny-random", "masked", corpus=["the quick brown fox jumps over lazy dogs"] * 9)
    source = module("word_substitution").Likely(lm, 5, 0.0)
    parts = parts_of("the quick brown fox")
    found = source(parts, 3)
    row = [*lm.begin, *lm.ids("the"), *lm.ids(" quick"), *lm.ids(" brown fox"), *lm.end]
    assert row[len(lm.begin):len(row) - len(lm.end)] == lm.ids("the quick brown fox")
    with torch.no_grad():
        logits = lm.module(input_ids=torch.tensor([row])).logits[0, len(lm.begin) + 1]
    order = logits.argsort(descending=True).tolist()
    names = lm.tokenizer.convert_ids_to_tokens(order)
    slow = [n[1:] for n in names if n[0] == "Ġ" and n[1:].isalpha() and len(n) > 2]
    assert found == [w for w in slow if w != "quick"][:5]


def test_neighbours_are_near() -> None:
    lm = load("tiny-random", "encoder", corpus=["the quick brown fox jumps over lazy dogs"] * 9)
    source = module("word_substitution").Neighbours(lm, 50, 0.1)
    table = lm.embeddings().weight
    own = table[lm.ids(" quick")].mean(dim=0)
    found = source(["", "quick"], 1)
    cosines = [float(torch.cosine_similarity(own, table[lm.ids(f" {w}")].mean(dim=0), dim=0))
               for w in found]
    assert found
    assert min(cosines) >= 0.1
    assert cosines == sorted(cosines, reverse=True)
    assert len(source(["", "quick"], 1)) < len(module("word_substitution").Neighbours(
        lm, 50, -1.0)(["", "quick"], 1))


def test_an_encoder_without_a_head_for_gaps_is_refused(tmp_path: Path, model: Any, data: Dataset
                                                       ) -> None:
    lm = load("tiny-random", "encoder", corpus=list(data.item_text or ()))
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    made = attack("word-substitution", writer=str(tmp_path))
    with pytest.raises(InputError, match="weights of a masked model"), struck(made, model, data):
        pass
    near = attack("word-substitution", writer=str(tmp_path), method="neighbours", near=-1.0,
                  targets=1)
    with struck(near, model, data) as s:
        assert s.facts["texts"]["changed"] > 0


@pytest.mark.parametrize(("name", "key"), [("word-substitution", "writer"),
                                           ("paraphrase", "writer"), ("paraphrase", "judge")])
def test_a_missing_model_is_named_with_its_parameter(name: str, key: str, model: Any,
                                                     data: Dataset) -> None:
    with pytest.raises(InputError, match=r"no folder '\./nope'") as error, struck(
            attack(name, **{key: "./nope"}), model, data):
        pass
    assert error.value.key == key


@pytest.mark.parametrize(("word", "other", "made"), [
    ("Story", "tale", "Tale"), ("USA", "uk", "UK"), ("toy", "doll", "doll"), ("A", "the", "The")])
def test_capitals_stay(word: str, other: str, made: str) -> None:
    assert module("word_substitution").like(word, other) == made


# -- paraphrase and injection --------------------------------------------------------------------

def test_templates_reorder_and_frame() -> None:
    text = "Heat (1995). Genres: Action, Crime."
    made = module("paraphrase").by_templates(text, np.random.default_rng(0))
    assert {"Genres: Action, Crime. Heat (1995).", "Heat (1995). Genres: Crime, Action.",
            "Heat (1995). Action, Crime.", "Heat (1995). Genres: Action, Crime, a hit",
            "Popular: Heat (1995). Genres: Action, Crime."} <= set(made)
    assert text not in made
    assert len(made) == len(set(made))
    assert module("paraphrase").by_templates("{x} {", np.random.default_rng(0))


@pytest.mark.parametrize("writer", ["", "tiny-random"])
def test_a_paraphrase_keeps_length_and_meaning(writer: str, model: Any, data: Dataset,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    own = Shown.best

    def noting(self: Shown, item: int, now: str, options: Any) -> str:
        tried.extend(options)
        return own(self, item, now, options)

    monkeypatch.setattr(Shown, "best", noting)
    made = attack("paraphrase", writer=writer, similarity=-1, longest=1.5, candidates=3, targets=1)
    texts = []
    for _ in range(2):
        with struck(made, model, data) as s:
            texts.append([(data.item_text[t], model.texts[t])  # type: ignore[index]
                          for t in s.targets.tolist()])
    assert texts[0] == texts[1]
    assert all(len(now) <= 1.5 * len(was) for was, now in texts[0])
    assert 1 < len(tried) <= 2 * 3
    strict = attack("paraphrase", writer=writer, similarity=1.0)
    look = shown(strict, model, data)
    assert strict.rewrite("title 9 genre1", 9, look, data, Context(0)) == "title 9 genre1"


def test_hidden_templates_are_said_to_be_hidden(model: Any, data: Dataset) -> None:
    made = attack("prompt-injection", hidden=True, targets=1)
    assert "nobody sees" in made.budget_text()
    with struck(made, model, data) as s:
        changed = [model.texts[t] for t in s.targets.tolist()]
    assert all("".join(c for c in t if visible(c)).startswith("title") for t in changed)
    assert any(not visible(c) for t in changed for c in t)


def test_every_template_and_their_mean_are_reported(model: Any, data: Dataset) -> None:
    with struck(attack("prompt-injection", edits=60, targets=2), model, data) as s:
        each, mean = s.facts["each"], s.facts["mean_over_each"]
        users, targets = s.data, s.targets
    templates = module("prompt_injection").TEMPLATES
    assert set(each) == {n for n, t in templates.items() if len(t) < 60}
    assert len(each) < 10
    texts = list(data.item_text or ())
    for t in targets.tolist():
        texts[t] += " " + templates["answer"]
    with model.reading_texts(texts):
        found = evaluate(model, users, ["target-hr@10"], targets=targets)
    assert found.values[0][2] == each["answer"]["target-hr@10"]
    assert mean["target-hr@10"] == pytest.approx(np.mean([v["target-hr@10"]
                                                          for v in each.values()]))


# -- candidates in another order -----------------------------------------------------------------

def prompted(data: Dataset, rate: Any) -> Any:
    made = fitted(data, "yes-no", model="tiny-random", candidates=6, history=2)
    made.rate = rate
    return made


def moved(model: Any, orders: int = 40) -> dict[str, Any]:
    found: dict[str, Any] = module("candidate_permutation").moved(model, list(range(orders)),
                                                                  range(20))
    return found


def test_who_goes_by_position_moves_as_chance_and_who_does_not_stays(data: Dataset) -> None:
    by_place = moved(prompted(data, lambda u, h, c, s: -torch.arange(len(c)).float()))
    assert by_place["chance"] == pytest.approx(35 / 12 * (1 - 1 / 40))
    assert by_place["rank_variance"] == pytest.approx(by_place["chance"], rel=0.05)
    assert by_place["first_moves"] == 1
    by_item = moved(prompted(data, lambda u, h, c, s: torch.from_numpy(c % 7).float()))
    assert by_item["rank_variance"] == by_item["first_moves"] == 0


def test_orders_differ_between_users_and_come_again(data: Dataset) -> None:
    seen: dict[int, list[int]] = {}
    made = prompted(data, lambda u, h, c, s: (seen.update({u: c.tolist()}),
                                              torch.zeros(len(c)))[1])
    plain = digest(made.scores(torch.arange(8)))
    own = dict(seen)
    with made.shuffled(3):
        made.scores(torch.arange(8))
        first = dict(seen)
        made.scores(torch.tensor([5]))
    assert first[5] == seen[5]
    assert all(sorted(first[u]) == own[u] for u in own)
    places = [[own[u].index(i) for i in first[u]] for u in own]
    assert len({tuple(p) for p in places}) > 1
    assert digest(made.scores(torch.arange(8))) == plain


def test_a_listwise_model_is_measured_and_a_pointwise_one_says_why_not(data: Dataset) -> None:
    made = plugin("attacks", "candidate-permutation", orders=3, targets=0)
    yes = plugin("models", "yes-no", model="tiny-random")
    assert "does not reach it" in made.unfit(yes, data)
    assert "no prompt" in made.unfit(plugin("models", "bprmf"), data)
    listwise = plugin("models", "listwise", model="tiny-random", candidates=5, history=2,
                      bootstraps=1)
    assert made.unfit(listwise, data) is None
    m = fitted(data, "listwise", model="tiny-random", candidates=5, history=2, bootstraps=1)
    some = data.replace(asked=np.arange(6))
    clean = m.scores(torch.arange(6))
    with struck(made, m, some) as s:
        assert s.facts["users"] == 6
        assert s.facts["rank_variance"] > 0
        assert not torch.equal(m.scores(torch.arange(6)), clean)
    assert torch.equal(m.scores(torch.arange(6)), clean)


# -- whom it knows and whom it is measured on ------------------------------------------------------

@pytest.mark.parametrize("name", ["keyword-insertion", "token-noise"])
def test_one_user_is_no_crowd(data: Dataset, model: Any, name: str) -> None:
    made = plugin("attacks", name, targets=2)
    reads = plugin("models", "yes-no", model="tiny-random")
    for users in ([], [3]):
        few = data.replace(asked=np.array(users, np.int64))
        assert "ask two users or more" in made.unfit(reads, few)
        with (pytest.raises(CannotActError, match=rf"{len(users)} of 60 users .* \(ask_users\)"),
              struck(made, model, few)):
            pass
    for users in ([3, 5], list(range(10))):
        few = data.replace(asked=np.array(users))
        assert made.unfit(reads, few) is None
        seen, unseen = made.crowd(few, Context(0))
        assert len(seen) == max(1, 2 * len(users) // 5)
        assert sorted([*seen, *unseen]) == users
