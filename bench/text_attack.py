"""Attacks on what a model reads: the texts of target items, rewritten within stated bounds.

The author writes `rewrite`; this class picks the targets and the users that the attacker may
look at, measures every text against the bounds, and evaluates on users the attacker never saw.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import STRATA, ModelAttack, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import InputError, PluginError
from bench.plugin import param

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared

MEASURED = ("target-hr@5", "target-hr@10", "target-hr@20", "target-hr@50", "target-rank")


class TextAttack(ModelAttack):
    """At test time: rewrites the texts of the target items, and of no others.

    Bounds, each enforced on every text that comes back: at most `edits` characters inserted,
    deleted or substituted (Levenshtein); at most `share` of the words changed (words deleted,
    inserted or substituted, over the words there were); at least `similarity` as the cosine of
    the vectors that `judge` gives of both texts; printable characters alone unless `hidden`.
    Whoever re-ranks candidates is offered the targets, with and without the attack alike.
    """

    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))
    edits: int = param(200, "most characters inserted, deleted or substituted", low=0)
    share: float = param(float("inf"), "most words changed, as a share of the words there were; "
                         "inf: no bound", low=0)
    similarity: float = param(-1.0, "lowest cosine between the vectors of both texts; -1: no "
                              "bound", low=-1, high=1)
    judge: str = param("", "encoder that the similarity is measured with: a hub name, a local "
                       "folder, or tiny-random")
    sample: float = param(0.4, "share of users whose lists the attacker sees; what it reaches is "
                          "measured on the others", above=0, high=0.9)
    threat: ClassVar[ThreatModel] = ThreatModel("test-input", "black", "push")
    hidden: ClassVar[bool] = False  # may write characters that nobody sees

    def __post_init__(self) -> None:
        if self.similarity > -1 and not self.judge:
            raise InputError(f"{self.name}: a similarity is measured with an encoder", key="judge",
                             hint="judge: a hub name or a local folder")

    @abstractmethod
    def rewrite(self, text: str, item: int, shown: Shown, data: Dataset, ctx: Context) -> str:
        """The text of one target, rewritten.

        Args:
            text: as it is. item: index of the target.
            shown: how often the attacker's users get to see the item with another text, and
                whether a text is within the bounds.
            data: genuine data, without test rows.
            ctx: for randomness, by name.
        """

    # -- who and when --------------------------------------------------------------------------

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "text" not in model.gives:
            return f"{model.name} reads no texts of items"
        return too_many(self.targets, self.stratum, data)

    def comparable(self) -> str:
        bounds = [f"at most {self.edits} characters changed"]
        if np.isfinite(self.share):
            bounds.append(f"{self.share:g} of the words")
        if self.similarity > -1:
            bounds.append(f"cosine at least {self.similarity:g}")
        return f"push, texts of {self.targets} targets ({self.stratum}), {', '.join(bounds)}"

    def budget_text(self) -> str:
        return self.comparable() + self.static_text()

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return pick_targets(data, self.targets, self.stratum, ctx)

    def crowd(self, data: Dataset, ctx: Context) -> tuple[Ints, Ints]:
        """Users whose lists the attacker sees, and those it is measured on; both sorted."""
        users = np.arange(data.n_genuine) if data.asked is None else data.asked
        order = ctx.stream("crowd").permutation(users)
        seen = min(max(1, round(self.sample * len(order))), len(order) - 1)
        return np.sort(order[:seen]), np.sort(order[seen:])

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.evaluate import evaluate
        from bench.stages import without_test

        data, targets = prepared.genuine, self.aims(prepared.genuine, ctx)
        seen, unseen = self.crowd(data, ctx)
        measured = data.replace(asked=unseen)
        with offering(model, targets):
            clean = evaluate(model, measured, MEASURED, targets=targets)
            before = list(data.item_text or ())
            source = self.made_on(model, ctx)
            with offering(source, targets), source.evaluating():
                shown = Shown(source, self, seen, before)
                made = self.rewritten(shown, without_test(data), targets, ctx)
            facts = {"clean_targets": {m: v for m, g, v in clean.values if g == "all"},
                     "users_seen": len(seen), "queries": shown.asked,
                     "texts": shown.facts(targets, made), "rewritten": {
                         data.item_ids[t]: made[t] for t in targets[:3].tolist()}}
            with model.reading_texts(made):
                yield Struck(model, measured, targets, facts)

    # -- the bounds ----------------------------------------------------------------------------

    @final
    def rewritten(self, shown: Shown, data: Dataset, targets: Ints, ctx: Context) -> list[str]:
        """All texts, those of the targets rewritten and held to the bounds."""
        texts = list(shown.texts)
        for item in targets.tolist():
            was = shown.texts[item]
            now = self.rewrite(was, item, shown, data, ctx) if self.edits else was
            if not isinstance(now, str):
                raise PluginError(f"{self.name}: the text of item {item} becomes "
                                  f"{type(now).__name__}")
            reason = shown.over(item, now)
            if reason:
                raise PluginError(f"{self.name}: the text of item {item} {reason}")
            texts[item] = now
        return texts


@dataclass
class Shown:
    """What a text attacker gets to know.

    Args:
        _model: as it is served; not for the attacker. _attack: its bounds.
        users: those whose lists it sees. texts: of all items, before the attack.
    """

    _model: Recommender
    _attack: TextAttack
    users: Ints
    texts: list[str]
    asked: int = 0
    _known: dict[tuple[int, str], Any] = field(default_factory=dict)
    _judge: Any = None
    _histories: dict[int, Ints] = field(default_factory=dict)

    def exposure(self, item: int, text: str, k: int = 20) -> float:
        """Share of the attacker's users, of those without the item, in whose list of `k` it
        would be with this text."""
        ranks = self._ranks(item, text)
        return float((ranks <= k).mean()) if len(ranks) else 0.0

    def gain(self, item: int, text: str) -> float:
        """Mean of 1/log2(1 + rank) over these users: as exposure, and without its plateaus."""
        ranks = self._ranks(item, text)
        return float((1.0 / np.log2(1.0 + ranks)).mean()) if len(ranks) else 0.0

    def _ranks(self, item: int, text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Expected rank of the item for each user without it (ties in the middle)."""
        import torch

        key = (item, text)
        if key not in self._known:
            changed = list(self.texts)
            changed[item] = text
            rows = self._model.data.known("test")
            owns = set(rows.users[rows.items == item].tolist())
            users = np.array([u for u in self.users.tolist() if u not in owns], np.int64)
            if not self._histories:
                self._histories = {u: rows.items[rows.users == u] for u in self.users.tolist()}
            ranks = np.empty(len(users))
            with torch.no_grad(), self._model.reading_texts(changed):
                for start in range(0, len(users), 256):
                    block = users[start:start + 256]
                    scores = type(self._model).scores(
                        self._model, torch.as_tensor(block, device=self._model.ctx.device)
                    ).double().cpu().numpy().copy()
                    for row, user in enumerate(block.tolist()):
                        mine = scores[row, item]
                        scores[row, self._histories[user]] = -np.inf
                        tied = (scores[row] == mine).sum() - 1
                        ranks[start + row] = 1 + (scores[row] > mine).sum() + tied / 2
            self.asked += len(users)
            self._known[key] = ranks
        found: np.ndarray[Any, np.dtype[np.float64]] = self._known[key]
        return found

    def over(self, item: int, text: str) -> str | None:
        """Why this text of the item is out of bounds, or None."""
        a, was = self._attack, self.texts[item]
        spent = levenshtein(was, text, a.edits)
        if spent is None:
            return f"is more than {a.edits} characters from what it was"
        if np.isfinite(a.share):
            words, changed = max(len(was.split()), 1), word_edits(was, text)
            if changed > a.share * words + 1e-9:
                return f"has {changed} of {words} words changed, the bound is {a.share:g}"
        if not a.hidden:
            bad = next((c for c in text if not (c.isprintable() or c in "\n\t")), None)
            if bad is not None:
                return f"holds the character U+{ord(bad):04X}, which is not printable"
        if a.similarity > -1 and self.cosine(was, text) < a.similarity - 1e-6:
            return (f"has cosine {self.cosine(was, text):.3f} with what it was, the bound is "
                    f"{a.similarity:g}")
        return None

    def allowed(self, item: int, text: str) -> bool:
        """Whether the text is within the bounds."""
        return self.over(item, text) is None

    def cosine(self, a: str, b: str) -> float:
        """Cosine of both texts' vectors, by the attack's judge."""
        from torch.nn.functional import cosine_similarity

        if self._judge is None:
            from bench.text.encode import Encoder
            from bench.text.language import load

            self._judge = Encoder(load(self._attack.judge, "encoder", corpus=self.texts,
                                       device=self._model.ctx.device, dtype="float32"))
        first, second = self._judge([a, b])
        return float(cosine_similarity(first, second, dim=0))

    def facts(self, targets: Ints, made: Sequence[str]) -> dict[str, Any]:
        """Means over the targets, for the report."""
        pairs = [(self.texts[t], made[t]) for t in targets.tolist()]
        found: dict[str, Any] = {
            "changed": sum(a != b for a, b in pairs), "of": len(pairs),
            "edit distance": float(np.mean([levenshtein(a, b) or 0 for a, b in pairs])),
            "words changed": float(np.mean([word_edits(a, b) / max(len(a.split()), 1)
                                            for a, b in pairs]))}
        if self._attack.judge:
            found["cosine"] = float(np.mean([self.cosine(a, b) for a, b in pairs]))
        return found


def offering(model: Recommender, items: Ints) -> contextlib.AbstractContextManager[None]:
    """Inside, a model that re-ranks candidates has these among everybody's."""
    from bench.models.base import innermost

    offers = getattr(innermost(model), "offering", None)
    if offers is None:
        return contextlib.nullcontext()
    made: contextlib.AbstractContextManager[None] = offers(items)
    return made


def levenshtein(a: Sequence[Any], b: Sequence[Any], most: int | None = None) -> int | None:
    """Fewest insertions, deletions and substitutions from one to the other; None: over `most`.

    >>> levenshtein("heat", "heats!")
    2
    >>> levenshtein("heat", "heats!", 1) is None
    True
    """
    from bench.histories import distance

    far = max(len(a), len(b)) if most is None else most
    codes: dict[Any, int] = {}
    first, second = ([codes.setdefault(c, len(codes)) for c in text] for text in (a, b))
    return distance(first, second, far, ("insert", "delete", "substitute"))


def word_edits(a: str, b: str) -> int:
    """Fewest words inserted, deleted or substituted.

    >>> word_edits("a film of three genres", "a fine film of genres")
    2
    """
    found = levenshtein(a.split(), b.split())
    assert found is not None
    return found
