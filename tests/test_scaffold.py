"""`bench new`: what it writes works as it is, is short, and overwrites nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.api import Context, EmbeddingAttack, ProfileAttack
from bench.cli import main
from bench.errors import InputError
from bench.registry import Registry
from bench.scaffold import new

ROOT = Path(__file__).resolve().parent.parent
EVERY = [("attacks", None), ("attacks", "profile"), ("attacks", "embedding"), ("defenses", None),
         ("datasets", None), ("models", None)]


def made(tmp_path: Path, kind: str, base: str | None = None):
    new(kind, "my-own", into=tmp_path, base=base)
    registry = Registry([tmp_path])
    assert registry.broken() == []
    return registry.get(kind, "my-own")


def trained(name: str, data, defense=None, **params):
    from bench.models.base import build

    registry = Registry()
    plugin = registry.make("models", {"name": name, "params": params})
    model = build(plugin, data, Context(0))
    model.fit(defense or registry.get("defenses", "none")(), lambda progress: None)
    return model


@pytest.fixture(scope="module")
def data():
    return Registry().get("datasets", "blocks")().load()


@pytest.mark.parametrize(("kind", "base"), EVERY)
def test_every_skeleton_is_found_documented_and_shown(tmp_path, capsys, kind, base):
    cls = made(tmp_path, kind, base)
    assert cls.__name__ == "MyOwn"
    assert "Reference:" in cls.__doc__
    assert "Example:" in cls.__doc__
    assert len(cls().params()) >= 1
    assert main(["show", kind, "my-own", "--plugins", str(tmp_path)]) == 0
    assert "my-own" in capsys.readouterr().out


@pytest.mark.parametrize("base", ["profile", "embedding"])
def test_an_attack_takes_under_forty_lines(tmp_path, base):
    path = new("attacks", "my-own", into=tmp_path, base=base)
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.skipif(shutil.which("ruff") is None and not (ROOT / ".venv/bin/ruff").exists(),
                    reason="ruff is not installed")
def test_skeletons_keep_the_house_style(tmp_path):
    for n, (kind, base) in enumerate(EVERY):
        new(kind, f"my-own-{n}", into=tmp_path, base=base)
    ruff = shutil.which("ruff") or str(ROOT / ".venv/bin/ruff")
    done = subprocess.run([ruff, "check", "--no-cache", "--config", str(ROOT / "pyproject.toml"),
                           str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("explicit", [True, False])
def test_profile_attack_spends_its_budget(tmp_path, explicit):
    attack = made(tmp_path, "attacks", "profile")(budget=0.1, targets=2)
    assert isinstance(attack, ProfileAttack)
    plain = Registry().get("datasets", "blocks")(explicit=explicit).load()
    data = attack.poison(plain, Context(0))
    assert data.n_fake == 6
    fakes = data.train.users >= data.n_genuine
    for target in attack.pick(data, Context(0)):
        assert (data.train.items[fakes] == target).sum() == 6
    assert (data.train.ratings is not None) == explicit
    again = attack.poison(plain, Context(0))
    assert np.array_equal(again.train.items, data.train.items)
    assert not np.array_equal(attack.poison(plain, Context(1)).train.items, data.train.items)


def test_embedding_attack_raises_the_loss(tmp_path, data):
    from bench.perturb import attack_batches, mean_loss

    attack = made(tmp_path, "attacks", "embedding")(eps=0.3)
    assert isinstance(attack, EmbeddingAttack)
    model = trained("bprmf", data, dim=8, epochs=5, learning_rate=0.01, batch_size=128)
    delta = attack.perturbation(model, data, Context(0))
    batches = attack_batches(model)
    with model.perturbed(delta):
        attacked = mean_loss(model, batches)
    assert attacked > mean_loss(model, batches)


def test_defense_shortens_rows_and_is_neutral_at_zero(tmp_path, data):
    import torch

    defense = made(tmp_path, "defenses")
    hyper = {"dim": 8, "epochs": 5, "learning_rate": 0.05, "patience": 0}
    plain = trained("bprmf", data, **hyper).state()
    neutral = trained("bprmf", data, defense(weight=0.0), **hyper).state()
    strong = trained("bprmf", data, defense(weight=10.0), **hyper).state()
    assert all(torch.equal(plain[k], neutral[k]) for k in plain)
    assert sum(float(v.norm()) for v in strong.values()) < sum(
        float(v.norm()) for v in plain.values())
    pop = Registry().get("models", "pop")()
    assert defense().unfit(pop, data) == "pop exposes no embeddings"


def test_dataset_loads(tmp_path):
    data = made(tmp_path, "datasets")(users=20).load()
    assert data.n_users == 20
    assert data.name == "my-own"
    assert len(data.train) + len(data.valid) + len(data.test) == 20 * 15


def test_model_beats_popularity(tmp_path, data):
    from bench.evaluate import validation_score

    plugin = made(tmp_path, "models")()
    model = plugin.build(data, Context(0))
    model.fit(Registry().get("defenses", "none")(), lambda progress: None)
    assert validation_score(model, "ndcg@10") > validation_score(trained("pop", data), "ndcg@10")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "base"), EVERY[1:])
def test_every_skeleton_passes_its_contract_tests(tmp_path, kind, base):
    path = new(kind, "my-own", into=tmp_path, base=base)
    assert main(["test", str(path)]) == 0


# -- what is refused -----------------------------------------------------------------------

def test_nothing_is_overwritten(tmp_path):
    path = new("attacks", "my-own", into=tmp_path)
    path.write_text("# mine\n")
    with pytest.raises(InputError, match="exists already, and is not overwritten"):
        new("attacks", "my-own", into=tmp_path)
    assert path.read_text() == "# mine\n"


@pytest.mark.parametrize(("name", "says"), [
    ("My_Attack", "such as my-attack"), ("myAttack", "such as my-attack"), ("", "my-plugin"),
    ("a--b", "such as a-b"), ("../up", "such as up"), ("fgsm", "already an attack called 'fgsm'"),
    ("test-mine", "test_mine.py is not taken for a plugin"), ("base", "base.py is not taken")])
def test_names_that_cannot_be(tmp_path, name, says):
    with pytest.raises(InputError, match=says):
        new("attacks", name, into=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_start_with_a_digit(tmp_path):
    new("defenses", "2-step", into=tmp_path)
    assert Registry([tmp_path]).get("defenses", "2-step").__name__ == "Plugin2Step"


def test_the_folder_is_made_or_the_reason_is_told(tmp_path):
    assert new("attacks", "my-own", into=tmp_path / "a" / "b").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists and is no folder"):
        new("attacks", "my-own", into=tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        new("attacks", "my-own", into=tmp_path / "file" / "below")


def test_new_says_what_to_do_next(tmp_path, capsys):
    assert main(["new", "attack", "my-own", "--into", str(tmp_path)]) == 0
    path = tmp_path / "my_own.py"
    assert capsys.readouterr().out == f"wrote {path}\nnext: edit it, then check it with\n" \
        f"  bench test {path}\n"
