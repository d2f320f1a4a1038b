"""The recommender behind `als`; apart, so that listing models does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from bench import als
from bench.context import Context
from bench.data import Dataset, Floats, Ints
from bench.defense import Defense
from bench.errors import TrainingError
from bench.models.base import Batch, Table, TorchRecommender

if TYPE_CHECKING:
    from bench.models.als import ALS
    from bench.training import FitResult, Progress


class AlsModule(nn.Module):
    """User and item vectors, and the constant that ratings were centred by."""

    centre: Tensor

    def __init__(self, n_users: int, n_items: int, hyper: ALS, centre: float) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, hyper.dim)
        self.users = nn.Embedding(n_users, hyper.dim)
        nn.init.normal_(self.items.weight, std=hyper.init_std)
        nn.init.zeros_(self.users.weight)  # solved from the items' before anything else
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))


class AlsRecommender(TorchRecommender):
    """See `bench.models.als.ALS`. A torch module holds the vectors, so that what reads or perturbs
    tables finds them; they are solved on the CPU in float64.

    Attributes:
        values: what was observed in train, (users, items) sparse: choices, or centred ratings.
        how: the arguments that the functions of `bench.als` take for these parameters.
    """

    module: AlsModule

    def __init__(self, hyper: ALS, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: Any = hyper
        self.score_kind = hyper.score_kind
        self.explicit = hyper.feedback == "explicit"
        self.how: dict[str, Any] = {"alpha": None if self.explicit else hyper.alpha,
                                    "weighted": hyper.weighted}
        self.centre = self._centre()
        self.module = AlsModule(data.n_users, data.n_items, hyper, self.centre).to(ctx.device)
        self.values = self._values("train")
        self._dense: dict[str, Any] = {"train": self.values}

    def _centre(self) -> float:
        if not self.explicit or self.hyper.centre == "none":
            return 0.0
        if self.hyper.centre == "mean":
            assert self.data.train.ratings is not None  # `unfit` turned such data away
            return float(self.data.train.ratings.mean())
        assert self.data.rating_scale is not None
        return sum(self.data.rating_scale) / 2

    def _values(self, source: str) -> als.Matrix:
        rows = self.data.train if source == "train" else self.data.test
        return als.ratings(rows, self.data, self.centre) if self.explicit \
            else als.choices(rows, self.data)

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        for hook in ("loss", "wrap"):
            if getattr(type(defense), hook) is not getattr(Defense, hook):
                raise TrainingError(f"{defense.name} acts on the steps of gradient training, and "
                                    "als has none; take a defense that cleans, hardens or re-ranks")
        rounds = als.iterations(self.values, self._weights("items"), self.hyper.reg,
                                self.hyper.iterations, **self.how)
        for n, (users, items) in enumerate(rounds, 1):
            value = als.objective(self.values, users, items, self.hyper.reg, **self.how)
            if not np.isfinite(value):
                raise TrainingError(f"the objective became {value} in round {n}; raise reg")
            progress({"epoch": n, "epochs": self.hyper.iterations, "loss": value})
        with torch.no_grad():
            for table, found in ((self.module.users, users), (self.module.items, items)):
                table.weight.copy_(torch.as_tensor(found, dtype=torch.float32))
        self.module.eval()
        return FitResult(epochs=n, best_epoch=n)

    def _weights(self, table: str) -> Floats:
        weight: Tensor = getattr(self.module, table).weight
        found: Floats = weight.detach().double().cpu().numpy()
        return found

    def fold_in(self, items: Ints, ratings: Floats | None = None) -> Tensor:
        """The vector of a user with this history who was not trained on: (d,)."""
        values = np.ones(len(items)) if ratings is None else ratings - self.centre
        row = csr_matrix((values, items, [0, len(items)]), shape=(1, self.data.n_items))
        found = als.solve_users(row, self._weights("items"), self.hyper.reg, **self.how)
        return torch.as_tensor(found[0], dtype=torch.float32, device=self.ctx.device)

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean over the batch's users of their share of the objective: their weighted squared
        errors, their own penalty, and an equal part of the items'."""
        m, h = self.module, self.hyper
        p = m.users(batch["users"])  # (B, d)
        scores = p @ m.items.weight.T  # (B, n_items)
        errors = batch["confidence"] * (batch["wanted"] - scores) ** 2  # (B, n_items)
        taken, of_item = np.diff(self.values.indptr), np.diff(self.values.tocsc().indptr)
        own, other = (torch.as_tensor(np.maximum(x, 1) if h.weighted else np.ones(len(x)),
                                      dtype=p.dtype, device=p.device) for x in (taken, of_item))
        penalty = own[batch["users"]] * (p**2).sum(dim=1)  # (B,)
        shared = (other * (m.items.weight**2).sum(dim=1)).sum() / self.data.n_users
        mean: Tensor = (errors.sum(dim=1) + h.reg * (penalty + shared)).mean()
        return mean

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        """Batches of users (B,) with what the objective wants of them: "wanted" (B, n_items) and
        "confidence" (B, n_items). Every user once, in the same order always."""
        if source not in self._dense:
            self._dense[source] = self._values(source)
        values, dense = self._dense[source], min(size, 512)
        for start in range(0, self.data.n_users, dense):
            part = values[start:start + dense]
            taken = csr_matrix((np.ones(part.nnz), part.indices, part.indptr), part.shape)
            if self.explicit:
                confidence, wanted = taken.toarray(), part.toarray()
                wanted = np.divide(wanted, confidence, where=confidence > 0, out=wanted)
            else:
                confidence = 1 + self.hyper.alpha * part.toarray()
                wanted = (taken.toarray() > 0).astype(np.float64)
            users = torch.arange(start, start + part.shape[0], device=self.ctx.device)
            yield {"users": users, **{k: torch.as_tensor(v, dtype=torch.float32,
                                                         device=self.ctx.device)
                                      for k, v in (("wanted", wanted),
                                                   ("confidence", confidence))}}

    def tables(self) -> dict[str, Table]:
        m = self.module
        return {"user": Table("users.weight", m.users.weight, 0, self.data.n_users, "user"),
                "item": Table("items.weight", m.items.weight, 0, self.data.n_items, "item")}

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        m = self.module
        own: Tensor = m.users(users) @ m.items.weight.T  # (B, n_items)
        return own + m.centre
