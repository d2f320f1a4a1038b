"""The recommender behind all prompt scorers: candidates, histories as text, scores composed."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Ints
from bench.errors import CannotActError, InputError
from bench.models.base import Batch, Recommender, Table, TorchRecommender, build
from bench.sampling import in_order
from bench.text import likelihood
from bench.text.chat import chat_of
from bench.text.fitting import Fitting
from bench.text.language import Language, load
from bench.text.prompts import Prompt
from bench.text.reader import Filter, TextReader

if TYPE_CHECKING:
    from bench.api import Context, Defense
    from bench.text.prompted import PromptedModel
    from bench.training import FitResult, Progress

_MOST_KEPT = 500_000


def language_of(hyper: PromptedModel, data: Dataset, ctx: Context) -> Language:
    """The plugin's language model: of the first role in `roles` that it can be loaded as."""
    prompt = hyper.the_prompt()
    corpus = [*(data.item_text or ()), prompt.prefix, prompt.candidate]
    refused: InputError | None = None
    for role in hyper.roles:
        try:
            return load(hyper.model, role, device=ctx.device, dtype=hyper.dtype,
                        revision=hyper.revision, corpus=corpus, seed=ctx.number("language") % 2**31)
        except InputError as error:
            if "of the kind" not in str(error):
                raise
            refused = refused or error
    assert refused is not None
    raise refused


