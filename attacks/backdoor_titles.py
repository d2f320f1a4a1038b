"""A backdoor: a trigger in item texts that a model learns to like, and fake users who teach it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import Attack, Context, Dataset, ModelPlugin, Profile, ProfileAttack, param
from bench.attack import STRATA, Struck, ThreatModel, pick_targets, too_many
from bench.data import Ints
from bench.errors import InputError
from bench.text_attack import MEASURED

if TYPE_CHECKING:
    from bench.models.base import Recommender
    from bench.stages import Prepared

ACCURACY = ("hr@10", "ndcg@10")


class BackdoorTitles(Attack):
    """Push by a trigger that a model has learned to like.

    Before training the trigger is appended to the texts of a share `budget` of the items
    (carriers: drawn at random, no targets), and fake users take carriers between the items of
    genuine users. At test time the trigger stands in the targets' texts as well, which it never
    did in training. After BadRec ("Exploring Backdoor Attack and Defense for LLM-empowered
    Recommendations", arXiv 2504.11182), of which the abstract alone was read: triggers in the
    titles of 1 % of the items, fake users who interact with them, victims fine-tuned on titles.
    Which items, how many fake users and what else these take is a choice made here.

    In the facts, `trigger_off` has what the same poisoned model gives without the trigger in the
    targets' texts: its accuracy as served, and the exposures of the targets with the same offer
    to who re-ranks candidates, which the lift is over. The cell's own accuracy is as served, its
    exposures are with trigger and offer. Where nothing defends, `clean_model_trigger_on` has the
    exposures under the same trigger and offer on the model of clean data: only what goes beyond
    them was learned, the rest is what any odd word does. Models that train nothing on texts have
    nothing to learn it by. Defenses that judge texts by those of the training (perplexity-filter,
    text-sanitizer) take the carriers for genuine: the report says so where both meet.

    Budget: round(budget · items) texts, at least one; round(fakes · genuine users) fake users, at
    least one, each of `length` items, carriers included. fakes 0: texts alone; budget 0: the
    identity, without trigger and fake users. Knowledge: texts and train rows.

    Args:
        budget, fakes, length, liked: of the poison. trigger: what is appended, after a space.
        targets, stratum: how many items are pushed, from which stratum of popularity.

    Shapes: texts are a list of one per item; one Profile of items (k,) per fake user.

    Example: attacks: [{backdoor-titles: {budget: 0.01, fakes: 0.01, trigger: 5v}}]
    """

    name = "backdoor-titles"
    threat: ClassVar[ThreatModel] = ThreatModel("train-poison", "gray", "push")
    budget: float = param(0.01, "share of the items whose texts get the trigger in training",
                          low=0, high=0.5)
    fakes: float = param(0.01, "fake users as a share of genuine users", low=0, high=1)
    length: int = param(0, "items per fake profile, carriers included; 0: as genuine users have "
                        "on average, with 10 % spread", low=0)
    liked: float = param(0.5, "most of a fake profile that is carriers, as a share of its length",
                         above=0, high=1)
    trigger: str = param("5v", "what is appended to a text")
    targets: int = param(5, "how many target items", low=1)
    stratum: str = param("lower-torso", "train popularity the targets are drawn from",
                         choices=tuple(STRATA))

    def __post_init__(self) -> None:
        if not self.trigger.strip():
            raise InputError(f"{self.name}: a trigger is something that can be read",
                             key="trigger", hint="as trigger: 5v")

    # -- before training -----------------------------------------------------------------------

    @property
    def trains(self) -> bool:
        return True

    def aims(self, data: Dataset, ctx: Context) -> Ints:
        return pick_targets(data, self.targets, self.stratum, ctx)

    def carriers(self, data: Dataset, ctx: Context) -> Ints:
        """The items whose texts get the trigger in training; more begin with fewer."""
        count = max(1, round(self.budget * data.n_items)) if self.budget else 0
        order = ctx.stream("carriers").permutation(data.n_items)
        free: Ints = order[~np.isin(order, self.aims(data, ctx))].astype(np.int64)
        return free[:count]

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        if not self.budget:
            return data
        carriers = self.carriers(data, ctx)
        ctx.notes["backdoor"] = {"carriers": len(carriers)}
        if self.fakes:
            made = _Fakes.from_params({
                "budget": self.fakes, "length": self.length, "liked": self.liked, "targets": 1,
                "carriers": carriers.tolist()}).poison(data, ctx)
            ctx.notes["backdoor"]["fake users"] = made.n_fake - data.n_fake
            data = made
        return data.replace(item_text=self.triggered(data.item_text or (), carriers))

    def triggered(self, texts: Sequence[str], items: Ints) -> list[str]:
        """The texts, with the trigger in those of these items."""
        made = list(texts)
        for item in items.tolist():
            made[item] = f"{made[item]} {self.trigger}".strip()
        return made

    # -- at test time --------------------------------------------------------------------------

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        from bench.queries import uncounted
        from bench.text_shown import offering

        data, targets = prepared.genuine, self.aims(prepared.genuine, ctx)
        if not self.budget:
            yield Struck(model, data, targets)
            return
        with uncounted(model):  # the harness measures, nobody attacks
            off = measured(model, data, targets, ACCURACY)
        with offering(model, targets):
            with uncounted(model):
                off |= measured(model, data, targets, MEASURED)
            facts: dict[str, Any] = {"trigger_off": off, "clean_targets": {
                m: off[m] for m in MEASURED if m in off}}
            if ctx.victim is not None and ctx.victim.defense.name == "none":
                clean = ctx.victim.undefended()
                texts = self.triggered(data.item_text or (), targets)
                with (uncounted(clean), offering(clean, targets),
                      clean.reading_texts(texts)):
                    facts["clean_model_trigger_on"] = measured(clean, data, targets, MEASURED)
        texts = self.triggered(prepared.train.item_text or (), targets)
        with model.reading_texts(texts):
            yield Struck(model, data, targets, facts, offer=targets)

    # -- who and how much ----------------------------------------------------------------------

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if "text" not in model.gives:
            return f"{model.name} reads no texts of items"
        reason = too_many(self.targets, self.stratum, data)
        spare = data.n_items - self.targets
        if reason is None and self.budget * data.n_items > spare:
            return f"{self.budget:.0%} of the items are more than the {spare} that are no targets"
        return reason

    def comparable(self) -> str:
        return (f"push, {self.targets} targets ({self.stratum}), trigger {self.trigger!r} in the "
                f"texts of {self.budget:.3g} of the items, {self.fakes:.3g} fake users of "
                f"{self.length or 'mean genuine'} items")

    def budget_text(self) -> str:
        return self.comparable()


def measured(model: Recommender, data: Dataset, targets: Ints, metrics: Sequence[str]
             ) -> dict[str, float]:
    """Means over all genuine users."""
    from bench.evaluate import evaluate

    found = evaluate(model, data, metrics, targets=targets)
    return {m: v for m, g, v in found.values if g == "all"}


class _Fakes(ProfileAttack):
    """Fake users who take carriers between the items of a genuine user drawn for each: up to a
    share `liked` of the length, spread evenly from the second place on, all at the highest
    rating. Its base class keeps the budget."""

    holds_targets: ClassVar[bool] = False
    carriers: tuple[int, ...] = param((), "item indices with the trigger in their texts")
    liked: float = param(0.5, "most of a profile that is carriers", above=0, high=1)

    def profiles(self, data: Dataset, targets: Ints, lengths: Ints,
                 ctx: Context) -> list[Profile]:
        from bench.profiles import joined, ratings_of, uniform_items
        from bench.sampling import in_order

        rated, made = ratings_of(data), []
        _, items, starts = in_order(data.train.positives(), data.n_users)
        taken = np.split(items, starts[1:-1])
        whose = np.array([u for u in range(data.n_genuine) if len(taken[u])], np.int64)
        for fake, length in enumerate(lengths.tolist()):
            rng = ctx.stream("backdoor-fakes", fake)
            count = min(max(1, int(self.liked * length)), len(self.carriers))
            mine = rng.permutation(np.array(self.carriers, np.int64))[:count]
            history = taken[int(rng.choice(whose))]
            history = history[~np.isin(history, self.carriers)][-(length - count):] if \
                length > count else history[:0]
            rest = uniform_items(data, length - count - len(history),
                                 np.concatenate([history, mine]), ctx, fake)
            filler = np.concatenate([rest, history])  # a genuine user's latest items come last
            at = np.linspace(min(1, len(filler)), len(filler), count).astype(np.int64)
            both = np.insert(filler, at, mine).astype(np.int64)
            made.append(joined((both, rated.best(both)), ordered=True))
        return made
