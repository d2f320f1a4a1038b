"""Alternating least squares: the model whose training has no gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Context, Dataset, ModelPlugin, param

if TYPE_CHECKING:
    from bench.models._als import AlsRecommender


class ALS(ModelPlugin):
    """Weighted matrix factorisation solved by alternating least squares, also called WRMF or iALS.

    Scores are s_ui = p_u · q_i. From choices (Hu, Koren and Volinsky, ICDM 2008, Eq. 3):

        min Σ_{u,i} c_ui (x_ui − p_u·q_i)² + reg (Σ‖p_u‖² + Σ‖q_i‖²),

    with c_ui = 1 + alpha and x_ui = 1 for each positive of train, c_ui = 1 and x_ui = 0 elsewhere.
    With `feedback: explicit` from ratings (Zhou et al., AAIM 2008): the sum runs over rated pairs
    only, c_ui = 1 and x_ui = rating less `centre`, which the score adds again; every rated row
    teaches, also one below the dataset's threshold. `weighted` multiplies a vector's penalty by
    the number of its rows (ALS-WR of Zhou et al.).

    Each half-step is solved exactly (`bench.als`), users last, so that folding a user in gives
    that user's own vector. The start is the items' alone, so that clean and poisoned trainings
    share it. There is no gradient step and no early stopping: what a defense does to the data, to
    the trained model or to its scores acts here, what it does to the loss or to the steps cannot,
    which is why no gradients are promised.

    Example: models: [{als: {dim: 32, alpha: 1, reg: 10}}]
    """

    name = "als"
    dim: int = param(32, "length of the user and item vectors", low=1)
    feedback: str = param("implicit", "learns from choices, or from ratings",
                          choices=("implicit", "explicit"))
    reg: float = param(10.0, "weight of the squared norms of the vectors", above=0)
    alpha: float = param(1.0, "extra confidence in a pair that was taken (implicit)", above=0)
    weighted: bool = param(False, "a vector's penalty counts once per row of its user or item")
    centre: str = param("none", "taken from ratings before factoring: nothing, their mean in "
                        "train, or the middle of their scale (explicit)",
                        choices=("none", "mean", "scale"))
    iterations: int = param(15, "rounds of both half-steps", low=1)
    init_std: float = param(0.1, "standard deviation of the initial item vectors", above=0)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"embeddings", "ratings"} if self.feedback == "explicit"
                         else {"embeddings"})

    @property
    def score_kind(self) -> str:
        """What the scores are: predicted ratings, or nothing that is one."""
        return "rating" if self.feedback == "explicit" else "other"

    def unfit(self, data: Dataset) -> str | None:
        if self.feedback == "implicit":
            return None
        if data.train.ratings is None:
            return f"feedback: explicit learns from ratings, and {data.name} has none"
        if data.threshold is not None and data.train.labels is None:
            return (f"feedback: explicit learns from low ratings too, and {data.name} drops those "
                    f"under its threshold of {data.threshold:g}; load it with below: keep")
        if self.centre == "scale" and data.rating_scale is None:
            return f"centre: scale needs the rating scale, which {data.name} does not state"
        return None

    def build(self, data: Dataset, ctx: Context) -> AlsRecommender:
        from bench.models._als import AlsRecommender

        return AlsRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 8, "iterations": 5, "reg": 1.0}
