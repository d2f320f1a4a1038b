"""What a language model says to a prompt, with what all candidates share computed once.

A prefix (instruction and history) is run once per user and its keys and values are kept; the
candidates follow in batches of similar length, padded on the right with a mask and explicit
positions. Logits are read only where they are needed, and in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import InputError
from bench.text.language import Language


def answer_tokens(language: Language, texts: Sequence[str]) -> list[int]:
    """The first tokens of these texts, each once: what counts as this answer."""
    found = dict.fromkeys(language.ids(t)[0] for t in texts if language.ids(t))
    return list(found)


def check_answers(language: Language, yes: Sequence[str], no: Sequence[str]
                  ) -> tuple[list[int], list[int]]:
    """Tokens of yes and of no.

    Raises:
        InputError: an answer has no token, or both begin with the same one.
    """
    first, second = answer_tokens(language, yes), answer_tokens(language, no)
    shared = set(first) & set(second)
    first, second = ([t for t in part if t not in shared] for part in (first, second))
    if not first or not second:
        raise InputError(f"the tokenizer of {language.name!r} does not tell the answers "
                         f"{list(yes)} and {list(no)} apart", key="prompt",
                         hint="give texts for yes and no that begin with different tokens")
    return first, second


def margins(logits: Tensor, yes: Sequence[int], no: Sequence[int]) -> Tensor:
    """logsumexp over yes − logsumexp over no, in float32: (…,) of (…, vocabulary)."""
    logits = logits.float()
    both = (logits[..., list(tokens)].logsumexp(dim=-1) for tokens in (yes, no))
    return next(both) - next(both)


def chunks(suffixes: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Places of the suffixes, sorted by length, in batches."""
    order = sorted(range(len(suffixes)), key=lambda n: (len(suffixes[n]), n))
    for start in range(0, len(order), size):
        yield order[start:start + size]


class Prefix:
    """A prefix that was run once. `after` gives logits of what follows it."""

    def __init__(self, language: Language, prefix: Sequence[int]) -> None:
        if language.role != "causal":
            raise ValueError("a prefix is kept by causal models alone")
        self.language, self.length = language, len(prefix)
        ids = torch.tensor([list(prefix)], device=language.device)
        out = language.module(input_ids=ids, use_cache=True, logits_to_keep=1)
        self.last: Tensor = out.logits[0, -1]  # (vocabulary,)
        self._cache: Any = out.cache if hasattr(out, "cache") else out.past_key_values

    def after(self, suffixes: Sequence[Sequence[int]], keep: Sequence[int]) -> Tensor:
        """Logits after the places `keep` of each suffix: (B, len(keep), vocabulary).

        Args:
            suffixes: token ids, one row per candidate, none empty.
            keep: places counted from 0, ascending; of shorter rows those past the end mean
                nothing.
        """
        language = self.language
        ids, mask = language.batch(suffixes)
        rows, width = ids.shape
        cache = copy.deepcopy(self._cache)  # running the model writes into it
        cache.batch_repeat_interleave(rows)
        before = mask.new_ones(rows, self.length)
        places = torch.arange(width, device=ids.device).expand(rows, width) + self.length
        out = language.module(input_ids=ids, attention_mask=torch.cat([before, mask], 1),
                              position_ids=places, cache=cache, use_cache=True,
                              logits_to_keep=torch.as_tensor(list(keep), device=ids.device))
        logits: Tensor = out.logits
        return logits


@torch.no_grad()
def yes_no(language: Language, prefix: Sequence[int], suffixes: Sequence[Sequence[int]],
           yes: Sequence[int], no: Sequence[int], batch: int) -> Tensor:
    """The margin of yes over no after each suffix, float32 (C,) on the CPU.

    BERT-type models get prefix, suffix and a mask token to be filled; T5-type models read the
    whole prompt and answer with their first token.
    """
    found = torch.empty(len(suffixes))
    shared = Prefix(language, prefix) if language.role == "causal" and prefix else None
    for places in chunks(suffixes, batch):
        rows = [list(suffixes[n]) for n in places]
        if shared is not None:
            last = torch.tensor([len(r) - 1 for r in rows])
            keep, where = torch.unique(last, return_inverse=True)
            logits = shared.after(rows, keep.tolist())
            logits = logits[torch.arange(len(rows)), where.to(logits.device)]  # (B, vocabulary)
        else:
            logits = first_logits(language, [[*prefix, *r] for r in rows])
        found[places] = margins(logits, yes, no).cpu()
    return found


