"""DP-SGD that noises few rows of the item tables: those that enough users touch, privately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.api import Dataset, ModelPlugin, param
from bench.dp_steps import PrivateSteps, PrivateTraining, step_rows
from bench.errors import InputError, PluginError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.dp import UserGradients
    from bench.training import Loop


class SparseDpSgd(PrivateTraining):
    """DP-AdaFEST and DP-FEST (Ghazi et al., NeurIPS 2023), user-level, on the item tables.

    As `dp-sgd`, with a choice of rows before the noise. rows adaptive (DP-AdaFEST), per step:
    each drawn user's contribution map v_u ∈ {0,1}^items says at which items its gradient is not 0
    (its items and its sampled negatives), clipped to ‖v_u‖₂ ≤ `map_clip` = C1;
    V = Σ v_u + N(0, σ1² C1² I); rows with V ≥ τ are kept, others neither noised nor moved. Every
    user's gradient is clipped to `clip` = C2 over all shared parameters, the sum restricted to
    kept rows, and N(0, σ2² C2²) added there and on whatever is no item row. Rows that no user
    touched are kept with probability 1 − Φ(threshold): were they never, the choice would leak.
    A step costs what one Gaussian of σ = (σ1⁻² + σ2⁻²)^−½ costs; σ comes from ε and δ as in
    `dp-sgd`, `noise_ratio` = σ1/σ2 divides it. τ = `threshold` · σ1 · C1, in deviations of the
    map's noise, as the noise follows from ε; −.inf keeps all rows and is `dp-sgd` of noise σ2.

    rows noisy-top (DP-FEST) keeps one set of `keep` items: the largest of Σ v_u + N(0, (C1 ·
    selection_noise)²) over all users and their whole histories, one more Gaussian in ε. rows
    public keeps the `keep` items of largest item attribute `public`, numbers that nobody's
    history enters (a release year, counts of another data set), and costs nothing.

    A user who touches n items adds C1/√n to each, so that an item stands out of the map's noise
    where some σ1 √n of the drawn users touch it: draw many (`sample_rate`), or rows are kept by
    chance. Adjacency, what ε covers and what not: as in `dp-sgd`. Neutral with epsilon .inf. The
    gradient is made of looked-up rows where the model only looks its items up; models that score
    the whole catalogue in the loss touch every row and gain nothing. Item biases outside of
    embedding tables are noised in full. Adaptive attack: membership inference, as on `dp-sgd`.

    Example: defenses: [{sparse-dp-sgd: {epsilon: 8, threshold: 1, sample_rate: 0.2}}]
    """

    name = "sparse-dp-sgd"
    rows: str = param("adaptive", "how rows are chosen: adaptive (each step, noised map), "
                      "noisy-top (once, noised counts), public (once, by an item attribute)",
                      choices=("adaptive", "noisy-top", "public"))
    threshold: float = param(1.0, "adaptive: from how many deviations of the map's noise a row is "
                             "kept; -.inf keeps all", low=-math.inf)
    map_clip: float = param(1.0, "largest norm of one user's contribution map (C1)", above=0)
    noise_ratio: float = param(2.0, "adaptive: noise of the map over noise of the rows (σ1/σ2)",
                               above=0)
    keep: int = param(500, "noisy-top and public: how many items are kept", low=1)
    selection_noise: float = param(10.0, "noisy-top: noise of the counts in units of map_clip",
                                   above=0)
    public: str = param("", "public: numeric item attribute to choose by, largest first")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rows == "public") != bool(self.public):
            raise InputError("rows: public chooses by the item attribute named in public",
                             key="public", hint="give both, as {rows: public, public: year}")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.off():
            return None
        if "embeddings" not in model.gives:
            return f"{model.name} has no item vectors of which some rows could be left alone"
        column = data.item_attributes.get(self.public) if self.rows == "public" else None
        if self.rows == "public" and (column is None or column.dtype.kind != "f"):
            return f"{data.name} has no numeric item attribute {self.public!r}"
        return super().unfit(model, data)

    def steps(self, loop: Loop) -> PrivateSteps:
        return _SparseSteps(self, loop)


class _SparseSteps(PrivateSteps):
    """The steps, with rows chosen before the noise."""

    maps = True
    hyper: SparseDpSgd

    def __init__(self, hyper: SparseDpSgd, loop: Loop) -> None:
        super().__init__(hyper, loop)
        if not self.where.items:
            raise PluginError("the model names no item table of which rows could be left alone")
        ratio = hyper.noise_ratio
        adaptive = hyper.rows == "adaptive"
        self.row_noise = self.noise * (math.sqrt(1 + ratio**-2) if adaptive else 1.0)  # σ2
        self.map_noise = ratio * self.row_noise if adaptive else 0.0  # σ1
        self.map_stream = self.model.ctx.torch_stream("dp-map")
        self.fixed = None if adaptive else self.chosen()  # (K,), or each step anew
        self.buffers: dict[str, Tensor] = {}
        self.kept = self.untouched = self.idle = 0
        self.facts |= {"map_noise": self.map_noise, "row_noise": self.row_noise,
                       "rows_kept": 0.0, "untouched_kept": None}

    def more_facts(self) -> dict[str, Any]:
        noisy = self.hyper.rows == "noisy-top"
        return {"rows": self.hyper.rows,
                "selection_noise": self.hyper.selection_noise if noisy else 0.0}

    def counts(self, slots: Tensor, items: Tensor, noise: float, stream: torch.Generator) -> Tensor:
        """Σ v_u clipped to C1, noised: (n_items,). Pairs (user, item) stand once each."""
        import torch

        from bench.dp import clip_factors

        n = self.model.data.n_items
        norms = torch.bincount(slots).sqrt()  # (users,), of 0/1 vectors
        counts = torch.zeros(n, device=slots.device).index_add_(
            0, items, clip_factors(norms, self.hyper.map_clip)[slots])
        drawn = torch.randn(n, generator=stream).to(counts) if noise else counts.new_zeros(n)
        return counts + noise * self.hyper.map_clip * drawn

    def chosen(self) -> Tensor:
        """DP-FEST's rows, chosen once: (keep,) items, ascending."""
        import numpy as np
        import torch

        data, device = self.model.data, self.model.ctx.device
        if self.hyper.rows == "public":
            column = np.asarray(data.item_attributes[self.hyper.public], np.float64)
            values = torch.as_tensor(np.nan_to_num(column, nan=-np.inf), device=device)
        else:
            rows = data.train.positives()
            pairs = np.unique(rows.users * data.n_items + rows.items)
            slots, items = (torch.as_tensor(x, device=device) for x in np.divmod(
                pairs, data.n_items))
            noise = self.hyper.selection_noise if self.noise else 0.0
            values = self.counts(slots, items, noise, self.map_stream)
        top = values.argsort(descending=True, stable=True)[:self.hyper.keep]
        return top.sort().values

    def choose_rows(self, found: UserGradients | None) -> Tensor:
        """The items whose rows are noised and moved in this step, ascending: (K,)."""
        import torch

        if self.fixed is not None:
            return self.fixed
        none = torch.zeros(0, dtype=torch.long, device=self.model.ctx.device)
        slots, items = found.touched if found is not None and found.touched else (none, none)
        noised = self.counts(slots, items, self.map_noise, self.map_stream)  # (n_items,)
        deviation = self.map_noise * self.hyper.map_clip
        least = self.hyper.threshold * deviation if deviation else 0.0  # no noise: all rows
        kept = noised >= least
        idle = torch.ones_like(kept)
        idle[items] = False
        self.untouched += int((kept & idle).sum())
        self.idle += int(idle.sum())
        return torch.nonzero(kept)[:, 0]

    def apply(self, found: UserGradients | None, weights: Mapping[str, torch.nn.Parameter],
              present: Tensor) -> None:
        import torch

        kept = self.choose_rows(found)
        self.kept += len(kept)
        self.facts["rows_kept"] = self.kept / self.facts["steps"]
        if self.idle:
            self.facts["untouched_kept"] = self.untouched / self.idle
        moving = {}
        rows_of = self.where.moving(present, kept)
        for key, p in weights.items():
            rows = rows_of.get(key)
            grad = self.gradient(found, key, p, rows) / self.scale()
            if rows is None:
                p.grad = grad
                continue
            buffer = self.buffers.setdefault(key, torch.zeros_like(p))
            buffer[rows] = grad
            p.grad = buffer  # 0 at rows that stay, for whoever looks at gradients
            moving[key] = (p, rows, grad)
        step_rows(self.loop.optimizer, moving)
        for key, (_, rows, _) in moving.items():
            self.buffers[key][rows] = 0

    def gradient(self, found: UserGradients | None, key: str, p: Tensor,
                 rows: Tensor | None) -> Tensor:
        """The noised sum at these rows of the parameter, or at all: (R, …)."""
        import torch

        at = slice(None) if rows is None else rows
        mask = self.where.masks[key].expand(p.shape)[at]  # (R, …)
        total = torch.zeros_like(mask)
        if self.row_noise and bool(mask.any()):
            drawn = torch.randn(mask.shape, generator=self.noise_stream).to(p)
            total = drawn * (self.row_noise * self.hyper.clip) * mask
        if found is None:
            return total
        if key in found.own:
            total = total + found.own[key][at]
        if key not in found.sparse:
            return total + found.shared[key][at]
        assert rows is not None
        touched, values = found.sparse[key]  # (T,), (T, width)
        place = torch.searchsorted(rows, touched).clamp_max(max(len(rows) - 1, 0))
        hit = rows[place] == touched if len(rows) else torch.zeros_like(touched, dtype=torch.bool)
        return total.index_add(0, place[hit], values[hit])
