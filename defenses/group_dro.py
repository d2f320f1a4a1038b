"""Groups that are served badly count more in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, TorchRecommender
    from bench.rowloss import Terms
    from bench.training import Loop

NEGATIVES = "labelled negatives"


class GroupDro(Defense):
    """Group distributionally robust optimisation (Sagawa et al., ICLR 2020, Algorithm 1).

    Minimises Σ_g q_g L_g, where L_g is the mean loss of group g's rows in the batch. Before each
    step q_g ← q_g · exp(eta · L_g), divided by their sum: the weight of a group that stays badly
    fitted grows until the worst group is the one that is trained. A batch counts the groups that
    it holds, their q scaled to sum to 1.

    Groups are of users (`groups: activity`, thirds by train rows, or an attribute) or, with
    `of: items`, of the items of positive rows (`popularity`: head 20 %, tail 50 %, mid; or an
    attribute). Users without the attribute are a group of their own (injected ones are where
    their attacker filled it in); so are rows labelled as negatives with `of: items`.
    `start: shares` begins with q at the groups' shares of the train rows: eta 0 is then the plain
    mean, and equals `none` bit for bit; `uniform` begins as the paper does. Regularisers stay as
    they are, and count: without them every group can be fitted perfectly and nothing is won
    (Sec. 3 of the paper).

    Read the worst group together with the mean: a gap closed by levelling down is no success.
    Adaptive attack: fake profiles that are hard to fit raise the weight of the group that they
    are counted in.

    Example: defenses: [{group-dro: {groups: activity, eta: 0.01}}]
    """

    name = "group-dro"
    groups: str = param("activity", "user attribute, or activity; with of: items an item "
                        "attribute, or popularity")
    of: str = param("users", "whose groups", choices=("users", "items"))
    eta: float = param(0.01, "step size of the groups' weights; 0: they stay as they start",
                       low=0)
    start: str = param("shares", "where the weights start", choices=("shares", "uniform"))

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.fairness import reason
        from bench.imbalance import labels
        from bench.rowloss import itemwise, termwise

        try:
            labels(data, self.of, self.groups)
        except InputError as error:
            return reason(error)
        return termwise(model) if self.of == "users" else itemwise(model)

    def idle(self) -> bool:
        """Whether the loss would be the plain mean."""
        return not self.eta and self.start == "shares"

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        """Keeps the plain loop, which asks a `_Weights` for the loss of each step."""
        if not self.idle():
            loop.defense = cast(Defense, _Weights(self, loop))
        return None

    @classmethod
    def neutral_params(cls) -> dict[str, object]:
        return {"eta": 0.0}

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"eta": 0.1, "groups": "gender"}


class _Weights:
    """The weights q of the groups in one training, (G,), kept as logarithms."""

    def __init__(self, hyper: GroupDro, loop: Loop) -> None:
        import torch

        from bench.fairness import rated
        from bench.imbalance import labels

        data, device = loop.model.data, loop.model.ctx.device
        self.hyper = hyper
        self.facts: dict[str, dict[str, float]] = {}
        self.names, of = labels(data, hyper.of, hyper.groups)
        self.label = torch.as_tensor(of, device=device)  # (n_users,) or (n_items,)
        rows = rated(loop.model, data)
        counts = torch.bincount(self.label[torch.as_tensor(
            rows.users if hyper.of == "users" else rows.items, device=device)],
            minlength=len(self.names)).double()
        if hyper.start == "uniform":
            counts = (counts > 0).double()
        self.log_q = counts.log().log_softmax(0)  # (G,)
        loop.notes["group_dro"] = self.facts

    def loss(self, model: TorchRecommender, batch: Batch, clean_loss: Tensor,
             epoch: int) -> Tensor:
        from bench.rowloss import row_terms

        terms = row_terms(model, batch)
        return terms.whole(self.weights(terms)) if len(terms.losses) else clean_loss

    def groups(self, terms: Terms) -> Tensor:
        """The group of each term, (T,)."""
        import torch

        if self.hyper.of == "users":
            return self.label[terms.users]
        assert terms.items is not None  # `unfit` turned the others away
        if terms.labels is None:
            return self.label[terms.items]
        if self.names[-1] != NEGATIVES:  # met first now: only the rows say whether there are any
            positive = self.log_q.isfinite().sum()  # groups that have rows
            share = 0.5 if self.hyper.start == "shares" else float(1 / (positive + 1))
            more = torch.log(self.log_q.new_tensor([share]))  # as many as positives, or as a group
            self.log_q = torch.cat([self.log_q + math.log1p(-share), more])
            self.names = [*self.names, NEGATIVES]
        return torch.where(terms.positive(), self.label[terms.items], len(self.names) - 1)

    def weights(self, terms: Terms) -> Tensor:
        """One update of q, then the weight q_g · T / n_g of each term, (T,)."""
        import torch

        of = self.groups(terms)
        total = len(self.names)
        losses = terms.losses.detach().double()
        count = torch.bincount(of, minlength=total)  # (G,)
        mean = losses.new_zeros(total).index_add(0, of, losses) / count.clamp_min(1)  # (G,)
        self.log_q = self.log_q + self.hyper.eta * mean
        self.log_q = self.log_q - torch.logsumexp(self.log_q, 0)
        there = torch.where(count > 0, self.log_q, -torch.inf)
        q = torch.softmax(there, 0)  # (G,)
        for g in count.nonzero()[:, 0].tolist():
            self.facts[self.names[g]] = {"loss": float(mean[g])}
        for name, fact in self.facts.items():  # the weight of those absent here falls too
            fact["weight"] = float(self.log_q[self.names.index(name)].exp())
        return (q / count.clamp_min(1))[of].to(terms.losses.dtype) * len(of)
