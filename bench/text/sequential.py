"""The recommender behind `text-sasrec` and `unisrec`: sequences over frozen vectors of texts."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.errors import CannotActError
from bench.models.base import Batch, Table, TorchRecommender
from bench.sampling import Sequences
from bench.text.encode import Encoder
from bench.text.language import Language, load
from bench.text.pretraining import encoder_state, pretrain, take_encoder_state
from bench.text.reader import TextReader
from bench.text.sequence_module import SequenceModule

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.text.sequence_model import TextSequenceModel
    from bench.training import FitResult, Progress

WRITTEN = "written"  # key of the state: which text each stored vector stands for


class SequenceRecommender(TextReader, TorchRecommender):
    """See `bench.models.text_sasrec` and `bench.models.unisrec`.

    Vectors stand in a table of role "feature": each is that of the text as the model gets to read
    it now, as an item of a history and as a candidate alike.
    """

    module: SequenceModule
    score_kind = "other"

    def __init__(self, hyper: TextSequenceModel, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.hyper: TextSequenceModel = hyper
        self.encoder = self._encoder()
        self.width = self.encoder(self.texts[:1]).shape[1]
        self._of: Sequence[str | None] | None = None  # the texts that the vectors stand for
        self._items: Tensor | None = None
        self._put: tuple[Tensor, Tensor] | None = None  # see looking_up
        self._seen = False
        self.module = SequenceModule(hyper, self._empty()).to(ctx.device).eval()
        self.sequences = Sequences(data, ctx, hyper.max_length)
        self._sampler: Any = None

    def _encoder(self) -> Encoder:
        """The encoder as it is loaded."""
        h = self.hyper
        return Encoder(load(
            h.model, "encoder", device=self.ctx.device, dtype=h.dtype, revision=h.revision,
            corpus=self.data.item_text or (), seed=self.ctx.number("language") % 2**31), h.pool)

    def _empty(self) -> Tensor:
        """The table before any text is encoded: features stand in their columns already."""
        texts = torch.zeros(self.data.n_items, self.width)
        if not self.hyper.features:
            return texts
        from bench.item_features import feature_matrix

        return torch.cat([texts, torch.from_numpy(feature_matrix(self.data, self.hyper.features))],
                         dim=1)

    def reads_with(self) -> Language:
        return self.encoder.language

    # -- vectors of texts ------------------------------------------------------------------------

    @torch.no_grad()
    def refresh(self) -> None:
        """Let the vectors stand for the texts as they are now: changed texts are encoded.

        The first time, other features are brought to the median norm of the texts' vectors, so
        that neither drowns in the other.
        """
        now = self.texts
        if now is self._of:
            return
        first, was = self._of is None, self._of or [None] * len(now)
        changed = [n for n, (a, b) in enumerate(zip(now, was, strict=True)) if a != b]
        table = self.module.vectors
        if changed:
            table[changed, :self.width] = self.encoder([now[n] for n in changed]).to(table)
        if first and self.hyper.features:
            norms = [float(part.norm(dim=1).median()) for part in
                     (table[:, :self.width], table[:, self.width:])]
            if min(norms) > 0:
                table[:, self.width:] *= norms[0] / norms[1]
        self._of, self._items = now, None

    def forget(self) -> None:
        self._items = None
        if self._of is not None:
            self.refresh()

    @contextlib.contextmanager
    def reading_texts(self, texts: Sequence[str]) -> Iterator[None]:
        self.refresh()
        table, of = self.module.vectors.clone(), self._of
        try:
            with super().reading_texts(texts):
                yield
        finally:  # bit for bit, and with a perturbation that was there
            with torch.no_grad():
                self.module.vectors.copy_(table)
            self._of, self._items = of, None

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        with self.sequences.reading(histories), super().reading(histories):
            yield

    # -- learning --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        notes = pretrain(self.encoder, self.hyper, self.data, self.texts, self.ctx, progress)
        if notes:
            with torch.no_grad():
                self.module.vectors.copy_(self._empty())
            self._of = None
        self.pretrained()
        self.refresh()
        result = super().fit(defense, progress)
        result.notes = {**notes, **result.notes}
        return result

    def pretrained(self) -> None:
        """Called when pre-training, if any, is over, before anything else is learned."""

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        if self._sampler is None:
            from bench.models._recbole_batches import Sampler

            nothing: Any = None  # the sampler of sequences asks nothing of RecBole's dataset
            self._sampler = Sampler("sequences", self.hyper, self.data, self.ctx, nothing)
        yield from self._sampler.batches(epoch, size, source)

    def batch_loss(self, batch: Batch) -> Tensor:
        self.refresh()
        m = self.module
        items = self.batch_items(batch)  # (n_items, d)
        hidden = m.read(self._looked_up(items, batch["histories"]))  # (B, L, d)
        if "targets" in batch:  # every place at once
            places = batch["targets"] >= 0  # (B, L)
            loss: Tensor = m.criterion(m.logits(hidden[places], items), batch["targets"][places])
            return loss
        loss = m.criterion(m.logits(_last(hidden, batch["lengths"]), items), batch["items"])
        return loss

    def batch_items(self, batch: Batch) -> Tensor:
        """Item vectors as this batch's loss sees them, (n_items, d)."""
        return self.module.items()

    def _looked_up(self, items: Tensor, history: Tensor) -> Tensor:
        """Vectors of the places of histories (B, L), zero where −1 pads: (B, L, d)."""
        there = (history >= 0)[..., None]
        found = items[history.clamp_min(0)]
        if self._put is not None and self._put[0].shape == history.shape and \
                torch.equal(self._put[0], history):
            own = self.module.ids
            assert own is not None
            found, self._seen = found - own(history.clamp_min(0)) + self._put[1], True
        return found * there

    # -- what attacks touch ----------------------------------------------------------------------

    def tables(self) -> dict[str, Table]:
        self.refresh()
        m, n = self.module, self.data.n_items
        found = {"feature": Table("vectors", m.vectors, 0, n, "feature")}
        if m.ids is not None:
            found["item_embedding"] = Table("ids.weight", m.ids.weight, 0, n, "item")
        return found

    def history_table(self) -> Table:
        if self.module.ids is None:
            return super().history_table()
        return self.tables()["item_embedding"]

    @contextlib.contextmanager
    def looking_up(self, items: Tensor, vectors: Tensor) -> Iterator[None]:
        """See the base class; the vectors are those of IDs, those of texts stay."""
        if self.module.ids is None:
            raise CannotActError(f"{self.hyper.name} without IDs looks up no learned vectors")
        before, self._put, self._seen = self._put, (items, vectors), False
        try:
            yield
        finally:
            self._put = before
        if not self._seen:
            raise CannotActError("this history was not read")

    # -- scoring ---------------------------------------------------------------------------------

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        history, lengths = self.sequences.histories(users, split)  # (B, L), (B,)
        longest = max(int(lengths.max()), 1) if len(users) else 1
        return self.history_scores(users, history[:, :longest], lengths)

    def history_scores(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        self.refresh()
        m, every = self.module, self._every()
        hidden = m.read(self._looked_up(every, items))  # (B, L, d)
        return m.logits(_last(hidden, lengths), every).float()

    def _every(self) -> Tensor:
        """Item vectors; kept where neither slopes nor dropout are asked for."""
        if torch.is_grad_enabled() or self.module.training:
            return self.module.items()
        if self._items is None:
            self._items = self.module.items()
        return self._items

    # -- state -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        self.refresh()
        return {**super().state(), WRITTEN: numbered(self._of or ()),
                **encoder_state(self.encoder, self.hyper)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        rest = take_encoder_state(self.encoder, self.hyper, state)
        written = rest.pop(WRITTEN)
        self.module.load_state_dict(rest)
        self.reads_as(written)

    def reads_as(self, written: Tensor) -> None:
        """The vectors stand for the texts with these numbers (see `numbered`); those whose texts
        are others now are encoded."""
        self._of = [t if n == w else None for t, n, w in zip(
            self.texts, numbered(self.texts).tolist(), written.tolist(), strict=True)]
        self.forget()


def _last(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The hidden state of the newest item, (B, d); of nobody's history the one of place 0."""
    at = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, at)[:, 0]


def numbered(texts: Sequence[str | None]) -> Tensor:
    """Each text as a number of 63 bits, (n,)."""
    digests = (hashlib.sha256((t or "").encode("utf-8", "surrogatepass")).digest() for t in texts)
    return torch.tensor([int.from_bytes(d[:8], "little") >> 1 for d in digests])