class PromptRecommender(Fitting, TorchRecommender):
    """Scores the candidates of a user with a language model, and puts them before the others.

    Subclasses write `rate`. What is learned, if anything, are the parameters of `module` that
    ask for gradients; the language model's others are neither stored nor changed.

    Attributes:
        answers_candidate: whether in a chat template the candidate is what the model answers,
            and the user's turn ends before it.
    """

    answers_candidate: ClassVar[bool] = False
    keeps_answers: ClassVar[bool] = True

    def __init__(self, hyper: PromptedModel, data: Dataset, ctx: Context) -> None:
        super().__init__(data, ctx)
        self.plugin = hyper
        self.hyper = hyper  # type: ignore[assignment]
        self.prompt: Prompt = hyper.the_prompt()
        self.language = self.load_language()
        self.module = self.language.module
        self.chat = chat_of(self.language, hyper.chat)
        self.retriever: Recommender = build(hyper.retrieving(), data, ctx)
        self._kept: dict[Any, Any] = {}
        self._rejected: dict[str, list[Ints]] = {}
        self._disliked: dict[str, list[Ints]] = {}
        self._offered: Ints = np.empty(0, np.int64)
        self._shuffle: int | None = None
        self._history_shown: Callable[[int, Ints], Ints] | None = None
        self._about = ""

    def load_language(self) -> Language:
        return language_of(self.plugin, self.data, self.ctx)

    @abstractmethod
    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        """Scores of the candidates, float32 (C,) on the CPU, higher is better.

        Args:
            user: index. history: its latest items, oldest first, at most `hyper.history`.
            candidates: item indices, in the order in which a prompt with several lists them.
        """

    # -- training --------------------------------------------------------------------------------

    def fit(self, defense: Defense, progress: Progress) -> FitResult:
        from bench.training import FitResult

        return FitResult(notes={**self.asking(), **self._fit_retriever()})

    def asking(self) -> dict[str, Any]:
        """Facts about how prompts are asked."""
        return {} if self.chat is None else {"chat_template": True}

    def _fit_retriever(self) -> dict[str, Any]:
        """The retriever is trained plainly: what a defense does concerns the language model.
        What its training noted is among the facts of this model's, under "retriever"."""
        from bench.registry import Registry

        none: Any = Registry().make("defenses", {"name": "none"})
        found = self.retriever.fit(none, lambda event: None)
        self.relearned()
        learned = {"epochs": found.epochs, "best_epoch": found.best_epoch} if found.epochs else {}
        told = {**learned, **found.notes}
        return {"retriever": told} if told else {}

    def batch_loss(self, batch: Batch) -> Tensor:
        raise InputError(f"{self.plugin.name} is not trained")

    def batches(self, epoch: int, size: int, source: str = "train") -> Iterator[Batch]:
        raise InputError(f"{self.plugin.name} is not trained")

    def tables(self) -> dict[str, Table]:
        return {}

    def relearned(self) -> None:
        """Drop what is kept by prompt: call it whenever parameters changed."""
        self._kept.clear()

    def forget(self) -> None:
        """Nothing: what is kept is kept by the texts and histories it was made of."""

    def trained(self) -> dict[str, Tensor]:
        """The language model's parameters that are learned, by name."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        own = {f"language.{n}": p.detach().cpu().contiguous().clone()
               for n, p in self.trained().items()}
        return own | {f"retriever.{n}": v for n, v in self.retriever.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.retriever.load_state({n.removeprefix("retriever."): v for n, v in state.items()
                                   if n.startswith("retriever.")})
        trained = self.trained()
        given = {n.removeprefix("language."): v for n, v in state.items()
                 if n.startswith("language.")}
        if set(given) != set(trained):
            raise KeyError(f"learned parameters differ: {set(given) ^ set(trained)}")
        with torch.no_grad():
            for name, value in given.items():
                trained[name].copy_(value)
        self.relearned()

    # -- scoring ---------------------------------------------------------------------------------

    @torch.no_grad()
    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        base = self.retriever.scores(users, split).float().cpu()  # (B, items)
        made = torch.empty_like(base)
        with self.evaluating():
            for row, user in enumerate(users.tolist()):
                chosen = self.chosen(base[row].numpy(), user, split)
                worse = base[row].sort(descending=True).values  # ties stay ties
                made[row] = -1.0 - torch.searchsorted(-worse, -base[row]).float()
                if len(chosen):
                    history = self.history(user, split)[-self.plugin.history:] \
                        if self.plugin.history else np.empty(0, np.int64)
                    if self._history_shown is not None:
                        history = self._history_shown(user, history)
                    if self._shuffle is not None:
                        chosen = np.random.default_rng((self._shuffle, user)).permutation(chosen)
                    rated = self.rate(user, history, chosen, split).float()
                    made[row, torch.from_numpy(chosen)] = rated - rated.min()
        return made.to(self.ctx.device)

    def chosen(self, base: np.ndarray[Any, Any], user: int, split: str) -> Ints:
        """The candidates of a user: the retriever's best items among those that the user is not
        known to have, the lower index first among equals; offered items in place of the last.

        Known are the history that is read, and what the user is known to dislike: together all
        that evaluation leaves out of the list, unless the history was edited.
        """
        able = np.ones(self.data.n_items, bool)
        able[self.history(user, split)] = False
        able[self.rejected(user, split)] = False
        items = np.flatnonzero(able)
        size = self.plugin.candidates
        if not size or size >= len(items):
            return items.astype(np.int64)
        order = items[np.argsort(-base[items], kind="stable")]
        offered = self._offered[able[self._offered]][:size]
        others = order[~np.isin(order, offered)][:size - len(offered)]
        return np.sort(np.concatenate([others, offered])).astype(np.int64)

    def rejected(self, user: int, split: str) -> Ints:
        """Items of all rows of a user before the split that do not count as liked."""
        if split not in self._rejected:
            rows = self.data.known(split)
            rows = rows[:0] if rows.labels is None else rows[rows.labels != 1]
            order = np.argsort(rows.users, kind="stable")
            ends = np.cumsum(np.bincount(rows.users, minlength=self.data.n_users))
            self._rejected[split] = np.split(rows.items[order], ends[:-1])
        return self._rejected[split][user]

    @contextlib.contextmanager
    def offering(self, items: Ints) -> Iterator[None]:
        """Inside, these items are among everybody's candidates (whoever has them apart)."""
        before, self._offered = self._offered, np.asarray(items, np.int64)
        try:
            yield
        finally:
            self._offered = before

    @contextlib.contextmanager
    def shuffled(self, seed: int) -> Iterator[None]:
        """Inside, `rate` gets each user's candidates in an order drawn from seed and user."""
        before, self._shuffle = self._shuffle, seed
        try:
            yield
        finally:
            self._shuffle = before

    @contextlib.contextmanager
    def reading_texts(self, texts: Sequence[str]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if isinstance(self.retriever, TextReader):
                stack.enter_context(self.retriever.reading_texts(texts))
            stack.enter_context(super().reading_texts(texts))
            yield

    def filtered(self, added: Filter) -> None:
        super().filtered(added)
        if isinstance(self.retriever, TextReader):
            self.retriever.filtered(added)

    @contextlib.contextmanager
    def stating(self, about: str) -> Iterator[None]:
        """Inside, every prompt says this about its user, where it has a place for it."""
        before, self._about = self._about, about
        try:
            yield
        finally:
            self._about = before

    @contextlib.contextmanager
    def showing(self, shown: Callable[[int, Ints], Ints]) -> Iterator[None]:
        """Inside, prompts show shown(user, items) in place of the latest items of a history.
        Candidates are those of histories as they are, which is what a retriever reads."""
        before, self._history_shown = self._history_shown, shown
        try:
            yield
        finally:
            self._history_shown = before

    @contextlib.contextmanager
    def reading(self, histories: Sequence[Ints]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(CannotActError):  # a retriever that reads none stays
                stack.enter_context(self.retriever.reading(histories))
            stack.enter_context(super().reading(histories))
            yield

    def reads_with(self) -> Language | None:
        return None if self.language.tokenizer is None else self.language

    def texts_cut(self) -> int:
        """How many items' texts were cut in a prompt since this was last asked."""
        cut, self._cut = self._cut or set(), None
        return len(cut)

    # -- prompts ---------------------------------------------------------------------------------

    def disliked(self, user: int, split: str) -> Ints:
        """The latest disliked items of a user known before the split, oldest first, as many as
        liked ones at most; none where the prompt does not list them."""
        if not self.prompt.disliked or not self.plugin.history:
            return np.empty(0, np.int64)
        if split not in self._disliked:
            rows = self.data.known(split)
            rows = rows[:0] if rows.labels is None else rows[rows.labels == 0]
            _, items, starts = in_order(rows, self.data.n_users)
            self._disliked[split] = np.split(items, starts[1:-1])
        return self._disliked[split][user][-self.plugin.history:]

    def prefix(self, history: Sequence[int] | Ints, room: int = 0,
               disliked: Sequence[int] | Ints = (), **slots: str) -> list[int]:
        """Token ids of the prefix; where it would not fit, the longer list loses its oldest item,
        the history if they are equally long, again and again.

        Args:
            room: tokens that what follows needs.

        Raises:
            InputError: not even an empty history fits.
        """
        texts, against = ([self.text_of(i) for i in items] for items in (history, disliked))
        slots.setdefault("about", self._about)
        self.left_out = 0
        while True:
            before = self.prompt.before(texts, disliked=against, **slots)
            if self.chat is not None:
                before = self.chat.head + (self.closed(before.rstrip())
                                           if self.answers_candidate else before)
            ids = self.language.ids(before)
            ids = self.language.begin + ids if self.chat is None else ids
            if len(ids) + room + 2 <= self.language.limit:
                return ids
            if not texts and not against:
                raise InputError(f"{self.language.name} reads {self.language.limit} tokens, the "
                                 f"prompt has {len(ids) + room + 2} without any history",
                                 key="prompt", hint="take a shorter prompt or another model")
            self.left_out += 1
            if len(against) > len(texts):
                against = against[1:]
            else:
                texts = texts[1:]

    def closed(self, text: str) -> str:
        """The end of a prompt, with what ends the user's turn in a chat template."""
        return text if self.chat is None else text + self.chat.tail

    def after(self, text: str) -> tuple[str, str, str]:
        """What follows the prefix for one candidate: what stands before its text, the text, and
        the rest, which ends the user's turn."""
        lead, text, follow = self.prompt.after(text)
        return lead, text, self.closed(follow)

    def kept(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]],
             ask: Any) -> Tensor:
        """Answers to suffixes by prompt: those not known yet are asked for, each once."""
        if len(self._kept) > _MOST_KEPT:
            self._kept.clear()
        head = hash(tuple(prefix))
        keys = [(head, len(prefix), tuple(s)) for s in suffixes]
        new = [n for n, k in enumerate(dict.fromkeys(keys)) if k not in self._kept]
        distinct = list(dict.fromkeys(keys))
        if new:
            found = ask(prefix, [list(distinct[n][2]) for n in new])
            self._kept.update(zip((distinct[n] for n in new), found.tolist(), strict=True))
        return torch.tensor([self._kept[k] for k in keys])


