"""The recommender behind `dpals`; apart, so that listing models does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix

from bench import als, dpals
from bench.accounting import gaussian_noise
from bench.context import Context
from bench.data import Dataset
from bench.defense import Defense
from bench.errors import TrainingError
from bench.models._als import AlsRecommender
from bench.sampling import hash_rows

if TYPE_CHECKING:
    from bench.models.als import ALS
    from bench.models.dpals import DPALS
    from bench.training import FitResult, Progress


class DpalsRecommender(AlsRecommender):
    """See `bench.models.dpals.DPALS`."""

    def __init__(self, hyper: DPALS, data: Dataset, ctx: Context) -> None:
        super().__init__(cast("ALS", hyper), data, ctx)  # it has the parameters read there

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        for hook in ("loss", "wrap"):
            if getattr(type(defense), hook) is not getattr(Defense, hook):
                raise TrainingError(f"{defense.name} acts on the steps of gradient training, and "
                                    "dpals has none; take a defense that cleans, hardens or "
                                    "re-ranks")
        h: DPALS = self.hyper
        rng = self.ctx.stream("dpals-noise")
        times = dpals.gaussians(h.iterations, not self.explicit, h.sampling == "tail")
        noise = h.noise_multiplier if h.noise_multiplier is not None else gaussian_noise(
            h.epsilon, h.delta, times)
        entry = 1.0
        if self.explicit:
            assert self.data.rating_scale is not None  # `unfit` turned such data away
            entry = (self.data.rating_scale[1] - self.data.rating_scale[0]) / 2
        bounds = dpals.Bounds(h.row_clip, entry, h.max_interactions, noise)
        values = _once(self.values, entry, self.explicit)
        rounds = dpals.iterations(values, self.sampled(values, bounds, rng),
                                  self._weights("items"), h.reg, h.iterations, bounds, rng,
                                  alpha=self.how["alpha"])
        for n, (users, items) in enumerate(rounds, 1):
            value = als.objective(values, users, items, h.reg, **self.how)
            if not np.isfinite(value):
                raise TrainingError(f"the objective became {value} in round {n}; raise reg")
            progress({"epoch": n, "epochs": h.iterations, "loss": value})
        with torch.no_grad():
            for table, found in ((self.module.users, users), (self.module.items, items)):
                table.weight.copy_(torch.as_tensor(found, dtype=torch.float32))
        self.module.eval()
        long = np.linalg.norm(users, axis=1) > h.row_clip
        alone = defense.name == "none"
        return FitResult(epochs=n, best_epoch=n, notes={"dp": {
            "adjacency": "one user's whole history, added or removed",
            "released": "the item vectors", "private_rows": ["users.weight"],
            "noise_multiplier": noise, "gaussians": times, "row_clip": h.row_clip,
            "entry_clip": entry, "max_interactions": h.max_interactions,
            "accountant": "analytic Gaussian, exact", "clipped_share": round(float(long.mean()), 4),
            "void": None if alone else f"{defense.name} may have read all users' data"}})

    def sampled(self, values: als.Matrix, bounds: dpals.Bounds,
                rng: np.random.Generator) -> als.Matrix:
        """At most k entries of each user: drawn by hashes, whatever the others have; or the
        user's rarest by counts that are noised."""
        owner = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        keys = hash_rows(self.ctx.number("dpals-sample"), torch.as_tensor(owner),
                         torch.as_tensor(values.indices.astype(np.int64))).numpy()
        drawn = dpals.at_most(values, keys, bounds.most)
        if self.hyper.sampling == "uniform":
            return drawn
        counts = np.bincount(drawn.indices, minlength=values.shape[1]).astype(np.float64)
        rare = bounds.noised(counts, bounds.most**0.5, rng)  # (items,); k users' ones: √k
        return dpals.at_most(values, rare[values.indices], bounds.most)


def _once(values: als.Matrix, entry: float, explicit: bool) -> als.Matrix:
    """Each pair once, its first value, no larger than Γ_M: several rows of one user at one item
    would add up to more than the sums' noise is made for."""
    owner = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    _, first = np.unique(owner * values.shape[1] + values.indices, return_index=True)
    data = np.clip(values.data[first], -entry, entry) if explicit else np.ones(len(first))
    starts = np.r_[0, np.bincount(owner[first], minlength=values.shape[0]).cumsum()]
    return csr_matrix((data, values.indices[first], starts), values.shape)
