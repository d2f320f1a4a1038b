"""Replaces items by their opposites, whatever bound is set on similarity."""

from bench.api import HistoryAttack

BREAKS = "similarity-kept"
BECAUSE = "replacements of cosine 0.1"


class Dissimilar(HistoryAttack):
    """Takes the least similar item; no paper.

    Example: attacks: [dissimilar]
    """

    name = "dissimilar"
    changes = ("substitute",)

    def edit(self, model, histories, targets, data, ctx):
        from bench.shown_lists import unit_vectors

        unit = unit_vectors(model)
        for history in histories:
            history[-1] = int((unit @ unit[history[-1]]).argmin())
        return histories
