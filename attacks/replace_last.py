"""Control: the newest items of every history replaced, at random or by the targets."""

from __future__ import annotations

import numpy as np

from bench.api import Context, Dataset, ThreatModel, param
from bench.data import Ints
from bench.errors import InputError
from bench.histories import HistoryAttack
from bench.shown_lists import new_items


class ReplaceLast(HistoryAttack):
    """Replaces the newest `edits` items that the model reads of a user; looks at nothing.

    The newest items say most of what comes next, so that this is a strong way to spend a budget
    blindly. what: random puts items that the user has not, uniform over the catalogue without
    the targets: the same ones, in the same order, that `append-items` appends. what: target
    (push) puts the targets, in turn. No paper; the control for `substitution`, which has the
    same budget and must beat it where it has no bound on similarity.

    Budget: `edits` items of a user's history replaced. Knowledge: none.

    Args:
        edits: the budget; of a shorter history, all items.
        what: random, or target.
        goal, targets, stratum: whether items are pushed, and which.

    Shapes: histories are arrays of items (length,).

    Example: attacks: [{replace-last: {edits: [1, 5]}}]
    """

    name = "replace-last"
    threat = ThreatModel("test-input", "none", "untargeted")
    changes = ("substitute",)
    what: str = param("random", "what is put there", choices=("random", "target"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.what == "target" and self.goal != "push":
            raise InputError(f"{self.name}: without a push there are no targets", key="what",
                             hint="set goal: push, or what: random")

    def edit(self, model: None, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        made = []
        for user, history in enumerate(histories):
            count = min(self.edits, len(history))
            put = np.resize(targets, count) if self.what == "target" else \
                new_items(data, history, targets, count, ctx, user)
            made.append(np.concatenate([history[:len(history) - len(put)], put]))
        return made
