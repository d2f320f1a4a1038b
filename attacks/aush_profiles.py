"""Fake users who copy a part of a real one, with ratings of selected items from a generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, Profile, param
from bench.data import Floats, Ints
from bench.optimised import Candidate, OptimisedProfiles, below_zero

if TYPE_CHECKING:
    from torch import Tensor


class AushProfiles(OptimisedProfiles):
    """AUSH (push, explicit): fillers of a genuine user, selected items rated by a trained network.

        L_G = −log D(x̂) + mean (x̂_j − x_j)² + mean (r_max − x̂_j)²,   j selected

    Lin et al., "Attacking Recommender Systems with Augmented User Profiles", CIKM 2020. A template
    is a genuine user cut down to random fillers. The generator G (items → hidden → items, sigmoids,
    times r_max) reads the fillers and rates the selected items; a discriminator D tells fillers
    and selected items of genuine users from generated ones. The second term, reconstruction, runs
    over selected items that the template's user has rated and a share `zeros` of the others, whose
    rating counts as 0; the third, shilling, over all selected ones. Targets get r_max.

    Selected items are those most often liked together with the targets, c_it / √(pop_i pop_t): the
    paper picks them by hand for a segment. What is learned are ratings alone, so that a victim
    that reads none sees copies of genuine users with selected items and targets.

    Budget: round(budget · genuine users) fakes, `length` items each, targets and selected included.
    Knowledge: gray: the train ratings; white: the attacked pipeline chooses between trained and
    untrained; black: those of a share of the users.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        selected: share of the length that is selected items (at least one; a filler, too, where
            there is room).
        steps: epochs over the templates; batch, hidden, rate, judge_rate: of G and D.
        zeros: share of unrated selected items in the reconstruction.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{aush-profiles: {budget: 0.03, selected: 0.1}}]
    """

    name = "aush-profiles"
    explicit_only = True
    takes = "last"
    steps: int = param(30, "epochs of training; 0: an untrained generator", low=0)
    selected: float = param(0.1, "share of a profile's length that is selected items (at least "
                            "one)", above=0, high=1)
    hidden: int = param(128, "width of the generator; the discriminator has 150", low=1)
    batch: int = param(256, "templates per step", low=1)
    rate: float = param(0.01, "learning rate of the generator", above=0)
    judge_rate: float = param(0.001, "learning rate of the discriminator", above=0)
    zeros: float = param(0.2, "share of unrated selected items that are reconstructed, as 0",
                         low=0, high=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.length and self.length <= self.targets:
            return f"profiles of {self.length} items have no room for a selected one"
        return super().unfit(model, data) or below_zero(data)

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        import torch
        from torch import nn
        from torch.nn.functional import logsigmoid

        from bench.generators import fillers, layers, learn, rated
        from bench.profiles import RatingModel

        x, scale = rated(data), RatingModel(data)                  # (n, m)
        chosen = self.partners(data, targets, lengths)             # (s,)
        barred = np.concatenate([targets, chosen])
        aim = torch.from_numpy(chosen)
        room = np.maximum(lengths - len(barred), 0)                # (f,)
        typical = max(1, round(float(room.mean())))
        free = (x > 0).sum(dim=1) - (x[:, torch.from_numpy(barred)] > 0).sum(dim=1)
        pool = self._pool(free, typical)
        with ctx.seeded("generator"):
            generator = layers([data.n_items, self.hidden, data.n_items], nn.Sigmoid)
            judge = layers([data.n_items, 150, 150, 1], nn.Sigmoid)
        makes = torch.optim.Adam(generator.parameters(), lr=self.rate)
        judges = torch.optim.Adam(judge.parameters(), lr=self.judge_rate)
        rng = ctx.stream("templates")

        def generated(part: Tensor) -> Tensor:
            """Ratings of the selected items, (rows, s), for rows of fillers."""
            made: Tensor = scale.high * torch.sigmoid(generator(part / scale.high))
            return made[:, aim]

        def rest(made: Tensor, rows: Tensor, counted: Tensor) -> Tensor:
            """Reconstruction and shilling loss of generated ratings."""
            return (((made - rows[:, aim])**2 * counted).sum() / counted.sum().clamp_min(1)
                    + ((scale.high - made)**2).mean())

        whose, parts = self._copied(x, free, barred, room, ctx)    # (f,), (f, m)
        counted = (x[whose][:, aim] > 0).float()                   # (f, s)
        for epoch in range(self.steps + 1):
            if epoch in (0, self.steps):
                with torch.no_grad():
                    made = generated(parts)
                    loss = float(rest(made, x[whose], counted))
                yield Candidate(self._profiles(parts, made, targets, chosen, lengths, data), loss)
            if epoch == self.steps:
                return
            order = rng.permutation(pool)
            for first in range(0, len(order), self.batch):
                rows = x[torch.from_numpy(order[first:first + self.batch])]   # (b, m)
                part = rows * fillers(rows, barred, typical, rng)             # (b, m)
                made = generated(part)                                        # (b, s)
                fake = part.index_copy(1, aim, made)
                real = part.index_copy(1, aim, rows[:, aim])
                told = -(logsigmoid(judge(real)) + logsigmoid(-judge(fake.detach()))).mean()
                learn(told, judges, self.name)
                keep = torch.from_numpy(rng.random(made.shape) < self.zeros)
                counts = ((rows[:, aim] > 0) | keep).float()
                learn(rest(made, rows, counts) - logsigmoid(judge(fake)).mean(), makes, self.name)

    def partners(self, data: Dataset, targets: Ints, lengths: Ints) -> Ints:
        """The selected items, most often liked together with the targets first."""
        from bench.surrogates import clicks

        room = int(lengths.min()) - len(targets)
        count = min(max(1, round(self.selected * float(lengths.mean()))), max(room - 1, 1))
        x = clicks(data).numpy()
        popularity = x.sum(axis=0)                                 # (m,)
        together = x.T @ x[:, targets]                             # (m, |T|)
        size = np.sqrt(np.outer(popularity, popularity[targets])) + 1e-9
        score = (together / size).sum(axis=1)
        score[targets] = -np.inf
        order = np.lexsort((np.arange(len(score)), -popularity, -score))
        return np.sort(order[:count]).astype(np.int64)

    def _pool(self, free: Tensor, typical: int) -> Ints:
        """Users with enough items to be templates; the longest, where nobody has as many."""
        enough = np.flatnonzero(free.numpy() >= typical)
        return enough if len(enough) else np.argsort(-free.numpy(), kind="stable")[:50]

    def _copied(self, x: Tensor, free: Tensor, barred: Ints, room: Ints,
                ctx: Context) -> tuple[Tensor, Tensor]:
        """Whom each fake user copies, (f,), and that user's ratings of the fillers, (f, m)."""
        import torch

        from bench.generators import fillers

        whose, parts = [], []
        for user, count in enumerate(room.tolist()):
            rng = ctx.stream("template", user)
            who = int(rng.choice(self._pool(free, count)))
            whose.append(who)
            row = x[who:who + 1]
            parts.append(row * fillers(row, barred, count, rng))
        return torch.tensor(whose), torch.cat(parts)

    def _profiles(self, parts: Tensor, made: Tensor, targets: Ints, chosen: Ints, lengths: Ints,
                  data: Dataset) -> list[Profile]:
        from bench.profiles import RatingModel, by_popularity

        scale, found = RatingModel(data), []
        popular = by_popularity(data, np.concatenate([targets, chosen]))
        for row, rates, length in zip(parts.numpy(), made.numpy(), lengths.tolist(), strict=True):
            own = np.flatnonzero(row)
            short = max(length - len(targets) - len(chosen) - len(own), 0)
            more = popular[~np.isin(popular, own)][:short]  # where no genuine user is as long
            ratings: Floats = np.concatenate([
                np.full(len(targets), scale.high), scale.to_scale(rates.astype(np.float64)),
                scale.to_scale(row[own].astype(np.float64)),  # float32 may lie beside the scale
                scale.to_scale(scale.item_mean[more])])
            found.append(Profile(np.concatenate([targets, chosen, own, more]).astype(np.int64),
                                 ratings))
        return found

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 6, "hidden": 16, "rate": 0.05}
