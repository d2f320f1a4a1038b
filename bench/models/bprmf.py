"""Matrix factorisation learned pairwise: the readable reference among the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.models._bprmf import BprRecommender


class BPRMF(TrainedModel):
    """Matrix factorisation with Bayesian personalised ranking (Rendle et al., UAI 2009).

    Scores s_ui = p_u · q_i (+ b_i); loss softplus(−(s_ui − s_uj)) over (user, positive, sampled
    negative), plus L2 on the rows of the batch.

    Example: models: [{bprmf: {dim: 64, bias: true}}]
    """

    name = "bprmf"
    dim: int = param(64, "length of the user and item vectors", low=1)
    init_std: float = param(0.01, "standard deviation of the initial vectors", low=0)
    truncated: bool = param(False, "cut the initial normal at two standard deviations")
    bias: bool = param(False, "learn a bias per item")
    l2: float = param(0.0, "weight of ½‖·‖² of the batch's rows in the loss", low=0)
    reduction: str = param("mean", "how a batch's losses are put together",
                           choices=("mean", "sum"))
    order: str = param("rows", "how an epoch is made: rows (each train row once, shuffled), or "
                       "users (users drawn with replacement, all rows of one close together)",
                       choices=("rows", "users"))

    not_separable: ClassVar[str] = ("an epoch of order: users is drawn from all users, so that "
                                    "one more changes the rows of the others")

    @property
    def gives(self) -> frozenset[str]:
        given = {"embeddings", "gradients"}
        return frozenset(given if self.order == "users" else given | {"user-separable"})

    def build(self, data: Dataset, ctx: Context) -> BprRecommender:
        from bench.models._bprmf import BprRecommender

        return BprRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 16, "epochs": 30, "batch_size": 256, "learning_rate": 0.01}
