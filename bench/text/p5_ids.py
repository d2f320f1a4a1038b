"""Items as the tokens of their ids: how probable an id is, and which ids are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset
from bench.text.beams import scored, search
from bench.text.likelihood import chunks
from bench.text.scorer import PromptRecommender
from bench.text.trie import Trie

if TYPE_CHECKING:
    from bench.api import Context
    from bench.models.p5 import P5


class IdWriter(PromptRecommender):
    """Base of `bench.text.p5.P5Recommender`: answers that are the ids of items.

    Attributes:
        ids: tokens of each item's id, with an end. trie: of them all.
    """

    plugin: P5

    def __init__(self, hyper: P5, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        end = self.language.end or [int(self.language.tokenizer.eos_token_id)]
        self.ids = [[*self.language.ids(f"item_{i + 1}"), *end] for i in range(data.n_items)]
        self.trie = Trie(self.ids)

    def id_losses(self, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
        """−log p of each target, over the whole vocabulary: (B,)."""
        ids, mask = self.language.batch([[*s, *self.language.end] for s in sources])
        right, counts = self.language.batch(targets)
        logits = self.language.module(input_ids=ids, attention_mask=mask,
                                      decoder_input_ids=self._shifted(right)).logits.float()
        each = F.cross_entropy(logits.transpose(1, 2), right, reduction="none")  # (B, L)
        return (each * counts).sum(dim=1)

    def _shifted(self, ids: Tensor) -> Tensor:
        config: Any = self.language.module.config
        start = torch.full((len(ids), 1), int(config.decoder_start_token_id), device=ids.device)
        return torch.cat([start, ids[:, :-1]], 1)

    def id_scores(self, source: Sequence[int], items: Sequence[int]) -> Tensor:
        """log p of the items' ids after the prompt, float32 (C,): of all, or of those that a
        beam search among them finds, the others sharing the place behind."""
        rows = [self.ids[i] for i in items]
        if self.plugin.decode == "exact":
            return self.kept(source, rows, self.id_likelihoods)
        key = ("beams", hash(tuple(source)), len(source), tuple(items))
        if key not in self._kept:
            self._kept[key] = scored(self.beams(source, items), rows)
        found: Tensor = self._kept[key]
        return found

    @torch.no_grad()
    def beams(self, source: Sequence[int], items: Sequence[int]) -> list[tuple[tuple[int, ...],
                                                                               float]]:
        """Ids of these items as a beam search finds them, with log p: see `bench.text.beams`."""
        read = self._encoded(source)

        def logits(begins: list[tuple[int, ...]]) -> Tensor:
            found = []
            for start in range(0, len(begins), self.plugin.prompts_at_once):
                part = begins[start:start + self.plugin.prompts_at_once]
                own = torch.tensor([[*b, 0] for b in part], device=self.language.device)
                found.append(self._decoded(read, own)[:, -1].float())
            return torch.cat(found)

        return search(logits, Trie([self.ids[i] for i in items]), self.plugin.beams,
                      self.trie if self.plugin.constrained else None)

    @torch.no_grad()
    def id_likelihoods(self, source: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
        """log p of each id after the prompt, which the encoder reads once: float32 (C,)."""
        read, found = self._encoded(source), torch.empty(len(rows))
        for places in chunks(rows, self.plugin.prompts_at_once):
            part = [list(rows[n]) for n in places]
            right, counts = self.language.batch(part)
            logits = self._decoded(read, right)
            if self.plugin.constrained:
                found[places] = self.trie.log_likelihood(logits, part).cpu()
            else:
                each = F.cross_entropy(logits.float().transpose(1, 2), right, reduction="none")
                found[places] = -(each * counts).sum(dim=1).cpu()
        return found

    def _encoded(self, source: Sequence[int]) -> Any:
        """What the encoder makes of the prompt."""
        module: Any = self.language.module
        ids, mask = self.language.batch([[*source, *self.language.end]])
        return module.get_encoder()(input_ids=ids, attention_mask=mask)

    def _decoded(self, read: Any, answers: Tensor) -> Tensor:
        """Logits at each place of the answers (B, L): (B, L, vocabulary)."""
        module: Any = self.language.module
        states = read.last_hidden_state.expand(len(answers), -1, -1)
        logits: Tensor = module(encoder_outputs=type(read)(states),
                                attention_mask=answers.new_ones(states.shape[:2]),
                                decoder_input_ids=self._shifted(answers)).logits
        return logits
