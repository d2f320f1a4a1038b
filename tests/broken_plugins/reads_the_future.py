"""Knows which items are looked for."""

from bench.api import HistoryAttack

BREAKS = "reads-no-test-rows-of-histories"
BECAUSE = "its edits depend on the test items"


class ReadsTheFuture(HistoryAttack):
    """Puts the item that is looked for last, so that it is not recommended again; no paper.

    Example: attacks: [reads-the-future]
    """

    name = "reads-the-future"
    changes = ("substitute",)

    def edit(self, model, histories, targets, data, ctx):
        rows = model.data.test
        for user, item in zip(rows.users.tolist(), rows.items.tolist()):
            histories[user][-1] = item
        return histories
