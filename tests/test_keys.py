"""Keys: what must change one does, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import bench
from bench import code, keys
from bench.code import code_hash
from bench.errors import InputError
from bench.keys import Keys, canonical, digest, plain
from bench.registry import Registry

ROOT = Path(bench.__file__).parent

PLUGIN = '''\
"""An attack."""
from bench.api import EmbeddingAttack, param
from ._shared import half


class Mine(EmbeddingAttack):
    """Moves rows."""

    name = "mine"
    power: float = param(1.0, "how much")

    def delta(self, model, radii, data, ctx):
        # a comment
        return {k: half(v) * self.power for k, v in radii.items()}
'''


def test_canonical_is_one_text_for_equal_values() -> None:
    assert canonical({"b": (1, 2.0), "a": None}) == canonical({"a": None, "b": [1, 2.0]})
    assert canonical({"a": 1e-05}) == '{"a":1e-05}'
    assert canonical([np.int64(3), np.float64(0.1)]) == "[3,0.1]"
    assert canonical(1) != canonical(1.0) != canonical("1.0")
    assert plain({"x": float("nan"), "y": {2, 1}}) == {"x": None, "y": [1, 2]}
    with pytest.raises(TypeError, match="no form in JSON"):
        plain(object())


def test_digest_tells_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert len(digest("x")) == 20
    assert digest("x") == digest("x")


@pytest.mark.parametrize(("old", "new", "same"), [
    ("# a comment", "# another one", True),
    ('"""Moves rows."""', '"""Moves rows, as in a paper."""', True),
    ('"how much"', '"how much it moves"', True),
    ("* self.power", "* self.power * 2", False),
    ("param(1.0", "param(2.0", False),
    ('name = "mine"', 'name = "mine-too"', False),
])
def test_comments_do_not_count_and_formulas_do(tmp_path: Path, old: str, new: str,
                                               same: bool) -> None:
    path = tmp_path / "a.py"
    path.write_text(PLUGIN)
    before = code_hash(path)
    assert old in PLUGIN
    path.write_text(PLUGIN.replace(old, new))
    assert (code_hash(path) == before) is same


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "mine.py").write_text(PLUGIN)
    (path / "_shared.py").write_text("def half(x):\n    return x / 2\n")
    (path / "_unused.py").write_text("X = 1\n")
    return path


def _code(folder: Path) -> str:
    return code.plugin_code(Registry([folder]).get("attacks", "mine"))


def test_helpers_that_a_plugin_imports_count_and_others_do_not(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "plugins")
    before = _code(folder)
    (folder / "_unused.py").write_text("X = 12345\n")
    assert _code(folder) == before
    (folder / "_shared.py").write_text("def half(x):\n    return x / 2.5\n")
    assert _code(folder) != before


def test_a_plugin_has_the_same_code_wherever_it_lies(tmp_path: Path) -> None:
    one = _folder(tmp_path / "one")
    shutil.copytree(one, tmp_path / "two")
    assert _code(one) == _code(tmp_path / "two")


def test_data_files_that_a_plugin_names_count(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "plugins")
    (folder / "mine.py").write_text(PLUGIN + '\nTABLE = "numbers.json"\n')
    before = _code(folder)
    (folder / "numbers.json").write_text("[1]")
    with_file = _code(folder)
    (folder / "numbers.json").write_text("[1, 2]")
    assert len({before, with_file, _code(folder)}) == 3


def test_the_files_of_each_stage() -> None:
    train = {p.relative_to(ROOT).as_posix() for p in code.stage_files("train")
             if p.is_relative_to(ROOT)}
    assert {"stages.py", "training.py", "sampling.py", "context.py", "api.py", "data.py",
            "models/base.py", "evaluate.py"} <= train
    assert not {"keys.py", "plan.py", "jobs.py", "store.py", "run.py", "results.py",
                "progress.py", "cli.py", "registry.py", "grid.py"} & train
    assert {p.name for p in code.stage_files("data")} == {"data.py"}
    bprmf = Registry().get("models", "bprmf")
    assert {p.name for p in code.plugin_files(bprmf)} == {"bprmf.py", "_bprmf.py"}


def test_types_alone_are_no_dependency(tmp_path: Path) -> None:
    (tmp_path / "_b.py").write_text("X = 1\n")
    (tmp_path / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                                   "    from ._b import X\n")
    assert code.closure([tmp_path / "a.py"]) == {tmp_path / "a.py"}
    (tmp_path / "a.py").write_text("def f():\n    from ._b import X\n    return X\n")
    assert code.closure([tmp_path / "a.py"]) == {tmp_path / "a.py", tmp_path / "_b.py"}


def _three(made: Keys, *, eps: float = 0.5, dim: int = 4, users: int = 24, seed: int = 0,
           metrics: tuple[str, ...] = ("hr@5",)) -> tuple[str, str, str]:
    registry = Registry()
    data = made.data(registry.get("datasets", "blocks")(users=users))
    train = made.train(data, None, registry.get("models", "bprmf")(dim=dim),
                       registry.get("defenses", "none")(), seed)
    return data, train, made.cell(train, registry.get("attacks", "noise")(eps=eps), metrics,
                                  {"users": (), "items": ()})


@pytest.mark.parametrize(("change", "changed"), [
    ({}, (False, False, False)), ({"eps": 0.4}, (False, False, True)),
    ({"metrics": ("hr@6",)}, (False, False, True)), ({"dim": 5}, (False, True, True)),
    ({"seed": 1}, (False, True, True)), ({"users": 25}, (True, True, True))])
def test_a_change_reaches_what_depends_on_it(change: dict, changed: tuple[bool, ...]) -> None:
    before = _three(Keys())
    after = _three(Keys(), **change)
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == changed


def test_threads_and_library_versions_enter_the_training(monkeypatch) -> None:
    base = _three(Keys())
    assert _three(Keys(threads=1)) == base
    assert _three(Keys(threads=2))[1] != base[1]
    monkeypatch.setattr(keys, "versions", lambda: {"torch": "1.0"})
    assert _three(Keys())[0] == base[0]
    assert _three(Keys())[1] != base[1]


def test_data_files_count_by_content_and_not_by_place(tmp_path: Path) -> None:
    code = '''\
from bench.api import DatasetPlugin, param


class Here(DatasetPlugin):
    """Reads a file."""

    name = "here"
    path: str = param("", "the file")
    folder: str = param("", "its folder")
    sep: str = param(",", "between columns")

    def load(self):
        raise NotImplementedError

    def files(self):
        return [self.path] if self.path else [self.folder + "/a.csv"]
'''
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "here.py").write_text(code)
    cls = Registry([tmp_path / "plugins"]).get("datasets", "here")
    for name, text in (("one", "1,2"), ("two", "1,2"), ("three", "1,3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(text)
    key = {n: Keys().data(cls(path=str(tmp_path / n / "a.csv"))) for n in ("one", "two", "three")}
    assert key["one"] == key["two"] != key["three"]
    folder = {n: Keys().data(cls(folder=str(tmp_path / n))) for n in ("one", "two", "three")}
    assert folder["one"] == folder["two"] != folder["three"]
    assert Keys().data(cls(path=str(tmp_path / "one" / "a.csv"), sep=";")) != key["one"]
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot read it"):
        Keys().data(cls(path=str(tmp_path / "nowhere.csv")))


def test_hashing_is_memoised(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.py"
    path.write_text(PLUGIN)
    code_hash(path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(code.ast, "parse", refuse)
    assert code_hash(path)
