"""Plugins are found by being there; a broken file says why and stops nothing."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from bench.api import Attack
from bench.errors import InputError
from bench.plugin import KINDS
from bench.registry import Registry

GOOD = '''
from bench.api import Defense, param

class Good(Defense):
    """For tests."""
    name = "good"
    weight: float = param(1.0, "a weight", low=0)
'''


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def only_error(registry: Registry) -> str:
    entry, = [e for e in registry.broken() if e.source != "built-in"]
    return str(entry.error)


def test_built_in_plugins_are_found_where_they_stand():
    registry = Registry()
    assert {"none", "fgsm", "pgd", "noise", "random-profiles"} <= set(registry.names("attacks"))
    assert {"none", "adversarial-training"} <= set(registry.names("defenses"))
    assert {"blocks", "ml-100k"} <= set(registry.names("datasets"))
    assert {"pop", "random", "bprmf", "BPR", "SASRec"} <= set(registry.names("models"))
    assert registry.broken() == []
    for kind in KINDS:
        for entry in registry.entries(kind):
            assert entry.cls is not None
            assert entry.cls.kind == kind
            assert entry.cls.name == entry.name
            assert entry.cls.__module__.startswith(f"bench.{kind}"), entry
            assert entry.path.is_file()
            assert entry.source == "built-in"


def test_looking_imports_nothing_heavy():
    code = ("import sys; from bench.registry import Registry; r = Registry()\n"
            "[r.names(k) for k in ('datasets', 'models', 'attacks', 'defenses')]\n"
            "print([m for m in ('torch', 'pandas', 'scipy', 'recbole', 'pyarrow', 'sklearn') "
            "if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_do_not_make_members_of_families(tmp_path):
    write(tmp_path, zoo='''
        from bench.api import ModelPlugin
        FAMILY, made = "zoo", []
        def members():
            return ["Ape", "Bee"]
        def member(name):
            made.append(name)
            return type(name, (ModelPlugin,), {"name": name, "gives": frozenset()})
        ''')
    registry = Registry([tmp_path])
    assert {"Ape", "Bee"} <= set(registry.names("models"))
    assert registry.families("models")["zoo"] == ["Ape", "Bee"]
    zoo, = [m for m in sys.modules.values()
            if getattr(m, "__file__", None) == str(tmp_path / "zoo.py")]
    assert zoo.made == []
    assert registry.get("models", "Bee").name == "Bee"
    assert registry.get("models", "Bee") is registry.get("models", "Bee")
    assert zoo.made == ["Bee"]


def test_user_folders_flat_and_by_kind(tmp_path):
    write(tmp_path, good=GOOD, attacks__in__mine='''
        from bench.api import Attack, ThreatModel
        class Mine(Attack):
            name = "mine"
            threat = ThreatModel("none", "none", "none")
        ''')
    registry = Registry([tmp_path])
    assert "good" in registry.names("defenses")
    mine = registry.get("attacks", "mine")
    assert issubclass(mine, Attack)
    entry = registry.entry("attacks", "mine")
    assert (entry.source, entry.path) == ("folder", tmp_path / "attacks" / "mine.py")
    assert registry.broken() == []


def test_helpers_tests_and_imported_classes_are_no_plugins(tmp_path):
    write(tmp_path, _helper="SCALE = 3.0\nraise_if_read = None\n", test_good="1 / 0",
          conftest="1 / 0", good='''
        from bench.api import Defense, param
        from bench.attacks.fgsm import FGSM
        from ._helper import SCALE

        class Base(Defense):
            pass

        class Good(Base):
            name = "good"
            weight: float = param(SCALE, "a weight")

        Alias = Good
        ''')
    registry = Registry([tmp_path])
    assert registry.get("defenses", "good")().params() == {"weight": 3.0}
    assert registry.entry("attacks", "fgsm").source == "built-in"
    assert registry.broken() == []


def test_a_single_file(tmp_path):
    write(tmp_path, good=GOOD, bad="1 / 0")
    registry = Registry([tmp_path / "good.py"])
    assert "good" in registry.names("defenses")
    assert registry.broken() == []


def test_naming_a_built_in_file_or_the_same_folder_twice_is_no_duplicate(tmp_path):
    write(tmp_path, good=GOOD)
    built_in = Registry().entry("attacks", "fgsm").path
    registry = Registry([built_in, built_in.parent, tmp_path, tmp_path / ".", tmp_path / "good.py"])
    assert registry.broken() == []
    assert registry.get("attacks", "fgsm").name == "fgsm"
    assert registry.get("defenses", "good").name == "good"


@pytest.mark.parametrize(("text", "says"), [
    ("def broken(:\n", ":1: SyntaxError: invalid syntax"),
    ("x = 1\n1 / 0\n", ":2: ZeroDivisionError: division by zero"),
    ("import nowhere_to_be_found\n", ":1: ModuleNotFoundError: No module named"),
    ("\n\nraise SystemExit(3)\n", ":3: SystemExit: 3"),
    ("x = 1\n", ": holds no plugin: a plugin is a class derived from"),
    ("from bench.attacks.fgsm import FGSM\n", ": holds no plugin"),
    ("from bench.api import Defense\nclass Lost(Defense):\n    pass\n",
     ": holds no plugin: class Lost (line 2) has no name; write name = "),
    ("from bench.api import Defense\n\nclass D(Defense):\n    name = 'My_Defense'\n",
     ":3: class D has the name 'My_Defense'; a name is kebab-case"),
    ("from bench.api import Defense\nclass D(Defense):\n    name = 'a--b'\n", "is kebab-case"),
    ("from bench.api import Defense\nclass D(Defense):\n    name = 5\n", "has the name 5"),
    ("from bench.plugin import Plugin\nclass D(Plugin):\n    name = 'd'\n",
     "derives from Plugin itself; derive from ProfileAttack"),
    ("from bench.api import ProfileAttack\nclass D(ProfileAttack):\n    name = 'd'\n",
     "does not define profiles"),
    ("from bench.api import Defense\nclass D(Defense):\n    name = 'd'\n    weight: float\n",
     "has a parameter 'weight' without a default"),
    ("from bench.api import Defense\nclass D(Defense):\n    name = 'd'\n    x: list = []\n",
     ":2: ValueError: mutable default"),
    ("from __future__ import annotations\nfrom bench.api import Defense\n"
     "class D(Defense):\n    name = 'd'\n    x: Tensor = 1\n", "cannot be resolved: name 'Tensor'"),
    ("from bench.api import Defense\nclass D(Defense):\n    name = 'd'\n    x: bytes = b''\n",
     "the parameter 'x' of type bytes; a parameter is int"),
    ("FAMILY = 'zoo'\ndef members():\n    raise OSError('gone')\n",
     "its list of members fails: OSError: gone"),
])
def test_broken_files_say_why_and_stop_nothing(tmp_path, text, says):
    write(tmp_path, bad="", good=GOOD)
    (tmp_path / "bad.py").write_text(text)
    registry = Registry([tmp_path])
    assert "good" in registry.names("defenses")
    error = only_error(registry)
    assert error.startswith(str(tmp_path / "bad.py"))
    assert says in error
    assert "\n" not in error


def test_broken_in_one_kinds_folder(tmp_path):
    write(tmp_path, attacks__in__good=GOOD)
    registry = Registry([tmp_path])
    assert "is a defense, and stands in the folder attacks" in only_error(registry)
    assert "good" not in registry.names("defenses")
    bad, = [e for e in registry.entries("attacks") if e.error]
    assert (bad.kind, bad.name, bad.cls) == ("attacks", "good", None)


def test_a_dot_in_the_file_name(tmp_path):
    (tmp_path / "my.attack.py").write_text(GOOD)
    assert "no dot before .py" in only_error(Registry([tmp_path]))


def test_duplicates_are_refused_with_both_paths(tmp_path):
    write(tmp_path, one=GOOD, two=GOOD, fgsm=GOOD.replace('"good"', '"adversarial-training"'))
    registry = Registry([tmp_path])
    errors = sorted(str(e.error) for e in registry.broken())
    assert len(errors) == 2
    assert str(tmp_path / "one.py") in errors[1]
    assert str(tmp_path / "two.py") in errors[1]
    with pytest.raises(InputError, match=r"two defenses are called 'good': .*one.py and .*two.py"):
        registry.get("defenses", "good")
    with pytest.raises(InputError, match=r"adversarial_training.py and .*fgsm.py \(rename"):
        registry.get("defenses", "adversarial-training")
    assert registry.get("defenses", "none").name == "none"


def test_unknown_names_and_kinds_have_their_nearest():
    registry = Registry()
    with pytest.raises(InputError, match=r"no attack is called 'fgms'.*did you mean 'fgsm'"):
        registry.get("attacks", "fgms")
    with pytest.raises(InputError, match=r"no kind of plugin.*did you mean 'attacks'"):
        registry.names("attack")
    with pytest.raises(InputError, match="does not exist"):
        Registry([Path("nowhere")])
    with pytest.raises(InputError, match="neither a folder nor a Python file"):
        Registry([Path(__file__).parent.parent / "pyproject.toml"])


def test_an_unknown_name_points_to_the_broken_file_that_has_it(tmp_path):
    write(tmp_path, odd="NAMED = 1\n1 / 0\nname = 'my-defense'\n")
    with pytest.raises(InputError, match=r"its file is broken: .*odd.py:2: ZeroDivisionError"):
        Registry([tmp_path]).get("defenses", "my-defense")


def test_specs_go_to_json_and_back(tmp_path):
    write(tmp_path, nested='''
        from bench.api import Defense, param
        class Nested(Defense):
            name = "nested"
            sizes: tuple[tuple[int, ...], ...] = param(((1, 2), (3,)), "lists of lists")
            maybe: tuple[str, ...] | None = param(None, "words")
        ''')
    registry = Registry([tmp_path])
    made = registry.get("defenses", "nested")(sizes=((4,), (5, 6)), maybe=("a",))
    spec = json.loads(json.dumps({"name": made.name, "params": made.params()}))
    assert registry.make("defenses", spec) == made
    assert hash(registry.make("defenses", spec)) == hash(made)
    with pytest.raises(InputError, match=r"defense 'nested' has no parameter 'size'.*'sizes'"):
        registry.make("defenses", {"name": "nested", "params": {"size": 1}})


def test_every_plugin_with_defaults_survives_json():
    registry = Registry()
    for kind in KINDS:
        for name in registry.names(kind):
            made = registry.get(kind, name)()
            spec = json.loads(json.dumps({"name": name, "params": made.params()}))
            assert registry.make(kind, spec) == made


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, good=GOOD)
    first = Registry([tmp_path]).get("defenses", "good")
    assert Registry([tmp_path]).get("defenses", "good") is first
    write(tmp_path, good=GOOD.replace("1.0", "22.5"))
    assert Registry([tmp_path]).get("defenses", "good")().params() == {"weight": 22.5}


def in_worker(folders: list[str], spec: dict) -> tuple[str, str]:
    made = Registry([Path(f) for f in folders]).make("defenses", spec)
    return type(made).__module__, made.label()


def test_a_spawned_worker_finds_the_same(tmp_path):
    write(tmp_path, _helper="SCALE = 1.0\n", good=GOOD + "\nfrom ._helper import SCALE\n")
    spec = {"name": "good", "params": {"weight": 2.0}}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(in_worker, ([str(tmp_path)], spec))
    assert theirs == in_worker([str(tmp_path)], spec)
    assert theirs[1] == "good(weight=2)"


def test_entry_points(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_plugins.py").write_text(GOOD.replace('"good"', '"from-class"'))
    (tmp_path / "elsewhere_module.py").write_text(GOOD.replace('"good"', '"from-module"'))
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(dedent("""
        [bench.defenses]
        one = elsewhere_plugins:Good
        two = elsewhere_module
        gone = elsewhere_gone:Good
        number = math:pi
        """))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    entry = registry.entry("defenses", "from-class")
    assert (entry.source, entry.path.name) == ("entry point", "elsewhere_plugins.py")
    assert registry.entry("defenses", "from-module").source == "entry point"
    errors = " / ".join(str(e.error) for e in registry.broken())
    assert "gone = elsewhere_gone:Good: ModuleNotFoundError" in errors
    assert "number = math:pi: is neither a plugin class nor a module" in errors
