"""Target items in prompts about them: their margins as a function of what is added to the
vectors of their texts' tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from bench.data import Ints
from bench.errors import CannotActError, InputError
from bench.text import likelihood
from bench.text.scorer import PointwiseRecommender
from bench.text.tuned_scorer import TallrecRecommender


@dataclass(frozen=True)
class Span:
    """Where the text of an item stands in what follows the prefix of a prompt.

    Attributes:
        suffix: token ids of the candidate's part of the prompt.
        places: those of its tokens that hold a letter of the item's text, counted from 0.
    """

    suffix: tuple[int, ...]
    places: tuple[int, ...]


def span(model: PointwiseRecommender, item: int) -> Span:
    """The span of an item's text as the model reads it now."""
    # it reads nothing that only tuned models have
    ids, marks = TallrecRecommender.marked(cast(TallrecRecommender, model), item)
    return Span(tuple(ids), tuple(n for n, mark in enumerate(marks) if mark))


def margins(model: PointwiseRecommender, prompts: Sequence[tuple[Sequence[int], Span, Tensor]]
            ) -> Tensor:
    """log P(yes) − log P(no) of whole prompts, float32 (B,); differentiable in the deltas.

    Args:
        prompts: prefix, span and delta (tokens of the text, width) of each.
    """
    language = model.language
    ids, _ = language.batch([[*prefix, *s.suffix] for prefix, s, _ in prompts])
    vectors: Tensor = language.embeddings()(ids).detach()  # (B, L, width)
    for row, (prefix, s, delta) in enumerate(prompts):
        at = torch.tensor([len(prefix) + n for n in s.places], dtype=torch.long,
                          device=ids.device)  # (tokens of the text,); a text may have none
        vectors = vectors.index_put((torch.full_like(at, row), at), delta.to(vectors.dtype),
                                    accumulate=True)
    rows = [[*prefix, *s.suffix] for prefix, s, _ in prompts]
    return likelihood.margins(likelihood.first_logits(language, rows, vectors), model.yes,
                              model.no)


def openings(model: PointwiseRecommender, item: int, users: Ints, room: int) -> list[list[int]]:
    """The prefixes of these users' prompts, with `room` tokens for what is asked about the item;
    without the users who have it already.

    Raises:
        CannotActError: so much does not fit; names the item.
    """
    most, found = model.plugin.history, []
    for user in users.tolist():
        history = model.history(user, "test")
        if item not in history:
            try:
                found.append(model.opening(user, history[-most:] if most else history[:0],
                                           "test", room))
            except InputError as error:
                raise CannotActError(
                    f"the text of {model.data.item_ids[item]} is too long for a prompt: "
                    f"{error.what}; take a model that reads more, or shorter texts") from error
    return found


class Target:
    """One item in the prompts of the users an attacker knows.

    Args:
        users: whose mean counts; those that have the item already are left out.
    """

    def __init__(self, model: PointwiseRecommender, item: int, users: Ints) -> None:
        self.model, self.span, self.queries = model, span(model, item), 0
        self.prefixes = openings(model, item, users, len(self.span.suffix))
        self.still = torch.zeros(len(self.span.places), language_width(model),
                                 device=model.language.device)

    def mean(self, delta: Tensor) -> tuple[float, Tensor]:
        """Mean margin over the users, and its slope by delta, both (tokens, width) float32."""
        total, slope = 0.0, torch.zeros_like(self.still)
        size = self.model.plugin.prompts_at_once
        for start in range(0, len(self.prefixes), size):
            part = self.prefixes[start:start + size]
            with torch.enable_grad():
                point = delta.detach().clone().requires_grad_()
                found = margins(self.model, [(p, self.span, point) for p in part]).sum()
            (g,) = torch.autograd.grad(found, point)
            total, slope = total + float(found.detach()), slope + g
            self.queries += len(part)
        count = max(len(self.prefixes), 1)
        return total / count, slope / count


def language_width(model: PointwiseRecommender) -> int:
    return int(model.language.embeddings().embedding_dim)


@torch.no_grad()
def mean_norm(model: PointwiseRecommender) -> float:
    """Mean L2 norm of the vectors of the distinct tokens that occur in the items' texts."""
    language = model.language
    known = sorted({t for text in model.texts for t in language.ids(text)})
    total = 0.0
    for start in range(0, len(known), 4096):
        ids = torch.tensor(known[start:start + 4096], device=language.device)
        total += float(language.embeddings()(ids).float().norm(dim=1).sum())
    return total / max(len(known), 1)


@contextlib.contextmanager
def moving(model: PointwiseRecommender, moves: Mapping[int, tuple[Span, Tensor]]
           ) -> Iterator[None]:
    """Inside, these items are rated with the deltas added, wherever the model is asked about
    them; the prompts of all others, and these items in histories, are as they were.

    Raises:
        CannotActError: when the model is asked and reads another text than the delta is of.
    """
    plain, before = model.rate, vars(model).get("rate")

    def rate(user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        found = plain(user, history, candidates, split).clone()
        asked = [n for n, item in enumerate(candidates.tolist()) if item in moves]
        if not asked:
            return found
        items = candidates.tolist()
        with model.asked(user, history, candidates, split) as prefix:
            read = {n: tuple(model.suffix(items[n])) for n in asked}
        for n in asked:
            if read[n] != moves[items[n]][0].suffix:
                raise CannotActError(
                    f"the text of {model.data.item_ids[items[n]]} is read as other tokens than "
                    "those that the attack moves: a defense rewrites it, or it is too long for "
                    "the prompt and is cut")
        size = model.plugin.prompts_at_once
        with torch.no_grad():
            for start in range(0, len(asked), size):
                part = asked[start:start + size]
                found[part] = margins(model, [(prefix, *moves[items[n]]) for n in part]).cpu()
        return found

    model.rate = rate  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del model.rate
        else:
            model.rate = before  # type: ignore[method-assign]
