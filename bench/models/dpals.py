"""Alternating least squares with user-level differential privacy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models._dpals import DpalsRecommender
    from bench.training import FitResult


class DPALS(ModelPlugin):
    """DPALS, the model `als` with private item vectors (Chien et al., ICML 2021).

    Scores, objectives and order of half-steps are those of `als`. In each of `iterations` = T
    rounds users solve p_u at their side, from their own history and the noised item vectors, and
    the server solves

        q_j = (Π_PSD(Σ_u p_u p_uᵀ + Γ_u² √k σ G_sym) + reg I)⁻¹ (Σ_u M_uj p_u + Γ_u Γ_M √k σ g)

    with ‖p_u‖ ≤ Γ_u (`row_clip`), |M_uj| ≤ Γ_M, at most k (`max_interactions`) items of a user;
    G_sym is a symmetric matrix of, g a vector of standard normals. From choices M_uj = Γ_M = 1,
    the local sum counts `alpha` times, and the sum over all users that lets untaken pairs count
    is noised too: Π_PSD(Σ p_u p_uᵀ + Γ_u² σ G_sym), as the authors' code does. From ratings they
    are centred at the middle of their scale and Γ_M is half of it: both are public.

    Adjacent data sets differ by one user's whole history, added or removed. Every noised sum is
    one Gaussian of noise σ: 2 T from ratings, 3 T from choices, one more for `sampling: tail`;
    all together one of σ/√count, whose ε at δ is exact. ε covers the item vectors; a user's own
    vector never leaves the user ("joint" DP). The number of users, the catalogue and the rating
    scale count as public. Not covered: the choice of hyper-parameters, published test metrics,
    noise from a seeded generator, and a defense beside it: then no ε is quoted.

    The k items are drawn uniformly, or, `sampling: tail`, are the rarest of a user by noised
    counts, as the authors advise against skew. A row_clip longer than users' vectors are wastes
    ε: most should be clipped (facts, clipped_share). noise_multiplier 0 with row_clip .inf and as
    many interactions as a user has is `als`.

    Example: models: [als, {dpals: {epsilon: [1, 8], row_clip: 0.1}}]
    """

    name = "dpals"
    dim: int = param(8, "length of the user and item vectors", low=1)
    feedback: str = param("implicit", "learns from choices, or from ratings",
                          choices=("implicit", "explicit"))
    reg: float = param(10.0, "weight of the squared norms of the vectors", above=0)
    alpha: float = param(1.0, "extra confidence in a pair that was taken (implicit)", above=0)
    iterations: int = param(2, "rounds of both half-steps; each costs privacy", low=1)
    init_std: float = param(0.1, "standard deviation of the initial item vectors", above=0)
    epsilon: float = param(8.0, "privacy loss that may be spent", above=0)
    delta: float = param(1e-5, "probability with which the bound may fail; must be below one "
                         "over the number of users, better well below", above=0, high=0.5)
    noise_multiplier: float | None = param(None, "σ, instead of what epsilon needs; 0: no noise "
                                           "and no privacy", low=0)
    row_clip: float = param(0.1, "largest norm of a user's vector in the sums (Γ_u); .inf does "
                            "not clip and asks for noise_multiplier 0", above=0, high=math.inf)
    max_interactions: int = param(40, "items of a user that enter the sums (k)", low=1)
    sampling: str = param("uniform", "which k: uniform, or tail (the rarest, by noised counts)",
                          choices=("uniform", "tail"))

    weighted: ClassVar[bool] = False  # would need item counts without noise
    centre: ClassVar[str] = "scale"  # the mean would too

    def __post_init__(self) -> None:
        from bench.errors import InputError

        if math.isinf(self.row_clip) and self.noise_multiplier != 0:
            raise InputError("noise cannot be scaled to an infinite row_clip", key="row_clip",
                             hint="give a finite row_clip, or noise_multiplier: 0")

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"embeddings", "ratings"} if self.feedback == "explicit"
                         else {"embeddings"})

    @property
    def score_kind(self) -> str:
        """What the scores are: predicted ratings, or nothing that is one."""
        return "rating" if self.feedback == "explicit" else "other"

    def unfit(self, data: Dataset) -> str | None:
        from bench.accounting import no_promise
        from bench.models.als import ALS

        reason = None if self.noise_multiplier == 0 else no_promise(self.delta, data)
        if reason is not None:
            return reason
        if self.feedback == "implicit":
            return None
        return ALS.from_params({"feedback": "explicit", "centre": "scale"}).unfit(data)

    def build(self, data: Dataset, ctx: Context) -> DpalsRecommender:
        from bench.models._dpals import DpalsRecommender

        return DpalsRecommender(self, data, ctx)

    def spent(self, fit: FitResult) -> dict[str, float]:
        """Privacy spent by this training: epsilon, delta; empty where none is promised."""
        facts = fit.notes.get("dp")
        if not facts or not facts["noise_multiplier"] or facts["void"]:
            return {}
        from bench.accounting import gaussian_epsilon

        return {"delta": self.delta, "epsilon": gaussian_epsilon(
            facts["noise_multiplier"], self.delta, facts["gaussians"])}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 8, "reg": 1.0, "epsilon": 500.0, "iterations": 3, "init_std": 0.5,
                "max_interactions": 20}
