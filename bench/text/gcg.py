"""Greedy coordinate gradient: a suffix of tokens that raises the margin of one item."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Ints
from bench.text import likelihood
from bench.text.language import Language
from bench.text.scorer import PointwiseRecommender
from bench.text.token_target import Span, Target, openings

_WRITTEN = re.compile(r" ?[!-~]+")


def writable(language: Language) -> Tensor:
    """Ids of the tokens that stand for visible ASCII text, (n,): letters, digits, punctuation,
    and at most one space, before them. Further spaces would be read and hardly seen."""
    special = set(language.tokenizer.all_special_ids)
    size = min(len(language.tokenizer), language.embeddings().num_embeddings)
    texts = language.tokenizer.batch_decode([[n] for n in range(size)],
                                           clean_up_tokenization_spaces=False)
    found = [n for n, t in enumerate(texts) if n not in special and _WRITTEN.fullmatch(t)]
    return torch.tensor(found, dtype=torch.long, device=language.device)


class Suffix:
    """The search for one item's suffix, in the prompts of a few users.

    A state is a text; its tokens are those that the model's tokenizer makes of the whole prompt,
    so that whatever is found survives being written down and read again.

    Args:
        text: of the item, before the attack. users: in whose prompts the margin is taken.
        tokens: of the suffix. able: ids that may be written. allowed: whether a text is in the
            bounds.

    Attributes:
        best: the best mean margin after each round, that of the start first.
        read: prompts whose margin was read or differentiated.
    """

    def __init__(self, model: PointwiseRecommender, item: int, text: str, users: Ints,
                 tokens: int, able: Tensor, allowed: Callable[[str], bool]) -> None:
        self.model, self.item, self.text, self.able, self.allowed = model, item, text, able, allowed
        self.lead = self._read(text)
        self.now = text + " !" * tokens
        self.target = Target(model, item, users)
        room = len(self._prompt(self.now)[0]) + 2 * tokens
        self.target.prefixes = openings(model, item, users, room)
        self.read = 0
        self.margin = float(self.exact([self.now])[0])
        self.best = [self.margin]

    def _read(self, text: str) -> str:
        """The text as a defense lets the model read it."""
        return self.model.passed([text])[0]

    def _prompt(self, text: str) -> tuple[list[int], str, int]:
        """Token ids of the candidate's part, that part, and where the suffix begins in it."""
        lead, inside, follow = self.model.after(self._read(text))
        whole = lead + inside + follow
        return self.model.language.ids(whole), whole, len(lead) + len(self.lead)

    def span(self, text: str) -> Span | None:
        """Where the suffix stands; None where it does not follow the item's own text."""
        ids, whole, begin = self._prompt(text)
        read = self._read(text)
        if not read.startswith(self.lead) or len(read) == len(self.lead):
            return None
        stop = begin + len(read) - len(self.lead)
        spans = self.model.language.tokenizer(whole, add_special_tokens=False,
                                              return_offsets_mapping=True)["offset_mapping"]
        return Span(tuple(ids), tuple(n for n, (a, b) in enumerate(spans)
                                      if begin <= a < b <= stop))

    @torch.no_grad()
    def exact(self, texts: Sequence[str]) -> Tensor:
        """Mean margin over the users with each text, (C,)."""
        model, rows = self.model, [self._prompt(t)[0] for t in texts]
        total = torch.zeros(len(rows))
        for prefix in self.target.prefixes:
            total += likelihood.yes_no(model.language, prefix, rows, model.yes, model.no,
                                       model.plugin.prompts_at_once)
        self.read += len(rows) * len(self.target.prefixes)
        return total / max(len(self.target.prefixes), 1)

    def slopes(self, span: Span) -> Tensor:
        """Slope of the mean margin by the one-hot tokens of the suffix, (places, able)."""
        target = self.target
        target.span = span
        table = self.model.language.embeddings().weight.detach()
        still = torch.zeros(len(span.places), table.shape[1], device=table.device)
        target.still = still
        _, slope = target.mean(still)  # (places, width)
        self.read += len(target.prefixes)
        return slope @ table[self.able].float().T

    def options(self, span: Span, slopes: Tensor, count: int, top: int,
                random: np.random.Generator) -> list[str]:
        """Texts with one token of the suffix replaced by one of the `top` whose slope is
        highest, drawn uniformly: those that read as the tokens they were made of, in bounds."""
        language: Any = self.model.language
        highest = self.able[slopes.topk(min(top, len(self.able)), dim=1).indices].cpu()
        found: dict[str, None] = {}
        for _ in range(count):
            n = int(random.integers(len(span.places)))
            ids = list(span.suffix)
            ids[span.places[n]] = int(highest[n, int(random.integers(highest.shape[1]))])
            written = language.tokenizer.decode([ids[at] for at in span.places],
                                                clean_up_tokenization_spaces=False)
            for text in (self.text + written, f"{self.text} {written}"):  # some drop a first space
                if text not in found and self._prompt(text)[0] == ids and self.allowed(text):
                    found[text] = None
        return list(found)

    def round(self, count: int, top: int, random: np.random.Generator) -> bool:
        """One round: the best of the options, if it is better. False where none can be made."""
        span = self.span(self.now)
        if span is None or not span.places or not self.target.prefixes:
            return False
        options = self.options(span, self.slopes(span), count, top, random)
        if options:
            margins = self.exact(options)
            at = int(margins.argmax())
            if float(margins[at]) > self.margin:
                self.now, self.margin = options[at], float(margins[at])
        self.best.append(self.margin)
        return True
