"""Beam search over the sequences that a trie allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.text.trie import Trie

Tokens = tuple[int, ...]


def search(logits: Callable[[list[Tokens]], Tensor], allowed: Trie, width: int,
           among: Trie | None = None) -> list[tuple[Tokens, float]]:
    """Probable sequences of `allowed`, the best first; of equals the one of lower tokens.

    The `width` best of what there is, whole sequences and beginnings alike, are kept at each
    token; every beginning is then continued by each token that `allowed` has for it. With `width`
    at the number of its sequences all of them are found; with less, what is found has its exact
    log-probability, but a better one may have been lost at an early token.

    Args:
        logits: of the next token after beginnings of one length: (n, vocabulary).
        width: beams, and most sequences found.
        among: the tokens that probabilities are normalised over at each place are those that
            it allows there, `allowed` being a part of it; None: the whole vocabulary.

    Returns:
        pairs of a sequence and Σ log p of its tokens.
    """
    live: list[tuple[Tokens, float]] = [((), 0.0)]
    whole: list[tuple[Tokens, float]] = []
    while live:
        found = logits([begin for begin, _ in live]).double().cpu()  # (n, vocabulary)
        grown = list(whole)
        for (begin, score), row in zip(live, found, strict=True):
            rivals = row if among is None else row[among.next(begin)]
            able = allowed.next(begin)
            logs = (row[able] - rivals.logsumexp(dim=0)).tolist()
            grown += [((*begin, t), score + v) for t, v in zip(able, logs, strict=True)]
        kept = sorted(grown, key=lambda pair: (-pair[1], pair[0]))[:width]
        whole = [pair for pair in kept if not allowed.next(pair[0])]
        live = [pair for pair in kept if allowed.next(pair[0])]
    return whole


def scored(found: Sequence[tuple[Tokens, float]], rows: Sequence[Sequence[int]]) -> Tensor:
    """Scores of these sequences, float32 (C,): of those found their log-probability; the
    others share the place behind them, one below the last of them."""
    known = dict(found)
    last = min(known.values()) - 1.0
    return torch.tensor([known.get(tuple(row), last) for row in rows])
