"""Control: items at the end of every history, drawn at random or the targets themselves."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ThreatModel, param
from bench.data import Ints
from bench.errors import InputError
from bench.histories import HistoryAttack
from bench.shown_lists import new_items


class AppendItems(HistoryAttack):
    """Appends `edits` items to what the model reads of a user; looks at nothing.

    what: random appends items that the user has not, uniform over the catalogue without the
    targets; more edits begin with those of fewer. what: target (push) appends the targets, in
    turn, as profile pollution begins. The baselines of Yue, He, Zeng and McAuley, "Black-Box
    Attacks on Sequential Recommenders via Data-Free Model Extraction", RecSys 2021. An attack
    that knows the model must beat both.

    Budget: `edits` items appended to a user's history. Knowledge: none.

    Args:
        edits: the budget.
        what: random, or target.
        goal, targets, stratum: whether items are pushed, and which.

    Shapes: histories are arrays of items (length,).

    Example: attacks: [{append-items: {edits: 2, goal: push, what: [random, target]}}]
    """

    name = "append-items"
    threat = ThreatModel("test-input", "none", "untargeted")
    changes = ("append",)
    what: str = param("random", "what is appended", choices=("random", "target"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.what == "target" and self.goal != "push":
            raise InputError(f"{self.name}: without a push there are no targets", key="what",
                             hint="set goal: push, or what: random")

    def edit(self, model: None, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        if self.what == "target":
            return [np.concatenate([h, np.resize(targets, self.edits)]) for h in histories]
        return [np.concatenate([h, new_items(data, h, targets, self.edits, ctx, user)])
                for user, h in enumerate(histories)]
