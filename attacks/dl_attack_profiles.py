"""Fake users made one by one from the scores of a model that is itself poisoned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.optimised import Candidate, OptimisedProfiles

if TYPE_CHECKING:
    from torch import Tensor

    from bench.surrogates import WMF, Adam, Params


class DlAttackProfiles(OptimisedProfiles):
    """DL-Attack (push): a poison model says what each fake user would take.

        L = L_train + λ Σ_u Σ_t max(min_{i∈L_u} log ŝ_ui − log ŝ_ut, −κ)

    Huang et al., "Data Poisoning Attacks to Deep Learning Based Recommender Systems", NDSS 2021
    (Algorithm 1, implicit feedback). For each fake user in turn: the user has the targets alone;
    the poison model, trained on all rows so far, goes on for `steps` steps of L; its probabilities
    for that user, times the selection vector p, give the fillers: the largest. An item that was
    chosen has p multiplied by δ; when every item has p < 1, p is 1 again. L_u is the list of the
    `cutoff` best items that user u has not taken, a target among them or not.

    The poison model is a matrix factorisation with a logistic loss over all pairs (the paper: a
    neural network over embeddings), trained on all rows at once; every fake user begins from the
    same vector. With `retrain` 0 it is trained once, with one row for all fake users: with δ 1,
    profiles of one length are then identical. λ and κ are starting points: the paper tunes λ.
    L_train is a mean over pairs, the second term a mean over users with the target left to win.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: train rows and a model of its own; white: the attacked pipeline chooses between
    the profiles of the model with and without the second term; black: a share of the users.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        steps: of L for each fake user; 0: profiles of a model that was trained for L_train alone.
        harm, margin, diversity, cutoff: λ, κ, δ and the length of L_u.
        retrain: train on before every so many fake users; 0: once for all.
        dim, weight, epochs, learning_rate: of the poison model.

    Shapes: one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{dl-attack-profiles: {budget: 0.01, diversity: [0.8, 1.0]}}]
    """

    name = "dl-attack-profiles"
    takes = "last"
    steps: int = param(10, "steps of the poison loss for each fake user", low=0)
    harm: float = param(1.0, "weight of the poison term", low=0)
    margin: float = param(1.0, "how far (in log probability) a target is to win", low=0)
    diversity: float = param(0.8, "factor on an item's chances once it was chosen", above=0,
                             high=1)
    cutoff: int = param(10, "length of the lists that targets are to enter", low=1)
    retrain: int = param(1, "fake users between trainings of the poison model; 0: one training",
                         low=0)
    dim: int = param(32, "length of the poison model's vectors", low=1)
    weight: float = param(20.0, "weight of a positive in its loss", above=0)
    epochs: int = param(60, "steps of its training before the first fake user", low=1)
    learning_rate: float = param(0.05, "of its Adam", above=0)

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        from bench.optimised import as_profiles
        from bench.surrogates import WMF, Adam, clicks

        x = clicks(data)                                                 # (n, m)
        kind, adam = WMF(self.dim, self.weight, logistic=True), Adam(self.learning_rate)
        items, users = kind.start(len(x) + 1, data.n_items, ctx.torch_stream("surrogate"))
        for steps in (0, self.steps)[:1 + bool(self.steps)]:
            fake = self.made(x, kind, (items, users), adam, targets, lengths, steps)
            yield Candidate(as_profiles(fake, data, targets, ctx),
                            self.judged(x, fake, kind, (items, users), adam, targets))

    def made(self, x: Tensor, kind: WMF, start: Params, adam: Adam, targets: Ints, lengths: Ints,
             steps: int) -> Tensor:
        """The fake rows, (f, m), by a model that takes `steps` steps of the poison loss."""
        import torch

        from bench.surrogates import train

        n, empty = len(x), torch.zeros(1, x.shape[1])
        empty[0, torch.from_numpy(targets)] = 1.0                        # (1, m), targets alone
        fake = empty[:0]                                                 # (f, m)
        chance = np.ones(x.shape[1])                                     # (m,), p
        params = train(kind.slope(torch.cat([x, empty])), start, self.epochs, adam)
        scores = torch.zeros(0)
        for v, length in enumerate(lengths.tolist()):
            if v == 0 or (self.retrain and v % self.retrain == 0):
                rows = torch.cat([x, fake, empty])                       # (n + v + 1, m)
                items, users = params
                others = torch.cat([users[:n], start[1][n:].expand(v + 1, -1)])
                params = self.poisoned((items, others), rows, n, kind, adam, targets, steps)
                scores = kind.scores((params[0], params[1][-1:]), rows)[0]  # (m,)
            likely = torch.sigmoid(scores).double().numpy() * chance
            likely[targets] = -np.inf
            fillers = np.argsort(-likely, kind="stable")[:length - len(targets)]
            fake = torch.cat([fake, empty])
            fake[-1, torch.from_numpy(fillers)] = 1.0
            chance[fillers] *= self.diversity
            free = np.delete(chance, targets)
            if (free < 1).all():
                chance[:] = 1.0
        return fake

    def poisoned(self, params: Params, rows: Tensor, n: int, kind: WMF, adam: Adam, targets: Ints,
                 steps: int) -> Params:
        """The model after `steps` steps of L (of L_train alone where steps is 0)."""
        import torch

        from bench.surrogates import train

        ordinary, cells = kind.slope(rows), rows.numel()

        def slope(now: Params) -> Params:
            with torch.enable_grad():
                at = tuple(p.detach().requires_grad_() for p in now)
                loss = self.harm * self.poison_loss(kind.scores(at, rows)[:n], rows[:n], targets)
                extra = torch.autograd.grad(loss, at)
            return tuple(a / cells + b for a, b in zip(ordinary(now), extra, strict=True))

        return train(slope if steps else ordinary, params, steps or self.epochs // 4, adam)

    def poison_loss(self, scores: Tensor, x: Tensor, targets: Ints) -> Tensor:
        """The mean over users u without t of max(min_{i∈L_u} log ŝ_ui − log ŝ_ut, −κ); NaN where
        a score is no number."""
        import torch

        if not bool(torch.isfinite(scores).all()):
            return scores.sum() * torch.nan

        logs = torch.nn.functional.logsigmoid(scores)                    # (n, m), log ŝ
        offered = logs.masked_fill(x > 0, -torch.inf)
        k = min(self.cutoff, x.shape[1])
        least = offered.topk(k, dim=1).values                            # (n, k)
        least = least.masked_fill(~torch.isfinite(least), torch.inf).amin(dim=1, keepdim=True)
        aim = torch.from_numpy(targets)
        gap = (least - logs[:, aim]).clamp_min(-self.margin)             # (n, |T|)
        free = (x[:, aim] == 0) & torch.isfinite(least)
        return gap[free].sum() / free.sum().clamp_min(1)

    def judged(self, x: Tensor, fake: Tensor, kind: WMF, start: Params, adam: Adam,
               targets: Ints) -> float:
        """The poison term of a model that has learned from these fake rows, by L_train alone."""
        import torch

        from bench.surrogates import train

        rows = torch.cat([x, fake])
        users = torch.cat([start[1][:-1], start[1][-1:].expand(len(fake), -1)])
        params = train(kind.slope(rows), (start[0], users), self.epochs, adam)
        with torch.no_grad():
            return float(self.poison_loss(kind.scores(params, rows)[:len(x)], x, targets))

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 8, "dim": 8, "epochs": 30}


def likeness(rows: Floats) -> float:
    """Mean Jaccard index of all pairs of rows (f, m) of 0 and 1."""
    shared = rows @ rows.T
    size = rows.sum(axis=1)
    index = shared / np.maximum(size[:, None] + size[None, :] - shared, 1e-12)
    return float(index[np.triu_indices(len(rows), 1)].mean())
