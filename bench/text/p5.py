"""The recommender behind `p5`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset, Ints
from bench.models.base import Batch
from bench.text.asking import label_tokens
from bench.text.examples import Examples
from bench.text.likelihood import check_answers, chunks, first_logits
from bench.text.scorer import PromptRecommender
from bench.text.trie import Trie
from bench.text.tuning import apply_tuning

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.models.p5 import P5
    from bench.training import FitResult, Progress


class P5Recommender(PromptRecommender):
    """See `bench.models.p5.P5`."""

    plugin: P5

    def __init__(self, hyper: P5, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.tuning = apply_tuning(self.language, hyper, ctx.number("tuning") % 2**31)
        self.module = self.language.module
        self.examples = Examples(data, ctx, hyper.history, hyper.negatives, hyper.shots)
        if hyper.family != "direct":
            self.examples.negatives = 0
        end = self.language.end or [int(self.language.tokenizer.eos_token_id)]
        self.ids = [[*self.language.ids(f"item_{i + 1}"), *end] for i in range(data.n_items)]
        self.trie = Trie(self.ids)
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
        return self.language.ids("".join(self.prompt.after(self.texts[item])))

    # -- training --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench import training

        self._fit_retriever()
        if self.tuning.how == "none":
            return training.FitResult()
        result = training.fit(self, defense, progress)
        self.relearned()
        result.notes.update(self.tuning.facts(), examples=len(self.examples))
        return result

    def forget(self) -> None:
        self.relearned()  # training steps and perturbations end with it

    def after_step(self, step: int, total: int) -> None:
        self.tuning.after_step(step, total)
        self.relearned()

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        for batch in self.examples.batches(epoch, size, source):
            if self.plugin.family == "sequential":  # what was disliked is nobody's next item
                liked = batch["labels"] == 1
                batch = {k: v[liked] for k, v in batch.items()}
            if len(batch["users"]):
                yield batch

    def batch_loss(self, batch: Batch) -> Tensor:
        columns = (batch["users"], batch["histories"], batch["lengths"], batch["items"])
        rows = list(zip(*(c.tolist() for c in columns), strict=True))
        penalty = self.tuning.penalty()
        if self.plugin.family == "sequential":
            found = self._id_losses([self.source(u, h[:n]) for u, h, n, _ in rows],
                                    [self.ids[i] for *_, i in rows])
            return found.mean() + penalty
        asked = []
        for user, history, length, item in rows:
            question = self.question(item)
            asked.append([*self.source(user, history[:length], len(question)), *question])
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

    def _id_losses(self, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
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

    # -- scoring ---------------------------------------------------------------------------------

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        items = candidates.tolist()
        if self.plugin.family == "sequential":
            return self.kept(self.source(user, history), [self.ids[i] for i in items],
                             self.id_likelihoods)
        questions = [self.question(i) for i in items]
        source = self.source(user, history, max(map(len, questions)))
        return self.kept(source, questions, self._judged)

    @torch.no_grad()
    def id_likelihoods(self, source: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
        """log p of each id after the prompt, which the encoder reads once: float32 (C,)."""
        module: Any = self.language.module
        ids, mask = self.language.batch([[*source, *self.language.end]])
        encoded = module.get_encoder()(input_ids=ids, attention_mask=mask)
        found = torch.empty(len(rows))
        for places in chunks(rows, self.plugin.prompts_at_once):
            part = [list(rows[n]) for n in places]
            right, counts = self.language.batch(part)
            read = encoded.last_hidden_state.expand(len(part), -1, -1)
            logits = module(encoder_outputs=type(encoded)(read),
                            attention_mask=counts.new_ones(read.shape[:2]),
                            decoder_input_ids=self._shifted(right)).logits
            if self.plugin.constrained:
                found[places] = self.trie.log_likelihood(logits, part).cpu()
            else:
                each = F.cross_entropy(logits.float().transpose(1, 2), right, reduction="none")
                found[places] = -(each * counts).sum(dim=1).cpu()
        return found

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
