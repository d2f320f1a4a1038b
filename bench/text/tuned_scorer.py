"""The recommender behind `tallrec`: yes or no, fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset
from bench.models.base import Batch
from bench.text import likelihood
from bench.text.examples import Examples
from bench.text.fitting import marked
from bench.text.scorer import PointwiseRecommender
from bench.text.trainable import TokenBatch
from bench.text.tuning import apply_tuning

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.tallrec import Tallrec
    from bench.training import FitResult, Progress


class TallrecRecommender(PointwiseRecommender):
    """See `bench.models.tallrec.Tallrec`. A `bench.text.trainable.TokenTrained`."""

    def __init__(self, hyper: Tallrec, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.tuning = apply_tuning(self.language, hyper, ctx.number("tuning") % 2**31)
        self.module = self.language.module
        self.examples = Examples(data, ctx, hyper.history, hyper.negatives, hyper.shots)

    # -- training --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench import training

        notes = {**self.asking(), **self._fit_retriever()}
        if self.tuning.how == "none":
            return training.FitResult(notes=notes)
        result = training.fit(self, defense, progress)
        self.relearned()
        result.notes.update(self.tuning.facts(), examples=len(self.examples), **notes)
        return result

    def after_step(self, step: int, total: int) -> None:
        self.tuning.after_step(step, total)
        self.relearned()

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        return self.examples.batches(epoch, size, source)

    def batch_loss(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch)
        return self.token_loss(self.outputs(tokens), tokens) + self.penalty()

    def tokens(self, batch: Batch) -> TokenBatch:
        columns = [batch["histories"], batch["lengths"], batch["items"]]
        lists = bool(self.prompt.disliked) and "disliked" in batch
        columns += [batch["disliked"], batch["disliked_lengths"]] if lists else []
        rows, marks = [], []
        for history, length, item, *more in zip(*(c.tolist() for c in columns), strict=True):
            disliked = more[0][:more[1]] if more else []
            prefix, suffix, mark = self._example(history[:length], item, disliked)
            rows.append([*prefix, *suffix])
            marks.append([False] * len(prefix) + mark)
        ids, mask = self.language.batch(rows)
        text = torch.zeros_like(mask, dtype=torch.bool)
        for n, row in enumerate(marks):
            text[n, :len(row)] = torch.tensor(row)
        return TokenBatch(ids, mask, text, batch["labels"].float())

    def _example(self, history: list[int], item: int, disliked: list[int]
                 ) -> tuple[list[int], list[int], list[bool]]:
        """The prefix of one example, and what `marked` gives where it fits behind it."""
        with self.fitting([item], [*history, *disliked], lambda: len(self.suffix(item)),
                          lambda room: self.prefix(history, room=room, disliked=disliked)
                          ) as prefix:
            return prefix, *self.marked(item)

    def marked(self, item: int) -> tuple[list[int], list[bool]]:
        """Token ids of what follows the prefix for this candidate, and which of them hold a
        letter of the item's text."""
        return self.suffix(item), marked(self.language, *self.after(self.text_of(item)))

    def vectors(self, tokens: TokenBatch) -> Tensor:
        found: Tensor = self.language.embeddings()(tokens.ids)
        return found if found.requires_grad else found.requires_grad_()

    def outputs(self, tokens: TokenBatch, vectors: Tensor | None = None) -> Tensor:
        """Logits of no and of yes, float32 (B, 2): logsumexp over the tokens of each."""
        lengths = tokens.mask.sum(dim=1).tolist()
        rows = [row[:n] for row, n in zip(tokens.ids.tolist(), lengths, strict=True)]
        logits = likelihood.first_logits(self.language, rows, vectors).float()
        return torch.stack([logits[:, part].logsumexp(dim=1) for part in (self.no, self.yes)], 1)

    def token_loss(self, outputs: Tensor, tokens: TokenBatch) -> Tensor:
        return F.cross_entropy(outputs, tokens.labels.long())

    def penalty(self) -> Tensor | float:
        return self.tuning.penalty()
