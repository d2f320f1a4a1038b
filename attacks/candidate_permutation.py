"""The candidates of a prompt in another order: a control that no adversary takes part in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.api import Attack, Context, Dataset, ModelPlugin, Struck, ThreatModel, param
from bench.errors import CannotActError

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

    The cell's metrics are those of the first order drawn. The facts hold, over users with two
    candidates or more: `rank_variance`, the variance of a candidate's rank (1 is best, ties in
    the middle) over the orders, mean over candidates, then users; `chance`, what orders drawn at
    random give, (C² − 1) / 12 · (1 − 1/orders); `first_moves`, the share of users whose first
    candidate is not the same in all orders.

    A model that asks for each candidate alone is not reached by their order; one that sorts the
    retriever's order (sliding) takes that order for information; one that asks about all pairs
    both ways round has a variance of 0 by construction. Facts are those of the model inside a
    defense.

    Example: attacks: [{candidate-permutation: {orders: 5}}]
    """

    name = "candidate-permutation"
    orders: int = param(5, "how many orders are drawn", low=2)
    threat = ThreatModel("test-input", "none", "none", realisable=False)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "prompts" not in model.gives:
            return f"{model.name} asks with no prompt that lists candidates"
        reason: str | None = model.order_unread()  # type: ignore[attr-defined]
        return reason

    def budget_text(self) -> str:
        return f"none: a control, {self.orders} orders of the same candidates"

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.models.base import innermost

        inside: Any = innermost(model)
        if not hasattr(inside, "shuffled"):
            raise CannotActError(f"{type(inside).__name__} lists no candidates")
        data = prepared.genuine
        seeds = [ctx.number(self.name, n) for n in range(self.orders)]
        facts = moved(inside, seeds, range(data.n_genuine) if data.asked is None
                      else data.asked.tolist())
        model.forget()
        with inside.shuffled(seeds[0]):
            yield Struck(model, data, facts=facts)
        model.forget()


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
