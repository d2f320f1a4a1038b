"""The recommenders that ask a remote language model: prompts stay text, nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import Dataset, Ints
from bench.errors import InputError
from bench.text.answers import completed, parse
from bench.text.counting import Counting
from bench.text.language import Language
from bench.text.remote import Endpoint, margin
from bench.text.remote_http import RemoteError
from bench.text.scorer import PromptRecommender
from bench.text.templates import fill, slots

if TYPE_CHECKING:
    from bench.api import Context
    from bench.models.remote_listwise import RemoteListwise
    from bench.models.remote_title_likelihood import RemoteTitleLikelihood
    from bench.text.remote_model import Remote

_ENOUGH = 20  # answers after which a model that never says yes or no is given up


class RemoteRecommender(Counting, PromptRecommender):
    """A prompt scorer whose language model is an `Endpoint`. Tokens are the server's own: a
    prompt that is too long is refused there."""

    plugin: Remote

    def __init__(self, hyper: Remote, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.endpoint = Endpoint(
            url=hyper.endpoint, model=hyper.model, api=hyper.api, revision=hyper.revision,
            key_from=hyper.key_from, timeout=hyper.timeout, retries=hyper.retries,
            backoff=hyper.backoff, top=hyper.top, at_once=hyper.prompts_at_once)

    def load_language(self) -> Language:
        return Language(nn.Module(), None, "remote", self.plugin.model, 1 << 30)

    def before(self, history: Ints, disliked: Sequence[int] | Ints = (), **slots: str) -> str:
        """The prefix of a user, as text, with what an audit states about the user."""
        if self._about:
            slots["about"] = self._about
        texts, against = ([self.texts[i] for i in items] for items in (history, disliked))
        return self.prompt.before(texts, disliked=against, **slots)

    def take_facts(self) -> dict[str, int]:
        """Calls, stored answers, retries and what became of answers since it was last asked."""
        return {**super().take_facts(), **self.endpoint.take_counts(), **self.take_counts()}


class RemoteYesNoRecommender(RemoteRecommender):
    """See `bench.models.remote_yes_no.RemoteYesNo`."""

    def __init__(self, hyper: Remote, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        if set(self.prompt.yes) & set(self.prompt.no):
            raise InputError("an answer counts as yes and as no", key="prompt")
        self._answered, self._decided = 0, 0

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        prefix = self.before(history, self.disliked(user, split))
        prompts = [prefix + "".join(self.prompt.after(self.texts[i])) for i in candidates.tolist()]
        tops = self.endpoint.first_tokens(prompts)
        found = [margin(top, self.prompt.yes, self.prompt.no) for top in tops]
        self._answered += len(found)
        self._decided += sum(f is not None for f in found)
        for prompt, answer in zip(prompts, found, strict=True):
            self.count(prompt, answers=1, answers_undecided=int(answer is None))
        if self._answered >= _ENOUGH and not self._decided:
            likely = sorted(tops[0], key=lambda t: -tops[0][t])[:5]
            raise RemoteError(
                f"{self.plugin.model!r} begins none of its first {self._answered} answers with "
                f"{' or '.join(map(repr, [*self.prompt.yes[:1], *self.prompt.no[:1]]))}, but with "
                f"{', '.join(map(repr, likely))} (a prompt of your own can list other texts as "
                "yes and no; a model that thinks aloud first cannot be asked this way)")
        return torch.tensor([0.0 if f is None else f for f in found])


class RemoteTitleRecommender(RemoteRecommender):
    """See `bench.models.remote_title_likelihood.RemoteTitleLikelihood`."""

    plugin: RemoteTitleLikelihood

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        lead, _, _ = self.prompt.after("")
        stem = lead.rstrip(" ")  # a space before a title belongs to it
        texts = [lead[len(stem):] + self.texts[i] for i in candidates.tolist()]
        prefix = self.before(history) + stem
        found = torch.tensor(self.endpoint.log_likelihood(prefix, texts))
        for text in texts:
            self.count((prefix, text), answers=1)
        if self.plugin.pmi:
            alone = self.endpoint.log_likelihood(self.before(history[:0]) + stem, texts)
            found = found - torch.tensor(alone)
        return found


class RemoteListwiseRecommender(RemoteRecommender):
    """See `bench.models.remote_listwise.RemoteListwise`."""

    plugin: RemoteListwise

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        size, who = len(candidates), self.data.user_ids[user]
        labels = [str(n + 1) for n in range(size)]
        orders, rest = ([self.ctx.stream("listwise", what, who, b).permutation(size)
                         for b in range(self.plugin.bootstraps)] for what in ("shown", "missing"))
        texts = [[self.texts[i] for i in candidates[order].tolist()] for order in orders]
        prefix = self.prefix_text(history)
        prompts = [prefix + self._question(t, labels) for t in texts]
        answers = self.endpoint.write(prompts, self.plugin.tokens)
        scores = np.zeros(size)
        for order, shown, prompt, answer, missing in zip(orders, texts, prompts, answers, rest,
                                                         strict=True):
            read = parse(answer, labels, shown)
            self.count(prompt, answers=1, answers_without_candidates=int(not read),
                       answers_incomplete=int(len(read) < size),
                       candidates_appended_at_random=size - len(read))
            best_first = completed(read, size, missing.tolist())
            scores[order[best_first]] += size - np.arange(size)
        return torch.from_numpy(scores).float()

    def prefix_text(self, history: Ints) -> str:
        """The prefix; a prompt with {example} gets the last item there, the history loses it."""
        if "example" not in slots(self.prompt.prefix):
            return self.before(history)
        last = self.prompt.titled(self.texts[int(history[-1])]) if len(history) else \
            "(nothing yet)"
        return self.before(history[:-1], example=last)

    def _question(self, texts: list[str], labels: list[str]) -> str:
        p = self.prompt
        lines = (fill(p.line, label=label, item=p.titled(text))
                 for label, text in zip(labels, texts, strict=True))
        return fill(p.candidate, items="".join(lines))
