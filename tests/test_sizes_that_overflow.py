"""What is set to a size that no float holds is an error that names it, and never a success."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from bench.als import solve
from bench.api import Context, Dataset
from bench.datasets.blocks import Blocks
from bench.errors import BenchError
from bench.graph_surrogate import above
from bench.jobs import extreme
from bench.models.base import build
from bench.registry import Registry
from bench.surrogates import target_hits

REGISTRY = Registry()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Blocks(users=40, items=30, length=10).load()


def make(kind: str, name: str, **params: Any) -> Any:
    cls: Any = REGISTRY.get(f"{kind}s", name)
    return cls.from_params({**cls.test_params(), **params})


def test_a_diverged_surrogate_is_no_success() -> None:
    """A comparison with what is no number is false, which would put every target on top."""
    x, targets = torch.zeros(4, 6), np.array([1])
    for scores in (torch.full((4, 6), torch.nan), torch.zeros(4, 6).index_fill(
            1, torch.tensor([3]), torch.inf)):
        assert math.isnan(target_hits(scores, x, targets, 2))
        assert math.isnan(above(scores, x, torch.tensor([1])))
        loss = make("attack", "dl-attack-profiles").poison_loss(scores, x, targets)
        assert math.isnan(float(loss))
    well = torch.arange(24.0).reshape(4, 6)
    assert target_hits(well, x, np.array([5]), 2) == 1.0
    assert above(well, x, torch.tensor([5])) == 0.0


@pytest.mark.parametrize(("name", "params"), [
    ("clear-profiles", {"learning_rate": 1e20}), ("dl-attack-profiles", {"learning_rate": 1e25})])
def test_its_profiles_are_refused(data: Dataset, name: str, params: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"nan|finite|overflow|became"):
        make("attack", name, budget=0.05, **params).poison(data, Context(0))


def test_a_matrix_without_an_inverse_names_what_to_change() -> None:
    with pytest.raises(BenchError, match="raise reg"):
        solve(csr_matrix(np.ones((2, 3))), np.zeros((3, 4)), 0.0)


def test_an_inverse_that_was_not_found_is_refused(data: Dataset) -> None:
    model: Any = REGISTRY.make("models", {"name": "rating-mf", "params": {"epochs": 4, "dim": 8,
                                                                         "patience": 0}})
    for damping, found in ((0.0, False), (0.3, True)):
        apt = make("defense", "apt", users=3, start_epoch=1, every=1, damping=damping,
                   iterations=50)
        made = build(model, data, Context(0))
        if found:
            made.fit(apt, lambda event: None)
        else:
            with pytest.raises(BenchError, match=r"LiSSA.*raise damping"):
                made.fit(apt, lambda event: None)


def test_shares_below_one_percent_are_told_apart() -> None:
    some = make("attack", "random-profiles", knowledge="black", known=0.001)
    more = dataclasses.replace(some, known=0.004)
    assert "sees 0.1% of the users" in some.comparable()
    assert "sees 0.4% of the users" in more.budget_text()


def test_a_failed_cell_names_its_extreme_parameters() -> None:
    header = {"model": {"name": "m", "params": {"reg": 1e-14, "epochs": 3, "on": True}},
              "defense": {"name": "d", "params": {"eps": math.inf, "what": "text", "zero": 0.0}},
              "attack": {"name": "a", "params": {"weight": 1e300}}}
    told = extreme(header)
    assert "m reg 1e-14, a weight 1e+300" in told
    assert "eps" not in told
    assert not extreme({k: {"name": "x", "params": {"eps": 0.5}} for k in header})
