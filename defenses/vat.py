"""Vulnerability-aware adversarial training: whoever is fitted well is perturbed more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.adversarial import AdversarialDefense
from bench.api import Dataset, ModelPlugin, param

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch, Table, TorchRecommender
    from bench.rowloss import Terms


class Vat(AdversarialDefense):
    """VAT (Zhang et al., RecSys 2024): L(θ) + weight · L(θ + δ) with a radius for each user.

    Poisoning harms the users first whom the model fits best, so these get a larger radius:
    ε_u = eps · user_weight · σ(mean/L_u − 1), where L_u is the sum of the losses of u's rows in
    the batch, and mean the mean of L_u over the batch's users. With user_weight 2, ε_u = eps
    exactly where all users are fitted alike; it never exceeds 2 · eps.

    δ is made as in adversarial-training: ε · g/‖g‖₂ per embedding row, or `steps` of PGD, in the
    ball of the row's own radius. A user's row has ε_u. The authors' code perturbs the gathered
    vectors of each (user, positive, negative), a vector that occurs twice in a batch twice; here
    the table's rows are, and an item's radius is the mean ε_u over the batch's rows in which it
    stands (as positive or as negative), the mean over all rows for an item that stands in none.
    eps 0, weight 0 or start_epoch ≥ epochs equal `none` bit for bit.

    The paper takes eps .4 to .6 for MF and .2 to .4 for LightGCN, weight 1. Adaptive attack:
    profiles made against the defended model, and pgd at 2 · eps, the largest radius trained with.

    Example: defenses: [{vat: {eps: 0.5, start_epoch: 5}}]
    """

    name = "vat"
    user_weight: float = param(2.0, "λ_u: factor of the users' radii; 2 leaves eps where all "
                               "users are fitted alike", above=0)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench.rowloss import termwise

        return super().unfit(model, data) or termwise(model)

    def radii(self, model: TorchRecommender, batch: Batch, tables: Mapping[str, Table],
              names: tuple[object, ...]) -> dict[str, Any]:
        from bench.rowloss import row_terms

        with model.ctx.seeded("adversarial", *names):
            terms = row_terms(model, batch)
        users = model.data.n_users
        share = self.shares(terms, users)  # (n_users,)
        items = self._of_items(terms, batch, share, model.data.n_items)  # (n_items,)
        return {k: eps * (share if tables[k].role == "user" else items)[:, None]  # (rows, 1)
                for k, eps in super().radii(model, batch, tables, names).items()}

    def shares(self, terms: Terms, n_users: int) -> Tensor:
        """ε_u / eps of every user, (n_users,); 1 for users who are not in the batch."""
        import torch

        # doubles, so that the mean of equal losses is that loss to the last bit
        losses = terms.losses.detach().double()  # (T,)
        own = losses.new_zeros(n_users).index_add(0, terms.users, losses)  # (n_users,)
        there = torch.unique(terms.users)  # (U,)
        mean = own[there].mean()
        made = torch.ones_like(own)
        made[there] = self.user_weight * torch.sigmoid((mean - own[there]) / (own[there] + 1e-9))
        return made.to(terms.losses.dtype)

    @staticmethod
    def _of_items(terms: Terms, batch: Batch, share: Tensor, n_items: int) -> Tensor:
        """The mean share of the rows in which each item stands, (n_items,)."""
        import torch

        mine = share[terms.users]  # (T,)
        found = [] if terms.items is None else [(terms.items, mine)]
        if "negatives" in batch:
            found.append((batch["negatives"], share[batch["users"]]))
        total = mine.new_zeros(n_items)
        count = mine.new_zeros(n_items)
        for items, shares in found:
            total.index_add_(0, items, shares)
            count.index_add_(0, items, torch.ones_like(shares))
        return torch.where(count > 0, total / count.clamp_min(1), mine.mean())
