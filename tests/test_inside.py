"""What attacks that look inside say of their budget, and which numbers and parameters they take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench._contracts_lab import blocks, bprmf, fit, trained_bprmf
from bench.api import Context
from bench.attacks.torchattacks import SUITABLE, USED_BY, TorchAttacks
from bench.coerce import parameters
from bench.errors import InputError, PluginError
from bench.inside import LONGEST, InsideAttack
from bench.models import recbole
from bench.models.base import TorchRecommender
from bench.registry import Registry

REGISTRY = Registry()
INSIDE = [n for n in REGISTRY.names("attacks")
          if issubclass(REGISTRY.get("attacks", n), InsideAttack)]
NUMBERS = [(n, f.name) for n in INSIDE for f in parameters(REGISTRY.get("attacks", n)).values()
           if isinstance(f.default, float) and f.name != "similarity"]


def make(name: str, **params: Any) -> Any:
    cls = REGISTRY.get("attacks", name)
    return cls.from_params(cls.test_params() | params)


# -- numbers that overflow -----------------------------------------------------------------------

@pytest.mark.parametrize("value", [1e308, math.inf, math.nan, 1e39])
@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_numbers_with_which_float32_overflows_are_refused_by_name(name: str, key: str,
                                                                   value: float) -> None:
    norms = parameters(REGISTRY.get("attacks", name)).get("norm")
    for norm in norms.metadata["choices"] if norms and key == "eps" else (None,):
        if name == "torchattacks" and norm is None:
            norm = "l2" if key == "c" else "linf"
        more = {} if norm is None else {"norm": norm}
        more |= {"attack": "CW"} if (name, key) == ("torchattacks", "c") else {}
        with pytest.raises(InputError, match=f"{key} is {value:g}".replace("+", r"\+")) as error:
            make(name, **more, **{key: value})
        assert error.value.key == key
        assert "at most 1e+09" in str(error.value)


@pytest.mark.parametrize("eps", ["1e308", "1e39", ".inf", ".nan"])
def test_a_grid_is_refused_before_anything_runs(tmp_path: Path, eps: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    from bench.cli import main

    grid = tmp_path / "grid.yaml"
    grid.write_text("datasets: [blocks]\nmodels: [bprmf]\nseeds: [0]\n"
                    f"attacks:\n  - pgd: {{eps: {eps}}}\n")
    assert main(["plan", str(grid)]) == 2
    said = capsys.readouterr().err
    assert "grid.yaml:5" in said
    assert "eps" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mim", "noise"])
def test_the_largest_numbers_allowed_fill_the_ball(name: str, norm: str) -> None:
    """Neither nothing nor no number comes of them, in any norm."""
    model = trained_bprmf(0)
    attack = make(name, eps=LONGEST, norm=norm, **({"step": LONGEST} if name in ("pgd", "mim")
                                                   else {}))
    for delta in attack.perturbation(model, blocks(), Context(0)).values():
        longest = float(delta.norm(dim=1).max() if norm == "l2" else delta.abs().max())
        assert 0.5 * LONGEST < longest <= LONGEST * (1 + 1e-6)


def test_a_relative_radius_that_overflows_is_refused_with_the_table() -> None:
    model = fit(bprmf(), blocks())
    assert isinstance(model, TorchRecommender)
    with torch.no_grad():
        model.tables()["user"].weight.mul_(1e6)
    with pytest.raises(InputError, match=r"eps 1e\+06 is a radius of .* around the rows of user"):
        make("pgd", eps=1e6, relative=True).perturbation(model, blocks(), Context(0))


# -- test positives ------------------------------------------------------------------------------

ORACLES = [(n, f.name) for n in REGISTRY.names("attacks")
           for f in parameters(REGISTRY.get("attacks", n)).values()
           if "test" in (f.metadata.get("choices") or ())]


@pytest.mark.parametrize(("name", "key"), ORACLES)
def test_who_sees_test_positives_says_so_in_the_budget(name: str, key: str) -> None:
    assert "sees test positives" in make(name, **{key: "test"}).budget_text()
    assert "test positives" not in make(name).budget_text()


def test_the_attacks_on_vectors_that_can_see_them_are_among_them() -> None:
    assert {n for n, _ in ORACLES} >= {"fgsm", "pgd", "mim", "msap-published", "torchattacks"}


def test_only_a_declared_oracle_is_handed_test_rows() -> None:
    """Of the data, of the model and of what stands for it as served; all come back."""
    from bench.attacks.pgd import PGD

    handed: list[tuple[int, ...]] = []

    class Looks(PGD):
        name = "looks"

        def delta(self, model: Any, radii: Any, data: Any, ctx: Any) -> Any:
            inside = getattr(model, "base", model)
            handed.append((len(data.test), len(model.data.test), len(inside.data.test)))
            return super().delta(model, radii, data, ctx)

    macr: Any = REGISTRY.make("defenses", {"name": "macr"})
    for model in (fit(bprmf(), blocks()), fit(bprmf(), blocks(), defense=macr)):
        rows = len(blocks().test)
        for source, expected in (("train", (0, 0, 0)), ("test", (rows,) * 3)):
            plugin = Looks(steps=1, source=source)
            target: Any = plugin.stand_in(model, Context(0))
            whole = target.data.replace(test=blocks().test)
            target.data = whole
            getattr(target, "base", target).data = whole
            plugin.perturbation(target, blocks(), Context(0))
            assert handed.pop() == expected
            assert target.data is whole
            assert "batches" not in vars(target)


def test_what_reads_histories_is_handed_no_test_row() -> None:
    """White box; and none comes with the undefended model, from a run's job."""
    from bench.attacks.substitution import Substitution
    from bench.blind import hidden

    handed: list[int] = []

    class Looks(Substitution):
        name = "looks"

        def edit(self, model: Any, histories: Any, targets: Any, data: Any, ctx: Any) -> Any:
            handed.append(len(model.data.test))
            return histories

    data = blocks()
    model: Any = fit(recbole.member("SASRec")(max_length=8, epochs=1, patience=0, hidden_size=16,
                                              inner_size=32), data)
    model.data = data
    plugin = Looks()
    plugin.edited(model, model, data, None, Context(0))
    assert handed == [0]
    assert model.data is data
    undefended = hidden(plugin, model)
    assert not len(undefended.data.test)
    with pytest.raises(PluginError, match="looks asks for batches of the test rows"):
        undefended.batches(0, 8, "test")
    plain: Any = fit(bprmf(), data)
    plain.data = data
    assert len(hidden(REGISTRY.make("attacks", {"name": "pgd", "params": {"source": "test"}}),
                      plain).data.test)


# -- parameters that would change nothing --------------------------------------------------------

@pytest.mark.parametrize("name", sorted(SUITABLE))
def test_the_library_s_attacks_take_the_parameters_that_they_have(name: str) -> None:
    norm = SUITABLE[name][0][0]
    for key, value in (("k", 3), ("steps", 7), ("step", 0.1), ("n_queries", 9), ("c", 2.0)):
        if name in USED_BY[key]:
            TorchAttacks(attack=name, norm=norm, **{key: value})
            continue
        with pytest.raises(InputError, match=f"{key} would change nothing: {name}") as error:
            TorchAttacks(attack=name, norm=norm, **{key: value})
        assert error.value.key == key
        assert USED_BY[key][0] in str(error.value)
