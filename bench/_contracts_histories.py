"""Contracts of attacks on histories, and of models that read other histories than their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.api import Context
from bench.data import Dataset, Interactions, Ints
from bench.errors import CannotActError, InputError
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.models.base import Recommender


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [histories_within_budget, similarity_kept, targets_where_allowed,
            reads_no_test_rows_of_histories, histories_come_back, gains_more_than_chance]


def trained(lab: Lab) -> Recommender:
    """The model that is attacked, trained once per lab; no check leaves a mark on it."""
    if "_histories_model" not in lab.__dict__:
        lab.__dict__["_histories_model"] = lab.model()
    model: Recommender = lab.__dict__["_histories_model"]
    return model


def _plugins(lab: Lab, **changes: Any) -> list[Any]:
    """The attack with each goal that it has."""
    found = []
    for goal in lab.cls.goals:  # type: ignore[attr-defined]
        try:
            found.append(lab.plugin(goal=goal, **changes))
        except InputError:  # its test parameters go with another goal
            continue
    return found


def _edited(lab: Lab, plugin: Any, model: Recommender | None = None, seed: int = 1,
            ctx: Context | None = None, data: Dataset | None = None
            ) -> tuple[list[Ints], list[Ints], Any]:
    """Histories of genuine users before and after, and the targets."""
    model, ctx = model or trained(lab), ctx or Context(seed)
    genuine = data or lab.data()
    before = [h.copy() for h in model.histories()]
    targets = plugin.aims(genuine, ctx)
    after, _ = plugin.edited(model, model, genuine, targets, ctx)
    return before, after, np.zeros(0, np.int64) if targets is None else targets


def fingerprint(lab: Lab, ctx: Context) -> str:
    """The edited histories, hashed."""
    from bench._contracts_lab import digest

    return digest(_edited(lab, lab.plugin(), lab.model(), ctx=ctx)[1])


def levenshtein(a: Ints, b: Ints) -> int:
    """By the whole table of prefixes."""
    row = np.arange(len(b) + 1)
    for x in a:
        before, row = row, np.full(len(b) + 1, row[0] + 1)
        for j, y in enumerate(b, start=1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
    return int(row[-1])


def histories_within_budget(lab: Lab) -> None:
    """No history is further from its own than `edits`, in items; each is of the catalogue."""
    for edits in (1, 3):
        for plugin in _plugins(lab, edits=edits):
            before, after, _ = _edited(lab, plugin)
            for was, now in zip(before, after, strict=True):
                require(levenshtein(was, now) <= edits, f"a history is {levenshtein(was, now)} "
                        f"edits away, the budget is {edits}", "count every item that differs")
                require(len(now) > 0 and now.min() >= 0 and now.max() < lab.data().n_items,
                        "a history has no item or one outside the catalogue",
                        "items are indices of the dataset")
            require(any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)),
                    "no history is edited", "is the gradient detached, or is no candidate left?")


def similarity_kept(lab: Lab) -> None:
    """An item is replaced by one of cosine at least `similarity`."""
    from bench.shown_lists import unit_vectors

    if "substitute" not in lab.cls.changes or lab.plugin().knows == "none":  # type: ignore
        raise Skip("it replaces no item by what it knows of similarity")
    unit = unit_vectors(trained(lab)).numpy()
    for plugin in _plugins(lab, edits=3, similarity=0.1):
        before, after, _ = _edited(lab, plugin)
        for was, now in zip(before, after, strict=True):
            if len(was) == len(now):
                cosines = (unit[was] * unit[now]).sum(axis=1)
                require(bool((cosines > 0.1 - 1e-4).all()), f"an item is replaced by one of "
                        f"cosine {cosines.min():.3f}, the bound is 0.1",
                        "leave out candidates below self.similarity")


def targets_where_allowed(lab: Lab) -> None:
    """Target items are put only where the class says."""
    rule = lab.cls.places_targets  # type: ignore[attr-defined]
    if rule == "anywhere" or "push" not in lab.cls.goals:  # type: ignore[attr-defined]
        raise Skip("it may put targets anywhere, or has none")
    before, after, targets = _edited(lab, lab.plugin(goal="push", edits=3, targets=2))
    for was, now in zip(before, after, strict=True):
        a, b = np.isin(was, targets), np.isin(now, targets)
        require(int((b[1:] & b[:-1]).sum()) <= int((a[1:] & a[:-1]).sum()),
                "two targets stand side by side", "leave targets out beside targets")
        require(rule != "nowhere" or b.sum() <= a.sum(), "a target is put into a history",
                "leave targets out of the candidates")


def reads_no_test_rows_of_histories(lab: Lab) -> None:
    """Other test items, the same edits: the attacker does not know what is looked for."""
    from bench._contracts_lab import digest, fit, with_other_items

    found = []
    for data in (lab.data(), with_other_items(lab.data(), "test")):
        model = fit(lab.model_plugin(), data)
        found.append(digest(_edited(lab, lab.plugin(), model, data=data)[1]))
    require(found[0] == found[1], "its edits depend on the test items",
            "aim at what the model recommends, or at targets; never read model.data.test")


def histories_come_back(lab: Lab) -> None:
    """edits 0 is the identity; under attack scores differ, what is evaluated does not; after it
    everything is as before. Bit for bit."""
    from bench._contracts_lab import all_scores, digest
    from bench.stages import Prepared

    model, data = trained(lab), lab.data()
    prepared, clean = Prepared(data, data, data, None), all_scores(model)
    with lab.plugin(edits=0).strike(model, prepared, lab.context(1)):
        require(torch.equal(clean, all_scores(model)), "edits 0 changes scores",
                "leave `strike` to the base class")
    with lab.plugin(edits=3).strike(model, prepared, lab.context(1)) as struck:
        require(not torch.equal(clean, all_scores(struck.model)), "3 edits change no score",
                "do the edits reach what the model reads?")
        require(digest(struck.data) == digest(data), "other data are evaluated on",
                "what is masked and looked for is what users really took")
    require(torch.equal(clean, all_scores(model)), "the model is not put back afterwards",
            "leave `strike` to the base class")


def gains_more_than_chance(lab: Lab) -> None:
    """What the attack is after moves further than by random edits of the same number and kind."""
    plugin = lab.plugin()
    if plugin.threat_model().knowledge == "none" or lab.cls.name == "random-substitution":
        raise Skip("it is a control")
    from bench.models.base import TorchRecommender, innermost
    from bench.positions import Reader, padded

    kind = "append-items" if plugin.changes == ("append",) else "random-substitution"
    model: Any = innermost(trained(lab))
    if not isinstance(model, TorchRecommender):
        raise Skip("the test model gives no probabilities of items")
    for attack in _plugins(lab, edits=3):
        budget = {k: getattr(attack, k) for k in ("edits", "goal", "targets", "stratum",
                                                  "similarity")}
        control: Any = lab.registry.make("attacks", {"name": kind, "params": budget})
        own = model.histories()[:model.data.n_genuine]
        aim = attack.aims(lab.data(), Context(1))
        reader = Reader(model, np.zeros(0, np.int64) if aim is None else aim, own, Context(1))
        users = torch.arange(len(own))
        found = []
        for one in (attack, control):
            _, after, _ = _edited(lab, one)
            with model.evaluating():
                found.append(float(reader.gain(users, *padded(after[:len(own)], reader.width,
                                                              model.ctx.device)).mean()))
        require(found[0] > found[1], f"{attack.goal}: it reaches {found[0]:.6g} in log "
                f"probability, random edits {found[1]:.6g}",
                "an attack that knows the model must beat chance: check the sign of the step")


# -- models --------------------------------------------------------------------------------------

def reads_other_histories(lab: Lab) -> None:
    """Where a model can be made to read other histories, it scores as on data with them."""
    from bench._contracts_lab import all_scores
    from bench._contracts_models import fitted
    from bench.models.base import build

    model = fitted(lab)
    clean, own = all_scores(model), model.histories()
    try:
        with model.reading(own):
            require(torch.equal(clean, all_scores(model)), "reading its own histories, it scores "
                    "otherwise", "read them as the data gives them")
    except CannotActError as reason:
        require("histories" not in lab.plugin().gives, f"it promises histories and refuses to "
                f"read others: {reason}", "write reading() and histories(), or take the promise "
                "out of `gives`: attacks on histories act on it otherwise")
        raise Skip(str(reason)) from None
    other = [np.roll(h, 1)[1 if len(h) > 2 else 0:] for h in own]
    users = np.repeat(np.arange(len(other)), [len(h) for h in other])
    train, filled = model.data.train, dict[str, Any]()
    for f in dataclasses.fields(train):
        column = getattr(train, f.name)
        filled[f.name] = None if column is None else np.full(len(users), column.max(),
                                                             column.dtype)
    filled |= {"users": users, "items": np.concatenate(other),
               "times": np.arange(len(users), dtype=np.float64)}
    data = model.data.replace(train=Interactions(**filled), valid=model.data.valid[:0])
    again = build(lab.plugin(), data, Context(0))
    again.load_state(model.state())
    with model.reading(other):
        inside = all_scores(model)
    require(torch.equal(clean, all_scores(model)), "after reading other histories it scores "
            "otherwise", "put back what reading() changes")
    require(not torch.equal(inside, clean), "reading other histories changes no score",
            "let `scores` read what reading() put there")
    if getattr(model, "learned", {}).get("pred_mat") is None:  # ItemKNN keeps scores as its state
        require(torch.allclose(inside, all_scores(again), rtol=1e-4, atol=1e-5),
                "it scores otherwise than on data with these histories",
                "let reading() put there what the data would")
