"""What a trained recommender is: something that scores every item for a block of users."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import BenchError, CannotActError

if TYPE_CHECKING:
    from bench.api import Defense, ModelPlugin
    from bench.training import FitResult, Progress, TrainedModel

Batch = Mapping[str, Tensor]
"""One training batch. Keys: "users" (B,), "items" (B,) and, by the model's input, "negatives"
(B,), "labels" (B,), "histories" (B, L) with "lengths" (B,). Indices are the dataset's own."""


class Recommender(ABC):
    """Fits, then scores. Indices of users and items are the dataset's own, always.

    Attributes:
        keeps_answers: whether it looks up what it was asked before. What it takes to score users
            is then only seen where they are scored first.
    """

    keeps_answers: ClassVar[bool] = False

    def __init__(self, data: Dataset, ctx: Context) -> None:
        self.data, self.ctx = data, ctx
        self.intruder: Any = None  # an attack that takes part in the training (federated)

    @abstractmethod
    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        """Learn from `self.data.train` with the defense's hooks."""

    @abstractmethod
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        """Scores of all items for users (B,): float32 (B, n_items), higher is better.

        `split` says what the model may read of a user's history ("valid": train; "test": train
        and valid); models that read no history ignore it.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that was learned, as tensors."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""

    def histories(self) -> list[Ints]:
        """What each user is known by when the test split is asked for: positive items, oldest
        first, one array per user."""
        from bench.sampling import in_order

        _, items, starts = in_order(self.data.known("test").positives(), self.data.n_users)
        return np.split(items, starts[1:-1])

    def reading(self, histories: Sequence[Ints]) -> contextlib.AbstractContextManager[None]:
        """Inside, `scores` of the split "test" are those of this trained model on data in which
        each user has this history (items, oldest first; one array per user).

        Raises:
            CannotActError: no history is read when users are scored.
        """
        raise CannotActError(f"{type(self).__name__} reads no history when it scores a user")

    def reading_texts(self, texts: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Inside, the items have these texts, one per item.

        Raises:
            CannotActError: the model reads no texts.
        """
        raise CannotActError(f"{type(self).__name__} reads no texts of items")

    def forget(self) -> None:  # noqa: B027 (most models keep nothing)
        """Drop whatever is kept that was computed from what was learned."""

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Evaluation mode inside (no dropout); the former mode after."""
        return contextlib.nullcontext()


class Wrapped(Recommender):
    """A trained model as a defense serves it: re-ranked, smoothed, voted. Subclasses write
    `scores`. Attacks on vectors reach `base`; what a wrapper keeps of its scores it drops in
    `forget`."""

    def __init__(self, base: Recommender) -> None:
        super().__init__(base.data, base.ctx)
        self.base = base

    @property
    def score_kind(self) -> str:
        """What the scores are; a wrapper whose scores are something else says "other"."""
        return str(getattr(self.base, "score_kind", "other"))

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        return self.base.fit(defense, progress)

    def state(self) -> dict[str, Tensor]:
        return self.base.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.base.load_state(state)
        self.forget()

    def forget(self) -> None:
        self.base.forget()

    def stand_in(self, ctx: Context, copies: int) -> TorchRecommender | None:
        """What attackers who look inside differentiate in place of `base` (see `bench.served`),
        or None where nothing with slopes stands for what is served; `Defense.unseen` says why.

        Args:
            ctx: the attacker's. copies: over how much noise of its own an expectation is taken.
        """
        return None

    def histories(self) -> list[Ints]:
        return self.base.histories()

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        try:
            with self.base.reading(histories):
                self.forget()
                yield
        finally:
            self.forget()

    @contextlib.contextmanager
    def reading_texts(self, texts: Sequence[str]) -> Iterator[None]:
        try:
            with self.base.reading_texts(texts):
                self.forget()
                yield
        finally:
            self.forget()

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        return self.base.evaluating()


def innermost(model: Recommender) -> Recommender:
    """The model inside all wrappers."""
    while isinstance(model, Wrapped):
        model = model.base
    return model


@dataclass(frozen=True)
class Table:
    """The rows of one parameter that belong to users or to items, one row each.

    Attributes:
        parameter: name in the module.
        weight: the parameter, shape (all rows, width).
        start, stop: the rows concerned, in the order of the dataset's indices.
        role: "user", "item", or "feature": feature vectors of items, which are read, not learned.
    """

    parameter: str
    weight: Tensor
    start: int
    stop: int
    role: str

    def rows(self) -> Tensor:
        """The rows as they are now, detached: (stop − start, width)."""
        return self.weight.detach()[self.start:self.stop]

    def median_norm(self, norm: str) -> float:
        """Median row norm, the unit of relative budgets."""
        from bench.perturb import row_norms

        return float(row_norms(self.rows(), norm).median())


class _LossModule(nn.Module):
    """Gives `functional_call` a forward that is the model's loss."""

    def __init__(self, owner: TorchRecommender) -> None:
        super().__init__()
        self.module = owner.module
        self._owner = [owner]  # in a list: the owner is no sub-module

    def forward(self, batch: Batch) -> Tensor:
        return self._owner[0].batch_loss(batch)


