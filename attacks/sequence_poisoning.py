"""Fake histories in which every target follows what is least likely to lead to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Context, Dataset, Defense, ModelPlugin, Profile, ProfileAttack, param
from bench.data import Ints

if TYPE_CHECKING:
    from bench.models.base import TorchRecommender


class SequencePoisoning(ProfileAttack):
    """Poisons training sequences (push): targets follow the items least aligned with them.

    A history is grown item by item. Before a target t, the next item is drawn from the `pool`
    items v of smallest cos(e − sign ∂ℓ/∂e, e_v): e the vector of a random item at that place, ℓ
    the cross-entropy of t after it on a surrogate. What follows it is t, so that a model that
    fits these histories learns t where it expected it least. Yue, He, Zeng and McAuley,
    "Black-Box Attacks on Sequential Recommenders via Data-Free Model Extraction", RecSys 2021,
    whose histories take turns: target, item, target, … A fake user has an item only once here,
    so that a history is cut into as many stretches as there are targets, each with a target at
    its end; at a length of twice the targets they take turns.

    The surrogate is a model of RecBole trained on the rows the attacker sees, from a seed of the
    attacker's (in the paper one extracted from the victim); white: the attacked pipeline itself,
    with its own seed, as it is served where that has slopes: the mean over the attacker's own
    noise under randomised smoothing. Where what is served has none, the model inside is
    differentiated, and the attack is not called adaptive, unless `adaptive`.
    `co-visitation-profiles` is the same without a model, with popular items before targets.

    Budget: round(budget · genuine users) fakes, `length` items each, targets included.

    Args:
        budget, length: number and size of the profiles.
        targets, stratum: how many items are pushed, from which stratum of popularity.
        pool: from how many of the least aligned items one is drawn.
        surrogate, epochs: SASRec or GRU4Rec with RecBole's defaults, and its training.

    Shapes: one Profile of items (k,) in order of time and ratings (k,) per fake user.

    Example: attacks: [{sequence-poisoning: {budget: 0.01, length: 20}}]
    """

    name = "sequence-poisoning"
    goals: ClassVar[tuple[str, ...]] = ("push",)
    asks_victim: ClassVar[bool] = True
    pool: int = param(10, "least aligned items from which one is drawn", low=1)
    surrogate: str = param("SASRec", "the model that is trained on the rows seen, where the "
                           "victim is not", choices=("SASRec", "GRU4Rec"))
    epochs: int = param(10, "passes over the rows seen", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        needed = {"histories", "embeddings", "gradients"} if self.knowledge == "white" else \
            {"histories"}
        missing = needed - model.gives
        if missing:
            return (f"{model.name} exposes no {' and no '.join(sorted(missing))}; this attack is "
                    "made of the order of items")
        if not data.has_times:
            return f"{data.name} has no times, so that histories have no order"
        return super().unfit(model, data)

    def unseen(self, defense: Defense, data: Dataset) -> str | None:
        if self.knowledge == "white" and not self.adaptive:
            return defense.unseen()
        return super().unseen(defense, data)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.positions import Reader
        from bench.profiles import joined, ratings_of

        model, rated = self._model(data, ctx), ratings_of(data)
        notes = ctx.notes if self.knowledge == "white" else {}  # own models answer no queries
        streams = [ctx.stream(self.name, fake) for fake in range(len(lengths))]
        plans = [self._plan(int(length), rng.permutation(targets))
                 for length, rng in zip(lengths, streams, strict=True)]
        empty = [np.zeros(0, np.int64) for _ in plans]
        reader = Reader(model, targets[:1], empty, Context(ctx.seed, ctx.device, notes=notes))
        grown: list[list[int]] = [[] for _ in plans]
        with model.evaluating():
            for step in range(int(lengths.max())):
                rows = [f for f, plan in enumerate(plans) if step < len(plan)]
                free = [f for f in rows if not plans[f][step][1]]
                for fake in set(rows) - set(free):
                    grown[fake].append(plans[fake][step][0])
                if free:
                    self._grow(reader, grown, free, [plans[f][step][0] for f in free], targets,
                               streams)
        made = [np.array(items, np.int64) for items in grown]
        return [joined((items, rated.best(items)), ordered=True) for items in made]

    def _model(self, data: Dataset, ctx: Context) -> TorchRecommender:
        """What slopes are taken on."""
        from bench.defense import Defense
        from bench.inside import COPIES
        from bench.models.base import build
        from bench.registry import Registry
        from bench.served import attackable

        made: Any
        if self.knowledge == "white" and ctx.victim is not None:
            made = attackable(ctx.victim.trained(data, as_attacked=True), ctx, COPIES)
            ctx.count(0, trainings=1)
            return made  # type: ignore[no-any-return]
        plugin: Any = Registry().make("models", {"name": self.surrogate, "params": {
            "epochs": self.epochs, "patience": 0}})
        made = build(plugin, data, ctx.apart("surrogate"))
        made.fit(Defense(), lambda event: None)
        return made  # type: ignore[no-any-return]

    @staticmethod
    def _plan(length: int, targets: Ints) -> list[tuple[int, bool]]:
        """For each place the target of its stretch, and whether it stands there."""
        sizes = [len(s) for s in np.array_split(np.arange(length - len(targets)), len(targets))]
        return [place for size, target in zip(sizes, targets.tolist(), strict=True)
                for place in (*[(target, False)] * size, (target, True))]

    def _grow(self, reader: Any, grown: list[list[int]], fakes: list[int], aims: list[int],
              targets: Ints, streams: list[np.random.Generator]) -> None:
        """One item more for each of these fakes, least aligned with the target it leads to."""
        import torch

        from bench.positions import padded

        n_items = reader.model.data.n_items
        drawn = [int(streams[f].integers(n_items)) for f in fakes]
        items, lengths = padded([np.array([*grown[f], x]) for f, x in zip(fakes, drawn,
                                                                          strict=True)],
                                reader.width, reader.ctx.device)
        reader.wanted = torch.as_tensor(aims, device=items.device)[:, None]
        rows = torch.arange(len(fakes), device=items.device)
        slope = reader.slopes(rows, items, lengths)[rows, lengths - 1]  # (F, d)
        order = reader.alignment(items[rows, lengths - 1], slope).cpu().numpy()  # (F, n_items)
        for fake, worth in zip(fakes, order, strict=True):
            worth[targets] = np.inf
            worth[grown[fake]] = np.inf
            free = int(np.isfinite(worth).sum())
            least = np.argsort(worth, kind="stable")[:min(self.pool, free)]
            grown[fake].append(int(streams[fake].choice(least)))

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"epochs": 1}
