"""What scorers share that ask several questions per user: the prefix stays computed between
questions, answers are read from logits or written greedily, and what happened is counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.data import Dataset
from bench.errors import InputError
from bench.text.counting import Counting
from bench.text.language import Language
from bench.text.likelihood import Prefix, answer_tokens, chunks, first_logits
from bench.text.scorer import PromptRecommender

if TYPE_CHECKING:
    from bench.api import Context
    from bench.text.prompted import PromptedModel


def label_tokens(language: Language, labels: Sequence[str]) -> list[list[int]]:
    """The tokens that begin an answer with each label, with and without a space before it.

    Raises:
        InputError: the tokenizer begins two labels with the same tokens.
    """
    found = [answer_tokens(language, [f" {label}", label]) for label in labels]
    flat = [t for tokens in found for t in tokens]
    alone = [[t for t in tokens if flat.count(t) == 1] for tokens in found]
    for label, tokens in zip(labels, alone, strict=True):
        if not tokens:
            raise InputError(f"the tokenizer of {language.name!r} does not tell the label "
                             f"{label!r} from the other {len(labels) - 1}", key="candidates",
                             hint="fewer candidates, or read: generate")
    return alone


class Asker:
    """Asks a language model; the keys and values of the prefix asked last are kept."""

    def __init__(self, language: Language, batch: int) -> None:
        self.language, self.batch = language, batch
        self._last: tuple[tuple[int, ...], Prefix] | None = None

    def forget(self) -> None:
        """Drop the prefix: call it whenever parameters change."""
        self._last = None

    def _prefix(self, prefix: Sequence[int]) -> Prefix:
        key = tuple(prefix)
        if self._last is None or self._last[0] != key:
            self._last = (key, Prefix(self.language, prefix))
        return self._last[1]

    @torch.no_grad()
    def read(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]],
             pick: Callable[[Tensor], Tensor]) -> Tensor:
        """What `pick` takes of the logits at the first answer place, on the CPU: (n, …).

        Args:
            pick: (B, vocabulary) -> (B, …).
        """
        found: dict[int, Tensor] = {}
        for places in chunks(suffixes, self.batch):
            rows = [list(suffixes[n]) for n in places]
            if self.language.role == "causal" and prefix:
                logits = _last_of(rows, self._prefix(prefix).after)  # (B, vocabulary)
            else:
                logits = first_logits(self.language, [[*prefix, *r] for r in rows])
            found.update(zip(places, pick(logits.float()).cpu(), strict=True))
        return torch.stack([found[n] for n in range(len(suffixes))])

    @torch.no_grad()
    def write(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]],
              most: int) -> list[str]:
        """Greedy answers of at most so many tokens, each up to the end-of-text token."""
        found: dict[int, list[int]] = {}
        causal = self.language.role == "causal"
        greedy = self._greedy if causal else self._greedy_seq2seq
        for places in alike(suffixes, self.batch) if causal else chunks(suffixes, self.batch):
            found.update(zip(places, greedy(prefix, [list(suffixes[n]) for n in places], most),
                             strict=True))
        return [str(self.language.tokenizer.decode(found[n], skip_special_tokens=True))
                for n in range(len(suffixes))]

    def _stops(self) -> set[int]:
        config = getattr(self.language.module, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        return {int(t) for t in (*ends, self.language.tokenizer.eos_token_id) if t is not None}

    def _greedy(self, prefix: Sequence[int], rows: list[list[int]], most: int
                ) -> list[list[int]]:
        """Of rows of one length: what a cache holds of padding behind a shorter row would count
        for a window that looks back so many places, while the answer goes on."""
        language, shared = self.language, self._prefix(prefix)
        ids, _ = language.batch(rows)
        size, width = ids.shape
        cache = copy.deepcopy(shared._cache)
        cache.batch_repeat_interleave(size)
        seen = ids.new_ones(size, shared.length + width)
        at = torch.arange(width, device=ids.device).expand(size, width) + shared.length
        written = _Written(size, self._stops())
        while True:
            out = language.module(input_ids=ids, attention_mask=seen, position_ids=at, cache=cache,
                                  use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(dim=-1)  # (B,)
            if not written.add(token) or len(written.rows[0]) >= most:
                return written.cut()
            ids, at = token[:, None], at[:, -1:] + 1
            seen = torch.cat([seen, seen.new_ones(size, 1)], 1)

    def _greedy_seq2seq(self, prefix: Sequence[int], rows: list[list[int]], most: int
                        ) -> list[list[int]]:
        language, module = self.language, self.language.module
        ids, mask = language.batch([[*prefix, *r, *language.end] for r in rows])
        encoded = module.get_encoder()(input_ids=ids, attention_mask=mask)  # type: ignore[operator]
        so_far = torch.full((len(rows), 1), int(module.config.decoder_start_token_id),  # type: ignore[union-attr, arg-type]
                            device=ids.device)
        written = _Written(len(rows), self._stops())
        while len(written.rows[0]) < most:
            logits = module(encoder_outputs=encoded, attention_mask=mask,
                            decoder_input_ids=so_far).logits
            token = logits[:, -1].argmax(dim=-1)
            so_far = torch.cat([so_far, token[:, None]], 1)
            if not written.add(token):
                break
        return written.cut()


def alike(suffixes: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Places of the suffixes in batches of one length, so that none is padded.

    >>> list(alike([[1], [2, 3], [4], [5], [6, 7]], 2))
    [[0, 2], [3], [1, 4]]
    """
    by_length: dict[int, list[int]] = {}
    for n, suffix in enumerate(suffixes):
        by_length.setdefault(len(suffix), []).append(n)
    for _, places in sorted(by_length.items()):
        yield from (places[start:start + size] for start in range(0, len(places), size))


def _last_of(rows: list[list[int]], after: Callable[[list[list[int]], list[int]], Tensor]
             ) -> Tensor:
    """Logits after the last place of each row, (B, vocabulary)."""
    last = torch.tensor([len(r) - 1 for r in rows])
    keep, where = torch.unique(last, return_inverse=True)
    logits = after(rows, keep.tolist())
    return logits[torch.arange(len(rows), device=logits.device), where.to(logits.device)]


class _Written:
    """Answers while they are written."""

    def __init__(self, size: int, stops: set[int]) -> None:
        self.rows: list[list[int]] = [[] for _ in range(size)]
        self.stops, self.ended = stops, [False] * size

    def add(self, tokens: Tensor) -> bool:
        """Append one token to each; whether any answer goes on."""
        for n, token in enumerate(tokens.tolist()):
            self.rows[n].append(token)
            self.ended[n] = self.ended[n] or token in self.stops
        return not all(self.ended)

    def cut(self) -> list[list[int]]:
        """The answers up to their ends."""
        ends = ([k for k, t in enumerate(row) if t in self.stops] for row in self.rows)
        return [row[:found[0]] if found else row
                for row, found in zip(self.rows, ends, strict=True)]


class AskingRecommender(Counting, PromptRecommender):
    """A prompt scorer that asks through an `Asker` and counts what happened."""

    def __init__(self, hyper: PromptedModel, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.asker = Asker(self.language, hyper.prompts_at_once)

    def relearned(self) -> None:
        super().relearned()
        self.asker.forget()

    def take_facts(self) -> dict[str, int]:
        """What was counted since it was last asked; counting starts over."""
        return {**super().take_facts(), **self.take_counts()}
