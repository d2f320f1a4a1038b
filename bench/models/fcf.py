"""Matrix factorisation of choices whose user vectors are solved, never stored: FCF's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, param
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.models._fcf import FcfRecommender


class FCF(TrainedModel):
    """Federated collaborative filtering (Ammad-ud-din et al., arXiv:1901.09888, 2019), the model.

    Minimises J = Σ_u Σ_j c_uj (r_uj − p_u·q_j)² + reg (Σ‖p_u‖² + Σ‖q_j‖²) over all pairs, with
    r_uj = 1 where u took j and c_uj = 1 + alpha · r_uj (Hu et al., ICDM 2008). Given the items Q
    (m, d), a user's best vector is p_u = (Qᵀ C_u Q + reg I)⁻¹ Qᵀ C_u r_u, which each client solves
    for itself; Q goes down ∂J/∂q_j = −2 Σ_u c_uj (r_uj − p_u·q_j) p_u + 2 reg q_j, to which each
    user adds its own term. The loss of a batch is its users' share of J at those p_u, which are
    held fixed, so its gradient is exactly that sum; reg Σ‖q_j‖² is spread evenly over all users,
    whose number is public, and the shares of those without a train row are left out.

    With defense `federated` each client uploads its terms, and this is FCF: there the server steps
    with Adam, too. Without, it is the same descent in one place. No table holds user vectors:
    scores solve them from the train rows and the items as they then are. An epoch asks each user
    once, `batch_size` users a step. Sizes and rates are not the paper's.

    Example: models: [{fcf: {dim: 16, alpha: 4}}]
    """

    name = "fcf"
    dim: int = param(32, "length of the user and item vectors", low=1)
    alpha: float = param(4.0, "how much more a taken item weighs than one that was not", low=0)
    reg: float = param(1.0, "weight of the squared norms", above=0)
    init_std: float = param(0.1, "standard deviation of the initial item vectors", above=0)
    batch_size: int = param(128, "users per step", low=1)
    learning_rate: float = param(0.01, "step size", above=0)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"embeddings", "gradients", "user-separable"})

    @property
    def table_roles(self) -> frozenset[str]:
        return frozenset({"item"})  # users' vectors are solved where they are asked for

    @property
    def whole_histories(self) -> bool:
        return True

    def unfit(self, data: Dataset) -> str | None:
        if data.n_users * data.n_items > 1 << 31:
            return (f"{self.name} keeps a flag per user and item, and {data.name} has "
                    f"{data.n_users} × {data.n_items}")
        return None

    def build(self, data: Dataset, ctx: Context) -> FcfRecommender:
        from bench.models._fcf import FcfRecommender

        return FcfRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 8, "epochs": 20, "batch_size": 16, "learning_rate": 0.05, "patience": 0}
