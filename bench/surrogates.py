"""Small models that an attacker trains on the data at hand, differentiable in that data.

A surrogate is a recipe: it keeps no state, its parameters are a tuple of tensors, and the slope of
its loss is a function of parameters and data. That is what makes a training run differentiable in
the fake rows (`bench.unrolled`): what is kept is never written in place, and nothing is drawn on
the way. All of it runs on the CPU, so that profiles do not depend on the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from bench.data import Dataset, Ints

Params = tuple[Tensor, ...]
Slope = Callable[[Params], Params]


def clicks(data: Dataset) -> Tensor:
    """1 where a user's train row counts as liked, 0 elsewhere: (users with rows, items).

    Users of whom nothing is known (a black-box attacker sees a share) have no row.
    """
    rows = data.train.positives()
    made = torch.zeros(data.n_users, data.n_items)  # (n, m)
    made[torch.from_numpy(rows.users), torch.from_numpy(rows.items)] = 1.0
    return made[made.any(dim=1)]


def weights(x: Tensor, weight: float, other: float = 1.0) -> Tensor:
    """`weight` where x > 0, `other` elsewhere: a constant in x, as in Tang et al. (2020)."""
    return torch.where(x.detach() > 0, weight, other)  # (n, m)


@dataclass(frozen=True)
class WMF:
    """Weighted matrix factorisation over every cell of the matrix (Hu et al. 2008): s = P Qᵀ.

    loss = Σ w (x − s)², or with `logistic` Σ w (−x log σ(s) − (1 − x) log(1 − σ(s))); w is `weight`
    where x > 0 and `other` elsewhere. With `other` 0 and ratings for x, rated pairs alone teach.
    """

    dim: int = 64
    weight: float = 20.0
    std: float = 0.1
    logistic: bool = False
    other: float = 1.0

    def start(self, users: int, items: int, rng: torch.Generator) -> Params:
        """Q (m, d), then P (n, d): more users leave the draws of the others as they were."""
        return (torch.randn(items, self.dim, generator=rng) * self.std,
                torch.randn(users, self.dim, generator=rng) * self.std)

    def scores(self, params: Params, x: Tensor) -> Tensor:
        items, users = params
        return users @ items.T  # (n, m)

    def loss(self, params: Params, x: Tensor) -> Tensor:
        s, w = self.scores(params, x), weights(x, self.weight, self.other)
        each = F.softplus(s) - x * s if self.logistic else (x - s).square()
        return (w * each).sum()

    def slope(self, x: Tensor) -> Slope:
        """The gradient of the loss in the parameters, written out: several times faster than by
        autograd, and differentiable once more, in the parameters and in x."""
        w = weights(x, self.weight, self.other)

        def at(params: Params) -> Params:
            items, users = params
            s = users @ items.T                                               # (n, m)
            g = w * ((torch.sigmoid(s) - x) if self.logistic else 2 * (s - x))  # (n, m)
            return g.T @ users, g @ items                                     # (m, d), (n, d)

        return at


@dataclass(frozen=True)
class ItemAE:
    """Autoencoder of item columns: an item's vector of users through SELU layers and back.

    Fake rows are its input, so that its scores depend on them also without any training: that
    direct term is all that `unroll` 0 leaves. loss = Σ w (x − s)².
    """

    hidden: tuple[int, ...] = (64, 32)
    weight: float = 20.0

    def start(self, users: int, items: int, rng: torch.Generator) -> Params:
        """Weights (out, in) and biases (out,) of each layer, uniform in ± 1/√in."""
        sizes = [users, *self.hidden, *reversed(self.hidden[:-1]), users]
        made: list[Tensor] = []
        for wide, narrow in itertools.pairwise(sizes):
            for shape in ((narrow, wide), (narrow,)):
                made.append((2 * torch.rand(shape, generator=rng) - 1) / wide**0.5)
        return tuple(made)

    def scores(self, params: Params, x: Tensor) -> Tensor:
        h = x.T  # (m, n)
        for k in range(0, len(params), 2):
            h = F.linear(h, params[k], params[k + 1])
            h = F.selu(h) if k + 2 < len(params) else h
        return h.T  # (n, m)

    def loss(self, params: Params, x: Tensor) -> Tensor:
        return (weights(x, self.weight) * (x - self.scores(params, x)).square()).sum()

    def slope(self, x: Tensor) -> Slope:
        """The gradient of the loss in the parameters; differentiable where autograd is on."""
        def at(params: Params) -> Params:
            keep = torch.is_grad_enabled()
            with torch.enable_grad():
                if not keep:
                    params = tuple(p.detach().requires_grad_() for p in params)
                return torch.autograd.grad(self.loss(params, x if keep else x.detach()), params,
                                           create_graph=keep)

        return at


Surrogate = WMF | ItemAE


@dataclass(frozen=True)
class Adam:
    """Adam as a function: each step makes new tensors and is differentiable in the gradients.

    ε stands inside the root, √(v̂ + ε²), where its slope is finite also at a gradient of zero.
    """

    rate: float
    l2: float = 0.0
    first: float = 0.9
    second: float = 0.999
    eps: float = 1e-8

    def step(self, params: Params, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        t, means, squares = state.t + 1, [], []
        after = []
        for k, (p, g) in enumerate(zip(params, grads, strict=True)):
            g = g + self.l2 * p if self.l2 else g
            m = self.first * state.means[k] + (1 - self.first) * g
            v = self.second * state.squares[k] + (1 - self.second) * g.square()
            root = (v / (1 - self.second**t) + self.eps**2).sqrt()
            after.append(p - self.rate * (m / (1 - self.first**t)) / root)
            means.append(m)
            squares.append(v)
        return tuple(after), AdamState(t, tuple(means), tuple(squares))


@dataclass(frozen=True)
class AdamState:
    """What Adam remembers: how many steps, and the running moments of every parameter."""

    t: int
    means: Params
    squares: Params

    @staticmethod
    def zero(params: Params) -> AdamState:
        return AdamState(0, tuple(map(torch.zeros_like, params)),
                         tuple(map(torch.zeros_like, params)))


def train(slope: Slope, params: Params, steps: int, adam: Adam, unroll: int = 0) -> Params:
    """`steps` full-batch steps along a gradient; the last `unroll` of them stay differentiable in
    whatever the gradient depends on."""
    if unroll > steps:
        raise ValueError(f"{unroll} steps to unroll are more than the {steps} of the training")
    state = AdamState.zero(params)
    with torch.no_grad():
        for _ in range(steps - unroll):
            params, state = adam.step(params, slope(params), state)
    params = tuple(p.requires_grad_(bool(unroll)) for p in map(torch.clone, params))
    for _ in range(unroll):
        params, state = adam.step(params, slope(params), state)
    return params


def target_loss(scores: Tensor, targets: Ints) -> Tensor:
    """L_adv = −Σ_u (1/|T|) Σ_t log softmax_t(s_u·), (Tang et al. 2020, eq. 6): a scalar."""
    logs = torch.log_softmax(scores, dim=1)[:, torch.from_numpy(targets)]  # (n, |T|)
    return -logs.mean(dim=1).sum()


def target_hits(scores: Tensor, x: Tensor, targets: Ints, k: int) -> float:
    """Share of (user, target) pairs with the target in the top k, among users without it.

    What a user has taken is no candidate. Ties count against the target. NaN where a score is no
    number: a diverged model is no success.
    """
    if not bool(torch.isfinite(scores).all()):
        return math.nan
    offered = scores.detach().masked_fill(x > 0, -torch.inf)  # (n, m)
    hits = pairs = 0
    for target in targets.tolist():
        free = x[:, target] == 0
        own = offered[free, target].unsqueeze(1)  # (free, 1)
        above = (offered[free] >= own).sum(dim=1) - 1
        hits += int((above < k).sum())
        pairs += int(free.sum())
    return hits / max(pairs, 1)


def top(values: Tensor, counts: Ints) -> Tensor:
    """1 at the counts[r] largest values of row r, 0 elsewhere; ties by column: (rows, m)."""
    order = torch.argsort(values, dim=1, descending=True, stable=True)
    place = torch.argsort(order, dim=1)
    return (place < torch.from_numpy(np.asarray(counts)).unsqueeze(1)).to(values.dtype)
