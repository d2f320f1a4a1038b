"""The layout: three plugin folders at the top, imported as bench.*, in every way of installing.

Nothing here is shared with the process that runs the tests: each case is a process of its own,
in a copy of the tree, with a file dropped into attacks/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("attacks", "defenses", "datasets")
DROPPED = '''
"""Dropped in by a test."""
from bench.api import Attack, ThreatModel


class Dropped(Attack):
    """For tests."""

    name = "dropped-in"
    threat = ThreatModel("none", "none", "none")
'''
# Makes the attack by name here and in a spawned worker, and says where both found it.
WORKER = '''
import multiprocessing
from bench.registry import Registry

def where(_):
    cls = type(Registry().make("attacks", {"name": "dropped-in", "params": {}}))
    return cls.__module__

if __name__ == "__main__":
    import bench
    print(bench.__file__)
    print(where(0))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(where, [0])[0])
'''


def python(*args: str, cwd: Path, executable: str = sys.executable, **env: str) -> str:
    """What a fresh process prints; PYTHONPATH only where given."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([executable, *args], cwd=cwd, env={**clean, **env}, timeout=120,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout with one more attack."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("bench", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("# RecGauntlet\n")
    (copy / "attacks" / "dropped_in.py").write_text(DROPPED)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "worker.py").write_text(WORKER)
    return copy


def check_found(cwd: Path, bench_below: Path, executable: str = sys.executable,
                **env: str) -> None:
    script = cwd / "worker.py" if (cwd / "worker.py").exists() else \
        cwd.parent / "elsewhere" / "worker.py"
    file, here, there = python(str(script), cwd=cwd, executable=executable, **env).split()
    assert Path(file).is_relative_to(bench_below)
    assert here == there == "bench.attacks.dropped_in"
    listed = python("-m", "bench", "list", "attacks", cwd=cwd, executable=executable, **env)
    assert "dropped-in" in listed


# -- the folders ---------------------------------------------------------------------------

def test_plugin_folders_have_no_init():
    assert [f for f in FOLDERS if (ROOT / f / "__init__.py").exists()] == []


def test_plugin_modules_are_named_below_bench():
    code = ("from bench.registry import Registry\n"
            "r = Registry()\n"
            f"for kind in {FOLDERS}:\n"
            "    for name in r.names(kind):\n"
            "        print(r.get(kind, name).__module__)")
    modules = python("-c", code, cwd=ROOT).split()
    assert len(modules) >= 10
    assert [m for m in modules if not m.startswith("bench.")] == []


@pytest.mark.parametrize("first", [True, False])
def test_import_datasets_is_never_ours(tmp_path, first):
    """A stand-in for Hugging Face's package wins wherever it stands on the path, even with the
    checkout's root in front of it."""
    package = tmp_path / "site" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("mine = 'hugging face'\n")
    paths = [str(package.parent), str(ROOT)]
    path = os.pathsep.join(paths if first else paths[::-1])
    for preload in ("", "import bench, bench.datasets.blocks; "):
        out = python("-c", f"{preload}import datasets; print(datasets.mine)", cwd=ROOT,
                     PYTHONPATH=path)
        assert out.strip() == "hugging face"


def test_import_datasets_without_hugging_face_finds_no_code_of_ours():
    code = ("try:\n    import datasets\nexcept ImportError:\n    print('nothing')\nelse:\n"
            "    print(datasets.__file__, [n for n in dir(datasets) if n[0] != '_'])")
    out = python("-c", code, cwd=ROOT).strip()
    # a folder without __init__.py is at most an empty namespace
    assert out in ("nothing", "None []") or str(ROOT / "datasets") not in out
    assert "blocks" not in out


# -- ways of installing ----------------------------------------------------------------------

def test_uninstalled_from_the_root_and_by_path(tree):
    check_found(tree, tree, PYTHONPATH=str(tree))
    check_found(tree.parent / "elsewhere", tree, PYTHONPATH=str(tree))
    assert "dropped-in" in python("-m", "bench", "list", cwd=tree)


def new_environment(folder: Path) -> str:
    """A bare environment that sees this one's packages, the project itself excepted."""
    venv.create(folder, with_pip=False, symlinks=True)
    executable = folder / "bin" / "python"
    site = Path(python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                       cwd=folder, executable=str(executable)).strip())
    packages = [p for p in sys.path if p.endswith("site-packages")]
    # paths only: the .pth files there are not run, so an editable install of ours is not seen
    (site / "shared.pth").write_text("\n".join(packages))
    return str(executable)


def pip(*args: str, cwd: Path, executable: str) -> None:
    python("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps",
           "--no-build-isolation", "--no-index", "--ignore-installed", *args, cwd=cwd,
           executable=executable)


@pytest.mark.slow
def test_editable(tree):
    executable = new_environment(tree.parent / "env")
    pip("-e", str(tree), cwd=tree.parent, executable=executable)
    check_found(tree.parent / "elsewhere", tree, executable)
    # found at once: no second installation
    (tree / "attacks" / "later.py").write_text(DROPPED.replace("dropped-in", "dropped-later"))
    assert "dropped-later" in python("-m", "bench", "list", "attacks", executable=executable,
                                     cwd=tree.parent / "elsewhere")


@pytest.mark.slow
def test_wheel(tree):
    executable = new_environment(tree.parent / "env")
    python("-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
           "--no-build-isolation", "--no-index", "-w", str(tree.parent / "dist"), str(tree),
           cwd=tree.parent)
    wheel, = (tree.parent / "dist").glob("recgauntlet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"bench"}
    # everything that the tree holds is in the wheel, code and data alike
    for folder, below in (("bench", "bench"), *((f, f"bench/{f}") for f in FOLDERS)):
        for path in (tree / folder).rglob("*"):
            inside = f"{below}/{path.relative_to(tree / folder).as_posix()}"
            if path.is_file() and "__pycache__" not in path.parts:
                assert inside in names
    assert not any("__pycache__" in name for name in names)
    assert "bench/attacks/dropped_in.py" in names
    pip(str(wheel), cwd=tree.parent, executable=executable)
    shutil.rmtree(tree)  # nothing may depend on the checkout
    check_found(tree.parent / "elsewhere", tree.parent / "env", executable)
    command = tree.parent / "env" / "bin" / "bench"
    done = subprocess.run([command, "list", "attacks"], capture_output=True, text=True,
                          cwd=tree.parent / "elsewhere", check=True, timeout=60)
    assert "dropped-in" in done.stdout