def first_logits(language: Language, rows: Sequence[Sequence[int]],
                 embeds: Tensor | None = None) -> Tensor:
    """Logits of the answer's first token to whole prompts, (B, vocabulary); differentiable.

    Args:
        rows: token ids. embeds: (B, L, width) in place of the tokens' vectors.
    """
    module = language.module
    tail = language.end
    if language.role == "masked":
        tail = [language.tokenizer.mask_token_id, *tail]
    ids, mask = language.batch([[*r, *tail] for r in rows])
    last = mask.sum(dim=1) - 1
    if language.role == "masked":
        last = last - len(language.end)
    if embeds is not None and tail:  # the tokens at the end have their own vectors
        wide = torch.nn.functional.pad(embeds, (0, 0, 0, len(tail)))
        inside = torch.arange(ids.shape[1], device=ids.device) < torch.tensor(
            [len(r) for r in rows], device=ids.device)[:, None]
        embeds = torch.where(inside[..., None], wide, language.embeddings()(ids))
    given: dict[str, Tensor] = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    if language.role == "seq2seq":
        start = torch.full((len(ids), 1), int(module.config.decoder_start_token_id),  # type: ignore[union-attr, arg-type]
                           device=ids.device)
        logits: Tensor = module(**given, attention_mask=mask, decoder_input_ids=start).logits
        return logits[:, 0]
    if language.role == "causal":
        keep, where = torch.unique(last, return_inverse=True)
        logits = module(**given, attention_mask=mask, logits_to_keep=keep).logits
        return logits[torch.arange(len(ids), device=ids.device), where]
    logits = module(**given, attention_mask=mask).logits
    return logits[torch.arange(len(ids), device=ids.device), last]


@torch.no_grad()
def log_likelihood(language: Language, prefix: Sequence[int], suffixes: Sequence[Sequence[int]],
                   batch: int) -> Tensor:
    """(1/L) Σ log p(w_l | prefix, w_<l) of each suffix, float32 (C,) on the CPU.

    Raises:
        InputError: the model does not write (BERT), or the prefix is empty.
    """
    if language.role not in ("causal", "seq2seq"):
        raise InputError(f"{language.name!r} fills gaps and writes no text, so that a title has "
                         "no likelihood", key="model", hint="take a GPT- or T5-type model")
    if not prefix:
        raise InputError("a likelihood needs something before it", key="prompt",
                         hint="give the prompt a prefix")
    found = torch.empty(len(suffixes))
    if language.role == "causal":
        shared = Prefix(language, prefix)
    else:
        ids, mask = language.batch([[*prefix, *language.end]])
        encoded = language.module.get_encoder()(input_ids=ids, attention_mask=mask)  # type: ignore[operator]
    for places in chunks(suffixes, batch):
        rows = [list(suffixes[n]) for n in places]
        ids, mask = language.batch(rows)
        if language.role == "causal":
            more = shared.after(rows, range(ids.shape[1] - 1)) if ids.shape[1] > 1 else None
            first = shared.last.expand(len(rows), 1, -1)
            logits = first if more is None else torch.cat([first, more], 1)
        else:
            start = torch.full((len(rows), 1), int(language.module.config.decoder_start_token_id),  # type: ignore[union-attr, arg-type]
                               device=ids.device)
            read = encoded.last_hidden_state.expand(len(rows), -1, -1)
            logits = language.module(
                encoder_outputs=type(encoded)(read), attention_mask=mask.new_ones(read.shape[:2]),
                decoder_input_ids=torch.cat([start, ids[:, :-1]], 1)).logits
        logits = logits.float()
        each = logits.gather(2, ids[..., None])[..., 0] - logits.logsumexp(dim=-1)  # (B, L)
        found[places] = ((each * mask).sum(dim=1) / mask.sum(dim=1)).cpu()
    return found
