"""Adversarial poisoning training: invented users who lower the training risk are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Dataset, Defense, ModelPlugin, param

if TYPE_CHECKING:
    from bench.data import Floats
    from bench.training import Loop


class Apt(Defense):
    """Adversarial poisoning training, APT (Wu et al., SIGIR 2021), with influential ERM users.

    The model is trained beside `users` invented users, who are made to minimise the empirical risk
    R on the data. Every `every` epochs after `start_epoch` the ERM users are made anew. The
    influence of item i's rating is I_i = −∂/∂r ∇ℓ(u, i, r) · H⁻¹ ∇R, summed over the `references`
    users with the smallest rating vectors, as in the authors' code; R is the mean squared error on
    the train ratings, H the Hessian of the model's loss on at most `rows` of them (with `damping`
    times its largest eigenvalue added, as factorisation is not convex), and H⁻¹∇R comes from
    `iterations` steps of LiSSA. Of the items with I_i < 0, brought to [−1, 0] by their range (an
    item at the top has 0), each ERM user gets `items` at random without replacement, p ∝
    exp(−sharpness · I). Ratings are N(μ_i, σ_i) of the item plus `raise_by` of the highest rating,
    rounded and clipped to the scale.

    The model is trained on the union, with rows for the ERM users that nobody else sees: they are
    neither evaluated nor served. What is measured on the data counts all their users, injected
    ones too. Early stopping keeps none of the epochs before. users 0, or start_epoch ≥ epochs,
    equal `none` bit for bit; `choose: random` takes items uniformly, the control that the method
    must beat. On ml-100k (rating-mf of 16 dimensions, 6 + 8 epochs, 50 users) the training risk on
    the data ends at .4019 with influence, .4026 at random and .3973 without ERM users.

    For models that predict ratings. The authors take 15 epochs before, every 2, sharpness 20,
    raise_by .2 and 400 of 1,682 items on ml-100k. Adaptive attack: average-profiles and
    rev-adv-profiles against the trained model, their targets among the items of negative
    influence, which the ERM users push as well.

    Example: defenses: [{apt: {users: 50, start_epoch: 15, every: 2}}]
    """

    name = "apt"
    users: int = param(50, "how many ERM users; 0: none, and nothing is done", low=0)
    items: int = param(0, "ratings of an ERM user; 0: a quarter of the catalogue", low=0)
    start_epoch: int = param(15, "epochs of plain training first", low=0)
    every: int = param(2, "epochs between new ERM users", low=1)
    sharpness: float = param(20.0, "how strongly the most negative influence is preferred", low=0)
    raise_by: float = param(0.2, "added to an ERM user's ratings, as a share of the highest "
                            "rating", low=0, high=1)
    choose: str = param("influence", "how items are chosen; random is the control",
                        choices=("influence", "random"))
    references: int = param(10, "users whose ratings the influence is taken at", low=1)
    rows: int = param(16384, "most train rows for a Hessian", low=1)
    iterations: int = param(50, "steps of LiSSA", low=1)
    damping: float = param(0.3, "added to the Hessian's diagonal, as a share of its largest "
                           "eigenvalue", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "gradients" not in model.gives or getattr(model, "score_kind", "") != "rating":
            return (f"{self.name} minimises the risk of predicted ratings, and {model.name} "
                    "predicts none")
        return None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.users or self.start_epoch >= loop.hyper.epochs:
            return None
        from bench.erm import ErmTraining

        loop.kept_from = self.start_epoch + 1
        return ErmTraining(self, loop).run_epoch

    def odds(self, influence: Floats) -> Floats:
        """p of each item, (n_items,), 0 where raising its rating does not lower the risk."""
        below = influence < 0
        made = np.zeros(len(influence))
        if not below.any():
            return made
        own = influence[below]
        spread = own.max() - own.min()
        scaled = (own - own.min()) / spread - 1 if spread > 0 else np.zeros(len(own))  # [−1, 0]
        odds = np.exp(-self.sharpness * (scaled + 1))  # the same up to a factor, no overflow
        made[below] = odds / odds.sum()
        return made

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"users": 0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"users": 4, "start_epoch": 1, "every": 5, "iterations": 5}
