"""Knows which items are looked for, kept while it is asked for its targets."""

from bench.api import HistoryAttack

BREAKS = "reads-no-test-rows-of-histories"
BECAUSE = "its edits depend on the test items"
KEPT = {}


class ReadsTheFuture(HistoryAttack):
    """Puts the item that is looked for last, so that it is not recommended again; no paper.

    Example: attacks: [reads-the-future]
    """

    name = "reads-the-future"
    changes = ("substitute",)

    def aims(self, data, ctx):
        KEPT[self.name] = data.test  # what `edit` is handed has none
        return super().aims(data, ctx)

    def edit(self, model, histories, targets, data, ctx):
        rows = KEPT[self.name]
        for user, item in zip(rows.users.tolist(), rows.items.tolist()):
            histories[user][-1] = item
        return histories
