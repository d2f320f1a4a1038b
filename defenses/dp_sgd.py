"""User-level differential privacy by noised, clipped gradients (DP-SGD)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.errors import InputError, PluginError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.dp import Gradients, UserRows
    from bench.training import FitResult, Loop


class DpSgd(Defense):
    """User-level DP-SGD (Abadi et al., CCS 2016; per user: McMahan et al., ICLR 2018).

    Adjacent data sets differ by one user's whole history, added or removed. Each step draws
    every user with probability `sample_rate` (Poisson), sums the gradient over at most
    `max_interactions` of a drawn user's train rows, clips it to norm `clip` over all shared
    parameters together, adds N(0, (noise · clip)²) to each shared coordinate of the sum, divides
    by sample_rate · users, and steps with the model's optimiser. Noise comes from ε and δ by an
    accountant, for epochs × round(1 / sample_rate) steps; early stopping is off, as looking at
    private validation data would cost privacy too.

    What (ε, δ) covers: every parameter but the users' own rows of user tables. A user's row is
    that user's local state: it is moved by that user's own gradient, unclipped and without noise,
    only when the user is drawn, and is never released ("billboard", or joint, DP: what others
    learn about a user is bounded, recommendations are computed at the user's side). The number of
    users and the catalogue count as public. What the guarantee does not cover: the choice of
    hyper-parameters, the published test metrics, and the noise being drawn from a seeded
    generator, which makes runs repeatable; a release needs a secret seed. Epsilon .inf, and
    noise_multiplier 0 with clip .inf, ask for no privacy and equal `none` bit for bit.

    Cost: one clipped gradient per drawn user; vectorised where torch.func can do the model's
    loss, one user at a time (some ten times a plain step per hundred users) where not. Adaptive
    attack: membership inference, bounded by TPR ≤ e^ε · FPR + δ.

    Example: defenses: [{dp-sgd: {epsilon: 8, delta: 1e-5, clip: 1.0, sample_rate: 0.05}}]
    """

    name = "dp-sgd"
    epsilon: float = param(8.0, "privacy loss that may be spent; .inf asks for none", above=0,
                           high=math.inf)
    delta: float = param(1e-5, "probability with which the bound may fail; well below one over "
                         "the number of users", above=0, high=0.5)
    clip: float = param(1.0, "largest norm of one user's gradient; .inf does not clip", above=0,
                        high=math.inf)
    sample_rate: float = param(0.05, "probability with which a user is drawn for a step", above=0,
                               high=1)
    max_interactions: int = param(50, "train rows (or sampled negatives) of a drawn user that "
                                  "enter a step", low=1)
    noise_multiplier: float | None = param(None, "noise in units of clip, instead of what epsilon "
                                           "needs; 0: no noise and no privacy", low=0)
    learning_rate: float = param(0.0, "step size; 0: the model's own. Noised gradients want "
                                 "another than plain ones", low=0)
    accountant: str = param("pld", "how ε is composed: pld (tight) or rdp (looser, faster)",
                            choices=("pld", "rdp"))

    def __post_init__(self) -> None:
        if math.isinf(self.clip) and self.noise_multiplier != 0 and not self._off():
            raise InputError("noise cannot be scaled to an infinite clip", key="clip",
                             hint="give a finite clip, or noise_multiplier: 0")

    def _off(self) -> bool:
        if self.noise_multiplier is None:
            return math.isinf(self.epsilon)
        return self.noise_multiplier == 0 and math.isinf(self.clip)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self._off():
            return None
        if "gradients" not in model.gives:
            return f"{model.name} is not learned by gradient steps that could be clipped and noised"
        if "user-separable" not in model.gives:
            why = getattr(model, "not_separable", "graph propagation, in-batch negatives, batch "
                          "normalisation or counts over all users enter the loss")
            return (f"user-level privacy would be claimed falsely: the loss of one user of "
                    f"{model.name} depends on other users' rows ({why}), so clipping per user does "
                    "not bound a user's influence")
        return None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if self._off():
            return None
        return _Private(self, loop).run_epoch

    def spent(self, fit: FitResult) -> dict[str, float]:
        facts = fit.notes.get("dp")
        if not facts or not facts["noise_multiplier"]:
            return {}
        from bench.accounting import epsilon_of

        epsilon = epsilon_of(facts["sample_rate"], facts["noise_multiplier"], facts["steps"],
                             self.delta, self.accountant)
        return {"epsilon": epsilon, "delta": self.delta}

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"epsilon": math.inf}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"sample_rate": 0.25, "accountant": "rdp"}


class _Private:
    """The private epochs of one training run: its streams are made once and kept."""

    def __init__(self, hyper: DpSgd, loop: Loop) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        from bench.accounting import noise_for
        from bench.dp import Coordinates

        if any(isinstance(m, _BatchNorm) for m in loop.model.module.modules()):
            raise PluginError("the model normalises over batches, so one user's loss depends on "
                              "the others in its batch: clipping per user bounds nothing here")
        self.hyper, self.loop, self.model = hyper, loop, loop.model
        ctx = self.model.ctx
        self.where = Coordinates(self.model)
        self.steps_per_epoch = max(1, round(1 / hyper.sample_rate))
        planned = self.steps_per_epoch * loop.hyper.epochs
        self.noise = hyper.noise_multiplier if hyper.noise_multiplier is not None else noise_for(
            hyper.epsilon, hyper.sample_rate, planned, hyper.delta, hyper.accountant)
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
            "steps": 0, "gradients": "none yet", "clipped_share": 0.0}

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
        weights = {k: p for k, p in self.model.module.named_parameters() if p.requires_grad}
        scale = self.hyper.sample_rate * self.model.data.n_users
        loss = None
        if self.method is not None and len(present):
            found = self.method(self.model, self.where, batch, counts, self.hyper.clip)
            if not bool(found.norms.isfinite().all()):
                raise TrainingError("a user's gradient is not finite; lower learning_rate")
            loss = found.loss / len(batch["users"])
            self.drawn += len(found.norms)
            self.clipped += int((found.norms > self.hyper.clip).sum())
            for key, p in weights.items():
                total = found.shared[key]
                p.grad = total + found.own[key] if key in found.own else total
        else:
            for p in weights.values():
                p.grad = p.new_zeros(p.shape)
        for key, p in weights.items():
            assert p.grad is not None
            p.grad = (p.grad + self.noise_like(key, p)) / scale
        self.descend(weights, present)
        self.loop.samples += len(batch["users"])
        return loss

    def noise_like(self, key: str, p: Tensor) -> Tensor:
        """N(0, (noise · clip)²) where the parameter is shared, 0 elsewhere; drawn on the CPU."""
        import torch

        if not self.noise:
            return p.new_zeros(p.shape)
        drawn = torch.randn(p.shape, generator=self.noise_stream).to(p.device, p.dtype)
        return drawn * (self.noise * self.hyper.clip) * self.where.masks[key]

    def descend(self, weights: dict[str, torch.nn.Parameter], present: Tensor) -> None:
        """The optimiser's step. Users who are not there keep their rows, and what the optimiser
        remembers of them: momentum must not move them."""
        import torch

        optimizer = self.loop.optimizer
        kept = []
        for key, (start, stop) in self.where.own.items():
            absent = torch.ones(stop - start, dtype=torch.bool, device=weights[key].device)
            absent[present] = False
            mine = optimizer.state.get(weights[key], {})
            for tensor in [weights[key].detach(), *(
                    v for v in mine.values() if torch.is_tensor(v)
                    and v.shape == weights[key].shape)]:
                view = tensor[start:stop]
                kept.append((view, absent, view[absent].clone()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for view, absent, before in kept:
            view[absent] = before
        self.model.forget()
