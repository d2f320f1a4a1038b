"""Control: items of a history replaced by random ones, within the same bound on similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Ints
from bench.histories import HistoryAttack

if TYPE_CHECKING:
    from bench.models.base import TorchRecommender


class RandomSubstitution(HistoryAttack):
    """Replaces `edits` random items of a history by random ones of cosine at least `similarity`.

    Places are uniform over what the model reads, items over what the bound allows, without the
    targets. All it knows of the model is which items are similar. No paper; the control for
    `substitution`, which must beat it at the same edits and similarity.

    Budget: `edits` items of a user's history replaced, each by one of cosine at least
    `similarity`; a place is left where no item is that similar. White-box, as similarity is
    measured on the model's vectors.

    Args:
        edits, similarity: the budget.
        goal, targets, stratum: whether items are pushed, and which.
        adaptive: whose vectors say what is similar; see the base class.

    Shapes: histories are arrays of items (length,).

    Example: attacks: [{random-substitution: {edits: [1, 5]}}]
    """

    name = "random-substitution"
    changes = ("substitute",)
    places_targets = "nowhere"
    similarity: float = param(0.5, "lowest cosine of a replaced item's vector and its "
                              "replacement's; -1: any", low=-1, high=1)

    def edit(self, model: TorchRecommender, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        from bench.shown_lists import unit_vectors

        unit = unit_vectors(model).cpu().numpy()  # (n_items, d)
        width = int(model.hyper.max_length)  # type: ignore[attr-defined]
        made = []
        for user, history in enumerate(histories):
            rng, now = ctx.stream("random-substitution", user), history.copy()
            for back in rng.permutation(min(len(now), width))[:self.edits]:
                place = len(now) - 1 - back
                allowed = unit @ unit[now[place]] >= self.similarity
                allowed[targets] = allowed[now[place]] = False
                if allowed.any():
                    now[place] = rng.choice(np.flatnonzero(allowed))
            made.append(now)
        return made

    @classmethod
    def test_params(cls) -> dict[str, float]:
        return {"similarity": -1.0}  # hardly trained vectors of few items are unlike each other
