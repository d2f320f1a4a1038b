"""The one training loop: every model learned by plain gradient descent goes through it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.api import ModelPlugin, param
from bench.errors import NO_BATCH, InputError, TrainingError

if TYPE_CHECKING:
    import torch

    from bench.api import Defense
    from bench.models.base import Batch, TorchRecommender

Progress = Callable[[Mapping[str, Any]], None]
"""Told what happens: {"epoch": 3, "epochs": 200, "loss": …, "score": …}."""


class TrainedModel(ModelPlugin):
    """A model with the parameters of gradient training."""

    epochs: int = param(200, "most passes over the train rows", low=1)
    batch_size: int = param(2048, "train rows per step", low=1)
    optimizer: str = param("adam", "how steps are taken",
                           choices=("adam", "adamw", "sgd", "adagrad"))
    learning_rate: float = param(1e-3, "step size", above=0)
    weight_decay: float = param(0.0, "L2 penalty (adamw: decoupled)", low=0)
    momentum: float = param(0.0, "momentum of sgd", low=0)
    accumulator: float = param(0.0, "initial accumulator of adagrad", low=0)
    patience: int = param(5, "validations without improvement before stopping; 0: never stop, "
                          "keep the last epoch", low=0)
    validate_every: int = param(1, "epochs between validations", low=1)
    validate: str = param("ndcg@10", "metric on the validation split that decides when to stop")

    def __post_init__(self) -> None:
        from bench.metrics.names import parse_metric

        if parse_metric(self.validate).spec.user is None:
            raise InputError(f"metric {self.validate!r} cannot decide when training stops",
                             hint="validate takes an accuracy metric such as ndcg@10")


@dataclass
class FitResult:
    """What training did. `history` is the validation score after each validated epoch."""

    epochs: int = 0
    best_epoch: int = 0
    best_score: float = math.nan
    history: list[float] = field(default_factory=list)
    seconds: float = 0.0
    samples_per_second: float = math.nan
    notes: dict[str, Any] = field(default_factory=dict)


class Loop:
    """One training run: the model, its optimiser, and the defense that looks in.

    Attributes:
        model, defense: what is trained, and with which hooks.
        optimizer: the torch optimiser over `model.module.parameters()`.
        early_stopping: a defense may switch it off (private validation costs privacy).
        kept_from: the first epoch whose weights may be kept. A defense that begins later sets
            it, or early stopping could keep a model that it never touched.
        notes: facts for the report, written by the defense.
        samples: train rows seen so far.
        steps: steps taken so far.
    """

    def __init__(self, model: TorchRecommender, defense: Defense) -> None:
        self.model, self.defense = model, defense
        self.hyper = model.hyper
        self.optimizer = make_optimizer(model, self.hyper)
        self.early_stopping = self.hyper.patience > 0
        self.kept_from = 1
        self.notes: dict[str, Any] = {}
        self.samples = 0
        self.steps = 0
        self._total = 0

    @property
    def total(self) -> int:
        """Steps of all epochs, as many as the first one has in each."""
        if not self._total:
            self._total = self.hyper.epochs * sum(1 for _ in self.batches(1))
        return self._total

    def batches(self, epoch: int) -> Iterator[Batch]:
        return self.model.batches(epoch, self.hyper.batch_size)

    def step(self, batch: Batch, epoch: int) -> float:
        """One descent step on one batch; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        clean = self.model.loss(batch)
        return self.descend(self.defense.loss(self.model, batch, clean, epoch), batch, epoch)

    def _excess(self) -> str:
        """What may be too large where the loss is no number: the step, or what a defense adds to
        the loss."""
        from bench.api import Defense

        found = [f"learning_rate ({self.hyper.learning_rate:g})"]
        if type(self.defense).loss is not Defense.loss:
            found += [f"{key} ({value:g}) of {self.defense.name}" for key, value
                      in self.defense.params().items() if key in ("eps", "weight") and value]
        return " or ".join(found)

    def descend(self, loss: torch.Tensor, batch: Batch, epoch: int) -> float:
        """The step itself, down a loss made of this batch by whoever took over; its value, with
        what the weights cost beside it (`step_penalty`).

        Raises:
            TrainingError: it is not finite.
        """
        loss = loss + self.model.step_penalty()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss became {value} in epoch {epoch}; lower "
                                f"{self._excess()}")
        loss.backward()  # type: ignore[no-untyped-call]
        self._set_rate()
        self.optimizer.step()
        self.steps += 1
        after = getattr(self.model, "after_step", None)
        if after is not None:  # before the gradients are dropped: some measure by them
            after(self.steps, self.total)
        self.model.forget()
        self.samples += len(batch["users"])
        return value

    def _set_rate(self) -> None:
        """The next step's size, for models that ask for a warm-up or a schedule."""
        warmup = getattr(self.hyper, "warmup", 0.0)
        schedule = getattr(self.hyper, "schedule", "constant")
        if not warmup and schedule == "constant":
            return
        scale = rate_scale(self.steps + 1, self.total, warmup, schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.hyper.learning_rate * scale

    def run_epoch(self, epoch: int) -> float:
        """One pass over the train rows; the mean loss."""
        return mean([self.step(batch, epoch) for batch in self.batches(epoch)])


def mean(losses: Sequence[float]) -> float:
    """The mean loss of an epoch.

    Raises:
        TrainingError: it had no batch.
    """
    if not losses:
        raise TrainingError(NO_BATCH)
    return sum(losses) / len(losses)


def rate_scale(step: int, total: int, warmup: float, schedule: str) -> float:
    """What the step size of step 1 .. total is multiplied with: it rises linearly to 1 in the
    first `warmup` share of the steps, and then stays ("constant") or falls linearly to reach 0
    one step after the last ("linear")."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return step / rising
    if schedule == "constant":
        return 1.0
    return max(total + 1 - step, 0) / (total + 1 - max(rising, 1))


def make_optimizer(model: TorchRecommender, hyper: TrainedModel) -> torch.optim.Optimizer:
    """The optimiser that the parameters ask for; a model with step sizes of its own for some of
    its parameters gives them as `rate_groups`."""
    import torch

    groups = getattr(model, "rate_groups", None)
    weights: Any = groups() if groups is not None else \
        [p for p in model.module.parameters() if p.requires_grad]
    lr, decay = hyper.learning_rate, hyper.weight_decay
    if hyper.optimizer == "adam":
        return torch.optim.Adam(weights, lr=lr, weight_decay=decay)
    if hyper.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay)
    if hyper.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, weight_decay=decay, momentum=hyper.momentum)
    return torch.optim.Adagrad(weights, lr=lr, weight_decay=decay,
                               initial_accumulator_value=hyper.accumulator)


def fit(model: TorchRecommender, defense: Defense, progress: Progress) -> FitResult:
    """Train with early stopping on the validation split; the best epoch's weights are kept.

    The validation split is the one a defender would have; the test split is never looked at.

    Raises:
        TrainingError: the loss is not finite, or there is nothing to train on.
    """

    from bench.evaluate import validation_score

    hyper, result = model.hyper, FitResult()
    with model.ctx.seeded("train"):
        loop = Loop(model, defense)
        run_epoch = defense.wrap(loop) or loop.run_epoch
        stopping = loop.early_stopping and len(model.data.truth("valid")) > 0
        best: dict[str, Any] = {}
        waited, timed, timed_samples = 0, 0.0, 0
        begin = time.perf_counter()
        for epoch in range(1, hyper.epochs + 1):
            model.module.train()
            before, start = loop.samples, time.perf_counter()
            loss = run_epoch(epoch)
            synchronise(model.ctx.device)
            if epoch > 1 or hyper.epochs == 1:  # the first epoch warms up
                timed += time.perf_counter() - start
                timed_samples += loop.samples - before
            result.epochs = result.best_epoch = epoch
            event: dict[str, Any] = {"epoch": epoch, "epochs": hyper.epochs, "loss": loss}
            if stopping and epoch >= loop.kept_from and epoch % hyper.validate_every == 0:
                with model.evaluating(), _validating(model):
                    score = validation_score(model, hyper.validate)
                result.history.append(score)
                event["score"] = score
                if not best or score > result.best_score:
                    best = {k: v.detach().clone() for k, v in _learned(model).items()}
                    result.best_score, best_epoch, waited = score, epoch, 0
                else:
                    waited += 1
            progress(event)
            if stopping and waited >= hyper.patience:
                break
        if best:
            _take_back(model, best)
            result.best_epoch = best_epoch
        model.module.eval()
        model.forget()
    result.seconds = time.perf_counter() - begin
    result.samples_per_second = timed_samples / timed if timed else math.nan
    result.notes = loop.notes
    return result


def _learned(model: TorchRecommender) -> dict[str, torch.Tensor]:
    """What the best epoch is kept of: of a model that says what it learns (`trained`) that
    alone, of others everything."""
    trained = getattr(model, "trained", None)
    return trained() if trained is not None else model.module.state_dict()


def _take_back(model: TorchRecommender, best: dict[str, torch.Tensor]) -> None:
    import torch

    if not hasattr(model, "trained"):
        model.module.load_state_dict(best)
        return
    with torch.no_grad():
        for name, weight in _learned(model).items():
            weight.copy_(best[name])


@contextlib.contextmanager
def _validating(model: TorchRecommender) -> Iterator[None]:
    """Inside, only so many users are asked for as the model's `validate_users` says: drawn by
    seed, the same ones after every epoch."""
    most, data = getattr(model.hyper, "validate_users", 0), model.data
    if not most:
        yield
        return
    key = f"_validated {most} {model.ctx.seed}"
    if key not in data.__dict__:  # kept where `cached_property` keeps values: its plan is too
        import numpy as np

        able = np.unique(data.truth("valid").users)
        if len(able) > most:
            able = model.ctx.stream("validate").choice(able, most, replace=False)
        data.__dict__[key] = data.replace(asked=np.sort(able))
    model.data = data.__dict__[key]
    try:
        yield
    finally:
        model.data = data


def synchronise(device: str) -> None:
    """Wait for the device, so that times mean something."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
