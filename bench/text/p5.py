"""The recommender behind `p5`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset, Ints
from bench.models.base import Batch
from bench.sampling import hash_rows
from bench.text.asking import label_tokens
from bench.text.examples import Examples
from bench.text.likelihood import check_answers, chunks, first_logits
from bench.text.p5_ids import IdWriter
from bench.text.templates import fill
from bench.text.tuning import apply_tuning

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.p5 import P5
    from bench.training import FitResult, Progress

WRITES = ("sequential", "direct-list")
"""Families whose answer is the id of an item."""


class P5Recommender(IdWriter):
    """See `bench.models.p5.P5`."""

    plugin: P5

    def __init__(self, hyper: P5, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.tuning = apply_tuning(self.language, hyper, ctx.number("tuning") % 2**31)
        self.module = self.language.module
        self.examples = Examples(data, ctx, hyper.history, hyper.negatives, hyper.shots)
        if hyper.family != "direct":
            self.examples.negatives = 0
        self.values: list[float] = []  # of the answers, in the order of `answers`
        self.answers: list[list[int]] = []  # tokens of each answer
        if hyper.family == "direct":
            yes, no = check_answers(self.language, self.prompt.yes, self.prompt.no)
            self.answers = [no, yes]
        elif hyper.family == "rating":
            self._ratings()

    def _ratings(self) -> None:
        rows = self.data.train
        assert rows.ratings is not None
        self.values = sorted(set(rows.ratings.tolist()))
        self.answers = label_tokens(self.language, [str(n + 1) for n in range(len(self.values))])
        pairs = zip(rows.users.tolist(), rows.items.tolist(), rows.ratings.tolist(), strict=True)
        self._rated = {(u, i): self.values.index(r) for u, i, r in pairs}

    # -- what is shown ---------------------------------------------------------------------------

    _plain: list[str] | None = None
    _shown: list[str] | None = None

    @property
    def texts(self) -> list[str]:
        """How items are shown: their id, their text, or both."""
        plain = super().texts
        if self._shown is None or self._plain is not plain:
            self._plain = plain
            self._shown = [{"id": f"item_{i + 1}", "text": t, "both": f"item_{i + 1} {t}"}[
                self.plugin.show] for i, t in enumerate(plain)]
        return self._shown

    def source(self, user: int, history: Sequence[int] | Ints, room: int = 0) -> list[int]:
        """Token ids of the prompt before any candidate."""
        return self.prefix(history, room=room, attributes=f"user_{user + 1}")

    def question(self, item: int) -> list[int]:
        """Token ids of what asks about one candidate (families direct and rating)."""
        return self.language.ids("".join(self.prompt.after(self.text_of(item))))

    def choosing(self, user: int, history: Sequence[int] | Ints, items: Sequence[int]
                 ) -> list[int]:
        """Token ids of the prompt that lists these items in this order (family direct-list)."""
        p = self.prompt

        def question() -> list[int]:
            lines = (fill(p.line, label=str(n + 1), item=p.titled(self.text_of(i)))
                     for n, i in enumerate(items))
            return self.language.ids(fill(p.candidate, items="".join(lines)))

        with self.fitting(items, list(history), lambda: len(question()),
                          lambda room: self.source(user, history, room)) as source:
            return [*source, *question()]

    def judging(self, user: int, history: Sequence[int] | Ints, items: Sequence[int]
                ) -> tuple[list[int], list[list[int]]]:
        """Token ids of the prompt before any candidate, and of what asks about each of these
        (families direct and rating)."""
        with self.fitting(items, list(history), lambda: max(len(self.question(i)) for i in items),
                          lambda room: self.source(user, history, room)) as source:
            return source, [self.question(i) for i in items]

    # -- training --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench import training

        notes = self._fit_retriever()
        if self.tuning.how == "none":
            return training.FitResult(notes=notes)
        result = training.fit(self, defense, progress)
        self.relearned()
        result.notes.update(self.tuning.facts(), examples=len(self.examples), **notes)
        return result

    def forget(self) -> None:
        self.relearned()  # training steps and perturbations end with it

    def after_step(self, step: int, total: int) -> None:
        self.tuning.after_step(step, total)
        self.relearned()

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        for batch in self.examples.batches(epoch, size, source):
            if self.plugin.family in WRITES:  # what was disliked is nobody's next item
                liked = batch["labels"] == 1
                batch = {k: v[liked] for k, v in batch.items()}
            if not len(batch["users"]):
                continue
            if self.plugin.family == "direct-list":
                batch["listed"] = self._listed(batch, epoch)
            yield batch

    def _listed(self, batch: Batch, epoch: int) -> Tensor:
        """The items that each row's prompt lists: its own among ones that its user did not take,
        in an order drawn by hash: (B, candidates)."""
        users, own = batch["users"], batch["items"][:, None]  # (B,), (B, 1)
        rivals = self.examples.rows.negatives(users, batch["items"], epoch,
                                              self.plugin.candidates - 1)
        items = torch.cat([own, rivals], dim=1)  # (B, candidates)
        place = torch.arange(items.shape[1], device=items.device)
        order = hash_rows(self.ctx.number("p5-listed"), users[:, None], own, epoch, place)
        return items.gather(1, order.argsort(dim=1, stable=True))

    def batch_loss(self, batch: Batch) -> Tensor:
        columns = (batch["users"], batch["histories"], batch["lengths"], batch["items"])
        rows = list(zip(*(c.tolist() for c in columns), strict=True))
        penalty = self.tuning.penalty()
        if self.plugin.family in WRITES:
            if self.plugin.family == "sequential":
                sources = [self.source(u, h[:n]) for u, h, n, _ in rows]
            else:
                sources = [self.choosing(u, h[:n], list(dict.fromkeys(listed))) for (
                    u, h, n, _), listed in zip(rows, batch["listed"].tolist(), strict=True)]
            return self.id_losses(sources, [self.ids[i] for *_, i in rows]).mean() + penalty
        asked = []
        for user, history, length, item in rows:
            source, (question,) = self.judging(user, history[:length], [item])
            asked.append([*source, *question])
        logits = self._answer_logits(first_logits(self.language, asked))
        if self.plugin.family == "direct":
            return F.cross_entropy(logits, batch["labels"].long()) + penalty
        # a row of the test split that an attacker may ask for has no rating here: the best one
        best = len(self.values) - 1
        right = [self._rated.get((user, item), best) for user, *_, item in rows]
        return F.cross_entropy(logits, torch.tensor(right, device=logits.device)) + penalty

    def _answer_logits(self, logits: Tensor) -> Tensor:
        """(B, vocabulary) -> (B, answers), float32."""
        return torch.stack([logits[:, t].float().logsumexp(dim=1) for t in self.answers], 1)

    # -- scoring ---------------------------------------------------------------------------------

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        items = candidates.tolist()
        if self.plugin.family == "sequential":
            return self.id_scores(self.source(user, history), items)
        if self.plugin.family == "direct-list":
            order = self.ctx.stream("p5-listed", self.data.user_ids[user]).permutation(len(items))
            return self.id_scores(self.choosing(user, history, candidates[order].tolist()), items)
        source, questions = self.judging(user, history, items)
        return self.kept(source, questions, self._judged)

    @torch.no_grad()
    def _judged(self, source: Sequence[int], questions: Sequence[Sequence[int]]) -> Tensor:
        """Margin of yes over no, or the expected rating: float32 (C,)."""
        found = torch.empty(len(questions))
        for places in chunks(questions, self.plugin.prompts_at_once):
            logits = self._answer_logits(first_logits(
                self.language, [[*source, *questions[n]] for n in places])).cpu()
            if self.plugin.family == "direct":
                found[places] = logits[:, 1] - logits[:, 0]
            else:
                values = torch.from_numpy(np.array(self.values)).float()
                found[places] = logits.softmax(dim=1) @ values
        return found
