"""Fake users found by projected gradient ascent on what an ALS model then recommends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, Profile, param
from bench.data import Floats, Ints
from bench.optimised import Candidate, OptimisedProfiles

if TYPE_CHECKING:
    from bench.als_poison import Feedback


class PgaProfiles(OptimisedProfiles):
    """PGA (push, nuke): projected gradient ascent on the solution of alternating least squares.

        M̃ ← Π(M̃ + s ∇U),   U = ± (1/n) Σ_u Σ_{t∈T} R̂_ut + μ · mean (R̂_uj − R̂clean_uj)²

    where the last mean is over pairs that are not taken, + is push and − is nuke.

    Li, Wang, Singh and Vorobeychik, "Data Poisoning Attacks on Factorization-Based Collaborative
    Filtering", NIPS 2016 (integrity, availability and hybrid utility). ALS is solved again in
    every step; ∂v_j/∂M̃_ij = A_j⁻¹ ũ_i with the fake user held fixed, plus how M̃_ij moves ũ_i
    itself, without which fillers have no gradient (bench.als_poison). Each fake user's gradient is
    brought to a largest entry of 1; Π clips to the scale and keeps the `length` entries of largest
    size, targets among them. The step is in halves of the rating scale (choices: in whole choices).

    Feedback: ratings (as published), or choices with confidence 1 + alpha (Hu et al. 2008). Ratings
    are taken where the data has them; a victim that ranks by choices is another model then, and
    `feedback: implicit` the closer surrogate. Choices are 0 or 1, so that their M̃ is kept as it
    is and only its projection injected; a present item begins one step ahead. From choices, a
    fake user's ratings are as in rev-adv-profiles; from ratings, they are M̃ itself.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.
    Knowledge: gray: train rows and an ALS of its own; white: if the victim is `als`, with its
    parameters, and the attacked pipeline chooses among the profiles met; black: a share of users.

    Args:
        budget, length, targets, stratum, goal: number and size of the profiles; push or nuke.
        steps, rate: T and s. availability: μ; 0 is the integrity attack.
        feedback, dim, reg, alpha, rounds: of the ALS surrogate. reg is λ of this repository's
            `als`, not the published λ 0.05: with that, profiles are weaker on ml-100k (3 % fakes,
            ratings, three seeds: target-hr@50 0.10 against 0.16 with reg 10, of an `als` with
            reg 10), and no stronger against an `als` with λ 0.05 itself.

    Shapes: M̃ is (fakes, items); one Profile of items (k,) and ratings (k,) per fake user.

    Example: attacks: [{pga-profiles: {budget: 0.03, goal: push, feedback: implicit}}]
    """

    name = "pga-profiles"
    goals = ("push", "nuke")
    steps: int = param(10, "steps of ascent; 0: the profiles it begins with", low=0)
    rate: float = param(0.2, "length of a step in halves of the scale (choices: in choices)",
                        above=0)
    availability: float = param(0.0, "weight of the availability utility beside the targets'",
                                low=0)
    feedback: str = param("data", "what the surrogate learns from; data: ratings where there "
                          "are some", choices=("data", "implicit", "explicit"))
    dim: int = param(16, "length of the surrogate's vectors", low=1)
    reg: float = param(10.0, "weight of the squared norms in the surrogate", above=0)
    alpha: float = param(1.0, "extra confidence in a pair that was taken (choices)", above=0)
    rounds: int = param(8, "rounds of ALS in every step", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.feedback == "explicit" and data.train.ratings is None:
            return f"feedback: explicit needs ratings, and {data.name} has none"
        if self.goal == "nuke" and self.feedback == "implicit":
            return "a nuke needs low ratings, and feedback: implicit has none"
        return super().unfit(model, data)

    def candidates(self, data: Dataset, targets: Ints, lengths: Ints,
                   ctx: Context) -> Iterator[Candidate]:
        import torch
        from scipy.sparse import csr_matrix, vstack

        from bench import als
        from bench.als_poison import FakeRows, hybrid
        from bench.optimised import as_profiles, templates
        from bench.surrogates import clicks

        known = np.unique(data.train.users)
        explicit = self.feedback != "implicit" and data.train.ratings is not None
        dim, reg, alpha = self._settings(ctx, explicit)
        feedback = self._feedback(data, explicit, alpha)
        values = feedback.genuine(data)[known]                        # (n, m)
        held = csr_matrix((np.ones(values.nnz), values.indices, values.indptr), values.shape)
        taken = held.toarray() if self.availability else np.zeros(0)  # rated low is taken, too
        aim = np.zeros(data.n_items)
        aim[targets] = 1.0 if self.goal == "push" else -1.0
        begin = als.start(data.n_items, dim, ctx.stream("surrogate"))

        def solved(rows: als.Matrix) -> tuple[Floats, Floats]:
            return als.fit(rows, begin, reg, self.rounds, alpha=feedback.alpha)

        genuine, items = solved(values)
        clean = genuine @ items.T if self.availability else np.zeros(0)
        there = templates(clicks(data), targets, lengths, ctx).double().numpy()  # (f, m)
        low, high, first = self._start(data, there, feedback, ctx)
        wish = first                                                  # (f, m), M̃
        for step in range(self.steps + 1):
            rated, x = self._projected(wish, lengths, targets, low, high)
            fake = csr_matrix(x * rated)  # a rating at the very mean is left out: it says nothing
            users, items = solved(vstack([values, fake], format="csr"))
            users = users[:len(known)]
            rows = FakeRows(values, users, items, reg, feedback)
            now = rows.at(x, rated)
            utility, pull = hybrid(users, now.items, clean, taken, aim, self.availability)
            yield Candidate(self._profiles(x, rated, feedback, data, targets, ctx)
                            if feedback.alpha is None else
                            as_profiles(torch.from_numpy(rated), data, targets, ctx), -utility)
            if step < self.steps:
                slope = rows.slope(x, rated, pull, found=now)         # (f, m)
                longest = np.maximum(np.abs(slope).max(axis=1, keepdims=True), 1e-300)
                unit = 1.0 if feedback.alpha is not None else (high - low) / 2
                wish = (x if feedback.alpha is None else wish) + self.rate * unit * slope / longest

    def _settings(self, ctx: Context, explicit: bool) -> tuple[int, float, float]:
        """Width, regularisation and confidence: of the victim where it is known and an ALS."""
        model = ctx.victim.model if self.knowledge == "white" and ctx.victim else None
        if model is not None and model.name == "als" and (model.feedback == "explicit") == explicit:
            return model.dim, model.reg, model.alpha
        return self.dim, self.reg, self.alpha

    def _feedback(self, data: Dataset, explicit: bool, alpha: float) -> Feedback:
        from bench.als_poison import Feedback

        if not explicit:
            return Feedback(alpha)
        assert data.train.ratings is not None
        return Feedback(None, float(data.train.ratings.mean()))

    def _start(self, data: Dataset, there: Floats, feedback: Feedback,
               ctx: Context) -> tuple[float, float, Floats]:
        """The scale of M̃, and where it begins: ratings N(μᵢ, σᵢ), or one step ahead of 0."""
        from bench.profiles import RatingModel

        if feedback.alpha is not None:
            return 0.0, 1.0, there * self.rate
        model = RatingModel(data)
        first = np.zeros(there.shape)
        for user, row in enumerate(there):
            items = np.flatnonzero(row)
            first[user, items] = model.per_item(items, ctx, user) - feedback.centre
        # nothing that is there may be 0, which means that it is not
        first = np.where((first == 0) & (there > 0), 1e-6, first)
        return model.low - feedback.centre, model.high - feedback.centre, first

    def _projected(self, wish: Floats, lengths: Ints, targets: Ints, low: float,
                   high: float) -> tuple[Floats, Floats]:
        """Π: which items are there, (f, m) of 0 and 1, and the x of those."""
        import torch

        from bench.surrogates import top

        choices = low == 0.0 and high == 1.0
        x = wish if choices else np.clip(wish, low, high)
        size = x.copy() if choices else np.abs(x)
        size[:, targets] = np.inf
        rated = top(torch.from_numpy(size), lengths).numpy()
        x = rated.copy() if choices else x * rated
        if not choices:
            x[:, targets] = high if self.goal == "push" else low
        return rated, x

    def _profiles(self, x: Floats, rated: Floats, feedback: Feedback, data: Dataset,
                  targets: Ints, ctx: Context) -> list[Profile]:
        """What M̃ says, put on the scale's steps."""
        from bench.profiles import RatingModel

        model, made = RatingModel(data), []
        for ratings, there in zip(x, rated, strict=True):
            items = np.flatnonzero(there).astype(np.int64)
            made.append(Profile(items, model.to_scale(ratings[items] + feedback.centre)))
        return made

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"steps": 4, "dim": 4, "reg": 1.0, "rounds": 4}
