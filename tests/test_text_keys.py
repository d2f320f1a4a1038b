"""Keys of what reads language models, prompts and lists: their contents count, not their places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import keys
from bench.errors import InputError
from bench.grid import load_grid
from bench.keys import Keys
from bench.registry import Registry
from bench.text import prompts

REGISTRY = Registry()


def plugin(kind: str, name: str, **params: Any) -> Any:
    return REGISTRY.make(kind, {"name": name, "params": params})


def key(made: Any) -> str:
    """The key of a training or cell in which this plugin takes part."""
    none = plugin("defenses", "none")
    if made.kind == "attacks":
        return Keys().cell("t", made, ["ndcg@10"], {})
    if made.kind == "defenses":
        return Keys().train("d", None, plugin("models", "pop"), made, 0)
    return Keys().train("d", None, made, none, 0)


def folder(path: Path, text: str = "weights") -> str:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(text)
    return str(path)


CASES = [("models", "yes-no", "model"), ("models", "text-cosine", "model"),
         ("models", "p5", "model"), ("attacks", "keyword-insertion", "judge"),
         ("attacks", "paraphrase", "writer"), ("attacks", "word-substitution", "writer"),
         ("defenses", "perplexity-filter", "judge"), ("defenses", "paraphrase-vote", "writer")]


@pytest.mark.parametrize(("kind", "name", "param"), CASES)
def test_a_language_model_in_another_place_is_the_same_and_another_one_is_not(
        tmp_path: Path, kind: str, name: str, param: str) -> None:
    here, there = folder(tmp_path / "here"), folder(tmp_path / "deep" / "there")
    other = folder(tmp_path / "other", "other weights")
    base, moved, changed = (key(plugin(kind, name, **{param: p})) for p in (here, there, other))
    assert base == moved != changed
    shutil.move(here, tmp_path / "moved")
    assert key(plugin(kind, name, **{param: str(tmp_path / "moved")})) == base
    by_name = [key(plugin(kind, name, **{param: n})) for n in ("hub/one", "hub/two")]
    assert len({base, changed, *by_name}) == 4


def test_a_retrievers_model_and_lists_count_by_content(tmp_path: Path) -> None:
    def asked(retriever: str) -> str:
        return key(plugin("models", "yes-no", model="tiny-random", retriever=retriever))

    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    other = folder(tmp_path / "other", "other")
    base, moved, changed = (asked(f'text-cosine(model="{p}")') for p in (here, there, other))
    assert base == moved != changed
    assert asked("pop") != asked("bprmf(dim=4)") != asked("bprmf(dim=8)")
    for where in ("a", "b"):
        (tmp_path / where).mkdir()
        (tmp_path / where / "lists.tsv").write_text("u1\ti1\n")
    lists = [asked(f'given-lists(path="{tmp_path / w / "lists.tsv"}")') for w in ("a", "b")]
    assert lists[0] == lists[1]
    plain = [key(plugin("models", "given-lists", path=str(tmp_path / w / "lists.tsv")))
             for w in ("a", "b")]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(("kind", "name", "which"), [
    ("models", "yes-no", "yes-no"), ("models", "p5", "p5-sequential"),
    ("defenses", "delimited-prompt", "yes-no-delimited")])
def test_a_prompt_counts_by_content(tmp_path: Path, kind: str, name: str, which: str) -> None:
    more = {"model": "tiny-random"} if kind == "models" else {}
    text = prompts.prompt_path(which).read_text()
    found = []
    for where, said in (("a", text), ("b", text), ("c", text.replace("version: 1",
                                                                      "version: 2"))):
        (tmp_path / where).mkdir()
        (tmp_path / where / "mine.yaml").write_text(said)
        found.append(key(plugin(kind, name, prompt=str(tmp_path / where / "mine.yaml"), **more)))
    assert found[0] == found[1] != found[2]


def test_the_name_of_a_servers_model_counts_whatever_lies_here(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        folder(tmp_path / name)
    asked = [key(plugin("models", "remote-yes-no", endpoint="http://localhost:1/v1", model=m))
             for m in ("one", "two")]
    assert asked[0] != asked[1]


@pytest.mark.parametrize(("kind", "name", "params", "library"), [
    ("models", "tfidf", {}, "scikit-learn"), ("models", "yes-no", {"model": "hub/x"}, "peft"),
    ("defenses", "perplexity-filter", {"judge": "hub/x"}, "transformers"),
    ("attacks", "paraphrase", {"writer": "hub/x"}, "tokenizers")])
def test_the_library_that_makes_the_numbers_is_in_the_key(
        monkeypatch: pytest.MonkeyPatch, kind: str, name: str, params: dict[str, str],
        library: str) -> None:
    before, real = key(plugin(kind, name, **params)), keys.versions
    monkeypatch.setattr(keys, "versions", lambda names=keys.LIBRARIES: {
        **real(names), **({library: "0.0"} if library in names else {})})
    assert key(plugin(kind, name, **params)) != before


def test_a_wrong_prompt_of_a_defense_is_named_with_its_line(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("datasets: [blocks]\nmodels: [pop]\n"
                    "defenses:\n  - delimited-prompt: {prompt: nowhere.yaml}\n")
    with pytest.raises(InputError, match=r"grid\.yaml:4.*there is no prompt 'nowhere\.yaml'"):
        load_grid(grid)


def test_a_wrong_slot_says_how_a_brace_is_written(tmp_path: Path) -> None:
    text = prompts.prompt_path("yes-no").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("{history}", '{history} {\\"answer\\"}', 1))
    with pytest.raises(InputError, match=r"written twice: \{\{ or \}\}"):
        prompts.read(str(path))
