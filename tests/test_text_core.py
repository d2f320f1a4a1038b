"""The core of language-model recommenders: loading, prompts, the shared prefix, encoders, who is
asked. Everything on two layers of random weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import BenchError, InputError
from bench.evaluate import evaluate
from bench.keys import Keys
from bench.metrics.plan import make_plan
from bench.models.base import build
from bench.registry import Registry
from bench.text import likelihood, prompts
from bench.text.encode import Encoder, hidden_states, pool, rows_of
from bench.text.language import Language, content, load
from bench.text.retriever import parse
from bench.text.scorer import PromptRecommender
from bench.text.vectors import whitening
from bench.text_attack import levenshtein, word_edits

TEXTS = [f"title {n} genre{n % 4}" for n in range(48)]
REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def language(role: str) -> Language:
    return load("tiny-random", role, corpus=TEXTS)


def model(data: Dataset, name: str = "yes-no", **params: Any) -> Any:
    made = build(plugin("models", name, model="tiny-random", **params), data, Context(0))
    made.fit(plugin("defenses", "none"), lambda event: None)
    return made


# -- likelihoods ---------------------------------------------------------------------------------

def whole(lm: Language, row: list[int]) -> torch.Tensor:
    """Logits of one prompt alone, at every place, without cache, padding or batch."""
    with torch.no_grad():
        logits: torch.Tensor = lm.module(input_ids=torch.tensor([row])).logits[0].float()
    return logits


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_what_is_shared_and_batched_equals_each_prompt_alone(batch: int) -> None:
    lm = language("causal")
    prefix = lm.ids("A user liked: " + "; ".join(TEXTS[:9]))
    suffixes = [lm.ids(" and " + t) for t in (TEXTS[3], "x", TEXTS[40] + " with a longer text")]
    yes, no = likelihood.check_answers(lm, [" Yes"], [" No"])
    found = likelihood.yes_no(lm, prefix, suffixes, yes, no, batch)
    alone = []
    for s in suffixes:
        p = whole(lm, prefix + s)[-1].log_softmax(0)
        alone.append(float(p[yes].logsumexp(0) - p[no].logsumexp(0)))
    assert found.tolist() == pytest.approx(alone, abs=1e-4)

    titles = likelihood.log_likelihood(lm, prefix, suffixes, batch)
    for s, value in zip(suffixes, titles.tolist(), strict=True):
        p = whole(lm, prefix + s).log_softmax(1)
        slow = sum(float(p[len(prefix) - 1 + n, t]) for n, t in enumerate(s)) / len(s)
        assert value == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("role", ["masked", "seq2seq"])
def test_other_architectures_answer_the_same_in_any_batch(role: str) -> None:
    lm = language(role)
    prefix = lm.ids("A user liked: " + TEXTS[0])
    suffixes = [lm.ids(f" and {t}?") for t in TEXTS[:5]] + [lm.ids(" a rather longer one than it")]
    yes, no = likelihood.check_answers(lm, [" Yes"], [" No"])
    by = [likelihood.yes_no(lm, prefix, suffixes, yes, no, n) for n in (1, 4, 16)]
    for other in by[1:]:
        assert other.tolist() == pytest.approx(by[0].tolist(), abs=1e-4)
    assert by[0].std() > 0


def test_the_seq2seq_likelihood_is_that_of_the_decoder() -> None:
    lm = language("seq2seq")
    prefix, suffix = lm.ids("A user liked: " + TEXTS[0]), lm.ids(TEXTS[1])
    start = int(lm.module.config.decoder_start_token_id)
    with torch.no_grad():
        logits = lm.module(input_ids=torch.tensor([[*prefix, *lm.end]]),
                           decoder_input_ids=torch.tensor([[start, *suffix[:-1]]])).logits[0]
    p = logits.float().log_softmax(1)
    slow = sum(float(p[n, t]) for n, t in enumerate(suffix)) / len(suffix)
    found = likelihood.log_likelihood(lm, prefix, [suffix, lm.ids(TEXTS[30] + " long")], 4)
    assert float(found[0]) == pytest.approx(slow, abs=1e-4)


def test_vectors_in_place_of_tokens_change_nothing_by_themselves() -> None:
    for role in ("causal", "masked", "seq2seq"):
        lm = language(role)
        rows = [lm.ids("one two three"), lm.ids("one")]
        ids, _ = lm.batch(rows)
        own = likelihood.first_logits(lm, rows)
        assert torch.allclose(likelihood.first_logits(lm, rows, lm.embeddings()(ids)), own,
                              atol=1e-5), role


def test_a_model_that_fills_gaps_has_no_title_likelihood() -> None:
    with pytest.raises(InputError, match="GPT- or T5-type"):
        likelihood.log_likelihood(language("masked"), [1], [[2]], 1)


def test_answers_that_a_tokenizer_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(InputError, match="different tokens"):
        likelihood.check_answers(language("causal"), ["Yes"], ["Yes"])


# -- loading -------------------------------------------------------------------------------------

def test_a_model_saved_to_a_folder_comes_back(tmp_path: Path) -> None:
    lm = language("causal")
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    again = load(str(tmp_path), "causal")
    row = lm.ids(TEXTS[0])
    assert again.ids(TEXTS[0]) == row
    assert torch.allclose(whole(lm, row), whole(again, row), atol=1e-6)
    before = content(str(tmp_path))
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert content(str(tmp_path)) != before

    keys = [Keys().train("d", None, plugin("models", "yes-no", model=str(tmp_path)),
                         plugin("defenses", "none"), 0)]
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    keys.append(Keys().train("d", None, plugin("models", "yes-no", model=str(tmp_path)),
                             plugin("defenses", "none"), 0))
    assert keys[0] != keys[1]  # other weights in the same folder are another model


@pytest.mark.parametrize(("name", "role", "said"), [
    ("./no-such-folder", "causal", "there is no folder"), ("", "causal", "no language model")])
def test_a_missing_model_is_named(name: str, role: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(name, role)


def test_an_empty_folder_and_a_wrong_kind_and_a_foreign_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        load(str(tmp_path), "causal")
    lm = language("encoder")
    lm.module.save_pretrained(tmp_path)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of the kind seq2seq"):
        load(str(tmp_path), "seq2seq")
    other = load("tiny-random", "encoder", corpus=["zebra " * 3 + f"{n} {n * 7919}" for n in
                                                   range(4000)])
    assert len(other.tokenizer) > len(lm.tokenizer)
    other.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="belongs to another model"):
        load(str(tmp_path), "encoder")


# -- prompts -------------------------------------------------------------------------------------

def test_every_prompt_of_the_package_can_be_read() -> None:
    for name in prompts.known():
        path = prompts.prompt_path(name)
        made = prompts._load(str(path), 1)
        assert made.name == name
        assert made.version >= 1


def test_braces_in_a_title_fill_nothing() -> None:
    p = prompts.load("yes-no", "pointwise")
    text = "{history} {item} {text} {"
    assert text in "".join(p.after(text))
    assert text in p.before([text])


def own_prompt(tmp_path: Path, **change: Any) -> str:
    """The path of a prompt that is `yes-no` but for these texts; None: without it."""
    import yaml

    good = yaml.load(prompts.prompt_path("yes-no").read_text(), Loader=yaml.BaseLoader)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (good | change).items() if v is not None}))
    return str(path)


def test_every_text_of_a_prompt_is_read_the_same_way(tmp_path: Path) -> None:
    """Doubled braces are text, in all of them, as Python's own `format` has it."""
    texts = {"item": "{{{text}}} {text}", "history": '{{"t": "{item}"}} ',
             "prefix": "{{}} {history}", "candidate": "{{item}} is {item}? {{{item}}}"}
    p = prompts.load(own_prompt(tmp_path, **texts), "pointwise")
    heat = texts["item"].format(text="He{at}")
    assert heat == "{He{at}} He{at}"
    assert p.titled("He{at}") == heat
    assert p.before(["He{at}"] * 2) == texts["prefix"].format(
        history=2 * texts["history"].format(item=heat))
    lead, text, follow = p.after("He{at}")
    assert (lead, text) == ("{item} is {", "He{at}")
    assert lead + text + follow == texts["candidate"].format(item=heat)


