"""Lists that mix genres as their user's history does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, Defense, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.models.base import Recommender


class CalibratedRerank(Defense):
    """Calibrated recommendations (Steck, RecSys 2018): fairness towards a user's minor interests.

    Items are added one by one to maximise (1 − λ)·Σs − λ·KL(p ‖ (1 − α)·q + α·p), where p is the
    distribution of genres over what the user liked, and q the one over the list; an item of n
    genres is 1/n of each, and all rows of a history weigh the same. s is the score
    brought to 0 … 1 among the candidates, as the models' own scales differ. Items without a genre
    add to neither; users without a known genre keep the model's list.

    Items beyond `length` keep their order. strength 0 leaves the model as it is. Costs N·K·G per
    user. Adaptive attack: profiles that hold a target of the segment's genre are favoured, as
    calibration pulls at that genre; bandwagon-profiles over targets of a rare genre. Attacks on
    vectors are not adaptive: what an item is worth depends on the items chosen before it, and has
    no slope.

    Example: defenses: [{calibrated-rerank: {attribute: genre, strength: [0.2, 0.5, 0.9]}}]
    """

    name = "calibrated-rerank"
    attribute: str = param("genre", "item attribute that lists are calibrated on")
    strength: float = param(0.5, "λ: 0 keeps the model's order, 1 looks at genres alone", low=0,
                            high=1)
    alpha: float = param(0.01, "α, the share of p mixed into q so that no genre has share 0",
                         above=0, high=0.5)
    length: int = param(10, "items of a list that are chosen", low=1)
    candidates: int = param(100, "best items of the model that are chosen from", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.fairness import reason
        from bench.metrics.groups import item_groups

        if self.attribute not in data.item_attributes:
            return (f"items of {data.name} have no attribute {self.attribute!r}; they have "
                    + (", ".join(sorted(data.item_attributes)) or "none"))
        try:
            groups = item_groups(data, self.attribute)
        except InputError as error:
            return reason(error)
        if len(groups.members) < 2:
            return f"all items of {data.name} have one {self.attribute}, or none"
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if not self.strength:
            return model
        from bench.rerank_greedy import Calibrated

        return Calibrated(model, data, self.length, self.candidates, self.attribute,
                          self.strength, self.alpha)

    def unseen(self) -> str | None:
        return "items are chosen one by one, by those chosen before" if self.strength else None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"strength": 0.0}
