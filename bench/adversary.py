"""Training against a classifier that reads attributes off user vectors: the part with tensors.

The module of the model always holds the vectors as they are served, filtered; the vectors before
the filter and the filters themselves live here, and are gone when training ends. So what is
stored, validated, attacked and audited is what users would be served from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import NO_BATCH, CannotActError, TrainingError
from bench.fairness import labels_of
from bench.models.base import Batch, Table, TorchRecommender

if TYPE_CHECKING:
    from bench.training import Loop


def user_tables(model: TorchRecommender) -> list[Table]:
    """The tables with a row per user."""
    found = [t for t in model.tables().values() if t.role == "user"]
    if not found:
        raise CannotActError("the model has no vectors of users that could be freed of an "
                             "attribute")
    return found


def user_vectors(model: TorchRecommender, users: Tensor) -> Tensor:
    """All vectors of these users side by side, part of the graph: (U, width)."""
    return torch.cat([t.weight[t.start:t.stop][users] for t in user_tables(model)], dim=1)


class Discriminator(nn.Module):
    """Logits of one attribute's classes from user vectors."""

    def __init__(self, width: int, hidden: Sequence[int], classes: int,
                 dropout: float) -> None:
        super().__init__()
        sizes = (width, *hidden)
        layers: list[nn.Module] = []
        for low, high in itertools.pairwise(sizes):
            layers += [nn.Linear(low, high), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.net(vectors)  # (U, classes)
        return logits


class Filter(nn.Module):
    """x + mean over k of MLP_k(x), each with a last layer that begins at 0: training starts from
    the vectors that it would start from without a filter."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for _ in range(count):
            last = nn.Linear(2 * width, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.parts.append(nn.Sequential(nn.Linear(width, 2 * width), nn.LeakyReLU(0.2), last))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = torch.stack([part(x) for part in self.parts]).mean(dim=0)  # (U, width)
        return x + moved


class Removal:
    """One training run against the discriminators.

    Args:
        loop: the run; its optimiser also takes the filters and the rows before them.
        attributes: what to remove. weight: λ.
        filters: "combined", "separate" or "none".
        bounded: the model gains nothing from a cross-entropy above that of the class shares.
        hidden, dropout, steps, rate: of the discriminators and their Adam.

    Attributes:
        met: the discriminators' cross-entropies at each step of the model, by attribute.
    """

    def __init__(self, loop: Loop, *, attributes: Sequence[str], weight: float, filters: str,
                 bounded: bool, hidden: Sequence[int], dropout: float, steps: int,
                 rate: float) -> None:
        self.loop, self.model, self.weight, self.steps = loop, loop.model, weight, steps
        device = self.model.ctx.device
        self.tables = user_tables(self.model)
        width = sum(t.rows().shape[1] for t in self.tables)
        self.labels = {a: torch.as_tensor(labels_of(self.model.data, a)[0], device=device)
                       for a in attributes}  # (n_users,) each, −1 unknown
        with self.model.ctx.seeded("attribute-removal", "init"):
            self.readers = nn.ModuleDict({a: Discriminator(width, hidden, int(y.max()) + 1,
                                                           dropout)
                                          for a, y in self.labels.items()}).to(device)
            self.filters = [Filter(t.rows().shape[1], len(attributes) if filters == "combined"
                                   else 1).to(device)
                            for t in self.tables if filters != "none"]
        self.raw = [nn.Parameter(t.rows().clone()) for t, _ in zip(self.tables, self.filters)]
        self.reader_optimizer = torch.optim.Adam(self.readers.parameters(), lr=rate)
        if self.raw:
            loop.optimizer.add_param_group({"params": [
                *self.raw, *(p for f in self.filters for p in f.parameters())]})
        self.most = {a: self._entropy(a) if bounded else math.inf for a in attributes}
        self.met: dict[str, list[float]] = {a: [] for a in self.labels}

    def run_epoch(self, epoch: int) -> float:
        """One pass over the train rows; the mean loss, the adversary's part included."""
        losses = [self.step(batch, epoch) for batch in self.loop.batches(epoch)]
        if not losses:
            raise TrainingError(NO_BATCH)
        self.loop.notes["attribute-removal"] = {
            a: {"cross_entropy": sum(v[-100:]) / max(len(v[-100:]), 1),
                "of_class_shares": self._entropy(a)} for a, v in self.met.items()}
        return sum(losses) / len(losses)

    def step(self, batch: Batch, epoch: int) -> float:
        """The discriminators learn, then the model takes one step against them."""
        users = torch.unique(batch["users"])  # (U,)
        self.teach(users)
        self.loop.optimizer.zero_grad(set_to_none=True)
        rows = len(batch["users"]) if self.model.sums_loss else 1
        loss = self.model.loss(batch) - self.weight * rows * self.read(users)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss became {value} in epoch {epoch}; lower learning_rate "
                                "or the weight of the removal")
        loss.backward()  # type: ignore[no-untyped-call]
        self._through_filters()
        self.loop.optimizer.step()
        self._serve()
        self.model.forget()
        self.loop.samples += len(batch["users"])
        return value

    def teach(self, users: Tensor) -> None:
        """The discriminators' own steps on the vectors as they are."""
        vectors = user_vectors(self.model, users).detach()  # (U, width)
        self.readers.train()
        for _ in range(self.steps):
            self.reader_optimizer.zero_grad(set_to_none=True)
            losses = list(self.cross_entropies(vectors, users).values())
            if losses:
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                self.reader_optimizer.step()

    def read(self, users: Tensor) -> Tensor:
        """What the model is to raise: Σ_a CE of the discriminators, without dropout, a scalar."""
        self.readers.eval()
        vectors = user_vectors(self.model, users)  # (U, width)
        total = vectors.new_zeros(())
        for attribute, loss in self.cross_entropies(vectors, users).items():
            self.met[attribute].append(float(loss.detach()))
            total = total + loss.clamp_max(self.most[attribute])
        return total

    def cross_entropies(self, vectors: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Each attribute's mean cross-entropy over those of the users (U,) whose class is known;
        an attribute that nobody of them has is left out."""
        found = {}
        for attribute, labels in self.labels.items():
            known = labels[users] >= 0  # (U,)
            if bool(known.any()):
                found[attribute] = F.cross_entropy(self.readers[attribute](vectors[known]),
                                                   labels[users][known])
        return found

    def _through_filters(self) -> None:
        """The gradient at the served rows becomes one of the filters and the rows before them."""
        for table, raw, filter_ in zip(self.tables, self.raw, self.filters):
            grad = table.weight.grad
            if grad is None:
                continue
            served = grad[table.start:table.stop].clone()  # (n_users, width)
            grad[table.start:table.stop] = 0
            filter_(raw).backward(served)

    @torch.no_grad()
    def _serve(self) -> None:
        """The module's rows become the filtered ones."""
        for table, raw, filter_ in zip(self.tables, self.raw, self.filters):
            table.weight[table.start:table.stop] = filter_(raw)

    def _entropy(self, attribute: str) -> float:
        """Cross-entropy of saying the class shares, which a reader of nothing reaches."""
        labels = self.labels[attribute]
        share = torch.bincount(labels[labels >= 0]).double()
        share = share[share > 0] / share.sum()
        return float(-(share * share.log()).sum())
