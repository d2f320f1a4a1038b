"""The grid file: what it means, and that every way to get it wrong is told in one clear line."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from textwrap import dedent

import pytest

from bench.cli import main
from bench.errors import InputError
from bench.grid import METRICS, SEEDS, Engine, Grid, Groups, load_grid
from bench.yaml_lines import InputErrors

BASE = "datasets: [blocks]\nmodels: [pop]\n"


def grid(tmp_path: Path, text: str) -> Grid:
    path = tmp_path / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return load_grid(path)


def labels(plugins) -> list[str]:
    return [p.label() for p in plugins]


# -- what a grid means -----------------------------------------------------------------------

def test_defaults(tmp_path):
    made = grid(tmp_path, BASE)
    assert made.name == "grid"
    assert made.seeds == SEEDS
    assert made.metrics == METRICS
    assert made.groups == Groups()
    assert made.engine == Engine("inline", 0, 1, None)
    assert labels(made.attacks) == labels(made.defenses) == ["none"]
    assert made.exclude == ()
    assert made.plugins == ()
    assert made.text == BASE
    assert made.notes == ()


def test_every_section(tmp_path):
    made = grid(tmp_path, dedent("""
        name: quick_start-1
        seeds: [3, 1]
        datasets: [{blocks: {users: 40}}]
        models: [pop, {bprmf: {dim: [8, 16], learning_rate: 1e-2}}]
        attacks: [noise, {fgsm: {eps: [0.1, 0.5]}}, {random-profiles: {budget: [0.02, 0.05]}}]
        defenses: [{adversarial-training: {eps: 0.1}}]
        metrics: [ndcg@5, auc]
        groups: {users: [gender, age], items: popularity}
        exclude: [{model: pop, attack: [fgsm, noise]}, {seed: 1, defense: adversarial-training}]
        engine: {name: processes, workers: 2, threads: 2, timeout: 60}
        """))
    assert made.name == "quick_start-1"
    assert made.seeds == (3, 1)
    assert made.datasets[0].params()["users"] == 40
    assert labels(made.models) == ["pop", "bprmf(learning_rate=0.01, dim=8)",
                                   "bprmf(learning_rate=0.01, dim=16)"]
    assert labels(made.attacks) == ["none", "noise", "fgsm(eps=0.1)", "fgsm",
                                    "random-profiles(budget=0.02)",
                                    "random-profiles(budget=0.05)"]
    assert labels(made.defenses) == ["none", "adversarial-training(eps=0.1)"]
    assert made.metrics == ("ndcg@5", "auc")
    assert made.groups == Groups(("gender", "age"), ("popularity",))
    assert made.engine == Engine("processes", 2, 2, 60.0)


def test_lists_cross_in_the_order_written(tmp_path):
    made = grid(tmp_path, BASE + "attacks: [{pgd: {steps: [2, 3], eps: [0.1, 0.2]}}]\n")
    found = [(a.params()["steps"], a.params()["eps"]) for a in made.attacks[1:]]
    assert found == [(2, 0.1), (2, 0.2), (3, 0.1), (3, 0.2)]


def test_axes_as_mapping_and_as_single_word(tmp_path):
    made = grid(tmp_path, "datasets: blocks\nmodels:\n  pop:\n  bprmf: {dim: 8}\n")
    assert labels(made.datasets) == ["blocks"]
    assert labels(made.models) == ["pop", "bprmf(dim=8)"]


def test_none_comes_first_and_once(tmp_path):
    made = grid(tmp_path, BASE + "attacks: [noise, none]\ndefenses: [none]\n")
    assert labels(made.attacks) == ["none", "noise"]
    assert labels(made.defenses) == ["none"]


@pytest.mark.parametrize(("written", "value"), [
    ("1e-5", 1e-5), ("1E-5", 1e-5), ("'1e-5'", 1e-5), ("1", 1.0), (".5", 0.5), ("5.", 5.0),
    ("1_000.5", 1000.5), ("+2", 2.0), ("1.5e+3", 1500.0)])
def test_floats_as_people_write_them(tmp_path, written, value):
    made = grid(tmp_path, BASE + f"attacks: [{{fgsm: {{eps: {written}}}}}]\n")
    assert made.attacks[1].params()["eps"] == value
    assert isinstance(made.attacks[1].params()["eps"], float)


@pytest.mark.parametrize(("written", "value"), [
    ("10", 10), ("10.0", 10), ("1e1", 10), ("'10'", 10), ("1_0", 10), ("+10", 10)])
def test_ints_as_people_write_them(tmp_path, written, value):
    made = grid(tmp_path, BASE + f"attacks: [{{pgd: {{steps: {written}}}}}]\n")
    assert made.attacks[1].params()["steps"] == value
    assert isinstance(made.attacks[1].params()["steps"], int)


@pytest.mark.parametrize(("written", "value"), [
    ("yes", True), ("on", True), ("True", True), ("'true'", True), ("no", False), ("off", False)])
def test_truth_values(tmp_path, written, value):
    made = grid(tmp_path, BASE + f"attacks: [{{fgsm: {{relative: {written}}}}}]\n")
    assert made.attacks[1].params()["relative"] is value


PLUGIN = '''
"""A plugin with every type of parameter."""
from bench.api import Defense, param

class Typed(Defense):
    """For tests; no reference."""
    name = "typed"
    word: str = param("a", "text")
    layers: tuple[int, ...] = param((8, 4), "sizes")
    pair: tuple[float, str] = param((1.0, "x"), "two things")
    columns: tuple[str, ...] = param((), "names")
    seconds: float | None = param(None, "a limit", above=0)
    either: int | str = param(0, "a number or a word")
    epsilon: float = param(float("inf"), "inf: no limit", above=0)
    mode: str = param("no", "a choice", choices=("no", "yes"))
    nested: tuple[tuple[int, ...], ...] = param(((1,),), "lists of lists")
'''


def typed(tmp_path: Path, params: str) -> list[dict]:
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "typed.py").write_text(PLUGIN)
    made = grid(tmp_path, BASE + f"plugins: mine\ndefenses: [{{typed: {{{params}}}}}]\n")
    return [d.params() for d in made.defenses[1:]]


@pytest.mark.parametrize(("params", "key", "values"), [
    ("word: no", "word", ["no"]),
    ("word: [off, 1:30, 010, 1e-5, 2024-01-01, '']", "word",
     ["off", "1:30", "010", "1e-5", "2024-01-01", ""]),
    ("layers: [64, 32]", "layers", [[64, 32]]),
    ("layers: [[64, 32], [16]]", "layers", [[64, 32], [16]]),
    ("layers: 64", "layers", [[64]]),
    ("layers: []", "layers", [[]]),
    ("pair: [2, yes]", "pair", [[2.0, "yes"]]),
    ("pair: [[2, a], [3, b]]", "pair", [[2.0, "a"], [3.0, "b"]]),
    ("columns: [user, no]", "columns", [["user", "no"]]),
    ("seconds: [null, 5, none, ~]", "seconds", [None, 5.0]),
    ("either: [5, five]", "either", [5, "five"]),
    ("epsilon: [.inf, 8]", "epsilon", [math.inf, 8.0]),
    ("mode: [no, yes]", "mode", ["no", "yes"]),
    ("nested: [[1, 2], [3]]", "nested", [[[1, 2], [3]]]),
    ("nested: [[[1, 2]], [[3]]]", "nested", [[[1, 2]], [[3]]]),
])
def test_types(tmp_path, params, key, values):
    assert [p[key] for p in typed(tmp_path, params)] == values


def test_anchors_and_merges(tmp_path):
    made = grid(tmp_path, BASE + dedent("""
        attacks:
          - pgd: &common {eps: 0.2, steps: 5}
          - fgsm: {<<: &e {eps: 0.1}, norm: linf}
          - pgd: {<<: [*common], steps: 7}
          - noise: *e
        """))
    assert labels(made.attacks) == ["none", "pgd(eps=0.2, steps=5)",
                                    "fgsm(eps=0.1, norm=linf)", "pgd(eps=0.2, steps=7)",
                                    "noise(eps=0.1)"]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert labels(load_grid(path).models) == ["pop"]


def test_equal_entries_run_once_and_are_noted(tmp_path):
    made = grid(tmp_path, BASE + "attacks:\n- fgsm\n- fgsm: {eps: [0.5, 0.1]}\nseeds: [1, 1, 0]\n"
                "metrics: [auc, auc]\ngroups: {users: [age, age]}\n")
    assert labels(made.attacks) == ["none", "fgsm", "fgsm(eps=0.1)"]
    assert made.seeds == (1, 0)
    assert made.metrics == ("auc",)
    assert made.groups.users == ("age",)
    assert len(made.notes) == 4
    assert "fgsm stands twice (lines 4 and 5); it runs once" in made.notes[0]


def test_exclude_by_name_label_and_seed(tmp_path):
    made = grid(tmp_path, "datasets: [blocks]\nmodels: [pop, bprmf]\nseeds: [0, 1]\n"
                "attacks: [{fgsm: {eps: [0.1, 0.2]}}, noise]\nexclude:\n"
                "- {model: pop, attack: [fgsm, noise]}\n- {attack: fgsm(eps=0.2), seed: [1]}\n")
    data, = made.datasets
    none, low, high, noise = made.attacks
    pop, bprmf = made.models
    clean, = made.defenses
    left_out = {(m.name, a.label(), s) for m in made.models for a in made.attacks
                for s in made.seeds if made.excluded(data, m, clean, a, s)}
    assert left_out == {("pop", a.label(), s) for a in (low, high, noise) for s in (0, 1)} | {
        ("bprmf", high.label(), 1)}
    assert not made.excluded(data, pop, clean, none, 0)
    assert not made.excluded(data, bprmf, clean, high, 0)


def test_plugins_count_from_the_grid_file(tmp_path, monkeypatch):
    assert typed(tmp_path, "word: b")[0]["word"] == "b"
    monkeypatch.chdir("/")
    assert load_grid(tmp_path / "grid.yaml").plugins == ((tmp_path / "mine").resolve(),)


def test_a_broken_plugin_beside_is_noted_and_stops_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bad.py").write_text("1 / 0\n")
    made = grid(tmp_path, BASE + "plugins: [mine]\n")
    assert len(made.notes) == 1
    assert "bad.py:1: ZeroDivisionError" in made.notes[0]


def test_a_plugins_own_check_is_told_with_its_line(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "p.py").write_text(dedent('''
        from bench.api import Defense, param
        class P(Defense):
            name = "picky"
            low: int = param(0, "low")
            high: int = param(1, "high")
            def __post_init__(self):
                if self.low > self.high:
                    raise ValueError(f"low {self.low} is above high {self.high}")
        '''))
    with pytest.raises(InputError, match=r"grid.yaml:4 \[defenses\[0\].picky\]: low 5 is above"):
        grid(tmp_path, BASE + "plugins: [mine]\ndefenses: [{picky: {low: [0, 5]}}]\n")


def test_families(tmp_path):
    (tmp_path / "mine" / "models").mkdir(parents=True)
    (tmp_path / "mine" / "models" / "zoo.py").write_text(FAMILY)
    head = "datasets: [blocks]\nplugins: [mine]\n"
    made = grid(tmp_path, head + "models: [{zoo: {model: [Ape, Bee], size: [1, 2]}}, Ape]\n")
    assert labels(made.models) == ["Ape", "Ape(size=2)", "Bee", "Bee(size=2)"]
    made = grid(tmp_path, head + "models: [{Bee: {size: 3}}, pop]\nexclude: [{model: zoo}]\n")
    assert made.exclude == ({"model": ("Ape", "Bee")},)
    with pytest.raises(InputError, match=r"models\[0\].zoo.model\[0\]\]: zoo has no model 'Aep' "
                       r"\(did you mean 'Ape'"):
        grid(tmp_path, head + "models: [{zoo: {model: [Aep]}}]\n")
    with pytest.raises(InputError, match="'zoo' is a family of 2 models; say which"):
        grid(tmp_path, head + "models: [zoo]\n")


FAMILY = '''
from bench.api import ModelPlugin, param

FAMILY = "zoo"
made = []

def members():
    return ["Ape", "Bee"]

def member(name):
    made.append(name)

    class Animal(ModelPlugin):
        size: int = param(1, "size")
        gives = frozenset()
        def build(self, data, ctx):
            raise NotImplementedError

    Animal.name = name
    return Animal
'''


def test_all_problems_come_at_once(tmp_path):
    with pytest.raises(InputErrors) as caught:
        grid(tmp_path, "sedes: [1]\ndatasets: [blocks]\nmodels: [popp]\n"
             "attacks: [{fgsm: {eps: -1, norm: l3}}]\nmetrics: [hr]\n")
    assert [e.line for e in caught.value.errors] == [1, 3, 4, 4, 5]
    assert len(str(caught.value).split("\n")) == 5
    with pytest.raises(InputErrors) as caught:
        grid(tmp_path, BASE + "".join(f"wrong{n}: 1\n" for n in range(30)))
    assert str(caught.value).split("\n")[-1].endswith("… and 10 more problems")
    assert len(caught.value.errors) == 21


# -- what a grid must not be ---------------------------------------------------------------

def attack(params: str) -> str:
    return BASE + f"attacks:\n- {params}\n"


A, M = "attacks[0]", "metrics[0]"
MALFORMED: list[tuple[str, int | None, str, str]] = [
    # what is written, line, key path, what the message says (a pattern)
    # the file
    ("", None, "", "is empty"),
    ("# only a comment\n", None, "", "is empty"),
    ("---\n", None, "", "is empty"),
    ("hello", 1, "", "'hello' stands where a grid is a mapping"),
    ("- blocks\n- pop\n", 1, "", "a list stands where a grid is a mapping"),
    ("42", 1, "", "'42' stands where a grid is a mapping"),
    (BASE + "---\n" + BASE, 4, "", "several YAML documents"),
    ("datasets:\n\t- blocks\n", 2, "", "tab .* only spaces"),
    ("datasets: [blocks\nmodels: [pop]\n", 2, "", "not valid YAML.*starts on line 1.*brackets"),
    ("datasets: [blocks]]\n", 1, "", "not valid YAML.*brackets"),
    ("datasets: {blocks\n", 2, "", "not valid YAML.*brackets"),
    (BASE + "name: a: b\n", 3, "", "needs quotes"),
    (BASE + "name: 'a\n", 4, "", "not valid YAML"),
    (BASE + "name: @x\n", 3, "", "needs quotes"),
    (BASE + "name: `x`\n", 3, "", "needs quotes"),
    (BASE + "name: %x\n", 3, "", "needs quotes"),
    (BASE + "name: *x\n", 3, "", "alias .* needs an anchor"),
    (BASE + "  name: x\n", 3, "", "not valid YAML"),
    ("datasets: [blocks]\n models: [pop]\n", 2, "", "not valid YAML"),
    (BASE + "name: \x01\n", 3, "", r"U\+0001"),
    (BASE + "name: !!python/object:os.system x\n", 3, "name", "tag .* is not supported"),
    (BASE + "name: !mine x\n", 3, "name", "tag !mine is not supported"),
    (BASE + "groups: &g {users: *g}\n", 3, "groups.users", "alias stands inside its own anchor"),
    (BASE + "groups: " + "[" * 100 + "]" * 100 + "\n", 3, "", "nested too deeply"),
    (BASE + "groups: " + "[" * 600 + "]" * 600 + "\n", None, "", "nested too deeply"),
    # keys
    ("dataset: [blocks]\nmodels: [pop]\n", 1, "dataset", "did you mean 'datasets'"),
    (BASE + "model: [pop]\n", 3, "model", "no key 'model'.*did you mean 'models'"),
    (BASE + "Attacks: [fgsm]\n", 3, "Attacks", "did you mean 'attacks'"),
    (BASE + "seed: 1\n", 3, "seed", "did you mean 'seeds'"),
    (BASE + "epochs: 5\n", 3, "epochs", "a grid has no key 'epochs'.*known: attacks"),
    (BASE + "1: x\n", 3, "1", "no key '1'"),
    (BASE + "models: [bprmf]\n", 3, "models", "stands twice, on lines 2 and 3"),
    (attack("fgsm: {eps: 1, eps: 2}"), 4, f"{A}.fgsm.eps", "stands twice, on line 4"),
    (BASE + "? [a, b]\n: 1\n", 3, "", "a key is a name"),
    (BASE + "groups: {<<: 5}\n", 3, "groups.<<", "<< merges a mapping"),
    # datasets and models
    ("models: [pop]\n", 1, "datasets", "no datasets are given"),
    ("datasets: [blocks]\n", 1, "models", "no models are given"),
    ("datasets: []\nmodels: [pop]\n", 1, "datasets", "no datasets are given"),
    ("datasets: [blocks]\nmodels:\n", 2, "models", "no models are given"),
    ("datasets: [block]\nmodels: [pop]\n", 1, "datasets[0]", "no dataset is called 'block'.*"
     "did you mean 'blocks'"),
    ("datasets: [blocks]\nmodels: [bpr-mf]\n", 2, "models[0]", "did you mean 'bprmf'"),
    ("datasets: [pop]\nmodels: [pop]\n", 1, "datasets[0]", "'pop' is a model; put it under models"),
    ("datasets: [blocks]\nmodels: [POP]\n", 2, "models[0]", "did you mean 'pop'"),
    ("datasets: [[blocks]]\nmodels: [pop]\n", 1, "datasets[0]", "a list stands where a dataset"),
    ("datasets: [blocks, null]\nmodels: [pop]\n", 1, "datasets[1]", "nothing stands where"),
    ("datasets: [blocks, '']\nmodels: [pop]\n", 1, "datasets[1]", "nothing stands where"),
    ("datasets: [blocks]\nmodels: [{}]\n", 2, "models[0]", "nothing stands where"),
    ("datasets: [{blocks: 5}]\nmodels: [pop]\n", 1, "datasets[0].blocks", "'5' stands where the "
     "parameters of 'blocks' go"),
    ("datasets: [{blocks: [5]}]\nmodels: [pop]\n", 1, "datasets[0].blocks", "a list stands where"),
    ("datasets: [{blocks: {user: 9}}]\nmodels: [pop]\n", 1, "datasets[0].blocks.user",
     "has no parameter 'user'.*did you mean 'users'"),
    ("datasets: [blocks]\nmodels: [{pop: {k: 1}}]\n", 2, "models[0].pop.k", "no parameters at all"),
    # attacks and defenses
    (attack("fgms"), 4, A, "no attack is called 'fgms'.*did you mean 'fgsm'"),
    (attack("adversarial-training"), 4, A, "is a defense; put it under defenses"),
    (BASE + "defenses: [pgd]\n", 3, "defenses[0]", "is an attack; put it under attacks"),
    (attack("fgsm:\n  eps: 1"), 5, A, "'eps' stands beside 'fgsm', not below"),
    (attack("{name: fgsm, params: {eps: 1}}"), 4, A, "'params' stands beside 'name'"),
    (attack("fgsm: {esp: 1}"), 4, f"{A}.fgsm.esp", "no parameter 'esp'.*did you mean 'eps'"),
    (attack("fgsm: {eps: -0.5}"), 4, f"{A}.fgsm.eps", "-0.5 is below 0.*at least 0"),
    (attack("fgsm: {eps: [0.1, -1]}"), 4, f"{A}.fgsm.eps[1]", "-1 is below 0"),
    (attack("fgsm: {eps: big}"), 4, f"{A}.fgsm.eps", "'big' is not a number.*at least 0"),
    (attack("fgsm: {eps: 0,5}"), 4, f"{A}.fgsm.5", "no parameter '5'.*point, as in 0.5"),
    (attack("fgsm: {eps: '0,5'}"), 4, f"{A}.fgsm.eps", "is not a number.*write 0.5"),
    (attack("fgsm: {eps: yes}"), 4, f"{A}.fgsm.eps", "'yes' is a truth value, not a number"),
    (attack("fgsm: {eps: null}"), 4, f"{A}.fgsm.eps", "nothing is given"),
    (attack("fgsm: {eps: }"), 4, f"{A}.fgsm.eps", "nothing is given"),
    (attack("fgsm: {eps: ''}"), 4, f"{A}.fgsm.eps", "'' is not a number"),
    (attack("fgsm: {eps: .nan}"), 4, f"{A}.fgsm.eps", "nan is not finite"),
    (attack("fgsm: {eps: .inf}"), 4, f"{A}.fgsm.eps", "inf is not finite"),
    (attack("fgsm: {eps: 1e999}"), 4, f"{A}.fgsm.eps", "too large"),
    (attack("fgsm: {eps: 1:30}"), 4, f"{A}.fgsm.eps", "base 60"),
    (attack("fgsm: {eps: 50%}"), 4, f"{A}.fgsm.eps", "'50%' is not a number"),
    (attack("fgsm: {eps: []}"), 4, f"{A}.fgsm.eps", "an empty list leaves nothing"),
    (attack("fgsm: {eps: [[0.1]]}"), 4, f"{A}.fgsm.eps[0]", "a list stands inside a list"),
    (attack("fgsm: {eps: {from: 1}}"), 4, f"{A}.fgsm.eps", "a mapping is not a number"),
    (attack("fgsm: {norm: l3}"), 4, f"{A}.fgsm.norm", "'l3' is not allowed.*known: l2, linf"),
    (attack("fgsm: {norm: [l2, L2]}"), 4, f"{A}.fgsm.norm[1]", "did you mean 'l2'"),
    (attack("fgsm: {relative: maybe}"), 4, f"{A}.fgsm.relative", "not true or false"),
    (attack("fgsm: {relative: 1}"), 4, f"{A}.fgsm.relative", "not true or false"),
    (attack("pgd: {steps: 2.5}"), 4, f"{A}.pgd.steps", "'2.5' is not a whole number"),
    (attack("pgd: {steps: 0}"), 4, f"{A}.pgd.steps", "0 is below 1"),
    (attack("pgd: {steps: true}"), 4, f"{A}.pgd.steps", "'true' is a truth value"),
    (attack("pgd: {steps: 010}"), 4, f"{A}.pgd.steps", "octal.*write 10"),
    (attack("pgd: {steps: 0x10}"), 4, f"{A}.pgd.steps", "not a decimal number"),
    (attack("pgd: {steps: 0o10}"), 4, f"{A}.pgd.steps", "not a decimal number"),
    (attack("pgd: {steps: 1:30}"), 4, f"{A}.pgd.steps", "base 60"),
    (attack("pgd: {steps: .inf}"), 4, f"{A}.pgd.steps", "not a whole number"),
    (attack("pgd: {steps: ten}"), 4, f"{A}.pgd.steps", "'ten' is not a whole number"),
    (attack("pgd: {steps: " + "9" * 40 + "}"), 4, f"{A}.pgd.steps", "40 digits is too large"),
    (attack("pgd: {steps: 2024-01-01}"), 4, f"{A}.pgd.steps", "not a whole number"),
    (attack("random-profiles: {budget: 0}"), 4, f"{A}.random-profiles.budget",
     "0 is not above 0.*above 0 and at most 1"),
    (attack("random-profiles: {budget: 5}"), 4, f"{A}.random-profiles.budget", "5 is above 1"),
    (attack("fgsm: {eps: [0.123456781, 0.123456782]}"), 4, "attacks", "both be called "
     r"'fgsm\(eps=0.123457\)'"),
    (attack("pgd: {eps: [" + ", ".join(map(str, range(1, 401))) + "], steps: ["
            + ", ".join(map(str, range(1, 401))) + "]}"), 4, f"{A}.pgd", "160,000 combinations"),
    (BASE + "seeds: [" + ", ".join(map(str, range(400))) + "]\nattacks: [{fgsm: {eps: ["
     + ", ".join(map(str, range(1, 401))) + "]}}]\n", 1, "", "160,400 cells .400 seeds × "),
    ("datasets: [blocks]\nmodels: [{bprmf: {validate: ndgc@10}}]\n", 2, "models[0].bprmf",
     "no metric 'ndgc@10'.*did you mean 'ndcg'"),
    ("datasets: [blocks]\nmodels: [{bprmf: {validate: gini@10}}]\n", 2, "models[0].bprmf",
     "cannot decide when training stops"),
    ("datasets: [blocks]\nmodels: [{recbole: {epochs: 5}}]\n", 2, "models[0].recbole",
     "'recbole' is a family of 94 models; say which"),
    ("datasets: [blocks]\nmodels: [{recbole: {model: [BPR, LightGNC]}}]\n", 2,
     "models[0].recbole.model[1]", "no model 'LightGNC'.*did you mean 'LightGCN'"),
    ("datasets: [blocks]\nmodels: [{recbole: {model: [BPR, LightGCN], layers: 2}}]\n", 2,
     "models[0].recbole.layers", "BPR, LightGCN have no parameter 'layers'.*'n_layers'"),
    ("datasets: [blocks]\nmodels: [{recbole: {model: [BPR, LightGCN], n_layers: 2}}]\n", 2,
     "models[0].recbole.n_layers", "BPR has no parameter 'n_layers'"),
    ("datasets: [blocks]\nmodels: [{recbole: {model: []}}]\n", 2, "models[0].recbole.model",
     "an empty list names nothing"),
    ("datasets: [blocks]\nmodels: [{NeuMF: {mlp_hidden_size: [64, x]}}]\n", 2,
     r"models[0].NeuMF.mlp_hidden_size[1]", "'x' is not a whole number.*a list of whole numbers"),
    ("datasets: [blocks]\nmodels: [{NeuMF: {mlp_hidden_size: [[64], 32]}}]\n", 2,
     r"models[0].NeuMF.mlp_hidden_size[1]", "lists and single values are mixed"),
    # seeds, name
    (BASE + "seeds: []\n", 3, "seeds", "an empty list leaves nothing to run"),
    (BASE + "seeds: -1\n", 3, "seeds", "-1 is below 0"),
    (BASE + "seeds: [0, 1.5]\n", 3, "seeds[1]", "'1.5' is not a whole number"),
    (BASE + "seeds: [a]\n", 3, "seeds[0]", "'a' is not a whole number"),
    (BASE + "seeds: true\n", 3, "seeds", "truth value"),
    (BASE + "seeds: [07]\n", 3, "seeds[0]", "leading zero.*write 7"),
    (BASE + "seeds: [null]\n", 3, "seeds[0]", "nothing is given"),
    (BASE + "seeds: {a: 1}\n", 3, "seeds", "a mapping is not a whole number"),
    (BASE + "seeds: 99999999999\n", 3, "seeds", "is above 4294967295"),
    (BASE + "name: ../escape\n", 3, "name", "is no name for a run"),
    (BASE + "name: a/b\n", 3, "name", "is no name for a run"),
    (BASE + "name: [x]\n", 3, "name", "a list is no name"),
    (BASE + "name: .hidden\n", 3, "name", "is no name for a run"),
    (BASE + f"name: {'x' * 200}\n", 3, "name", "is no name for a run"),
    # metrics
    (BASE + "metrics: [ndgc@10]\n", 3, M, "no metric 'ndgc@10'.*did you mean 'ndcg'"),
    (BASE + "metrics: [ndcg]\n", 3, M, "write ndcg@10"),
    (BASE + "metrics: [ndcg@0]\n", 3, M, "whole number from 1"),
    (BASE + "metrics: [ndcg@ten]\n", 3, M, "whole number from 1"),
    (BASE + "metrics: [ndcg@-5]\n", 3, M, "whole number from 1"),
    (BASE + "metrics: []\n", 3, "metrics", "nothing to measure"),
    (BASE + "metrics: [{ndcg: 10}]\n", 3, M, "a mapping is not text"),
    (BASE + "metrics: [null]\n", 3, M, "nothing is given"),
    # groups
    (BASE + "groups: [gender]\n", 3, "groups", "a list stands where a mapping"),
    (BASE + "groups: gender\n", 3, "groups", "'gender' stands where a mapping"),
    (BASE + "groups: {user: [gender]}\n", 3, "groups.user", "did you mean 'users'"),
    (BASE + "groups: {users: [[a]]}\n", 3, "groups.users[0]", "a list is not text"),
    (BASE + "groups: {users: {a: b}}\n", 3, "groups.users", "a mapping is not text"),
    # engine
    (BASE + "engine: ray\n", 3, "engine.name", "no engine 'ray'.*known: inline, processes"),
    (BASE + "engine: {name: inlin}\n", 3, "engine.name", "did you mean 'inline'"),
    (BASE + "engine: [inline]\n", 3, "engine", "a list stands where a mapping"),
    (BASE + "engine: {worker: 2}\n", 3, "engine.worker", "did you mean 'workers'"),
    (BASE + "engine: {name: processes, workers: many}\n", 3, "engine.workers", "whole number"),
    (BASE + "engine: {name: processes, workers: -1}\n", 3, "engine.workers", "-1 is below 0"),
    (BASE + "engine: {threads: 0}\n", 3, "engine.threads", "0 is below 1"),
    (BASE + "engine: {timeout: soon}\n", 3, "engine.timeout", "'soon' is not a number"),
    (BASE + "engine: {timeout: 0}\n", 3, "engine.timeout", "0 is no duration"),
    (BASE + "engine: {timeout: .inf}\n", 3, "engine.timeout", "inf is no duration"),
    (BASE + "engine: {workers: 4}\n", 3, "engine.workers", "one job at a time.*processes"),
    # exclude
    (BASE + "exclude: [pop]\n", 3, "exclude[0]", "'pop' stands where a condition"),
    (BASE + "exclude: [{}]\n", 3, "exclude[0]", "nothing stands where a condition"),
    (BASE + "exclude: [{models: pop}]\n", 3, "exclude[0].models", "did you mean 'model'"),
    (BASE + "exclude: [{model: popp}]\n", 3, "exclude[0].model", "did you mean 'pop'"),
    (BASE + "exclude: [{model: []}]\n", 3, "exclude[0].model", "an empty list matches nothing"),
    (BASE + "exclude: [{model: null}]\n", 3, "exclude[0].model", "nothing is given"),
    (BASE + "exclude: [{seed: 7}]\n", 3, "exclude[0].seed", "seed 7 is not in this grid.*0, 1, 2"),
    (BASE + "exclude: [{seed: x}]\n", 3, "exclude[0].seed", "'x' is not a whole number"),
    (BASE + "exclude: [{model: {pop: 1}}]\n", 3, "exclude[0].model", "a mapping is not text"),
    (BASE + "exclude: [{attack: none}]\n", 3, "exclude[0].attack", "clean baseline"),
    (BASE + "exclude: [{model: pop}]\n", 3, "exclude", "leaves out every cell"),
    (attack("fgsm: {eps: 0.1}") + "exclude: [{attack: fgsm(eps=0.2)}]\n", 5, "exclude[0].attack",
     r"did you mean 'fgsm\(eps=0.1\)'"),
    # plugins
    (BASE + "plugins: [nowhere]\n", 3, "plugins[0]", "there is no folder 'nowhere'"),
    (BASE + "plugins: [grid.yaml]\n", 3, "plugins[0]", "neither a folder nor a Python file"),
    (BASE + "plugins: [{a: b}]\n", 3, "plugins[0]", "a mapping is not text"),
]


def test_there_are_a_hundred_malformed_grids():
    assert len(MALFORMED) >= 100


@pytest.mark.parametrize(("text", "line", "key", "says"), MALFORMED)
def test_malformed(tmp_path, capsys, monkeypatch, text, line, key, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    assert main(["plan", "grid.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    where = "grid.yaml" + (f":{line}" if line else "") + (f" [{key}]" if key else "") + ": "
    assert err.startswith(f"error: {where}"), err
    assert err.count("\n") == 1, err
    assert re.search(says, err[len("error: ") + len(where):]), err
    assert len(err) < 600


@pytest.mark.parametrize(("raw", "line", "says"), [
    (b"\xff\xfed\x00", 1, "UTF-16"),
    (b"datasets: [blocks]\nname: caf\xe9\n", 2, "is not UTF-8: byte 0xe9"),
    (b"x" * 5_000_000, None, "5,000,000 bytes")])
def test_unreadable_bytes(tmp_path, raw, line, says):
    path = tmp_path / "grid.yaml"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=says) as caught:
        load_grid(path)
    assert caught.value.line == line


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        load_grid(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_grid(tmp_path)
    with pytest.raises(InputError, match="null byte"):
        load_grid(Path("a\0b"))


def test_floods_of_aliases_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match="through its aliases"):
        grid(tmp_path, "\n".join(lines) + "\n")


def test_mangled_grids_are_read_or_refused_and_nothing_else(tmp_path):
    """Characters dropped, doubled, put in at random: InputError alone, with the file."""
    rng = random.Random(0)
    texts = [text for text, *_ in MALFORMED if len(text) < 2000]
    pieces = [*"[]{}:,-?&*!|>'\"%@ \n\t#~.09aeo=\r\x00\ufeff\u2028é", "null", "yes", "1e-5", "<<: ",
              ".nan", "!!str ", "|\n", "9" * 50, "1:30", "- ", "model: ", "fgsm"]
    path, refused = tmp_path / "grid.yaml", []
    for _ in range(80):
        text = rng.choice(texts)
        for _ in range(rng.randint(1, 4)):
            at, end = rng.randint(0, len(text)), rng.randint(1, 9)
            part = text[at // 2:at // 2 + end]
            text = rng.choice([text[:at] + rng.choice(pieces) + text[at:],
                               text[:at] + text[at + end:], text[:at] + part + text[at:]])
        path.write_text(text, encoding="utf-8")
        try:
            load_grid(path)
        except InputError as error:
            refused += str(error).split("\n")
    assert len(refused) > 40
    assert [line for line in refused if not line.startswith(str(path))] == []


def test_a_grid_that_names_a_broken_plugin_says_why(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_attack.py").write_text("x = 1\nimport nowhere_to_be_found\n")
    with pytest.raises(InputError, match=r"no attack is called 'my-attack' \(its file is broken: "
                       r".*my_attack.py:2: ModuleNotFoundError"):
        grid(tmp_path, BASE + "plugins: [mine]\nattacks: [my-attack]\n")


def test_an_infinite_value_is_taken_where_the_parameter_names_it(tmp_path: Path) -> None:
    """DP-SGD allows epsilon and clip up to infinity; elsewhere infinity is a slip."""
    grid = tmp_path / "g.yaml"
    grid.write_text("datasets: [blocks]\nmodels: [pop]\ndefenses: [{dp-sgd: {epsilon: .inf}}]\n")
    assert load_grid(grid).defenses[1].params()["epsilon"] == math.inf
