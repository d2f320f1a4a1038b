"""The contract tests, over everything the registry finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import testing
from bench._contracts_common import compare_spawned
from bench._contracts_lab import Lab, spawn
from bench.plugin import Plugin
from bench.registry import Registry
from bench.scaffold import new
from bench.testing import Check, ContractError, Skip, contracts

REGISTRY = Registry()
RECBOLE = ("BPR", "LightGCN", "SASRec", "MultiVAE", "ItemKNN", "NeuMF")
"""One of each family; the others are covered by the tests of the adapter."""

# Checks that a built-in plugin may skip, and why. A skip that is not listed fails.
MAY_SKIP = {
    "other-seed": "draws nothing at random",
    "as-strong-as-one-step": "has no steps, or is a control",
    "gives-gradients": "not promised", "gives-embeddings": "not promised",
    "gives-user-separable": "not promised",
    "reads-other-histories": "reads no histories",
    "takes-more-from-lists-than-noise": "aims at the loss, or is a control",
    "similarity-kept": "replaces nothing, or looks at no vectors",
    "targets-where-allowed": "has no targets",
    "draws-apart": "knows all of the training, or nothing of it",
}
CONTROLS = {"noise": ("loss-rises", "as-strong-as-noise"), "feature-noise": ("serves-the-goal",),
            "torchattacks": ("loss-rises", "as-strong-as-noise"),  # it aims at lists
            **dict.fromkeys(("append-items", "replace-last", "random-substitution"),
                            ("gains-more-than-chance",)),
            "attribute-prompt": ("finds-nothing-in-a-random-model",),  # no prompts there
            "attribute-inference": ("finds-nothing-in-a-random-model",),  # no vectors there
            # nothing that they may be told leaves the plain loop as it is
            "federated": ("neutral-is-none",), "macr": ("neutral-is-none",)}


@pytest.fixture(scope="session")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for the dataset `table`."""
    path = tmp_path_factory.mktemp("table") / "ratings.tsv"
    path.write_text("".join(f"u{u}\ti{(u * 3 + k) % 20}\t{1 + (u + k) % 5}\t{1000 * k}\n"
                            for u in range(30) for k in range(8)))
    return path


# They need a file or a server, which their test_params cannot name; their own tests run the checks.
OUTSIDE = {"table", "given-lists", "remote-yes-no", "remote-listwise", "remote-title-likelihood"}


def found() -> list[tuple[str, str]]:
    pairs = []
    for kind in ("datasets", "models", "attacks", "defenses"):
        family = {e.name for e in REGISTRY.entries(kind) if e.family}
        pairs += [(kind, n) for n in REGISTRY.names(kind) if n not in family or n in RECBOLE]
    return pairs


def checks() -> list[Any]:
    made = []
    for kind, name in found():
        for check in contracts(kind, REGISTRY.get(kind, name), registry=REGISTRY):
            if check.name != "spawned-worker" and name not in OUTSIDE:
                made.append(pytest.param(check, id=f"{name}-{check.name}"))
    return made


@pytest.mark.parametrize("check", checks())
def test_contract(check: Check) -> None:
    try:
        check.run()
    except Skip as reason:
        if check.name not in MAY_SKIP and check.name not in CONTROLS.get(check.plugin, ()):
            pytest.fail(f"{check} may not be skipped: {reason}")


def test_table(ratings: Path) -> None:
    """The dataset `table` needs a file, which its test_params cannot name."""
    params = {"path": str(ratings), "rating": 3, "time": 4, "split": "leave-last-out"}
    for check in contracts("datasets", REGISTRY.get("datasets", "table"), registry=REGISTRY,
                           params=params):
        if check.name not in ("spawned-worker", "other-seed"):
            check.run()


def test_every_plugin_works_in_a_spawned_worker() -> None:
    """One fresh process for all of them."""
    labs = [Lab(kind, REGISTRY.get(kind, name), REGISTRY) for kind, name in found()
            if name not in OUTSIDE]
    for lab, answer in zip(labs, spawn(labs), strict=True):
        try:
            compare_spawned(lab, answer)
        except ContractError as error:
            pytest.fail(f"{lab.kind} {lab.cls.name}: {error}")


def test_nothing_built_in_is_broken() -> None:
    assert [f"{e.path.name}: {e.error}" for e in REGISTRY.broken()] == []


def test_all_kinds_are_covered() -> None:
    names = dict.fromkeys(name for _, name in found())
    assert set(RECBOLE) <= set(names)
    assert {"blocks", "bprmf", "pop", "fgsm", "pgd", "noise", "random-profiles", "dp-sgd",
            "adversarial-training", "pca-filter", "none"} <= set(names)


@pytest.mark.parametrize(("kind", "base"), [("attacks", "profile"), ("attacks", "embedding"),
                                            ("defenses", None), ("datasets", None),
                                            ("models", None)])
def test_a_fresh_skeleton_passes(kind: str, base: str | None, tmp_path: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    path = new(kind, "fresh-plugin", into=tmp_path / kind, base=base)
    assert testing.test_path(path) == 0, capsys.readouterr().out


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Exception, match="no kind of plugin"):
        contracts("metrics", Plugin)
