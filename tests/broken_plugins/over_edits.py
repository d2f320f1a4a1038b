"""Spends one edit more than it states."""

from bench.api import HistoryAttack

BREAKS = "histories-within-budget"
BECAUSE = "is not within 1 edits"


class OverEdits(HistoryAttack):
    """Replaces one item more than its budget; no paper.

    Example: attacks: [over-edits]
    """

    name = "over-edits"
    changes = ("substitute",)

    def edit(self, model, histories, targets, data, ctx):
        for history in histories:
            history[-self.edits - 1:] = (history[-self.edits - 1:] + 1) % data.n_items
        return histories
