"""Private training in steps: Poisson samples of users, clipped sums, noise, the optimiser's step.

`dp-sgd` noises every shared coordinate; `sparse-dp-sgd` overrides `apply` and noises few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.errors import InputError, PluginError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.dp import Gradients, UserGradients, UserRows
    from bench.training import FitResult, Loop


class PrivateTraining(Defense):
    """A defense that trains on Poisson samples of users, with noise that an accountant sets."""

    epsilon: float = param(8.0, "privacy loss that may be spent; .inf asks for none", above=0,
                           high=math.inf)
    delta: float = param(1e-5, "probability with which the bound may fail; must be below one "
                         "over the number of users, better well below", above=0, high=0.5)
    clip: float = param(1.0, "largest norm of one user's gradient; .inf does not clip", above=0,
                        high=math.inf)
    sample_rate: float = param(0.05, "probability with which a user is drawn for a step; an epoch "
                               "is one over it steps", low=1e-5, high=1)
    max_interactions: int = param(50, "train rows (or sampled negatives) of a drawn user that "
                                  "enter a step", low=1)
    noise_multiplier: float | None = param(None, "noise in units of clip, instead of what epsilon "
                                           "needs; 0: no noise and no privacy", low=0)
    learning_rate: float = param(0.0, "step size; 0: the model's own. Noised gradients want "
                                 "another than plain ones", low=0, high=1e6)
    accountant: str = param("pld", "how ε is composed: pld (tight) or rdp (looser, faster)",
                            choices=("pld", "rdp"))

    def __post_init__(self) -> None:
        if math.isinf(self.clip) and self.noise_multiplier != 0 and not self.off():
            raise InputError("noise cannot be scaled to an infinite clip", key="clip",
                             hint="give a finite clip, or noise_multiplier: 0")

    def off(self) -> bool:
        """Whether neither noise nor clipping is asked for."""
        if self.noise_multiplier is None:
            return math.isinf(self.epsilon)
        return self.noise_multiplier == 0 and math.isinf(self.clip)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.off():
            return None
        if "gradients" not in model.gives:
            return f"{model.name} is not learned by gradient steps that could be clipped and noised"
        if "user-separable" not in model.gives:
            why = getattr(model, "not_separable", "graph propagation, in-batch negatives, batch "
                          "normalisation or counts over all users enter the loss")
            return (f"user-level privacy would be claimed falsely: the loss of one user of "
                    f"{model.name} depends on other users' rows ({why}), so clipping per user does "
                    "not bound a user's influence")
        return self.unsafe(data)

    def unsafe(self, data: Dataset) -> str | None:
        """Why it promises nothing on this data, or None, as where there is no noise."""
        from bench.accounting import no_promise

        quiet = self.off() or self.noise_multiplier == 0
        return None if quiet else no_promise(self.delta, data)

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        return None if self.off() else self.steps(loop).run_epoch

    def steps(self, loop: Loop) -> PrivateSteps:
        """What runs the private epochs."""
        return PrivateSteps(self, loop)

    def spent(self, fit: FitResult) -> dict[str, float]:
        facts = fit.notes.get("dp")
        if not facts or not facts["noise_multiplier"]:
            return {}
        from bench.accounting import epsilon_of

        epsilon = epsilon_of(facts["sample_rate"], facts["noise_multiplier"], facts["steps"],
                             self.delta, self.accountant, facts.get("selection_noise", 0.0))
        return {"epsilon": epsilon, "delta": self.delta}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"epsilon": math.inf}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"sample_rate": 0.25, "accountant": "rdp"}


class PrivateSteps:
    """The private epochs of one training run: its streams are made once and kept."""

    maps = False  # whether the item rows that each user touches are asked for

    def __init__(self, hyper: PrivateTraining, loop: Loop) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        from bench.accounting import noise_for
        from bench.dp import Coordinates

        if any(isinstance(m, _BatchNorm) for m in loop.model.module.modules()):
            raise PluginError("the model normalises over batches, so one user's loss depends on "
                              "the others in its batch: clipping per user bounds nothing here")
        self.hyper, self.loop, self.model = hyper, loop, loop.model
        ctx = self.model.ctx
        self.where = Coordinates(self.model, maps=self.maps)
        self.steps_per_epoch = max(1, round(1 / hyper.sample_rate))
        planned = self.steps_per_epoch * loop.hyper.epochs
        more = self.more_facts()
        self.noise = hyper.noise_multiplier if hyper.noise_multiplier is not None else noise_for(
            hyper.epsilon, hyper.sample_rate, planned, hyper.delta, hyper.accountant,
            more.get("selection_noise", 0.0))
        self.noise_stream = ctx.torch_stream("dp-noise")
        self.user_stream = ctx.torch_stream("dp-users")
        self.method: Gradients | None = None
        self.drawn = self.clipped = 0
        loop.early_stopping = False
        if hyper.learning_rate:
            for group in loop.optimizer.param_groups:
                group["lr"] = hyper.learning_rate
        self.facts = loop.notes["dp"] = {
            "adjacency": "one user's whole history, added or removed",
            "released": "all parameters but the users' own rows",
            "private_rows": sorted(self.where.own), "sample_rate": hyper.sample_rate,
            "noise_multiplier": self.noise, "clip": hyper.clip, "accountant": hyper.accountant,
            "steps": 0, "gradients": "none yet", "clipped_share": 0.0, **more}

    def more_facts(self) -> dict[str, Any]:
        """Facts of a mechanism of its own, for the report; `selection_noise` enters ε."""
        return {}

    def run_epoch(self, epoch: int) -> float:
        """round(1 / sample_rate) private steps; the mean loss per row."""
        from bench.dp import UserRows

        rows = UserRows(self.model, epoch)
        losses = [loss for step in range(self.steps_per_epoch)
                  if (loss := self.step(rows, self.facts["steps"])) is not None]
        self.facts["clipped_share"] = round(self.clipped / max(self.drawn, 1), 4)
        return sum(losses) / len(losses) if losses else math.nan

    def draw(self) -> Tensor:
        """A Poisson sample of users, (users,): each by its own coin."""
        import torch

        coins = torch.rand(self.model.data.n_users, generator=self.user_stream)
        return torch.nonzero(coins < self.hyper.sample_rate)[:, 0].to(self.model.ctx.device)

    def step(self, rows: UserRows, number: int) -> float | None:
        """One private step; the mean loss of the rows used, None where nobody was drawn."""
        from bench.dp import choose

        users = self.draw()
        present = users[rows.count[users] > 0]
        batch, counts = rows.take(present, number, self.hyper.max_interactions)
        if self.method is None and len(present):
            self.method, self.facts["gradients"] = choose(self.model, self.where, batch, counts)
        self.facts["steps"] += 1
        loss, found = None, None
        if self.method is not None and len(present):
            found = self.method(self.model, self.where, batch, counts, self.hyper.clip)
            if not bool(found.norms.isfinite().all()):
                raise TrainingError("a user's gradient is not finite; lower learning_rate, or "
                                    "clip, with which the noise grows")
            loss = found.loss / len(batch["users"])
            self.drawn += len(found.norms)
            self.clipped += int((found.norms > self.hyper.clip).sum())
        weights = {k: p for k, p in self.model.module.named_parameters() if p.requires_grad}
        self.apply(found, weights, present)
        self.model.forget()
        self.loop.samples += len(batch["users"])
        return loss

    def scale(self) -> float:
        """Users expected in a step; the number of users counts as public."""
        return self.hyper.sample_rate * self.model.data.n_users

    def apply(self, found: UserGradients | None, weights: Mapping[str, torch.nn.Parameter],
              present: Tensor) -> None:
        """Noise on every shared coordinate, then the step. `found` is None where nobody came."""
        for key, p in weights.items():
            total = p.new_zeros(p.shape) if found is None else found.shared[key]
            if found is not None and key in found.own:
                total = total + found.own[key]
            p.grad = (total + self.noise_like(key, p)) / self.scale()
        step_rows(self.loop.optimizer, {
            key: (weights[key], rows, weights[key].grad[rows])  # type: ignore[index]
            for key, rows in self.where.moving(present).items()})

    def noise_like(self, key: str, p: Tensor) -> Tensor:
        """N(0, (noise · clip)²) where the parameter is shared, 0 elsewhere; drawn on the CPU."""
        import torch

        if not self.noise:
            return p.new_zeros(p.shape)
        drawn = torch.randn(p.shape, generator=self.noise_stream).to(p.device, p.dtype)
        return drawn * (self.noise * self.hyper.clip) * self.where.masks[key]


def step_rows(optimizer: torch.optim.Optimizer,
              moving: Mapping[str, tuple[torch.nn.Parameter, Tensor, Tensor]]) -> None:
    """The optimiser's step, in which of some parameters only some rows take part.

    The other rows keep their values and what the optimiser remembers of them: neither momentum
    nor weight decay moves them. The cost is that of the rows, not of the table.

    Args:
        moving: name -> (parameter, rows (R,), their gradient (R, …)).
    """
    import torch

    rows_of = {id(p): (rows, grad) for p, rows, grad in moving.values()}
    swapped = []
    for group in optimizer.param_groups:
        for at, p in enumerate(group["params"]):
            if id(p) not in rows_of:
                continue
            rows, grad = rows_of[id(p)]
            small = torch.nn.Parameter(p.detach()[rows])
            small.grad = grad
            memory = optimizer.state.pop(p, {})
            optimizer.state[small] = {k: v[rows] if _by_row(v, p) else v
                                      for k, v in memory.items()}
            group["params"][at] = small
            swapped.append((group, at, p, small, rows, memory))
    try:
        optimizer.step()
    finally:
        for group, at, p, small, rows, memory in swapped:
            group["params"][at] = p
            p.detach()[rows] = small.detach()
            for key, value in optimizer.state.pop(small, {}).items():
                if _by_row(value, small):  # first met now: as if it had been 0 before
                    memory.setdefault(key, torch.zeros_like(p, dtype=value.dtype))[rows] = value
                else:
                    memory[key] = value
            if memory:
                optimizer.state[p] = memory
    optimizer.zero_grad(set_to_none=True)


def _by_row(value: Any, p: Tensor) -> bool:
    """Whether the optimiser remembers this of every coordinate of the parameter."""
    import torch

    return torch.is_tensor(value) and value.dim() > 0 and value.shape == p.shape