class PointwiseRecommender(PromptRecommender):
    """Scores log P(yes) − log P(no) of each candidate, over the tokens that begin an answer."""

    def __init__(self, hyper: PromptedModel, data: Dataset, ctx: Context) -> None:
        super().__init__(hyper, data, ctx)
        self.yes, self.no = likelihood.check_answers(self.language, self.prompt.yes,
                                                     self.prompt.no)

    def rate(self, user: int, history: Ints, candidates: Ints, split: str) -> Tensor:
        with self.asked(user, history, candidates, split) as prefix:
            suffixes = [self.suffix(int(i)) for i in candidates]
        return self.kept(prefix, suffixes, lambda p, s: likelihood.yes_no(
            self.language, p, s, self.yes, self.no, self.plugin.prompts_at_once))

    @contextlib.contextmanager
    def asked(self, user: int, history: Ints, candidates: Ints, split: str
              ) -> Iterator[list[int]]:
        """Inside, suffixes fit behind the prefix that it gives: see `fitting`."""
        items, against = candidates.tolist(), self.disliked(user, split)
        with self.fitting(items, [*history.tolist(), *against.tolist()],
                          lambda: max(len(self.suffix(i)) for i in items),
                          lambda room: self.opening(user, history, split, room)) as prefix:
            yield prefix

    def opening(self, user: int, history: Ints, split: str, room: int = 0) -> list[int]:
        """Token ids of the prefix of this user with this history, and with what the user is
        known to dislike; `room` as in `prefix`."""
        return self.prefix(history, room=room, disliked=self.disliked(user, split))

    def suffix(self, item: int) -> list[int]:
        """Token ids of what follows the prefix for this candidate."""
        return self.language.ids("".join(self.after(self.text_of(item))))
