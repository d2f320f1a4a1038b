"""Fake users aimed at the genuine users who matter most for the targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Floats, Ints
from bench.optimised import Candidate, OptimisedProfiles

if TYPE_CHECKING:
    from bench.als import Matrix


class InfluenceProfiles(OptimisedProfiles):
    """S-TNA (push): one fake user after another, optimised against the most influential users.

        min over w of Σ_{u∈S} Σ_{i∈L_u} Σ_t g(s_ui − s_ut) + η ‖w‖₁,
        g(x) = 1/(1 + e^(−x/b)),   I(k) = −∇sᵀ H⁻¹ ∇ℓ_k

    Fang, Gong and Liu, "Influence Function based Data Poisoning Attacks to Top-N Recommender
    Systems", WWW 2020. S are the `share` of genuine users whose rows most raise the mean score s
    of the targets, by influence on an ALS model of choices (bench.als_influence); to first order
    influences add up, so that the greedy choice is that of the largest. L_u is u's list of
    `cutoff` items.
    For each fake user in turn: w begins as a copy of a genuine user with the targets, and takes
    `steps` steps against the gradient through ALS (bench.als_poison), each with a largest entry of
    `rate`; an item of the copy is one step ahead. In every step ALS is solved with the profile of
    the `length` largest w, since that is what can be injected, and the loss and its gradient are
    taken there; w itself is not cut to [0, 1] as in the paper, as only its order counts, and η
    pulls each entry towards 0 from its side. The profile with the
    lowest loss is kept, and the next fake user is optimised given this one. Ratings are then
    N(μᵢ, σᵢ), where the data has them (not below its threshold).

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: train rows and an ALS of its own; white: the attacked pipeline chooses between
    the profiles and those it began with; black: a share of users.

    Args:
        budget, length, targets, stratum: number and size of the profiles, and what they push.
        steps, rate: of every fake user's optimisation. sparsity: η.
        share, cutoff, width: |S| as a share of users, the length of L_u, and b.
        dim, reg, alpha, rounds: of the ALS surrogate. damping: what is added to H.

    Shapes: w is (items,); one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{influence-profiles: {budget: 0.01, share: 0.2}}]
    """

    name = "influence-profiles"
    takes = "last"
    steps: int = param(15, "steps for each fake user; 0: the profiles it begins with", low=0)
    rate: float = param(0.1, "largest change of w in a step", above=0)
    sparsity: float = param(0.01, "weight of the sum of w", low=0)
    share: float = param(0.4, "share of genuine users that are aimed at, most influential first",
                         above=0, high=1)
    cutoff: int = param(10, "length of the lists that targets are to enter", low=1)
    width: float = param(0.3, "score difference over which a pair counts as half lost", above=0)
    dim: int = param(16, "length of the surrogate's vectors", low=1)
    reg: float = param(10.0, "weight of the squared norms in the surrogate", above=0)
    alpha: float = param(1.0, "extra confidence in a pair that was taken", above=0)
    rounds: int = param(8, "rounds of ALS at first; two in each step after", low=1)
    damping: float = param(1.0, "multiple of the identity added to the Hessian", above=0)

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        import torch
        from scipy.sparse import csr_matrix, vstack

        from bench import als
        from bench.als_influence import wmw
        from bench.optimised import as_profiles, templates
        from bench.surrogates import clicks

        x = clicks(data)                                               # (n, m)
        taken = x.double().numpy()
        aim = np.zeros(data.n_items)
        aim[targets] = 1.0
        values = csr_matrix(taken)
        begin = als.start(data.n_items, self.dim, ctx.stream("surrogate"))
        users, items = als.fit(values, begin, self.reg, self.rounds, alpha=self.alpha)
        chosen = self.influential(taken, users, items, aim)            # (|S|,)

        def loss(rows: Floats) -> float:
            """On a surrogate trained with these fake rows."""
            u, v = als.fit(vstack([values, csr_matrix(rows)], format="csr"), begin, self.reg,
                           self.rounds, alpha=self.alpha)
            lost: float = wmw(u[chosen], v, taken[chosen], aim, self.cutoff, self.width)[0]
            return lost

        first = templates(x, targets, lengths, ctx).double().numpy()   # (f, m)
        yield Candidate(as_profiles(torch.from_numpy(first), data, targets, ctx), loss(first))
        if not self.steps:
            return
        made = np.zeros((0, data.n_items))
        for length, row in zip(lengths, first, strict=True):
            others = vstack([values, csr_matrix(made)], format="csr")
            row, items = self.learned(others, items, chosen, taken, aim, row[None], int(length))
            made = np.concatenate([made, row])
        yield Candidate(as_profiles(torch.from_numpy(made), data, targets, ctx), loss(made))

    def influential(self, taken: Floats, users: Floats, items: Floats, aim: Floats) -> Ints:
        """S: the users whose rows raise the targets' mean score most."""
        from bench.als_influence import Factorised

        found = Factorised(taken, 1 + self.alpha * taken, users, items, self.reg)
        influence = found.influence(aim / aim.sum(), self.damping)     # (n,)
        count = max(1, round(self.share * len(users)))
        return np.sort(np.argsort(-influence, kind="stable")[:count])

    def learned(self, others: Matrix, items: Floats, chosen: Ints, taken: Floats, aim: Floats,
                first: Floats, length: int) -> tuple[Floats, Floats]:
        """The next fake user's profile, (1, m), and the items' vectors with it."""
        from scipy.sparse import csr_matrix, vstack

        from bench import als
        from bench.als_influence import wmw
        from bench.als_poison import FakeRows, Feedback

        w, there = self.rate * first, np.ones_like(first)
        row, best, least, found = first, first, np.inf, items
        for step in range(self.steps + 1):
            users, now = als.fit(vstack([others, csr_matrix(row)], format="csr"), items, self.reg,
                                 2, alpha=self.alpha)
            loss, pull = wmw(users[chosen], now, taken[chosen], aim, self.cutoff, self.width)
            if loss < least:
                best, least, found = row, loss, now
            if step < self.steps:
                fake = FakeRows(others, users[:-1], now, self.reg, Feedback(self.alpha))
                slope = fake.slope(row, there, pull) + self.sparsity * np.sign(w)
                slope[0, aim > 0] = 0.0
                w = w - self.rate * slope / max(float(np.abs(slope).max()), 1e-300)
                row = largest(np.where(aim > 0, np.inf, w), length)
        return best, found

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 5, "dim": 4, "reg": 5.0}


def largest(row: Floats, count: int) -> Floats:
    """1 at the largest `count` entries of a (1, m) row, 0 elsewhere."""
    made = np.zeros_like(row)
    made[0, np.argsort(-row[0], kind="stable")[:count]] = 1.0
    return made
