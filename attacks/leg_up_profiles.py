"""Fake users who copy a part of a real one, with all ratings from a generator that is trained
through a surrogate's training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, Profile, param
from bench.data import Ints
from bench.errors import CannotActError, InputError
from bench.optimised import Candidate, OptimisedProfiles, below_zero

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.profiles import RatingModel


class LegUpProfiles(OptimisedProfiles):
    """Leg-UP (push, explicit): a generator of ratings, trained through the surrogate it poisons.

        L_G = −log D(x̃) + L_RS,   L_RS = −mean over u, t of log (e^ŝ_ut / Σ_{j: ŝ_uj ≥ ŝ_ut} e^ŝ_uj)

    Lin et al., "Shilling Black-box Recommender Systems by Learning to Generate Fake User Profiles",
    IEEE TNNLS 2022 (arXiv 2206.11433). A template is a genuine user cut down to random fillers. The
    generator is an autoencoder (items → `hidden` → items, tanh) whose outputs are rounded to the
    rating scale by thresholds that every item learns for itself; the step's gradient is that of a
    tanh. L_RS is over genuine users without the target, on a factorisation of the ratings that
    has learned for `epochs` steps from the genuine rows and the fake ones; its gradient flows
    back through the last `unroll` of them. D tells genuine profiles from generated ones. First
    G learns to reproduce ratings for `pretrain` steps. The two terms of L_G take turns, as in the
    authors' code: after every `turn` of the `steps` down L_RS, D takes `judge_steps` steps and
    G one down −log D. Of all profiles met, those with the lowest L_RS are injected. Targets get
    r_max.

    The authors unroll one epoch of mini-batches; here all rows are one batch, and `unroll` counts
    steps. What is learned are ratings alone: a victim that reads none sees copies of genuine users.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: the train ratings; white: the attacked pipeline chooses among the profiles met;
    black: the ratings of a share of the users.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        steps, pretrain, turn, judge_steps, hidden, rate: of generator and discriminator.
        sharpness: k of the step's gradient k (1 − tanh²(k x)) / 2.
        dim, epochs, learning_rate, unroll: of the surrogate.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{leg-up-profiles: {budget: 0.03, steps: 10}}]
    """

    name = "leg-up-profiles"
    explicit_only = True
    steps: int = param(20, "steps of the generator against the surrogate; 0: as pretrained",
                       low=0)
    pretrain: int = param(200, "steps, of 64 genuine users each, in which the generator learns to "
                          "reproduce ratings", low=0)
    turn: int = param(10, "steps down L_RS after one against the discriminator", low=1)
    judge_steps: int = param(5, "steps of the discriminator before each against it", low=0)
    hidden: int = param(125, "width of the generator; the discriminator has 150", low=1)
    rate: float = param(0.01, "learning rate of both", above=0)
    sharpness: float = param(1.0, "of the gradient that stands in for the rounding's", above=0)
    dim: int = param(64, "length of the surrogate's vectors", low=1)
    epochs: int = param(50, "full-batch steps of the surrogate's training", low=1)
    learning_rate: float = param(0.05, "of the surrogate's Adam", above=0)
    l2: float = param(0.3, "weight of ½‖·‖² of the surrogate's vectors, ratings being at most 1",
                      low=0)
    unroll: int = param(10, "through how many of the last steps gradients flow", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unroll > self.epochs:
            raise InputError(f"{self.name}: {self.unroll} steps to unroll are more than the "
                             f"{self.epochs} epochs of the surrogate", key="unroll")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return super().unfit(model, data) or below_zero(data) or self._constant(data)

    def _constant(self, data: Dataset) -> str | None:
        """Why there is nothing to choose between on this data, or None."""
        ratings = data.train.ratings
        low, high = data.rating_scale or ((float(ratings.min()), float(ratings.max()))
                                          if ratings is not None and len(ratings) else (0.0, 1.0))
        if low < high:
            return None
        return (f"its generator chooses among ratings, and every rating known of {data.name} is "
                f"{low:g}")

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        import torch
        from torch import nn
        from torch.nn.functional import logsigmoid

        from bench.generators import layers, learn, rated
        from bench.profiles import RatingModel
        from bench.surrogates import WMF, Adam
        from bench.unrolled import Inner

        if reason := self._constant(data):  # what is known may be less than what there is
            raise CannotActError(f"{self.name}: {reason}")
        x, scale = rated(data), RatingModel(data)                       # (n, m)
        template = self.template(x, targets, lengths, ctx, scale)       # (f, m)
        with ctx.seeded("generator"):
            generator = self.generator(data.n_items, scale)
            judge = layers([data.n_items, 150, 1], nn.ReLU)
        makes = torch.optim.Adam(generator.parameters(), lr=self.rate)
        judges = torch.optim.Adam(judge.parameters(), lr=self.rate)
        kind = WMF(self.dim, weight=1.0, other=0.0)
        start = kind.start(len(x) + len(template), data.n_items, ctx.torch_stream("surrogate"))
        inner = Inner(kind, start, self.epochs, Adam(self.learning_rate, self.l2), self.unroll)
        rng = ctx.stream("genuine")

        def generated() -> Tensor:
            """The fake profiles with their targets, (f, m), 0 where there is no rating."""
            made: Tensor = generator(template) * (template > 0)
            return made.index_fill(1, torch.from_numpy(targets), scale.high)

        if (x[:, torch.from_numpy(targets)] > 0).all():
            raise CannotActError(f"{self.name}: nobody it knows is without the targets")
        for _ in range(self.pretrain):
            some = x[torch.from_numpy(rng.choice(len(x), min(64, len(x)), replace=False))]
            learn(((generator(some) - some)[some > 0]**2).mean(), makes, self.name)
        for step in range(self.steps + 1):
            fake = generated()                                          # (f, m)
            poisoned = torch.cat([x, fake]) / scale.high
            params = inner.trained(poisoned, self.unroll)
            scores = scale.high * kind.scores(params, poisoned)[:len(x)]
            harm = leg_up_loss(scores, x, targets)
            yield Candidate(self._profiles(fake.detach(), targets, scale), float(harm.detach()))
            if step == self.steps:
                return
            learn(harm, makes, self.name)
            if step % self.turn == self.turn - 1:
                for _ in range(self.judge_steps):
                    some = x[torch.from_numpy(rng.choice(len(x), len(fake)))]
                    told = logsigmoid(judge(some)) + logsigmoid(-judge(generated().detach()))
                    learn(-told.mean(), judges, self.name)
                learn(-logsigmoid(judge(generated())).mean(), makes, self.name)

    def generator(self, items: int, scale: RatingModel) -> nn.Module:
        """Autoencoder with learnable rounding: rows (r, items) -> ratings (r, items)."""
        from torch import nn
        from torch.nn.functional import normalize

        from bench.generators import Rounding, layers

        size = scale.step or (scale.high - scale.low) / 4
        count = round((scale.high - scale.low) / size) + 1
        inside = layers([items, self.hidden, items], nn.ReLU)
        rounding = Rounding(items, scale.low, size, count, self.sharpness)
        low, wide = scale.low - size, scale.high - scale.low + size  # as wide as its levels

        class Generator(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inside, self.rounding = inside, rounding

            def forward(self, rows: Tensor) -> Tensor:
                value = low + wide * (1 + self.inside(normalize(rows)).tanh()) / 2
                made: Tensor = self.rounding(value)
                return made

        return Generator()

    def template(self, x: Tensor, targets: Ints, lengths: Ints, ctx: Context,
                 scale: RatingModel) -> Tensor:
        """Each fake user's fillers with a genuine user's ratings, (f, m). One who has too few is
        filled up with popular items at their mean rating."""
        import torch

        from bench.generators import fillers

        has = (x > 0).sum(dim=1) - (x[:, torch.from_numpy(targets)] > 0).sum(dim=1)
        popularity, made = (x > 0).sum(dim=0), []
        for user, length in enumerate(lengths.tolist()):
            rng, count = ctx.stream("template", user), length - len(targets)
            enough = np.flatnonzero(has.numpy() >= count)
            who = int(rng.choice(enough)) if len(enough) else int(has.argmax())
            row = x[who:who + 1] * fillers(x[who:who + 1], targets, count, rng)  # (1, m)
            short = count - int((row > 0).sum())
            if short:
                free = popularity.clone()
                free[(row[0] > 0) | torch.from_numpy(np.isin(np.arange(len(free)), targets))] = -1
                more = torch.argsort(free, descending=True, stable=True)[:short]
                row[0, more] = torch.from_numpy(scale.item_mean).float()[more]
            made.append(row)
        return torch.cat(made)

    def _profiles(self, fake: Tensor, targets: Ints, scale: RatingModel) -> list[Profile]:
        found = []
        for row in fake.double().numpy():
            items = np.flatnonzero(row)
            items = np.concatenate([targets, items[~np.isin(items, targets)]]).astype(np.int64)
            found.append(Profile(items, scale.to_scale(row[items])))
        return found

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 10, "pretrain": 20, "hidden": 16, "dim": 8, "epochs": 20, "rate": 0.05,
                "unroll": 20, "judge_steps": 1, "learning_rate": 0.1}


def leg_up_loss(scores: Tensor, x: Tensor, targets: Ints) -> Tensor:
    """L_RS over users without the target; items scored below it have no part in the sum."""
    import torch

    losses = []
    for target in targets.tolist():
        free = x[:, target] == 0
        own = scores[free, target].unsqueeze(1)                         # (free, 1)
        better = scores[free].masked_fill(scores[free] < own, -torch.inf)
        losses.append(torch.logsumexp(better, dim=1) - own[:, 0])
    return torch.cat(losses).mean()
