"""Contract of attacks on vectors: who is not declared an oracle depends on no test row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bench.api import Context, Dataset
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from torch import Tensor

    from bench._contracts_lab import Lab


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    on_vectors = {"EmbeddingAttack", "FeatureAttack"} & {base.__name__ for base in cls.__mro__}
    return [depends_on_no_test_row] if on_vectors else []


def depends_on_no_test_row(lab: Lab) -> None:
    """With other test rows, and with none, its perturbation of the same model is the same."""
    from bench._contracts_lab import with_other_items
    from bench.models.base import build
    from bench.stages import without_test

    if lab.plugin().sees_test:
        raise Skip("it is a declared oracle")
    model: Any = lab.model()
    data: Dataset = model.data
    first = _made(lab, model)
    for what, changed in (("other", with_other_items(data, "test")), ("no", without_test(data))):
        same: Any = build(lab.model_plugin(), changed, model.ctx)
        same.load_state(model.state())
        found = _made(lab, same)
        equal = set(found) == set(first) and all(torch.equal(found[k], first[k]) for k in first)
        require(equal, f"with {what} test rows its perturbation of the same model is another",
                "no attacker has the test positives: do not read them, or name the parameter "
                "whose value test shows them, as oracle_by in the class")


def _made(lab: Lab, model: Any) -> dict[str, Tensor]:
    """The perturbation by table, as a run makes it."""
    plugin, ctx = lab.plugin(), Context(0)
    if any(base.__name__ == "FeatureAttack" for base in type(plugin).__mro__):
        targets = plugin.aims(model.data, ctx)
        return {"feature": plugin.perturbation(model, targets, plugin.radius(model), model.data,
                                               ctx)}
    made: dict[str, Tensor] = plugin.perturbation(model, model.data, ctx)
    return made
