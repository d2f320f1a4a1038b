"""Matrix factorisation of ratings: the explicit model that rating-based methods need."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.api import Context, Dataset, param
from bench.training import TrainedModel

if TYPE_CHECKING:
    from bench.models._rating_mf import RatingRecommender


class RatingMF(TrainedModel):
    """Matrix factorisation with biases, learned from ratings (Koren et al., IEEE Computer 2009).

    Predicts r̂_ui = μ + b_u + b_i + p_u · q_i (Eq. 4); minimises over the rated pairs of train
    (r_ui − r̂_ui)² + l2 · (‖p_u‖² + ‖q_i‖² + b_u² + b_i²) (Eq. 5), here by the common training loop.

    Every rated row teaches, also one below the dataset's threshold, which is no positive: that is
    why data that dropped its low ratings (below: drop) is refused. Scores are predicted ratings,
    not cut to the scale; the catalogue is ranked by them. Few ratings say little about what a
    user takes up, so its hit rates are far below those of models that learn from choices
    (Cremonesi et al., RecSys 2010): it is here for methods that are defined on ratings.

    μ is the mean of the train ratings (injected ones included), or with `centre: scale` the
    middle of the rating scale, which is public: only then is one user's loss free of the others'
    ratings, as private training needs. Injected users' rows below the threshold are kept and
    learned from, where the dataset keeps its own.

    Example: models: [{rating-mf: {dim: 32, l2: 0.1, centre: scale}}]
    """

    name = "rating-mf"
    dim: int = param(32, "length of the user and item vectors", low=1)
    init_std: float = param(0.1, "standard deviation of the initial vectors", low=0)
    l2: float = param(0.1, "weight of the squared norms of a row's vectors and biases", low=0)
    centre: str = param("mean", "μ: mean of the train ratings, or the middle of their scale",
                        choices=("mean", "scale"))
    reduction: str = param("mean", "how a batch's losses are put together",
                           choices=("mean", "sum"))

    score_kind: ClassVar[str] = "rating"
    not_separable: ClassVar[str] = ("μ is the mean of all users' ratings; centre: scale takes "
                                    "the middle of the public scale")

    @property
    def gives(self) -> frozenset[str]:
        given = {"embeddings", "gradients", "ratings"}
        return frozenset(given if self.centre == "mean" else given | {"user-separable"})

    def unfit(self, data: Dataset) -> str | None:
        ratings = data.train.ratings
        if ratings is None:
            return f"{self.name} learns from ratings, and {data.name} has none"
        if data.threshold is not None and data.train.labels is None:
            return (f"{self.name} learns from low ratings too, and {data.name} drops those under "
                    f"its threshold of {data.threshold:g}; load it with below: keep")
        if len(ratings) and ratings.min() == ratings.max():
            return f"every rating of {data.name} is {ratings[0]:g}: there is nothing to learn"
        if self.centre == "scale" and data.rating_scale is None:
            return f"centre: scale needs the rating scale, which {data.name} does not state"
        return None

    def build(self, data: Dataset, ctx: Context) -> RatingRecommender:
        from bench.models._rating_mf import RatingRecommender

        return RatingRecommender(self, data, ctx)

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"dim": 8, "epochs": 30, "batch_size": 128, "learning_rate": 0.02,
                "centre": "scale", "patience": 0}