@pytest.mark.parametrize(("change", "said"), [
    ({"candidate": "{{item}}?"}, r"where \{item\} goes"),
    ({"item": "{{text}}"}, r"where \{text\} goes"), ({"history": "{{item}}"}, "where"),
    ({"candidate": "{item!r:>20}"}, r"\{item!r:>20\} is no slot.* as in \{item\}"),
    ({"prefix": "{history:>9}"}, "no slot"), ({"candidate": "{item} or {first}"}, "kind pointwise"),
    ({"item": "{text.upper}"}, r"no slot \{text.upper\}"), ({"history": "{}{item}"}, "no slot")])
def test_slots_are_what_is_read_as_one(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = own_prompt(tmp_path, **change)
    with pytest.raises(InputError, match=said) as error:
        prompts.load(path, "pointwise")
    assert path in str(error.value)


@pytest.mark.parametrize(("change", "said"), [
    ({"candidate": "no slot"}, "{item} goes"), ({"kind": "poem"}, "no kind of prompt"),
    ({"prefix": "{history} {nope}"}, r"no slot \{nope\}"), ({"version": "one"}, "whole number"),
    ({"yes": None}, "yes"), ({"colour": "red"}, "no 'colour'"), ({"prefix": None}, "no 'prefix'"),
    ({"prefix": "{history"}, "prefix")])
def test_a_mistake_in_a_prompt_file_is_named(tmp_path: Path, change: dict[str, Any],
                                             said: str) -> None:
    path = own_prompt(tmp_path, **change)
    with pytest.raises(InputError, match=said) as error:
        prompts.load(path, "pointwise")
    assert path in str(error.value)


@pytest.mark.parametrize(("kind", "line", "missing"), [
    ("listwise", "- {item}\n", "label"), ("listwise", "{label}.\n", "item"),
    ("listwise", "{{label}}. {item}\n", "label"), ("seq2seq", "and so on, ", "item"),
    ("seq2seq", "{item}, ", ""), ("listwise", "[{label}] {item}\n", "")])
def test_each_candidate_of_a_list_has_a_text_and_what_an_answer_calls_it(
        tmp_path: Path, kind: str, line: str, missing: str) -> None:
    path = own_prompt(tmp_path, kind=kind, candidate="Rank:\n{items}\nRanking:", line=line)
    if not missing:
        assert prompts.load(path, kind).line == line
        return
    with pytest.raises(InputError, match=rf"'line' does not say where \{{{missing}\}}") as error:
        prompts.load(path, kind)
    assert path in str(error.value)


def test_a_prompt_of_the_users_own_and_its_text_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(prompts.prompt_path("yes-no").read_text())
    mine = plugin("models", "yes-no", model="tiny-random", prompt=str(path))
    before = mine.contents()
    path.write_text(path.read_text().replace("also like", "love"))
    assert mine.contents() != before
    with pytest.raises(InputError, match="no prompt"):
        plugin("models", "yes-no", model="tiny-random", prompt="yes-nope")


# -- scorers -------------------------------------------------------------------------------------

def test_candidates_come_first_and_the_rest_keeps_its_order(data: Dataset) -> None:
    m = model(data, candidates=7)
    users = torch.arange(data.n_genuine)
    scores, base = m.scores(users), m.retriever.scores(users)
    for u in range(0, data.n_genuine, 7):
        own = set(m.history(u, "test").tolist())
        free = [i for i in np.argsort(-base[u].numpy(), kind="stable") if i not in own]
        best = set(np.argsort(-scores[u].numpy(), kind="stable")[:7].tolist())
        assert best == set(free[:7])
        rest = torch.tensor(free[7:])
        for a, b in itertools.pairwise(rest.tolist()):
            assert torch.sign(scores[u, a] - scores[u, b]) == torch.sign(base[u, a] - base[u, b])


def test_a_prompt_holds_the_latest_known_items_and_never_a_future_one(data: Dataset) -> None:
    m = model(data, history=3)
    seen: list[tuple[int, list[int], str]] = []
    m.rate = lambda user, history, candidates, split: (
        seen.append((user, history.tolist(), split)), torch.zeros(len(candidates)))[1]
    for split in ("valid", "test"):
        m.scores(torch.arange(5), split)
    for user, history, split in seen:
        rows = data.known(split).positives()
        mine = rows.users == user
        order = np.argsort(rows.times[mine], kind="stable")  # type: ignore[index]
        assert history == rows.items[mine][order][-3:].tolist()


def test_a_long_history_loses_its_oldest_items_and_a_long_prompt_is_refused(data: Dataset) -> None:
    m = model(data)
    m.language.limit = len(m.prefix([])) + 40
    short = m.prefix(list(range(10)), room=5)
    assert len(short) + 5 <= m.language.limit
    assert m.language.tokenizer.decode(short).strip().endswith(TEXTS[9].split()[-1])
    m.language.limit = 10
    with pytest.raises(InputError, match="reads 10 tokens"):
        m.prefix([1])


def test_stored_answers_are_those_of_the_same_prompt_alone(data: Dataset) -> None:
    m = model(data, candidates=6)
    users = torch.arange(6)
    first = m.scores(users)
    changed = [t + " excellent" if n < 24 else t for n, t in enumerate(data.item_text or ())]
    with m.reading_texts(changed):
        under = m.scores(users)
    fresh = model(data.replace(item_text=changed), candidates=6)
    # the tiny vocabulary depends on the texts
    fresh.language, fresh.yes, fresh.no = m.language, m.yes, m.no
    assert torch.allclose(under, fresh.scores(users), atol=1e-5)
    assert not torch.allclose(first, under)
    assert torch.equal(first, m.scores(users))


def test_only_what_is_learned_is_stored(data: Dataset) -> None:
    m = model(data, retriever="bprmf(dim=4, epochs=1)")
    assert isinstance(m, PromptRecommender)
    assert all(k.startswith("retriever.") for k in m.state())


@pytest.mark.parametrize("text", ["yes-no(model=tiny-random)", "nope", "bprmf(dim=x)", "a b"])
def test_a_retriever_that_cannot_retrieve_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="retriev"):
        parse(text)


