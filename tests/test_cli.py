"""The command line: what it prints, its exit statuses, and that bad input gets no traceback."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bench
from bench.cli import main
from bench.errors import TrainingError
from bench.plugin import KINDS

COMMANDS = ("run", "plan", "list", "show", "report", "new", "test")


def bench_process(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "bench", *args], capture_output=True, text=True,
                          timeout=60, **kwargs)


def refused(capsys, *args: str) -> str:
    """The one line on stderr of a command that must fail with status 2."""
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# -- help --------------------------------------------------------------------------------------

def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"recgauntlet {bench.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert re.search(rf"example:\n  \S.* {command}\b", out)


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert [c for c in COMMANDS if not re.search(rf"^    {c} ", out, re.M)] == []


# -- bad input ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("args", "says"), [
    (["rnu"], "no command 'rnu' (did you mean 'run'?"),
    (["--nosuch", "list"], "has no option '--nosuch' (known: --help"),
    (["list", "--jsn"], "list has no option '--jsn' (did you mean '--json'?"),
    (["list", "--js"], "list has no option '--js'"),
    (["list", "attacks", "more"], "list has no argument 'more'"),
    (["list", "atacks"], "there is no kind 'atacks' (did you mean 'attacks'?"),
    (["list", "--plugins", "nowhere"], "does not exist"),
    (["show"], "required: KIND, NAME (see"),
    (["show", "atack", "fgsm"], "no kind 'atack' (did you mean 'attacks'?"),
    (["show", "attack", "fgms"], "no attack is called 'fgms' (did you mean 'fgsm'?"),
    (["show", "defense", "fgsm"], "'fgsm' is among the attacks; bench show attack fgsm"),
    (["show", "model", "recbol"], "did you mean 'recbole'?"),
    (["run"], "required: GRID (see"),
    (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    (["plan", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    (["run", "x.yaml", "--engine", "ray"], "no engine 'ray' (known: inline, processes)"),
    (["run", "x.yaml", "--workers", "two"], "'two' is not a whole number"),
    (["run", "x.yaml", "--workers", "-1"], "--workers"),
    (["test", "nowhere"], "nowhere: there is no such file or folder"),
    (["report", "nowhere"], "nowhere"),
    (["new", "atack", "x"], "no kind 'atack'"),
    (["new", "attack", "My_Attack"], "such as my-attack"),
    (["new", "attack", "x", "--base", "embeding"], "did you mean 'embedding'?"),
    (["new", "defense", "x", "--base", "profile"], "--base is for attacks"),
])
def test_bad_input_is_told_in_one_line(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *args)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_of_a_process_has_no_traceback(tmp_path):
    (tmp_path / "g.yaml").write_text("datasets: [blocks]\nmodels: [popp]\nseeds: x\n")
    env = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parent.parent)}
    for command in ("run", "plan"):
        done = bench_process(command, "g.yaml", cwd=tmp_path, env=env)
        assert done.returncode == 2
        assert [line[:17] for line in done.stderr.splitlines()] == [
            "error: g.yaml:2 [", "error: g.yaml:3 ["]


# -- list and show -----------------------------------------------------------------------------

def test_list_has_every_plugin_in_aligned_columns(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for kind in KINDS:
        assert re.search(rf"^{kind} \(\d+\)$", out, re.M)
    assert re.search(r"^  fgsm +test-param +white +untargeted  Fast gradient", out, re.M)
    assert re.search(r"^  adversarial-training +loss, ", out, re.M)
    assert re.search(r"^  bprmf +- .*embeddings, gradients", out, re.M)
    assert re.search(r"^  BPR +recbole .*embeddings, gradients", out, re.M)
    assert "not usable" not in out
    starts = {line.index("  Fast gradient") for line in out.splitlines() if " fgsm " in line}
    starts |= {line.index("  Nothing is attacked") for line in out.splitlines()
               if "Nothing is attacked" in line}
    assert len(starts) == 1


@pytest.mark.parametrize("kind", ["attacks", "attack"])
def test_list_one_kind(capsys, kind):
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert out.startswith("attacks (")
    assert "defenses" not in out


def test_list_as_json(capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(KINDS)
    fgsm, = [e for e in found["attacks"] if e["name"] == "fgsm"]
    assert fgsm["knowledge"] == "white"
    assert fgsm["source"] == "built-in"
    assert sum(e["family"].startswith("recbole ") for e in found["models"]) == 94


def test_list_tells_broken_files(capsys, tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    assert main(["list", "defenses", "--plugins", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"not usable (1)\n  {tmp_path}/bad.py:1: ZeroDivisionError: division by zero" in out
    assert main(["list", "--json", "--plugins", str(tmp_path)]) == 0
    json.loads(capsys.readouterr().out)


def test_list_imports_nothing_heavy_and_takes_less_than_what_it_leaves_out():
    """Processor time, side by side: the machine may be busy with something else."""
    def cost(code):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    heavy = "import torch"
    listed = ("import sys; from bench.cli import main; main(['list']);"
              "assert not {'torch', 'pandas', 'scipy', 'recbole', 'rich'} & set(sys.modules)")
    assert cost(listed) < cost(heavy)


def test_show_an_attack(capsys):
    assert main(["show", "attacks", "random-profiles"]) == 0
    out = capsys.readouterr().out
    assert "https://doi.org/10.1145/988672.988726" in out
    assert re.search(r"stage +train-poison\n +knowledge +gray\n +goal +push\n +realisable +yes",
                     out)
    assert re.search(r"budget +float +0.01 +a number above 0 and at most 1 +fake users as", out)
    assert re.search(r"stratum +str +lower-torso +one of head, upper-torso", out)
    assert "attacks: [{random-profiles: {budget: 0.01}}]" in out


@pytest.mark.parametrize(("kind", "name", "says"), [
    ("model", "NeuMF", r"mlp_hidden_size +tuple\[int, ...\] +\[128, 64\] +a list of whole numbers"),
    ("model", "recbole", r"a family of 94 models\n"),
    ("dataset", "blocks", r"noise +float +0.1 +a number at least 0 and at most 1"),
    ("defense", "adversarial-training", r"acts on: loss, "),
    ("attack", "fgsm", r"realisable +no: a probe"),
    ("model", "pop", r"parameters: none"),
])
def test_show(capsys, kind, name, says):
    assert main(["show", kind, name]) == 0
    assert re.search(says, capsys.readouterr().out)


def test_what_show_gives_as_an_example_is_a_grid(capsys, tmp_path):
    from bench.grid import load_grid

    for kind, names in (("datasets", ["blocks", "ml-100k"]), ("models", ["pop", "bprmf", "BPR"]),
                        ("attacks", ["none", "fgsm", "random-profiles"]),
                        ("defenses", ["none", "adversarial-training"])):
        for name in names:
            assert main(["show", kind, name]) == 0
            line = capsys.readouterr().out.rstrip().split("\n")[-1].strip()
            rest = {"datasets": "[blocks]", "models": "[pop]"}
            lines = [line, *(f"{k}: {v}" for k, v in rest.items() if k != kind)]
            (tmp_path / "g.yaml").write_text("\n".join(lines))
            assert name in [p.name for p in getattr(load_grid(tmp_path / "g.yaml"), kind)]


def test_show_as_json(capsys):
    assert main(["show", "attack", "fgsm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    eps, = [p for p in found["parameters"] if p["name"] == "eps"]
    assert (eps["type"], eps["default"], eps["low"]) == ("float", 0.5, 0)


# -- what commands hand on ---------------------------------------------------------------------

def test_run_hands_on_its_options(monkeypatch):
    import bench.run

    seen = {}
    monkeypatch.setattr(bench.run, "run", lambda grid, **kw: seen.update(kw, grid=grid) or 1)
    assert main(["run", "g.yaml", "--results", "out", "--engine", "processes", "--workers", "3",
                 "--only", "model=BPR", "--only", "attack=fgsm", "--fresh"]) == 1
    assert seen == {"grid": Path("g.yaml"), "results": Path("out"), "engine": "processes",
                    "workers": 3, "only": ["model=BPR", "attack=fgsm"], "fresh": True}


def test_plan_report_and_test_hand_on_their_arguments(monkeypatch, tmp_path):
    import bench.plan
    import bench.report

    calls = []
    contract = types.SimpleNamespace(test_path=lambda path: calls.append(path) or 1)
    monkeypatch.setitem(sys.modules, "bench.testing", contract)
    monkeypatch.setattr(bench.plan, "show_plan", lambda grid, **kw: calls.append((grid, kw)) or 0)
    monkeypatch.setattr(bench.report, "report", lambda run: calls.append(run) or 0)
    assert main(["plan", "g.yaml", "--only", "seed=0"]) == 0
    assert main(["report", "results/x"]) == 0
    assert main(["test", str(tmp_path)]) == 1
    assert calls[0][0] == Path("g.yaml")
    assert calls[0][1]["only"] == ["seed=0"]
    assert calls[1:] == [Path("results/x"), tmp_path]


def test_exit_statuses_of_errors(monkeypatch, capsys):
    import bench.run

    def raises(error):
        def run(*args, **kwargs):
            raise error
        return run

    monkeypatch.setattr(bench.run, "run", raises(KeyboardInterrupt()))
    assert main(["run", "g.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(bench.run, "run", raises(TrainingError("the loss became nan")))
    assert main(["run", "g.yaml"]) == 2
    assert capsys.readouterr().err == "error: the loss became nan\n"
    monkeypatch.setattr(bench.run, "run", raises(OSError(28, "No space left on device", "a/b")))
    assert main(["run", "g.yaml"]) == 1
    assert capsys.readouterr().err == "error: a/b: No space left on device\n"
    monkeypatch.setattr(bench.run, "run", raises(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        main(["run", "g.yaml"])


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "bench", "list", "models"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_a_terminal_without_unicode():
    done = bench_process("show", "attack", "fgsm",
                         env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Fast gradient" in done.stdout
