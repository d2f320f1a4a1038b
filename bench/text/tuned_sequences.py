"""The recommender behind `text-sasrec` and `unisrec` with `tune`: the encoder learns from the
sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.data import Dataset
from bench.models.base import Batch
from bench.text.encode import hidden_states, pool, rows_of
from bench.text.pretraining import encoder_state, take_encoder_state
from bench.text.sequential import WRITTEN, SequenceRecommender, numbered
from bench.text.tuning import apply_tuning

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.text.sequence_model import TextSequenceModel
    from bench.text.wrapping import Tuning
    from bench.training import FitResult, Progress

_INSIDE = "language."  # names in the module of all that is the encoder's
_TUNED = "tuned."  # key of the state, before names of what is learned in the encoder


class TunedSequenceRecommender(SequenceRecommender):
    """See `bench.text.sequence_model.TextSequenceModel`.

    The table of vectors that `SequenceRecommender` keeps is what the encoder gave when it was
    last asked for all; in a batch's loss the vectors of the items it encodes anew replace rows of
    it, with slopes, and what is added to the table (a perturbation) is added to them too.
    """

    def __init__(self, hyper: TextSequenceModel, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.tuning: Tuning | None = None  # until pre-training is over
        self._table = self.module.vectors
        self._stale = False  # whether the encoder has learned since the table was made
        self._pretrained: dict[str, Tensor] = {}
        if not hyper.pretrains:
            self.pretrained()

    # -- the encoder -----------------------------------------------------------------------------

    def pretrained(self) -> None:
        if self.tuning is not None:
            return
        self._pretrained = encoder_state(self.encoder, self.hyper)
        self.tuning = apply_tuning(self.encoder.language, self.hyper,
                                   self.ctx.number("tuning") % 2**31)
        self.module.language = self.encoder.language.module
        self.relearned()

    def relearned(self) -> None:
        """The table is old: call it whenever the encoder's parameters changed."""
        self._stale = True
        self.encoder.relearned()

    @torch.no_grad()
    def refresh(self) -> None:
        """As in the base class; outside of training also where the encoder has learned."""
        again = self._stale and not self.module.training
        if not again and self.texts is self._of:
            return
        with self.evaluating():
            if again and self._of is not None:
                self._of = [None] * len(self.texts)  # other features keep the scale they have
            super().refresh()
        self._stale = self._stale and not again

    def encoded(self, texts: Sequence[str]) -> Tensor:
        """Vectors of these texts with slopes, float32 (n, width)."""
        rows, size = rows_of(self.encoder.language, texts), self.hyper.encode_at_once
        if len(rows) <= size:
            return self._pass(rows)
        from torch.utils.checkpoint import checkpoint

        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))  # little is padding then
        found: list[Tensor] = [checkpoint(self._pass, [rows[n] for n in order[at:at + size]],
                                          use_reentrant=False)
                               for at in range(0, len(rows), size)]
        return torch.cat(found)[torch.tensor(order, device=self._table.device).argsort()]

    def _pass(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = self.encoder.language.batch(rows)
        return pool(hidden_states(self.encoder.language, ids, mask), mask, self.encoder.how)

    # -- learning --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        result = super().fit(defense, progress)
        self.relearned()  # the best epoch's weights may have come back
        self.refresh()
        assert self.tuning is not None
        result.notes = {**result.notes, **self.tuning.facts()}
        return result

    def rate_groups(self) -> list[dict[str, Any]]:
        """What is learned, with the step sizes of the encoder's part."""
        named = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
        return [{"params": [p for n, p in named if not n.startswith(_INSIDE)]},
                {"params": [p for n, p in named if n.startswith(_INSIDE)],
                 "lr": self.hyper.encoder_rate}]

    def after_step(self, step: int, total: int) -> None:
        assert self.tuning is not None
        self.tuning.after_step(step, total)
        self.relearned()

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        with self.evaluating():
            self.refresh()
        yield from super().batches(epoch, size, source)

    def step_penalty(self) -> Tensor | float:
        assert self.tuning is not None
        return self.tuning.penalty()

    def batch_items(self, batch: Batch) -> Tensor:
        m, n = self.module, self.data.n_items
        if self.hyper.encode == "all":
            which = torch.arange(n, device=self._table.device)
        else:
            wanted = batch["targets"] if "targets" in batch else batch["items"]
            held = torch.cat([batch["histories"].flatten(), wanted.flatten()])
            which = torch.unique(held[held >= 0])  # (T,), ascending
        fresh = self.encoded([self.texts[i] for i in which.tolist()]).to(self._table)  # (T, width)
        rows = torch.cat([fresh, self._table[which, self.width:]], dim=1)
        vectors = self._table.index_put((which,), rows)  # (n_items, width and other features)
        if m.vectors is not self._table:  # swapped for a perturbed one
            vectors = vectors + (m.vectors - self._table)
        return m.items(vectors)

    # -- what was learned ------------------------------------------------------------------------

    def trained(self) -> dict[str, Tensor]:
        """All parameters that are learned, by name."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        self.refresh()
        tuned = self.tuning.learned() if self.tuning is not None else {}
        first = self._pretrained if self.tuning is not None else \
            encoder_state(self.encoder, self.hyper)
        beside = {k: v for k, v in self.module.state_dict().items() if not k.startswith(_INSIDE)}
        found = {**beside, **{_TUNED + k: v for k, v in tuned.items()}}
        return {**{k: v.detach().cpu().contiguous().clone() for k, v in found.items()},
                **first, WRITTEN: numbered(self._of or ())}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.hyper.pretrains and self.tuning is not None:
            self.encoder, self.tuning = self._encoder(), None
        rest = take_encoder_state(self.encoder, self.hyper, state)
        self.pretrained()
        assert self.tuning is not None
        learned = self.tuning.learned()
        given = {k.removeprefix(_TUNED): rest.pop(k) for k in list(rest) if k.startswith(_TUNED)}
        if set(given) != set(learned):
            raise KeyError(f"learned parameters differ: {set(given) ^ set(learned)}")
        written = rest.pop(WRITTEN)
        with torch.no_grad():
            for name, value in given.items():
                learned[name].copy_(value)
        self.module.load_state_dict({**{k: v for k, v in self.module.state_dict().items()
                                        if k.startswith(_INSIDE)}, **rest})
        self.relearned()
        self._stale = False  # the table is that of these weights
        self.reads_as(written)