def test_without_texts_and_without_a_model_it_says_so(data: Dataset) -> None:
    assert "no item texts" in plugin("models", "yes-no", model="tiny-random").unfit(
        data.replace(item_text=None))
    assert "no language model is named" in plugin("models", "yes-no").unfit(data)


# -- encoders ------------------------------------------------------------------------------------

@pytest.mark.parametrize("role", ["encoder", "causal", "seq2seq"])
@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_vectors_do_not_depend_on_batch_and_padding(role: str, how: str) -> None:
    lm = language(role)
    texts = ["a", *TEXTS[:70], "a much longer text than all of the others, by far"]
    together = Encoder(lm, how)(texts)
    for n in (0, 3, len(texts) - 1):
        ids, mask = lm.batch(rows_of(lm, [texts[n]]))
        with torch.no_grad():
            alone = pool(hidden_states(lm, ids, mask), mask, how)
        assert torch.allclose(together[n], alone[0], atol=1e-5)


def test_whitened_vectors_have_unit_covariance() -> None:
    x = torch.randn(200, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    mean, matrix = whitening(x, 8)
    assert torch.allclose(torch.cov(((x - mean) @ matrix).T), torch.eye(8, dtype=torch.float64),
                          atol=1e-8)
    flat = torch.cat([x, x[:, :1]], 1)  # a direction without variance is left out
    assert whitening(flat, 9)[1].shape[1] == 8


def test_the_mean_of_a_history_is_weighted_by_age(data: Dataset) -> None:
    m = model(data, "text-cosine", decay=0.5)
    items, history = m.items(), m.history(3, "test")
    slow = sum(0.5 ** (len(history) - 1 - n) * items[i] for n, i in enumerate(history.tolist()))
    expected = torch.nn.functional.cosine_similarity(slow[None], items)
    assert torch.allclose(m.scores(torch.tensor([3]))[0], expected, atol=1e-5)


# -- who is asked --------------------------------------------------------------------------------

def test_asked_users_alone_are_evaluated_and_all_stay_in_train(data: Dataset) -> None:
    asked = np.array([3, 8, 21])
    some, m = data.replace(asked=asked), model(data, "text-cosine", whiten=8)
    metrics = ["ndcg@10", "target-hr@10", "target-rank"]
    part = evaluate(m, some, metrics, targets=[4, 9])
    everybody = evaluate(m, data, metrics, targets=[4, 9])
    ids = [data.user_ids[u] for u in asked]
    assert part.users["user"].tolist() == ids
    rows = [everybody.users["user"].tolist().index(u) for u in ids]
    assert part.users["ndcg@10"].tolist() == everybody.users["ndcg@10"][rows].tolist()
    assert part.facts["users_evaluated"] == 3
    assert part.items["eligible"].max() <= 3
    free = [u for u in asked if 4 not in data.train.plus(data.valid).plus(data.test).items[
        data.train.plus(data.valid).plus(data.test).users == u]]
    assert part.items["eligible"][4] == len(free)
    plan = make_plan(some, "test")
    assert sorted(plan.users.tolist()) == asked.tolist()


def test_a_dataset_asks_a_sample_that_its_split_seed_draws() -> None:
    full = plugin("datasets", "ml-100k").load()
    some = plugin("datasets", "ml-100k", ask_users=50).load()
    assert len(some.asked) == 50
    assert full.asked is None
    assert len(np.unique(some.truth("test").users)) == 50
    assert len(some.train) == len(full.train)
    other = plugin("datasets", "ml-100k", ask_users=50, split="ratio-random", split_seed=1).load()
    assert set(other.asked.tolist()) != set(some.asked.tolist())


# -- edits ---------------------------------------------------------------------------------------

def test_edit_distances_against_the_textbook() -> None:
    def slow(a: Any, b: Any) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for a, b in itertools.product(["heat", "the hat", "", "eaten"], repeat=2):
        assert levenshtein(a, b) == slow(a, b)
        assert word_edits(a, b) == slow(a.split(), b.split())


def test_everybody_validates_whoever_is_asked(data: Dataset) -> None:
    from bench.stages import prepare

    some = data.replace(asked=np.array([3, 8]))
    prepared = prepare(some, None, plugin("defenses", "none"), Context(0))
    assert prepared.genuine.asked is not None
    assert len(np.unique(prepared.train.truth("valid").users)) > 2


def test_a_drop_is_over_the_users_that_both_cells_have() -> None:
    from bench._estimates import before_after

    class Cell:
        def __init__(self, values: dict[str, float]) -> None:
            self.table, mean = values, float(np.mean(list(values.values())))
            self.values, self.facts = {("ndcg@10", "all"): mean}, {"users_evaluated": len(values)}

    class Run:
        def users(self, cell: Cell, columns: list[str]) -> dict[str, Any]:
            return {"user": np.array(list(cell.table), object),
                    "ndcg@10": np.array(list(cell.table.values()))}

    clean = Cell({"a": 0.9, "b": 0.4, "c": 0.2})
    run: Any = Run()
    some: Any = Cell({"c": 0.2, "b": 0.4})
    everybody: Any = Cell({"a": 0.5, "b": 0.4, "c": 0.2})
    given: Any = clean
    assert before_after(run, given, some, "ndcg@10") == pytest.approx((0.3, 0.3))
    assert before_after(run, given, everybody, "ndcg@10") == pytest.approx((0.5, 1.1 / 3))


def test_an_edit_of_nothing_changes_no_accuracy_though_targets_are_offered(data: Dataset) -> None:
    from bench.stages import Prepared, under_attack

    m = model(data, candidates=6)
    attack = plugin("attacks", "keyword-insertion", edits=0, targets=3)
    with under_attack(attack, m, Prepared(data, data, data, None), Context(0)) as struck:
        under = evaluate(struck.model, struck.data, ["ndcg@10"])
        offer = struck.offer
    clean = evaluate(m, struck.data, ["ndcg@10"])
    assert under.values == clean.values
    assert offer is not None
    assert len(offer) == 3


def test_too_many_targets_for_the_candidates_are_refused() -> None:
    data = plugin("datasets", "blocks").load()
    few = plugin("models", "yes-no", model="tiny-random", candidates=3)
    for name in ("keyword-insertion", "token-noise"):
        assert "nothing to compete with" in plugin("attacks", name, targets=3).unfit(few, data)


def test_a_retriever_that_reads_texts_reads_the_attacked_and_filtered_ones(data: Dataset) -> None:
    m = model(data, candidates=6, retriever="tfidf")
    users = torch.arange(5)
    before = m.retriever.scores(users)
    with m.reading_texts([f"genre{(n + 1) % 4}" for n in range(data.n_items)]):
        assert not torch.equal(before, m.retriever.scores(users))
    assert torch.equal(before, m.retriever.scores(users))
    m.filtered(lambda texts: ["same" for _ in texts])
    assert not torch.equal(before, m.retriever.scores(users))


def test_what_frames_a_text_is_what_the_tokenizer_puts_around_it() -> None:
    from bench.text.language import _frame

    class Tokenizer:
        def __init__(self, before: list[int], after: list[int]) -> None:
            self.before, self.after = before, after

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            inner = [ord(c) for c in text]
            return {"input_ids": [*self.before, *inner, *self.after] if add_special_tokens
                    else inner}

    assert _frame("encoder", Tokenizer([2], [])) == ([2], [])  # a GPT-type model that encodes
    assert _frame("encoder", Tokenizer([101], [102])) == ([101], [102])
    assert _frame("causal", Tokenizer([2], [2])) == ([2], [])
    assert _frame("seq2seq", Tokenizer([], [1])) == ([], [1])


def test_a_model_with_an_encoder_is_no_writer_alone(tmp_path: Path, data: Dataset) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    from bench.text.scorer import language_of

    lm = language("seq2seq")
    bart: Any = BartForConditionalGeneration(BartConfig(
        vocab_size=len(lm.tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=256))
    bart.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    found = language_of(plugin("models", "yes-no", model=str(tmp_path)), data, Context(0))
    assert found.role == "seq2seq"


def test_logits_of_half_precision_weights_are_of_full_precision() -> None:
    lm = load("tiny-random", "causal", corpus=TEXTS, dtype="bfloat16")
    with torch.no_grad():
        logits = lm.module(input_ids=torch.tensor([lm.ids(TEXTS[0])])).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_weights_changed_in_the_middle_of_a_file_and_a_retrievers_file_are_in_the_key(
        tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    raw = bytearray(8 << 20)
    (folder / "model.safetensors").write_bytes(raw)
    before = content(str(folder))
    raw[4 << 20] = 1
    (folder / "model.safetensors").write_bytes(raw)
    assert content(str(folder)) != before

    lists = tmp_path / "k=10.tsv"
    lists.write_text("u1\ti1\n")
    mine = plugin("models", "yes-no", model="tiny-random", retriever=f'given-lists(path="{lists}")')
    before_lists = mine.contents()
    lists.write_text("u1\ti2\n")
    assert mine.contents() != before_lists
