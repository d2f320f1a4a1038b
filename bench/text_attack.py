"""Attacks on what a model reads: the texts of target items, rewritten within stated bounds.

The author writes `rewrite`; this class picks the targets and the users that the attacker may
look at, measures every text against the bounds, and evaluates on users the attacker never saw.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import STRATA, ModelAttack, Struck, ThreatModel, pick_targets, too_many
from bench.context import Context
from bench.data import Dataset, Ints
from bench.errors import CannotActError, InputError, PluginError
from bench.plugin import param
from bench.queries import uncounted
from bench.text_shown import Shown, offering
from bench.text_shown import levenshtein as levenshtein
from bench.text_shown import word_edits as word_edits

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared

MEASURED = ("target-hr@5", "target-hr@10", "target-hr@20", "target-hr@50", "target-rank")


def crowded(targets: int, model: ModelPlugin) -> str | None:
    """Why so many targets cannot be offered beside other candidates, or None."""
    size = int(getattr(model, "candidates", 0))
    if not size or targets < size:
        return None
    return (f"{targets} targets among {size} candidates leave nothing to compete with; take fewer "
            "targets or more candidates")


def lonely(data: Dataset) -> str | None:
    """Why users cannot be shared out between an attacker and what is measured, or None."""
    users = data.n_genuine if data.asked is None else len(data.asked)
    return None if users > 1 else (
        f"{users} of {data.n_genuine} users {'is' if users == 1 else 'are'} evaluated, and an "
        "attacker sees the lists of some and is measured on others: ask two users or more "
        "(ask_users)")


def crowd(data: Dataset, sample: float, ctx: Context) -> tuple[Ints, Ints]:
    """Users an attacker knows, and those it is measured on: both sorted, neither empty.

    Args:
        sample: share of the users asked that the attacker knows.

    Raises:
        CannotActError: a single user is asked.
    """
    reason = lonely(data)
    if reason:
        raise CannotActError(reason)
    users = np.arange(data.n_genuine) if data.asked is None else data.asked
    order = ctx.stream("crowd").permutation(users)
    seen = min(max(1, round(sample * len(order))), len(order) - 1)
    return np.sort(order[:seen]), np.sort(order[seen:])


class TextAttack(ModelAttack):
    """At test time: rewrites the texts of the target items, and of no others.

    Bounds, each enforced on every text that comes back: at most `edits` characters inserted,
    deleted or substituted (Levenshtein); at most `share` of the words changed (words deleted,
    inserted or substituted, over the words there were); at least `similarity` as the cosine of
    the vectors that `judge` gives of both texts; no new characters that nobody sees, unless the
    class has a parameter `hidden` that says so. Whoever re-ranks candidates is offered the
    targets, with and without the attack alike.

    edits 0 is the identity. In the facts, `queries` counts the attacker's alone: users whose
    list was read for a text, each text once. `clean_targets` are the exposures of the same
    targets among the same unseen users, with the same offer, without the attack.
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

    @property
    def writes_hidden(self) -> bool:
        """Whether it may write characters that nobody sees."""
        return bool(getattr(self, "hidden", False))

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

    def each(self, texts: list[str], targets: Ints, shown: Shown) -> dict[str, list[str]]:
        """Texts of all items under variants of the attack, by name, that are reported beside
        what `rewrite` chose, on the same unseen users; within the same bounds."""
        return {}

    # -- who and when --------------------------------------------------------------------------

    def contents(self) -> tuple[str, ...]:
        from bench.text.language import contents

        return contents(self.judge)

    def keyed(self) -> dict[str, Any]:
        from bench.text.language import unplaced

        return unplaced(super().keyed(), "judge", "writer")

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "text" not in model.gives:
            return f"{model.name} reads no texts of items"
        return (crowded(self.targets, model) or too_many(self.targets, self.stratum, data)
                or lonely(data))

    def comparable(self) -> str:
        bounds = [f"at most {self.edits} characters changed"]
        if np.isfinite(self.share):
            bounds.append(f"{self.share:g} of the words")
        if self.similarity > -1:
            bounds.append(f"cosine at least {self.similarity:g}")
        if self.writes_hidden:
            bounds.append("characters that nobody sees allowed")
        return f"push, texts of {self.targets} targets ({self.stratum}), {', '.join(bounds)}"

    def budget_text(self) -> str:
        return self.comparable() + self.static_text()

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return pick_targets(data, self.targets, self.stratum, ctx)

    def crowd(self, data: Dataset, ctx: Context) -> tuple[Ints, Ints]:
        """Users whose lists the attacker sees, and those it is measured on; both sorted."""
        return crowd(data, self.sample, ctx)

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.blind import blind
        from bench.evaluate import evaluate
        from bench.stages import without_test

        data, targets = prepared.genuine, self.aims(prepared.genuine, ctx)
        seen, unseen = self.crowd(data, ctx)
        measured = data.replace(asked=unseen)
        with offering(model, targets):
            def exposures() -> dict[str, float]:
                with uncounted(model):  # the harness measures, nobody attacks
                    found = evaluate(model, measured, MEASURED, targets=targets)
                return {m: v for m, g, v in found.values if g == "all"}

            before, clean = list(data.item_text or ()), exposures()
            source = self.made_on(model, ctx)
            with offering(source, targets), source.evaluating(), blind(self, source):
                shown = Shown(source, self, seen, before)
                made = self.rewritten(shown, without_test(data), targets, ctx)
                others = self.each(before, targets, shown) if self.edits else {}
            facts = {"clean_targets": clean, "users_seen": len(seen), "queries": shown.asked,
                     "texts": shown.facts(targets, made), "rewritten": {
                         data.item_ids[t]: made[t] for t in targets[:3].tolist()}}
            variants = {}
            for name, texts in others.items():
                with model.reading_texts(self.bounded(shown, texts, targets)):
                    variants[name] = exposures()
            if variants:
                facts |= {"each": variants, "mean_over_each": {
                    m: float(np.mean([v[m] for v in variants.values()])) for m in clean}}
        with model.reading_texts(made):
            yield Struck(model, measured, targets, facts, offer=targets)

    # -- the bounds ----------------------------------------------------------------------------

    @final
    def rewritten(self, shown: Shown, data: Dataset, targets: Ints, ctx: Context) -> list[str]:
        """All texts, those of the targets rewritten and held to the bounds."""
        texts = list(shown.texts)
        for item in targets.tolist():
            was = shown.texts[item]
            texts[item] = self.rewrite(was, item, shown, data, ctx) if self.edits else was
        return self.bounded(shown, texts, targets)

    @final
    def bounded(self, shown: Shown, texts: list[str], targets: Ints) -> list[str]:
        """The same texts, where those of the targets are within the bounds and all others as
        they were.

        Raises:
            PluginError: they are not.
        """
        for item, (was, now) in enumerate(zip(shown.texts, texts, strict=True)):
            if item not in targets:
                if now != was:
                    raise PluginError(f"{self.name}: item {item} is no target, and its text is "
                                      "another")
                continue
            if not isinstance(now, str):
                raise PluginError(f"{self.name}: the text of item {item} becomes "
                                  f"{type(now).__name__}")
            reason = shown.over(item, now)
            if reason:
                raise PluginError(f"{self.name}: the text of item {item} {reason}")
        return texts
