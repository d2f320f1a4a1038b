"""Contracts of attacks on the texts of items."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.api import Context
from bench.data import Ints
from bench.plugin import Plugin
from bench.testing import require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.models.base import Recommender

SEEDS = (0, 1)
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [texts_within_bounds, targets_alone_change, texts_come_back,
            measured_on_users_never_seen, measured_against_the_same_without_attack,
            greedy_never_loses, reaches_users_never_seen, asks_to_its_gain]


def trained(lab: Lab) -> Recommender:
    """The model that is attacked, trained once per lab; no check leaves a mark on it."""
    if "_texts_model" not in lab.__dict__:
        lab.__dict__["_texts_model"] = lab.model()
    model: Recommender = lab.__dict__["_texts_model"]
    return model


def _attacked(lab: Lab, seed: int = 1, ctx: Context | None = None, model: Any = None,
              **changes: Any) -> tuple[Any, list[str], list[str], Any]:
    """The plugin, all texts before and as the model reads them under attack, and what was
    struck. Two targets, for speed."""
    from bench.models.base import innermost
    from bench.stages import Prepared

    plugin, data = lab.plugin(**({"targets": 2} | changes)), lab.data()
    model = trained(lab) if model is None else model
    inside: Any = innermost(model)
    before = list(inside.texts)
    with plugin.strike(model, Prepared(data, data, data, None), ctx or lab.context(seed)) as struck:
        return plugin, before, list(inside.texts), struck


def fingerprint(lab: Lab, ctx: Context) -> str:
    """All texts under attack, hashed."""
    from bench._contracts_lab import digest

    return digest(_attacked(lab, ctx=ctx, model=lab.model())[2])


def levenshtein(a: Sequence[Any], b: Sequence[Any]) -> int:
    """By the whole table of prefixes."""
    row = list(range(len(b) + 1))
    for x in a:
        before, row = row, [row[0] + 1]
        for j, y in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def texts_within_bounds(lab: Lab) -> None:
    """No text is further from its own than `edits` characters, `share` words, `similarity`; none
    gets a character that nobody sees unless the attack says so."""
    changed = 0
    few: dict[str, Any] = {"edits": 3}
    if "tokens" in lab.plugin().params():
        few["tokens"] = 1  # each token takes two characters
    for changes in ({}, few, {"share": 0.34}, {"similarity": 0.9, "judge": "tiny-random"}):
        plugin, before, after, _ = _attacked(lab, **changes)
        for was, now in zip(before, after, strict=True):
            changed += was != now
            require(levenshtein(was, now) <= plugin.edits, f"a text is {levenshtein(was, now)} "
                    f"characters from {was!r}, the bound is {plugin.edits}: {now!r}",
                    "ask shown.allowed")
            words = levenshtein(was.split(), now.split())
            require(words <= plugin.share * len(was.split()) + 1e-9, f"{words} words of {was!r} "
                    f"change, the bound is {plugin.share:g} of them", "ask shown.allowed")
            new = [c for c in now if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn")
                   and c not in "\n\t" and now.count(c) > was.count(c)]
            require(getattr(plugin, "hidden", False) or not new, f"a text gets {new[:1]!r}, which "
                    "nobody sees", "give the class a parameter hidden that says so")
        if plugin.similarity > -1:
            cosines = _cosines(plugin.judge, before, after)
            require(bool((cosines >= plugin.similarity - 1e-4).all()), f"a text has cosine "
                    f"{float(cosines.min()):.3f} with what it was, the bound is "
                    f"{plugin.similarity:g}", "ask shown.allowed")
    require(changed > 0, "no text changes", "is no option within the bounds, or none better?")


def _cosines(judge: str, before: list[str], after: list[str]) -> torch.Tensor:
    """Each pair by itself, without a batch."""
    from bench.text.encode import hidden_states
    from bench.text.language import load

    lm, found = load(judge, "encoder", corpus=before, dtype="float32"), []
    for was, now in zip(before, after, strict=True):
        if was != now:
            with torch.no_grad():
                pair = [hidden_states(lm, *lm.batch([[*lm.begin, *lm.ids(t), *lm.end]]))[0].mean(
                    dim=0) for t in (was, now)]
            found.append(torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=0))
    return torch.stack(found) if found else torch.ones(1)


def targets_alone_change(lab: Lab) -> None:
    """The texts of all other items stay as they are."""
    _, before, after, struck = _attacked(lab)
    changed = {n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    require(changed <= set(struck.targets.tolist()), f"the texts of items "
            f"{sorted(changed - set(struck.targets.tolist()))} change, which are no targets",
            "leave `strike` to the base class")


def texts_come_back(lab: Lab) -> None:
    """edits 0 is the identity; under attack scores differ; after it everything is as before. Bit
    for bit."""
    from bench._contracts_lab import all_scores
    from bench.stages import Prepared
    from bench.text_shown import offering

    model, data = trained(lab), lab.data()
    prepared, plugin = Prepared(data, data, data, None), lab.plugin(targets=2)
    with offering(model, plugin.aims(data, lab.context(1))):  # as under attack
        clean = all_scores(model)
        with lab.plugin(targets=2, edits=0).strike(model, prepared, lab.context(1)):
            require(torch.equal(clean, all_scores(model)), "edits 0 changes scores",
                    "leave `strike` to the base class")
        with plugin.strike(model, prepared, lab.context(1)):
            require(not torch.equal(clean, all_scores(model)), "the attack changes no score",
                    "do the texts reach what the model reads?")
        require(torch.equal(clean, all_scores(model)), "the model is not put back afterwards",
                "leave `strike` to the base class")


def measured_on_users_never_seen(lab: Lab) -> None:
    """The attacker asks for lists of its own users alone; none of them is evaluated."""
    from bench.models.base import innermost
    from bench.stages import Prepared

    model, data = innermost(trained(lab)), lab.data()
    ctx = lab.context(1)
    plugin = lab.plugin(targets=2)
    asked = set[int]()
    rewrite, cls = type(plugin).rewrite, type(model)
    scores: Any = cls.scores

    def asking(own: Any, users: Any, *more: Any) -> Any:
        asked.update(users.tolist())
        return scores(own, users, *more)

    def watched(self: Any, *args: Any) -> str:
        cls.scores = asking  # type: ignore[assignment, method-assign]
        try:
            return str(rewrite(self, *args))
        finally:
            cls.scores = scores  # type: ignore[method-assign]

    type(plugin).rewrite = watched
    try:
        with plugin.strike(model, Prepared(data, data, data, None), ctx) as struck:
            measured = struck.data.asked
    finally:
        type(plugin).rewrite = rewrite
    require(measured is not None and len(measured) > 0, "nobody is evaluated, or everybody",
            "leave `strike` to the base class")
    require(not asked & set(measured.tolist()), f"{len(asked & set(measured.tolist()))} users are "
            "evaluated whose lists the attacker has seen", "ask through `shown` alone")
    everybody = set(range(data.n_genuine))
    require(asked | set(measured.tolist()) <= everybody, "users are asked who are not genuine",
            "leave `crowd` to the base class")


def measured_against_the_same_without_attack(lab: Lab) -> None:
    """clean_targets is what an evaluation of the same users, targets and offer gives without
    attack."""
    from bench.evaluate import evaluate
    from bench.text_attack import MEASURED
    from bench.text_shown import offering

    _, _, _, struck = _attacked(lab)
    with offering(trained(lab), struck.targets):
        found = evaluate(trained(lab), struck.data, MEASURED, targets=struck.targets)
    slow = {m: v for m, g, v in found.values if g == "all"}
    require(slow == struck.facts["clean_targets"], f"clean_targets says "
            f"{struck.facts['clean_targets']}, an evaluation without attack gives {slow}",
            "leave `strike` to the base class")


def _shown(lab: Lab, plugin: Any, users: Ints, texts: list[str]) -> Any:
    from bench.text_shown import Shown

    return Shown(trained(lab), plugin, users, texts)


def greedy_never_loses(lab: Lab) -> None:
    """No target is seen less by the attacker's own users than before: what does not help is not
    done."""
    for seed in SEEDS:
        plugin, before, after, struck = _attacked(lab, seed)
        seen, _ = plugin.crowd(lab.data(), lab.context(seed))
        shown = _shown(lab, plugin, seen, before)
        for t in struck.targets.tolist():
            was, now = shown.gain(t, before[t]), shown.gain(t, after[t])
            require(now >= was, f"the gain of a target falls from {was:.6g} to {now:.6g}",
                    "take shown.best of the options: it keeps the text where none is better")


def random_edit(text: str, edits: int, rng: np.random.Generator) -> str:
    """So many characters inserted, substituted or deleted at random places."""
    letters = list(text)
    for _ in range(edits):
        kind, letter = rng.integers(3), LETTERS[int(rng.integers(len(LETTERS)))]
        at = int(rng.integers(len(letters) + (kind == 0))) if letters or kind == 0 else 0
        letters[at:at + (kind != 0)] = [] if kind == 2 else [letter]
        if not letters:
            letters = [letter]
    return "".join(letters)


def reaches_users_never_seen(lab: Lab) -> None:
    """Targets gain among users whose lists the attacker has not seen."""
    gains = []
    for seed in SEEDS:
        plugin, before, after, struck = _attacked(lab, seed, targets=3)
        shown = _shown(lab, plugin, plugin.crowd(lab.data(), lab.context(seed))[1], before)
        gains += [(shown.gain(t, before[t]), shown.gain(t, after[t]))
                  for t in struck.targets.tolist()]
    was, now = np.mean(gains, axis=0)
    require(now > was, f"targets go from {was:.4f} to {now:.4f} in mean 1/log2(1 + rank)",
            "is the sign right, and are users asked who matter?")


@contextlib.contextmanager
def picking_at_random(rng: np.random.Generator) -> Iterator[list[int]]:
    """Inside, a greedy step takes any of the options within the bounds; the list counts steps."""
    from bench.text_shown import Shown

    own, steps = Shown.best, list[int]()

    def any_of(self: Shown, item: int, now: str, options: Iterable[str]) -> str:
        able = [o for o in dict.fromkeys(options) if self.allowed(item, o)]
        steps.append(len(able))
        return able[int(rng.integers(len(able)))] if able else now

    Shown.best = any_of  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        Shown.best = own  # type: ignore[method-assign]


def asks_to_its_gain(lab: Lab) -> None:
    """Targets gain more among the attacker's own users than with the same options taken at
    random; of an attack with steps of its own, than by random edits of as many characters."""
    gains = []
    for seed in SEEDS:
        plugin, before, after, struck = _attacked(lab, seed, targets=3)
        shown = _shown(lab, plugin, plugin.crowd(lab.data(), lab.context(seed))[0], before)
        for draw in range(3):
            rng = np.random.default_rng((seed, draw))
            with picking_at_random(rng) as steps:
                random = _attacked(lab, seed, targets=3)[2]
            for t in struck.targets.tolist():
                if not steps:
                    random[t] = random_edit(before[t], levenshtein(before[t], after[t]), rng)
                gains.append((shown.gain(t, after[t]), shown.gain(t, random[t])))
    mine, chance = np.mean(gains, axis=0)
    require(mine > chance, f"targets reach {mine:.4f} in mean 1/log2(1 + rank), chance "
            f"{chance:.4f}", "ask which option serves: shown.best")
