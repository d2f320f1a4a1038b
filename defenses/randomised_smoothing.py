"""Noisy copies of the vectors vote: what most of them recommend, no small shift can remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, Defense, ModelPlugin, param
from bench.defense import no_tables
from bench.errors import CannotActError

if TYPE_CHECKING:
    from bench.models.base import Recommender

RADII = (0.0, 0.25, 0.5, 1.0, 2.0)  # in units of sigma


class RandomisedSmoothing(Defense):
    """Serves the share of lists that hold an item when the vectors are noised by N(0, σ²I).

    `draws` times all rows of the chosen tables are noised, and each user's `k` best unknown items
    get a vote. Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML
    2019, Theorem 1: with p̲ ≤ p the item stays in more than half of the noisy lists for every
    shift of l2 length below R = σ Φ⁻¹(p̲), and (top k: Jia et al., ICLR 2020) among the k served
    below σ/2 (Φ⁻¹(p̲) − Φ⁻¹(p̄)), p̄ that of the k-th strongest rival. p̲, p̄ are Clopper and
    Pearson's bounds at alpha / (2 · items) each, so that all items of a user hold together with
    probability 1 − alpha. The report has the share of items served that either certifies at
    0 to 2 σ.

    The length is that of the whole shift that reaches a user: of the user's own rows together
    where tables is user and a user's score depends on no other user's row, else of all rows
    noised (propagation, item vectors), which an attack with a budget per row exceeds soon. The
    report says which ("radius_over"). With relative: true rows are counted in median row norms of
    their tables as trained.

    An attack moves the vectors inside, and the votes are counted anew with the same noise.
    sigma 0 equals `none`. The model is not trained on noise; adversarial training or noise in
    training would widen its margins. Cost: `draws` scorings of everybody; users × items
    integers. Adaptive attack: pgd, which climbs the mean loss over noise of its own
    (`copies`); torchattacks, those of its attacks that see the catalogue.

    Example: defenses: [{randomised-smoothing: {sigma: [0.1, 0.5], relative: true}}]
    """

    name = "randomised-smoothing"
    sigma: float = param(0.1, "standard deviation of the noise on each coordinate", low=0)
    relative: bool = param(False, "sigma, and the radii reported, count in median row norms of "
                           "the table")
    draws: int = param(1000, "noisy copies that vote", low=1)
    k: int = param(10, "items each copy votes for, and length of the list certified", low=1)
    tables: str = param("user", "whose vectors are noised", choices=("user", "item", "both"))
    alpha: float = param(0.001, "probability with which a user's certificate may be wrong",
                         above=0, high=0.5)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if not self.sigma:
            return None
        missing = no_tables(model, self.tables)
        if missing is not None:
            return f"{missing} to add noise to"
        if self.k > data.n_items:
            return f"lists of {self.k} are longer than the {data.n_items} items of {data.name}"
        return None

    def harden(self, model: Recommender, data: Dataset, ctx: Context) -> Recommender:
        if not self.sigma:
            return model
        from bench._votes import Smoothed
        from bench.models.base import TorchRecommender

        if not isinstance(model, TorchRecommender):
            raise CannotActError(f"{self.name}: {type(model).__name__} has no vectors to add noise "
                                 "to")
        tables = {key: t for key, t in model.tables().items()
                  if t.role in (("user", "item") if self.tables == "both" else (self.tables,))}
        if not tables:
            raise CannotActError(f"{self.name}: the model has no {self.tables} table to add noise "
                                 "to")
        spreads = {key: self.sigma * (t.median_norm("l2") if self.relative else 1.0)
                   for key, t in tables.items()}
        served = Smoothed(model, data, self.draws, self.alpha, spreads=spreads,
                          sigma=self.sigma, k=self.k)
        served.count("test")  # now, so that it counts as the defense's time
        return served

    def unseen(self) -> None:
        return None  # see Smoothed.stand_in

    @property
    def noisy(self) -> bool:
        return self.sigma > 0

    def served_facts(self, model: Recommender) -> dict[str, Any]:
        """Share of the k items served that are certain to stay, by radius."""
        from bench._votes import Smoothed

        if not isinstance(model, Smoothed):
            return {}
        own = self.tables == "user" and "user-separable" in model.base.hyper.gives
        rows = sum(t.stop - t.start for key, t in model.base.tables().items()
                   if key in model.spreads)
        return {"sigma": self.sigma, "draws": self.draws, "confidence": 1 - self.alpha,
                "unit": "median row norms" if self.relative else "absolute",
                "radius_over": "the user's own rows" if own else f"all {rows} rows noised",
                **model.certificate([self.sigma * r for r in RADII])}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"sigma": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"sigma": 0.1, "draws": 20}
