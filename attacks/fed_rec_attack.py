"""Malicious clients who fit users to the few interactions that are public (FedRecAttack)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.api import Context, Dataset, ModelPlugin, param
from bench.federated import ClientAttack, no_dot_product

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data import Ints
    from bench.federated import Client, Sent


class FedRecAttack(ClientAttack):
    """FedRecAttack: model poisoning with partly known interactions (Rong et al., "FedRecAttack:
    model poisoning attack to federated recommendation", ICDE 2022).

    The attacker sees the share `known` (ξ) of the train interactions, of every user alike (a user
    of whom that is half a row shows one or none, by chance). Once a round it
    1. fits p̂_u to them on the item vectors Q it was sent: a pass of Adam over all users, in
       batches, on Σ −log σ(p̂_u·(q_i − q_j)) with j drawn from what u is not known to have;
    2. takes L = Σ_u Σ_t elu(s_u,j − s_u,t) over targets t not known to be u's, with j the last of
       the `top` items that u would be shown (known items and targets left out; the next target
       meets the item before the last), and its gradient by Q;
    3. lets its clients upload it one after another: each sends its κ = `items` rows (the targets,
       and others drawn once, with odds the norms of the gradient's rows) shortened to the server's
       clip, and what it has sent is taken off the gradient that the next one sees.
    To a row's norm, and to an upload before it is shortened, noise of variance `noise` is added.
    A bias per item counts in scores and is left as it is.

    Budget: malicious clients ρ, κ items each, rows within the clip. Published: ρ 5 %, κ 60, ξ 1 %,
    one target, on ml-100k with vectors of 32 numbers (`scripts/reproduce_fed_rec_attack.py`).
    The authors' code rounds each user's share up, so that its 1 % of ml-100k are 1.5 % of
    its rows, and one row at least of everybody: `round_up: true`.
    Needs scores that are dot products (bprmf, BPR, fcf).

    Example: attacks: [{fed-rec-attack: {budget: 0.05, known: 0.01}}]
    """

    name = "fed-rec-attack"
    known: float = param(0.01, "share of the train interactions that are public (ξ)", above=0,
                         high=1)
    round_up: bool = param(False, "each user's share rounded up, as in the authors' code: more "
                           "than `known` in all")
    fit_rate: float = param(0.01, "learning rate of Adam for the users' vectors", above=0)
    fit_batch: int = param(256, "users per step of that fit", low=1)
    top: int = param(10, "length of the lists whose last item a target has to beat", low=1)
    noise: float = param(1e-7, "variance of the noise on what is drawn and uploaded", low=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.targets > self.top:
            return f"{self.targets} targets have no {self.top} items to beat one each"
        return no_dot_product(model) or super().unfit(model, data)

    def upload(self, sent: Sent, own: Client, targets: Ints, ctx: Context) -> dict[str, Tensor]:
        import torch

        key = next(k for k in sent.items if sent.shared[k].dim() == 2)
        start = sent.items[key][0]
        if "centre" not in sent.together:
            sent.together["centre"] = _Centre(self, sent, targets, ctx, key)
        centre: _Centre = sent.together["centre"]
        rest = centre.gradient_of(sent)  # (n_items, d): what no client has sent yet
        if "rows" not in own.memory:
            own.memory["rng"] = ctx.stream(self.name, own.index)
            own.memory["rows"] = self._rows(rest, targets, own.memory["rng"])
        rows = torch.as_tensor(own.memory["rows"], device=rest.device)  # (κ,)
        drawn = own.memory["rng"].normal(0.0, self.noise ** 0.5, (len(rows), rest.shape[1]))
        noisy = rest[rows] + torch.as_tensor(drawn, dtype=rest.dtype, device=rest.device)
        made = torch.zeros_like(sent.shared[key])
        made[start + rows] = noisy
        made = sent.clipped({key: made})[key]
        rest[rows] -= made[start + rows]
        return {key: made}

    def _rows(self, gradient: Tensor, targets: Ints, rng: Any) -> Ints:
        """The targets, and κ less as many other items with odds the norms of their rows, (κ,)."""
        import numpy as np

        noisy = gradient.double().cpu().numpy() + rng.normal(0.0, self.noise ** 0.5, gradient.shape)
        odds = np.linalg.norm(noisy, axis=1)
        odds[targets] = 0
        count = min(self.items - len(targets), int((odds > 0).sum()))
        others = rng.choice(len(odds), count, replace=False, p=odds / odds.sum()) if count else []
        return np.concatenate([targets, np.asarray(others, np.int64)])

    @classmethod
    def test_params(cls) -> dict[str, object]:
        return {"budget": 0.2, "items": 8, "known": 0.2, "targets": 1}


class _Centre:
    """What all clients of the attacker have in common: the fitted users, and what of the round's
    gradient is still to be sent."""

    def __init__(self, hyper: FedRecAttack, sent: Sent, targets: Ints, ctx: Context,
                 key: str) -> None:
        import torch

        self.hyper, self.key, self.number = hyper, key, 0
        self.targets = torch.as_tensor(targets, device=ctx.device)  # (T,)
        self.users = torch.as_tensor(sent.known.users, device=ctx.device)  # (N,)
        self.items = torch.as_tensor(sent.known.items, device=ctx.device)  # (N,)
        start, stop = sent.items[key]
        names, self.users = torch.unique(self.users, return_inverse=True)
        self.has = torch.zeros(max(len(names), 1), stop - start, dtype=torch.bool,
                               device=ctx.device)
        self.has[self.users, self.items] = True
        self.stream = ctx.torch_stream(hyper.name, "centre")
        drawn = torch.randn(len(self.has), sent.scorer.width, generator=self.stream)
        self.vectors = (0.01 * drawn).to(ctx.device).requires_grad_()  # (U, d)
        self.adam = torch.optim.Adam([self.vectors], lr=hyper.fit_rate)

    def gradient_of(self, sent: Sent) -> Tensor:
        """What of this round's gradient is still to be sent, (n_items, d); it may be written to."""
        import torch

        if sent.number != self.number:
            start, stop = sent.items[self.key]
            q = sent.shared[self.key][start:stop]
            nobody = q.new_zeros(stop - start, sent.scorer.width)
            every = torch.arange(stop - start, device=q.device)
            with torch.no_grad():
                offset = sent.scorer(sent.shared, nobody, every)  # (n_items,): biases
            self.fit(q, offset)
            self.rest, self.number = self.climb(q, offset), sent.number
        return self.rest

    def fit(self, q: Tensor, offset: Tensor) -> None:
        """One pass over the users who are known, each with its interactions."""
        import torch

        order = torch.randperm(len(self.has), generator=self.stream).to(q.device)
        for first in range(0, len(order), self.hyper.fit_batch):
            chosen = order[first:first + self.hyper.fit_batch]
            rows = torch.isin(self.users, chosen)
            users, pos = self.users[rows], self.items[rows]  # (R,)
            neg = self._others(users, len(q))
            margin = (self.vectors[users] * (q[pos] - q[neg])).sum(dim=1)  # (R,)
            margin = margin + offset[pos] - offset[neg]
            loss = torch.nn.functional.softplus(-margin).sum()
            self.adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.adam.step()

    def _others(self, users: Tensor, n_items: int) -> Tensor:
        """An item for each row that its user is not known to have, (R,)."""
        import torch

        found = torch.zeros_like(users)
        todo = torch.arange(len(users), device=users.device)
        for _ in range(64):
            found[todo] = torch.randint(n_items, (len(todo),), generator=self.stream).to(
                users.device)
            todo = todo[self.has[users[todo], found[todo]]]
        return found

    def climb(self, q: Tensor, offset: Tensor) -> Tensor:
        """The gradient by the items' vectors of L, (n_items, d)."""
        import torch

        p = self.vectors.detach()
        shown = (p @ q.T + offset).masked_fill(self.has, -torch.inf)  # (U, n_items)
        shown[:, self.targets] = -torch.inf
        best = shown.topk(min(self.hyper.top, len(q)), dim=1).indices  # (U, top)
        lacks = ~self.has[:, self.targets]  # (U, T)
        place = (best.shape[1] - lacks.long().cumsum(dim=1)).clamp_min(0)  # (U, T)
        user, which = torch.nonzero(lacks, as_tuple=True)  # (P,) each
        rival, target = best[user, place[user, which]], self.targets[which]
        leaf = q.clone().requires_grad_()
        gap = (p[user] * (leaf[rival] - leaf[target])).sum(dim=1) + offset[rival] - offset[target]
        loss = torch.nn.functional.elu(gap).sum()
        return torch.autograd.grad(loss, leaf)[0]
