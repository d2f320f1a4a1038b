"""The candidates of a prompt in another order: a control that no adversary takes part in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Attack, Context, Dataset, ModelPlugin, Struck, ThreatModel, param
from bench.attack import STRATA, pick_targets, too_many
from bench.data import Ints
from bench.errors import CannotActError
from bench.text_attack import MEASURED, crowd, crowded, lonely

if TYPE_CHECKING:
    import torch

    from bench.models.base import Recommender
    from bench.stages import Prepared


class CandidatePermutation(Attack):
    """Hands a model that compares candidates within a prompt the same candidates in `orders`
    random orders, and measures how far their ranks move. No adversary takes part: the order in
    which a retriever lists candidates says nothing about a user, and an answer that depends on
    it is noise (Zhao et al., "Calibrate Before Use", ICML 2021; for recommenders, Hou et al.,
    "Large Language Models are Zero-Shot Rankers", ECIR 2024).

    The cell's metrics, the exposure and rank of targets among them, are those of the first order
    drawn: lists as one answer of the model makes them, as an attack's are. The facts hold, over
    users with two candidates or more: `rank_variance`, the variance of a candidate's rank (1 is
    best, ties in the middle) over the orders, mean over candidates, then users; `chance`, what
    orders drawn at random give, (C² − 1) / 12 · (1 − 1/orders); `first_moves`, the share of users
    whose first candidate is not the same in all orders.

    Its targets are those of attacks on texts with the same `targets`, `stratum` and `sample`, and
    so are the users that it is measured on and what they are offered; `clean_targets` is what
    the same targets have in the order that the model is handed otherwise, and `over_orders` by
    metric the `mean` over the orders and the standard deviation `sd` between them (of a sample:
    over orders − 1). An attack on texts that moves its targets no further than an order does has
    shown nothing. Without targets everybody is measured, as without attack.

    A model that asks for each candidate alone is not reached by their order; one that sorts the
    retriever's order (sliding) takes that order for information; one that asks about all pairs
    both ways round has a variance of 0 by construction. Facts are those of the model inside a
    defense.

    Example: attacks: [{candidate-permutation: {orders: 5}}]
    """

    name = "candidate-permutation"
    orders: int = param(5, "how many orders are drawn", low=2)
    targets: int = param(5, "how many target items; 0: none, and all users are measured", low=0)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    sample: float = param(0.4, "share of users whose lists an attack on texts sees, and who are "
                          "not measured here either; without targets of no effect", above=0,
                          high=0.9)
    threat = ThreatModel("test-input", "none", "none", realisable=False)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "prompts" not in model.gives:
            return f"{model.name} asks with no prompt that lists candidates"
        reason: str | None = model.order_unread()  # type: ignore[attr-defined]
        if reason or not self.targets:
            return reason
        reason = (crowded(self.targets, model) or too_many(self.targets, self.stratum, data)
                  or lonely(data))
        return reason and f"{reason} (targets: 0 measures orders alone)"

    def budget_text(self) -> str:
        return f"none: a control, {self.orders} orders of the same candidates"

    def aims(self, data: Dataset, ctx: Context) -> Ints | None:
        return pick_targets(data, self.targets, self.stratum, ctx) if self.targets else None

    def measured(self, data: Dataset, ctx: Context) -> Dataset:
        """The data with the users whom no attack on texts of the same `sample` sees."""
        return data.replace(asked=crowd(data, self.sample, ctx)[1]) if self.targets else data

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.models.base import innermost
        from bench.queries import uncounted

        inside: Any = innermost(model)
        if not hasattr(inside, "shuffled"):
            raise CannotActError(f"{type(inside).__name__} lists no candidates")
        data, targets = prepared.genuine, self.aims(prepared.genuine, ctx)
        measured = self.measured(data, ctx)
        seeds = [ctx.number(self.name, n) for n in range(self.orders)]
        with uncounted(model):  # the harness measures, nobody attacks
            facts = moved(inside, seeds, range(data.n_genuine) if data.asked is None
                          else data.asked.tolist())
            if targets is not None:
                facts |= exposed(model, measured, targets, seeds)
        try:
            model.forget()
            with inside.shuffled(seeds[0]):
                yield Struck(model, measured, targets, facts, offer=targets)
        finally:
            model.forget()


def exposed(model: Recommender, measured: Dataset, targets: Ints, seeds: list[int]
            ) -> dict[str, Any]:
    """Exposure and rank of the targets, offered to everybody, without an order drawn and over
    those drawn; see the class."""
    from bench.evaluate import evaluate
    from bench.models.base import innermost
    from bench.text_shown import offering

    inside: Any = innermost(model)

    def values() -> dict[str, float]:
        model.forget()  # a wrapper may have kept scores of another order
        found = evaluate(model, measured, MEASURED, targets=targets)
        return {m: v for m, g, v in found.values if g == "all"}

    with offering(model, targets):
        clean, each = values(), []
        for seed in seeds:
            with inside.shuffled(seed):
                each.append(values())
    return {"clean_targets": clean, "over_orders": {
        m: {"mean": float(np.mean([v[m] for v in each])),
            "sd": float(np.std([v[m] for v in each], ddof=1))} for m in clean}}


def moved(model: Any, seeds: list[int], users: Any) -> dict[str, Any]:
    """How ranks of candidates differ between orders; see the class."""
    import torch

    variances, chance, moves = [], [], 0
    for user in users:
        ranks: list[torch.Tensor] = []
        with torch.no_grad(), model.evaluating():
            asked = torch.tensor([user], device=model.ctx.device)
            chosen = model.chosen(model.retriever.scores(asked, "test").float().cpu()[0].numpy(),
                                  user, "test")
            if len(chosen) < 2:
                continue
            for seed in seeds:
                with model.shuffled(seed):
                    found = model.scores(asked)[0, torch.from_numpy(chosen)].cpu().double()
                ranks.append(1 + (found[None] > found[:, None]).sum(dim=1).double()
                             + ((found[None] == found[:, None]).sum(dim=1) - 1) / 2)
        table = torch.stack(ranks)  # (orders, candidates)
        variances.append(float(table.var(dim=0, correction=0).mean()))
        chance.append((len(chosen) ** 2 - 1) / 12 * (1 - 1 / len(seeds)))
        best = table.argmin(dim=1)
        moves += bool((best != best[0]).any())
    n = len(variances)
    return {"users": n, "orders": len(seeds),
            "rank_variance": sum(variances) / n if n else None,
            "chance": sum(chance) / n if n else None, "first_moves": moves / n if n else None}
