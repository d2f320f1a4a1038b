"""Leaves the edited histories in the model."""

import contextlib

from bench.api import HistoryAttack
from bench.attack import Struck

BREAKS = "histories-come-back"
BECAUSE = "the model is not put back afterwards"


class LeavesEdits(HistoryAttack):
    """Enters what it never leaves; no paper.

    Example: attacks: [leaves-edits]
    """

    name = "leaves-edits"
    changes = ("substitute",)

    @contextlib.contextmanager
    def strike(self, model, prepared, ctx):
        if self.edits:
            put, _ = self.edited(model, model, prepared.genuine, None, ctx)
            self.kept.append(model.reading(put))
            self.kept[-1].__enter__()
        yield Struck(model, prepared.genuine)

    kept = []

    def edit(self, model, histories, targets, data, ctx):
        for history in histories:
            history[-1] = (history[-1] + 1) % data.n_items
        return histories
