"""Fake rows learned through the training of a surrogate: the bilevel problem of poisoning.

    min over X̃ of L_adv(θ*(X̃)),   θ*(X̃) = the surrogate trained on [X; X̃]

Tang, Wen and Wang, "Revisiting Adversarially Learned Injection Attacks Against Recommender
Systems", RecSys 2020. The training is a chain of differentiable steps (`bench.surrogates`), and
the gradient of L_adv in X̃ flows back through the last `unroll` of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data import Ints
from bench.surrogates import Adam, Params, Surrogate, target_loss, top, train

Project = Callable[[Tensor, Tensor], Tensor]
"""(moved, before) -> {0, 1}: puts what a step has moved back among what may be injected."""


@dataclass(frozen=True)
class Inner:
    """How the surrogate is trained: the inner problem.

    Attributes:
        surrogate: its kind.
        start: its initial parameters; every outer step begins from them again.
        steps, adam: full-batch steps, and their rule.
        unroll: through how many of the last steps gradients flow.
    """

    surrogate: Surrogate
    start: Params
    steps: int
    adam: Adam
    unroll: int

    def trained(self, x: Tensor, unroll: int = 0) -> Params:
        """θ* on the rows x: (genuine + fake, items)."""
        return train(self.surrogate.slope(x), self.start, self.steps, self.adam, unroll)

    def scores(self, x: Tensor) -> Tensor:
        """What the trained surrogate says, (genuine + fake, items), without gradient."""
        params = self.trained(x)
        with torch.no_grad():
            return self.surrogate.scores(params, x)


@dataclass(frozen=True)
class Iterate:
    """One outer step: the fake rows it began with, and what the surrogate then said."""

    fake: Tensor    # (fakes, items), 0 and 1
    scores: Tensor  # (genuine, items)
    loss: float     # L_adv
    slope: Tensor   # (fakes, items), dL_adv/dX̃


def slope(inner: Inner, genuine: Tensor, fake: Tensor, targets: Ints) -> Iterate:
    """L_adv and its gradient in the fake rows, through the unrolled training."""
    fake = fake.detach().clone().requires_grad_()  # (f, m)
    x = torch.cat([genuine, fake])                 # (n + f, m)
    params = inner.trained(x, inner.unroll)
    scores = inner.surrogate.scores(params, x)[:len(genuine)]  # (n, m)
    loss = target_loss(scores, targets)
    (gradient,) = torch.autograd.grad(loss, fake)
    return Iterate(fake.detach(), scores.detach(), float(loss.detach()), gradient)


def descend(inner: Inner, genuine: Tensor, fake: Tensor, targets: Ints, steps: int, *,
            rate: float, momentum: float, project: Project,
            normalised: bool = True) -> Iterator[Iterate]:
    """`steps` projected steps of SGD with momentum on the fake rows; yields what each saw.

    Args:
        fake: where it begins, (fakes, items), 0 and 1.
        normalised: every fake user's gradient is brought to length 1 (steepest descent in L2
            row by row), so that no user is moved more than another.
    """
    velocity = torch.zeros_like(fake)  # (f, m)
    for _ in range(steps):
        seen = slope(inner, genuine, fake, targets)
        yield seen
        step = seen.slope
        if normalised:
            step = step / step.norm(dim=1, keepdim=True).clamp_min(1e-30)
        velocity = momentum * velocity + step
        fake = project(fake - rate * velocity, fake)
    scores = inner.scores(torch.cat([genuine, fake]))[:len(genuine)]
    yield Iterate(fake, scores, float(target_loss(scores, targets)),
                  torch.full_like(fake, math.nan))


def over(threshold: float) -> Project:
    """Whatever exceeds the threshold is injected, however much that is (as published)."""
    return lambda moved, before: (moved > threshold).to(moved.dtype)


def within(lengths: Ints, targets: Ints, threshold: float) -> Project:
    """As many items as the budget says, targets first.

    Published: an absent item enters once it has moved by more than the threshold, and a present
    one leaves once it has moved by 1 − threshold, so that profiles grow. With a budget, one must
    leave for one that enters: an absent item takes the place of a present one once it has moved
    by more than the threshold further than that one has.
    """
    def project(moved: Tensor, before: Tensor) -> Tensor:
        wish = moved - (1 - threshold) * before  # present items are ahead by the threshold
        wish[:, torch.from_numpy(targets)] = torch.inf
        return top(wish, lengths)

    return project