class TorchRecommender(Recommender):
    """A recommender learned by gradient descent on a torch module.

    Subclasses set `self.module` and `self.hyper` (the plugin with the training parameters) and
    write `batch_loss`, `batches`, `tables` and `scores`.
    """

    module: nn.Module
    hyper: TrainedModel
    sums_loss: bool = False  # whether batch_loss is a sum over the batch's rows, not a mean

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import fit

        return fit(self, defense, progress)

    @abstractmethod
    def batch_loss(self, batch: Batch) -> Tensor:
        """The model's own training loss on a batch, a scalar."""

    @abstractmethod
    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        """The batches of one epoch, in an order and with negatives that depend on seed, epoch
        and the rows alone. `source` "test" makes them of the test positives instead. Training
        begins with epoch 1; epoch 0 is what attacks take, and holds every row once."""

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """Embedding tables by key."""

    def loss(self, batch: Batch, delta: Mapping[str, Tensor] | None = None) -> Tensor:
        """The training loss, with `delta` (table key -> (rows, width)) added to the tables.

        Differentiable in the parameters and in delta; the parameters themselves do not change.
        """
        if not delta:
            return self.batch_loss(batch)
        changed: dict[str, Tensor] = {}
        tables = self.tables()
        for key, d in delta.items():
            table = tables[key]
            name = f"module.{table.parameter}"
            base = changed.get(name, table.weight)
            pad = (0, 0, table.start, base.shape[0] - table.stop)
            changed[name] = base + nn.functional.pad(d, pad)
        result: Tensor = functional_call(_LossModule(self), changed, (batch,))
        return result

    def step_penalty(self) -> Tensor | float:
        """What the weights cost whatever the batch (AdaLoRA's orthogonality), a scalar. It is no
        part of `batch_loss`: the training loop adds it once to what a defense, which may evaluate
        the loss several times, has made of that."""
        return 0.0

    def history_table(self) -> Table:
        """The table in which the items of a history are looked up.

        Raises:
            CannotActError: there is no such table, or it is not looked up place by place.
        """
        raise CannotActError(f"{type(self).__name__} looks up no vectors of a history's items")

    def looking_up(self, items: Tensor, vectors: Tensor
                   ) -> contextlib.AbstractContextManager[None]:
        """Inside, the history `items` (B, L), −1 for padding, is read as `vectors` (B, L, width)
        instead of the rows of `history_table`; what items score is still made of those rows.

        Raises:
            CannotActError: the module has not looked this history up place by place.
        """
        raise CannotActError(f"{type(self).__name__} looks up no vectors of a history's items")

    def history_scores(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """As `scores`, but of histories handed over, and differentiable: (B, n_items).

        Args:
            users: (B,). items: (B, L), oldest first, −1 for padding. lengths: (B,).
        """
        raise CannotActError(f"{type(self).__name__} gives no slopes of its scores by a history")

    @contextlib.contextmanager
    def perturbed(self, delta: Mapping[str, Tensor]) -> Iterator[None]:
        """Score with `delta` added to the tables; the exact bits come back afterwards."""
        tables = self.tables()
        saved = {key: tables[key].weight.detach().clone() for key in delta}
        try:
            with torch.no_grad():
                for key, d in delta.items():
                    tables[key].weight[tables[key].start:tables[key].stop] += d
            self.forget()
            yield
        finally:
            with torch.no_grad():
                for key, weight in reversed(saved.items()):
                    tables[key].weight.copy_(weight)
            self.forget()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside (no dropout); the former mode after."""
        was = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(was)

    def share_initialisation(self, clean: TorchRecommender) -> None:
        """Take the parameters of the same model built without injected users. Injected users
        come last, so whatever both have is the leading part of every parameter."""
        mine = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, source in clean.module.named_parameters():
                mine[name][tuple(slice(0, n) for n in source.shape)] = source

    def state(self) -> dict[str, Tensor]:
        return {k: v.detach().cpu().contiguous().clone()
                for k, v in self.module.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(state))
        self.forget()


def build(plugin: ModelPlugin, data: Dataset, ctx: Context) -> Recommender:
    """An untrained recommender. With injected users it starts from the clean model's
    parameters: what both have is equal, and only the fake users' rows are drawn anew, so that
    a difference after training comes from the poison and not from another draw."""
    reason = plugin.unfit(data)
    if reason:
        raise BenchError(f"{plugin.label()} cannot run on {data.name}: {reason}")
    with ctx.seeded("init"):
        model = plugin.build(data, ctx)
    if not data.n_fake or not isinstance(model, TorchRecommender):
        return model
    with ctx.seeded("init"):
        clean = plugin.build(data.genuine(), ctx)
    assert isinstance(clean, TorchRecommender)
    model.share_initialisation(clean)
    model.forget()
    return model


def user_blocks(users: np.ndarray[Any, Any], size: int, device: str) -> Iterator[Tensor]:
    """Blocks of user indices as tensors on the device."""
    for start in range(0, len(users), size):
        yield torch.as_tensor(users[start:start + size], dtype=torch.long, device=device)
