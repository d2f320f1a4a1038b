"""The recommender behind `dual-encoder`: one language model reads histories and items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset
from bench.models.base import Batch, Table, TorchRecommender
from bench.text.encode import Encoder, hidden_states, pool, rows_of
from bench.text.examples import Examples
from bench.text.fitting import marked
from bench.text.language import Language, load
from bench.text.reader import TextReader
from bench.text.trainable import TokenBatch
from bench.text.tuning import apply_tuning

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.dual_encoder import DualEncoder
    from bench.training import FitResult, Progress


@dataclass(frozen=True)
class PairBatch(TokenBatch):
    """B histories, and their items after them: `ids`, `mask` and `text` have 2B rows, `labels` B:
    the place of each history's item among the items. `text` marks the items' own texts. With
    sampled negatives there are B · (1 + negatives) items, each history's own first.

    Attributes:
        items: (B,), indices of the histories' own items.
    """

    items: Tensor


def in_batch_logits(cosines: Tensor, items: Tensor, log_q: Tensor, temperature: float) -> Tensor:
    """cos(u_b, v_j)/τ − log q_j, and −∞ where j is another row with the item of row b: (B, B).

    Args:
        cosines: (B, B), row b is history b, column j the item of row j.
        items: (B,), the item of each row. log_q: (B,), log of the share of rows with that item;
            zeros: no correction.
    """
    logits = cosines / temperature - log_q[None, :]
    own = torch.eye(len(items), dtype=torch.bool, device=items.device)
    return logits.masked_fill((items[:, None] == items[None, :]) & ~own, -torch.inf)


class DualRecommender(TextReader, TorchRecommender):
    """See `bench.models.dual_encoder.DualEncoder`. A `bench.text.trainable.TokenTrained`."""

    score_kind = "other"

    def __init__(self, hyper: DualEncoder, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.plugin = hyper
        self.hyper = hyper
        self.language = load(hyper.model, "encoder", device=ctx.device, dtype=hyper.dtype,
                             revision=hyper.revision,
                             corpus=[*(data.item_text or ()), hyper.user_prefix,
                                     hyper.item_prefix],
                             seed=ctx.number("language") % 2**31)
        self.tuning = apply_tuning(self.language, hyper, ctx.number("tuning") % 2**31)
        self.module = self.language.module
        self.encoder = Encoder(self.language, hyper.pool)
        liked = data.replace(train=data.train.positives())
        self.examples = Examples(liked, ctx, hyper.history, 0)
        self._log_q: Tensor | None = None
        self._users_cut: set[int] = set()

    # -- texts -----------------------------------------------------------------------------------

    def reads_with(self) -> Language:
        return self.language

    def texts_cut(self) -> int:
        room, ids = self.language.room, self.language.ids
        return sum(len(ids(t)) > room for t in self.item_texts(range(self.data.n_items)))

    def take_facts(self) -> dict[str, int]:
        """As the base class; and `histories_cut`, users whose oldest items were cut off."""
        cut, self._users_cut = self._users_cut, set()
        return super().take_facts() | ({"histories_cut": len(cut)} if cut else {})

    def item_texts(self, items: Sequence[int]) -> list[str]:
        return [self.plugin.item_prefix + self.texts[i] for i in items]

    def user_text(self, history: Sequence[int]) -> str:
        """The latest items, newest first: where a text is too long, the oldest are cut off."""
        latest = list(history)[-self.plugin.history:]
        return self.plugin.user_prefix + "; ".join(self.texts[i] for i in reversed(latest))

    # -- training --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench import training

        if self.tuning.how == "none":
            return training.FitResult()
        result = training.fit(self, defense, progress)
        self.encoder.relearned()
        result.notes.update(self.tuning.facts(), examples=len(self.examples))
        return result

    def after_step(self, step: int, total: int) -> None:
        self.tuning.after_step(step, total)
        self.encoder.relearned()

    @property
    def log_q(self) -> Tensor:
        """log of each item's share of the examples, (n_items,): how likely it is to stand in a
        batch. Items without examples never do, and have 0."""
        if self._log_q is None:
            items = self.examples.of("train")["items"]
            count = torch.bincount(items, minlength=self.data.n_items).float()
            share = count / max(len(items), 1)
            self._log_q = torch.where(count > 0, share.clamp_min(1e-30).log(), 0.0)
        return self._log_q

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        for batch in self.examples.batches(epoch, size, source):
            if self.plugin.negatives:
                drawn = self.examples.rows.negatives(batch["users"], batch["items"], epoch,
                                                     self.plugin.negatives)  # (B, negatives)
                yield {**batch, "negatives": drawn}
            elif len(batch["users"]) > 1:  # one row alone has nothing to be told apart from
                yield batch

    def batch_loss(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch)
        return self.token_loss(self.outputs(tokens), tokens) + self.penalty()

    def tokens(self, batch: Batch) -> PairBatch:
        shown = batch["items"]
        if self.plugin.negatives:
            shown = torch.cat([shown[:, None], batch["negatives"]], dim=1).flatten()
        items = shown.tolist()
        texts = [self.user_text(h[:n]) for h, n in zip(
            batch["histories"].tolist(), batch["lengths"].tolist(), strict=True)]
        rows = rows_of(self.language, [*texts, *self.item_texts(items)])
        ids, mask = self.language.batch(rows)
        marks = torch.zeros_like(mask, dtype=torch.bool)
        ahead = len(self.language.begin)
        for n, item in enumerate(items, len(texts)):
            own = marked(self.language, self.plugin.item_prefix, self.texts[item])
            own = own[:self.language.room]
            marks[n, ahead:ahead + len(own)] = torch.tensor(own, dtype=torch.bool)
        right = torch.arange(len(texts), device=ids.device) * (not self.plugin.negatives)
        return PairBatch(ids, mask, marks, right, batch["items"])

    def vectors(self, tokens: TokenBatch) -> Tensor:
        found: Tensor = self.language.embeddings()(tokens.ids)
        return found if found.requires_grad else found.requires_grad_()

    def outputs(self, tokens: TokenBatch, vectors: Tensor | None = None) -> Tensor:
        """Logits (B, B): row b says which of the batch's items comes after history b; with
        sampled negatives (B, 1 + negatives), of its own item and of those."""
        assert isinstance(tokens, PairBatch)
        hidden = hidden_states(self.language, tokens.ids, tokens.mask, vectors)
        read = F.normalize(pool(hidden, tokens.mask, self.plugin.pool), dim=1)  # (2B, width)
        users, items = read[:len(tokens.labels)], read[len(tokens.labels):]
        if self.plugin.negatives:
            items = items.reshape(len(users), -1, items.shape[1])  # (B, 1 + negatives, width)
            cosines: Tensor = (items @ users[:, :, None])[:, :, 0]
            return cosines / self.plugin.temperature
        log_q = self.log_q[tokens.items] * float(self.plugin.log_q)
        return in_batch_logits(users @ items.T, tokens.items, log_q, self.plugin.temperature)

    def token_loss(self, outputs: Tensor, tokens: TokenBatch) -> Tensor:
        return F.cross_entropy(outputs, tokens.labels)

    def penalty(self) -> Tensor | float:
        return self.tuning.penalty()

    def tables(self) -> dict[str, Table]:
        return {}

    # -- what is learned -------------------------------------------------------------------------

    def trained(self) -> dict[str, Tensor]:
        """The language model's parameters that are learned, by name."""
        return dict(self.tuning.learned())

    def state(self) -> dict[str, Tensor]:
        return {n: p.detach().cpu().contiguous().clone() for n, p in self.trained().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        trained = self.trained()
        if set(state) != set(trained):
            raise KeyError(f"learned parameters differ: {set(state) ^ set(trained)}")
        with torch.no_grad():
            for name, value in state.items():
                trained[name].copy_(value)
        self.encoder.relearned()

    # -- scoring ---------------------------------------------------------------------------------

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        with self.evaluating():
            items = self.encoder(self.item_texts(range(self.data.n_items)))  # (n_items, width)
            texts = [self.user_text(np.asarray(self.history(u, split)).tolist())
                     for u in users.tolist()]
            self._users_cut |= {u for u, t in zip(users.tolist(), texts, strict=True)
                                if len(self.language.ids(t)) > self.language.room}
            read = self.encoder(texts)  # (B, width)
        return F.normalize(read, dim=1) @ F.normalize(items, dim=1).T / self.plugin.temperature
