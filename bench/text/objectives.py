"""What an encoder learns by from unlabelled texts: masked or next tokens, and pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import InputError
from bench.sampling import hash_rows, in_order
from bench.text.language import Language

if TYPE_CHECKING:
    from bench.api import Dataset

MASKED = 0.15
IGNORED = -100  # what cross-entropy leaves out


def masked(language: Language, ids: Tensor, mask: Tensor, stream: torch.Generator
           ) -> tuple[Tensor, Tensor]:
    """Tokens to read and tokens to find, both (B, L).

    Each ordinary token is chosen with probability 15 %; of the chosen 80 % become the mask, 10 %
    a random ordinary token, 10 % stay. What is not chosen is IGNORED in what is to be found.
    """
    tokenizer = language.tokenizer
    if tokenizer.mask_token_id is None:
        raise InputError(f"{language.name} has no token for a mask", key="pretrain",
                         hint="take contrastive-dropout or contrastive-pairs")
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), device=ids.device)
    ordinary = torch.arange(len(tokenizer), device=ids.device)
    ordinary = ordinary[~torch.isin(ordinary, special)]

    def uniform() -> Tensor:
        return torch.rand(ids.shape, generator=stream).to(ids.device)

    chosen = (uniform() < MASKED) & (mask > 0) & ~torch.isin(ids, special)
    how = uniform()
    drawn = torch.randint(len(ordinary), ids.shape, generator=stream).to(ids.device)
    read = torch.where(chosen & (how < 0.8), int(tokenizer.mask_token_id), ids)
    read = torch.where(chosen & (how >= 0.8) & (how < 0.9), ordinary[drawn], read)
    return read, torch.where(chosen, ids, IGNORED)


def next_tokens(ids: Tensor, mask: Tensor) -> Tensor:
    """The token that follows each, (B, L); IGNORED where none does."""
    after = torch.full_like(ids, IGNORED)
    after[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], IGNORED)
    return after


def info_nce(first: Tensor, second: Tensor, temperature: float,
             barred: Tensor | None = None) -> Tensor:
    """Mean of −log exp(cos(a_i, b_i)/τ) / Σ_j exp(cos(a_i, b_j)/τ), a scalar.

    Args:
        first, second: (B, width). barred: (B, B), pairs (i, j) that are no negatives.
    """
    cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature  # (B, B)
    if barred is not None:
        own = torch.eye(len(first), dtype=torch.bool, device=first.device)
        cosines = cosines.masked_fill(barred & ~own, -torch.inf)
    return F.cross_entropy(cosines, torch.arange(len(first), device=first.device))


class Partners:
    """For each item of the train rows, another item that one of its users took too."""

    def __init__(self, data: Dataset, seed: int) -> None:
        users, items, starts = in_order(data.train.positives(), data.n_users)
        self.users, self.items, self.starts = (torch.from_numpy(x) for x in
                                               (users, items, starts))
        self.by_item = self.items.argsort(stable=True)
        count = torch.bincount(self.items, minlength=data.n_items)
        self.first, self.count, self.seed = count.cumsum(0) - count, count, seed

    def draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Items and their partners, in the order of this epoch: (P,), (P,). Items whose drawn
        user took nothing else are left out."""
        anchors = torch.nonzero(self.count).flatten()
        row = self.by_item[self.first[anchors] + hash_rows(self.seed, anchors, epoch, 1)
                           % self.count[anchors]]
        user = self.users[row]
        begin, size = self.starts[user], self.starts[user + 1] - self.starts[user]
        step = 1 + hash_rows(self.seed, anchors, epoch, 2) % (size - 1).clamp_min(1)
        partners = self.items[begin + (row - begin + step) % size]
        order = hash_rows(self.seed, anchors, epoch, 3).argsort(stable=True)
        order = order[(partners != anchors)[order]]
        return anchors[order], partners[order]
