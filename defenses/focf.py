"""Rating errors made alike for two groups: a penalty on their difference, item by item."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.errors import InputError, PluginError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models._rating_mf import RatingRecommender
    from bench.models.base import Batch, TorchRecommender
    from bench.training import Loop


class Focf(Defense):
    """Fairness objectives for collaborative filtering (Yao and Huang, NIPS 2017): L + weight · U.

    With d_g = E_g[y]_j − E_g[r]_j, the mean error of the predictions for item j among the ratings
    of group g, U is a mean over items of: value |d_g − d_h|; absolute ||d_g| − |d_h||;
    under |max(0, −d_g) − max(0, −d_h)|; over, its mirror; or non-parity |E_g[y] − E_h[y]| over all
    ratings at once (after Kamishima et al., ICDM Workshops 2011).

    U is taken on the batch, on those of its items that both groups rated there: an item without
    ratings from a group has no mean, and a mean of 0 in its place (as in a public implementation
    that adds 1e-5 to the counts) would teach something else. Small batches hold few such items:
    the paper takes all ratings at once, so use a large batch_size; the report counts the items.
    With `smooth`, the outer |x| is ½x² below 1 and |x| − ½ above, as gradients need; the paper
    squares there too. Where the model sums its loss over the batch, U counts once per row.

    For models that predict ratings, and two groups: one value of a user attribute against the
    rest. Users without the attribute teach L alone. weight 0 equals `none` bit for bit. Adaptive
    attack: fake profiles fill the attribute in and are in U as all others are, so that they move
    the item means of their group: random-profiles at several budgets.

    Example: defenses: [{focf: {attribute: gender, measure: [value, non-parity], weight: 1.0}}]
    """

    name = "focf"
    attribute: str = param("gender", "user attribute that makes the two groups")
    value: str = param("", "the value that makes one group, all others being the other; may be "
                       "left out where there are two")
    measure: str = param("value", "which of the five quantities U is",
                         choices=("value", "absolute", "under", "over", "non-parity"))
    weight: float = param(1.0, "weight of U in the loss (λ)", low=0)
    smooth: bool = param(True, "U's outer |x| is a smooth L1")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.fairness import sides

        if not {"embeddings", "gradients"} <= model.gives or \
                getattr(model, "score_kind", "") != "rating":
            return (f"{self.name} compares predicted with true ratings, and {model.name} predicts "
                    "none")
        try:
            sides(data, self.attribute, self.value)
        except InputError as error:
            return str(error)
        return None

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        if not self.weight:
            return clean_loss
        penalty = self.penalty(model, batch)
        if penalty is None:  # no item of this batch was rated by both groups
            return clean_loss
        rows = len(batch["users"]) if model.sums_loss else 1
        return clean_loss + self.weight * rows * penalty

    def penalty(self, model: TorchRecommender, batch: Batch) -> Tensor | None:
        """U on this batch, or None where it compares nothing."""
        from bench.fairness import unfairness

        rates = cast("RatingRecommender", model)  # `unfit` turned away what predicts no ratings
        predicted = rates.predict(batch["users"], batch["items"])  # (B,)
        return unfairness(predicted, batch["ratings"], batch["items"], self._side(model, batch),
                          self.measure, self.smooth)

    def _side(self, model: TorchRecommender, batch: Batch) -> Tensor:
        """1, 0 or −1 (no attribute) for each row of the batch, (B,)."""
        import torch

        from bench.fairness import sides

        found = torch.as_tensor(sides(model.data, self.attribute, self.value),
                                device=batch["users"].device)  # (n_users,)
        return found[batch["users"]]

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Keeps the plain loop; counts what U can compare, and refuses to be idle."""
        if not self.weight:
            return None
        from bench.fairness import item_means

        compared, acts = [], False
        for batch in loop.batches(1):
            side = self._side(loop.model, batch)
            compared.append(len(item_means(batch["ratings"], batch["items"], side)[0]))
            acts |= bool((side == 1).any() and (side == 0).any()) \
                if self.measure == "non-parity" else compared[-1] > 0
        if not acts:
            what = "ratings of both groups" if self.measure == "non-parity" else \
                "an item that both groups rated"
            raise PluginError(f"{self.name}: no batch holds {what}, so there is nothing to make "
                              "alike; raise the model's batch_size")
        loop.notes["focf"] = {"items_compared_per_batch": sum(compared) / len(compared),
                              "batches": len(compared)}
        return None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"weight": 0.0}
