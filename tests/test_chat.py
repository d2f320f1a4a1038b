"""Chat templates: the prompt as the vendor's own rendering has it, with the prefix still shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import InputError
from bench.grid import load_grid
from bench.models.base import build
from bench.registry import Registry
from bench.text import likelihood
from bench.text.tiny import tiny

REGISTRY = Registry()
TURNS = ("{{ bos_token }}{% for m in messages %}"
         "<|turn|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n"
         "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}")
DATED = "{{ strftime_now('%d %b %Y') }}|{{ date_string }}|{{ messages[0].content }}|"
THINKS = TURNS + "{% if enable_thinking is false %}<think></think>{% endif %}"


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


@pytest.fixture(scope="module")
def data() -> Dataset:
    made: Dataset = plugin("datasets", "blocks").load()
    return made


def saved(data: Dataset, folder: Path, template: str | None, role: str = "causal") -> str:
    """A tiny model in a folder, its tokenizer with this chat template."""
    module, tokenizer = tiny(role, list(data.item_text or ()), 3)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"],
                                  "bos_token": "[CLS]"})
    module.resize_token_embeddings(len(tokenizer))  # type: ignore[operator]
    tokenizer.chat_template = template
    module.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chats(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(data, tmp_path_factory.mktemp("chats"), TURNS)


def model(data: Dataset, folder: str, name: str = "yes-no", **params: Any) -> Any:
    given = {"model": folder, "candidates": 6, "history": 3, "dtype": "float32"} | params
    made = build(plugin("models", name, **given), data, Context(0))
    result = made.fit(plugin("defenses", "none"), lambda event: None)
    made.told = result.notes
    return made


def rendered(made: Any, text: str) -> str:
    return str(made.language.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True))


def asked(made: Any) -> list[list[int]]:
    """Every whole prompt that the module is asked for user 0, token by token."""
    seen: list[list[int]] = []
    own = likelihood.Prefix.after

    def after(self: Any, suffixes: Any, keep: Any) -> Any:
        seen.extend([*self.ids, *s] for s in suffixes)
        return own(self, suffixes, keep)

    begun = likelihood.Prefix.__init__

    def init(self: Any, language: Any, prefix: Any) -> None:
        self.ids = list(prefix)
        begun(self, language, prefix)

    likelihood.Prefix.__init__, likelihood.Prefix.after = init, after  # type: ignore
    try:
        made.scores(torch.arange(1))
    finally:
        likelihood.Prefix.__init__, likelihood.Prefix.after = begun, own  # type: ignore
    return seen


def written(made: Any) -> list[list[int]]:
    """Every whole prompt that the module is to answer in words for user 0."""
    seen: list[list[int]] = []
    own = made.asker.write

    def write(prefix: Any, suffixes: Any, most: int) -> Any:
        seen.extend([*prefix, *s] for s in suffixes)
        return own(prefix, suffixes, most)

    made.asker.write = write
    made.scores(torch.arange(1))
    return seen


def content(made: Any, item: int, user: int = 0) -> str:
    """The plain prompt about an item, by hand."""
    texts = [made.texts[i] for i in made.history(user, "test")[-3:].tolist()]
    return str(made.prompt.before(texts) + "".join(made.prompt.after(made.texts[item])))


def test_the_prompt_is_what_the_template_renders(data: Dataset, chats: str) -> None:
    made = model(data, chats)
    made.language.begin = [made.language.tokenizer.eos_token_id]  # which templates write themselves
    prompts = asked(made)
    base = made.retriever.scores(torch.arange(1)).float()[0].numpy()
    items = made.chosen(base, 0, "test").tolist()
    tokenizer = made.language.tokenizer
    said = {tokenizer.decode(p) for p in prompts}
    assert said == {rendered(made, content(made, i)) for i in items}
    turn, begin = (tokenizer.convert_tokens_to_ids(t) for t in ("<|turn|>", "[CLS]"))
    for p in prompts:
        assert (p.count(turn), p.count(begin), p[0]) == (2, 1, begin)
    assert made.told["chat_template"] is True


def test_scores_are_those_of_whole_prompts(data: Dataset, chats: str) -> None:
    made = model(data, chats)
    history, items = made.history(2, "test")[-3:], np.array([0, 7, 20])
    found = made.rate(2, history, items, "test")
    for score, item in zip(found.tolist(), items.tolist(), strict=True):
        ids = made.language.tokenizer(rendered(made, content(made, item, 2)),
                                      add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = made.module(input_ids=torch.tensor([ids])).logits[0, -1]
        slow = logits[made.yes].logsumexp(0) - logits[made.no].logsumexp(0)
        assert score == pytest.approx(float(slow), abs=1e-4)


def test_without_a_template_everything_stays(data: Dataset, chats: str, tmp_path: Path) -> None:
    users = torch.arange(4)
    bare = model(data, saved(data, tmp_path, None))
    assert "chat_template" not in bare.told
    unasked = model(data, chats, chat="false")
    assert torch.equal(bare.scores(users), unasked.scores(users))
    assert not torch.equal(model(data, chats).scores(users), bare.scores(users))
    assert torch.equal(model(data, chats).scores(users), model(data, chats, chat="true").scores(
        users))


def test_a_title_is_written_by_the_model_and_not_by_the_user(data: Dataset, chats: str) -> None:
    made = model(data, chats, "title-likelihood")
    history, item = made.history(1, "test")[-3:], 5
    lead, (title,) = made.titles([made.texts[item]])
    whole = made.language.tokenizer.decode([*made.prefix(history), *lead, *title])
    ahead = made.prompt.before([made.texts[i] for i in history.tolist()])
    assert whole == rendered(made, ahead) + "- " + made.texts[item]
    found = made.rate(1, history, np.array([item]), "test")
    ids = torch.tensor([[*made.prefix(history), *lead, *title]])
    with torch.no_grad():
        log_p = made.module(input_ids=ids).logits[0].log_softmax(-1)
    slow = log_p[-len(title) - 1:-1].gather(1, ids[0, -len(title):, None]).mean()
    assert float(found[0]) == pytest.approx(float(slow), abs=1e-4)


@pytest.mark.parametrize(("name", "more"), [
    ("listwise", {"bootstraps": 1}), ("listwise", {"bootstraps": 1, "read": "generate"}),
    ("sliding", {}), ("pairwise", {}), ("tallrec", {"tune": "full", "shots": 4, "epochs": 1})])
def test_all_that_ask_end_with_the_assistant_s_turn(data: Dataset, chats: str, name: str,
                                                    more: dict[str, Any]) -> None:
    made = model(data, chats, name, candidates=4, **more)
    if name == "tallrec":
        tokens = made.tokens(next(iter(made.batches(1, 4))))
        prompts = [row[mask == 1].tolist() for row, mask in zip(tokens.ids, tokens.mask,
                                                                strict=True)]
        for row, marks in zip(tokens.ids, tokens.text, strict=True):
            assert "turn" not in made.language.tokenizer.decode(row[marks].tolist())
    else:
        prompts = written(made) if more.get("read") == "generate" else asked(made)
    assert prompts
    for p in prompts:
        said = made.language.tokenizer.decode(p)
        assert said.startswith("[CLS]<|turn|>user\n")
        assert said.endswith("<|end|>\n<|turn|>assistant\n")
        assert said.count("<|turn|>") == 2


def test_dates_stand_still_and_nobody_thinks_aloud(data: Dataset, tmp_path: Path) -> None:
    made = model(data, saved(data, tmp_path / "dated", DATED))
    assert (made.chat.head, made.chat.tail) == ("26 Jul 2024|26 Jul 2024|", "|")
    made = model(data, saved(data, tmp_path / "thinks", THINKS))
    assert made.chat.tail.endswith("assistant\n<think></think>")


def test_what_cannot_be_asked_through_a_template_is_refused(data: Dataset, chats: str,
                                                            tmp_path: Path) -> None:
    bare = saved(data, tmp_path / "bare", None)
    with pytest.raises(InputError, match="no chat template") as error:
        model(data, bare, chat="true")
    assert "chat: auto" in str(error.value.hint)
    for n, template in enumerate((
            "{{ raise_exception('a system turn is needed') }}", "{{ messages[0].role }}",
            "{{ messages[0].content | upper }}", "{% if %}")):
        with pytest.raises(InputError, match="chat template") as error:
            model(data, saved(data, tmp_path / str(n), template))
        assert "chat: false" in str(error.value.hint)
    masked = saved(data, tmp_path / "masked", TURNS, "masked")
    assert model(data, masked).chat is None  # it writes no turn
    with pytest.raises(InputError, match="writes no"):
        model(data, masked, chat="true")
    with pytest.raises(InputError, match="server"):
        plugin("models", "remote-yes-no", endpoint="http://localhost:1/v1", model="m", chat="true")


def test_a_grid_says_it_with_or_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    text = ("datasets: [blocks]\n"
            "models: [{yes-no: {model: tiny-random, chat: [auto, true, false]}}]\n")
    path.write_text(text)
    assert [m.params()["chat"] for m in load_grid(path).models] == ["auto", "true", "false"]
    path.write_text(text.replace("auto", "perhaps"))
    with pytest.raises(InputError, match="perhaps"):
        load_grid(path)


def test_a_long_history_leaves_room_for_both_turns(data: Dataset, chats: str) -> None:
    made = model(data, chats)
    made.language.limit = 180
    items = np.array([0, 7])
    suffixes = [made.suffix(i) for i in items.tolist()]
    prefix = made.prefix(np.arange(40), room=max(map(len, suffixes)))
    assert max(len(prefix) + len(s) for s in suffixes) <= 180
    said = made.language.tokenizer.decode([*prefix, *suffixes[0]])
    assert said.startswith("[CLS]<|turn|>user\n")
    assert made.texts[39] in said
    assert made.texts[0] not in said.split("Question")[0]
