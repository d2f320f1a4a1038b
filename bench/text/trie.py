"""The ids of a catalogue as a trie of tokens: what may come next, and how probable an id is among
those that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Trie:
    """Sequences of tokens that are allowed, each of which ends with a token of its own kind, so
    that none is the beginning of another.

    Raises:
        ValueError: one is empty, or the beginning of another.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self._root: dict[int, Any] = {}
        whole = {tuple(r) for r in rows}
        for row in sorted(whole):
            node = self._root
            for token in row:
                node = node.setdefault(token, {})
            if not row:
                raise ValueError("an id without tokens")
        if any(self.next(r) for r in whole):
            raise ValueError("an id is the beginning of another")

    def next(self, begin: Sequence[int]) -> list[int]:
        """Tokens that may follow this beginning, ascending; none where it is no beginning."""
        node = self._root
        for token in begin:
            if token not in node:
                return []
            node = node[token]
        return sorted(node)

    def all(self) -> list[tuple[int, ...]]:
        """Every sequence that the trie allows, by walking it."""
        found: list[tuple[int, ...]] = []
        open_: list[tuple[tuple[int, ...], dict[int, Any]]] = [((), self._root)]
        while open_:
            begin, node = open_.pop()
            if not node:
                found.append(begin)
            open_ += [((*begin, t), after) for t, after in node.items()]
        return sorted(found)

    def log_likelihood(self, logits: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """Σ_l log p(row_l | what the trie allows there): float32 (B,), differentiable. Over all
        rows of the trie the probabilities add up to 1.

        Args:
            logits: (B, L, vocabulary), at the place of each token. rows: of the trie.
        """
        width = max(map(len, rows))
        able = [[self.next(row[:n]) for n in range(len(row))] for row in rows]
        most = max(len(tokens) for row in able for tokens in row)
        allowed = torch.full((len(rows), width, most), -1)
        for b, row in enumerate(able):
            for n, tokens in enumerate(row):
                allowed[b, n, :len(tokens)] = torch.tensor(tokens)
        allowed = allowed.to(logits.device)  # (B, L, A)
        own = torch.zeros(len(rows), width, dtype=torch.long)
        for b, one in enumerate(rows):
            own[b, :len(one)] = torch.tensor(list(one))
        own = own.to(logits.device)
        logits = logits[:, :width].float()
        rivals = logits.gather(2, allowed.clamp_min(0)).masked_fill(allowed < 0, -torch.inf)
        inside = allowed[..., 0] >= 0  # (B, L)
        rivals = torch.where(inside[..., None], rivals, 0.0)
        each = logits.gather(2, own[..., None])[..., 0] - rivals.logsumexp(dim=-1)  # (B, L)
        return torch.where(inside, each, 0.0).sum(dim=1)
