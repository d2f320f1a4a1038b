"""The recommender behind `text-cosine`: frozen vectors of texts, users as decayed means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset
from bench.text.encode import Encoder
from bench.text.language import Language, load
from bench.text.pretraining import encoder_state, pretrain, take_encoder_state
from bench.text.reader import TextReader

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.text_cosine import TextCosine
    from bench.training import FitResult, Progress


def whitening(vectors: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Mean (1, w) and matrix (w, k) such that (x − mean) @ matrix has covariance I over the rows.

    Directions without variance are left out, so k may be less than `width`.
    """
    x = vectors.double()
    mean = x.mean(dim=0, keepdim=True)
    values, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / max(len(x) - 1, 1))
    values, axes = values.flip(0), axes.flip(1)
    kept = int((values > 1e-9 * values[0].clamp_min(1e-30)).sum())
    k = max(1, min(width, kept))
    return mean, axes[:, :k] / values[:k].clamp_min(1e-30).sqrt()


class VectorRecommender(TextReader):
    """See `bench.models.text_cosine.TextCosine`. Whitening is fitted on the catalogue as it was
    before any attack, and kept: what an attacker writes does not move other items."""

    score_kind = "other"

    def __init__(self, hyper: TextCosine, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper = hyper
        self.language = load(hyper.model, "encoder", device=ctx.device, dtype=hyper.dtype,
                             revision=hyper.revision, corpus=data.item_text or (),
                             seed=ctx.number("language") % 2**31)
        self.encoder = Encoder(self.language, hyper.pool)
        self._white: tuple[Tensor, Tensor] | None = None
        self._items: Tensor | None = None

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        notes = pretrain(self.encoder, self.hyper, self.data, self.texts, self.ctx, progress)
        self.forget()
        if self.hyper.whiten:
            self._white = whitening(self.encoder(self.texts), self.hyper.whiten)
        return FitResult(notes=notes)

    def reads_with(self) -> Language:
        return self.language

    def items(self) -> Tensor:
        """Unit vectors of the items as their texts are now, (n_items, k)."""
        if self._items is None:
            x = self.encoder(self.texts).double()
            if self._white is not None:
                x = (x - self._white[0]) @ self._white[1]
            self._items = F.normalize(x, dim=1).float()
        return self._items

    def forget(self) -> None:
        self._items = None

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        items = self.items()
        profile = items.new_zeros(len(users), items.shape[1])
        for row, user in enumerate(users.tolist()):
            taken = torch.from_numpy(self.history(user, split)).to(items.device)
            ages = torch.arange(len(taken) - 1, -1, -1, device=items.device, dtype=items.dtype)
            profile[row] = (self.hyper.decay ** ages) @ items[taken]
        return F.normalize(profile, dim=1) @ items.T  # (B, n_items)

    def state(self) -> dict[str, Tensor]:
        learned = encoder_state(self.encoder, self.hyper)
        if self._white is None:
            return learned
        return learned | {"mean": self._white[0].cpu(), "matrix": self._white[1].cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        device = self.ctx.device
        state = take_encoder_state(self.encoder, self.hyper, state)
        self._white = (state["mean"].to(device), state["matrix"].to(device)) if state else None
        self.forget()
