"""Contracts of models: scores that can be ranked, that were learned, and that come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench._contracts_histories import reads_other_histories
from bench.data import Interactions
from bench.plugin import Plugin
from bench.testing import Skip, require

if TYPE_CHECKING:
    from bench._contracts_lab import Lab
    from bench.models.base import Recommender, TorchRecommender

GIVES = frozenset({"text", "prompts", "token-vectors", "features", "gradients", "embeddings",
                   "histories", "ratings", "dislikes", "user-separable"})

# Models that are floors. The check makes sure that they stay so.
FLOORS = {"pop": "it is the floor itself", "random": "it has learned nothing"}


# Models that ask a language model which was never trained, as the tests have no other.
UNTAUGHT = "tiny-random"


def checks(cls: type[Plugin]) -> list[Callable[[Lab], None]]:
    return [scores, beats_pop, save_and_load, sees_no_future, gives_known, gives_gradients,
            gives_embeddings, gives_histories, reads_other_histories, gives_ratings, gives_dislikes,
            gives_user_separable]


def fitted(lab: Lab) -> Recommender:
    """The model trained on the blocks data, once per test run."""
    from bench._contracts_lab import fit, refuse

    key = "_fitted"
    if key not in lab.__dict__:
        refuse(lab.plugin().unfit(lab.data()))
        lab.__dict__[key] = fit(lab.plugin(), lab.data())
    model: Recommender = lab.__dict__[key]
    return model


def torch_model(lab: Lab, promise: str) -> TorchRecommender:
    """The trained model, if its class promises this; Skip where not."""
    from bench.models.base import TorchRecommender

    if promise not in lab.plugin().gives:
        raise Skip(f"it does not promise {promise}")
    model = fitted(lab)
    require(isinstance(model, TorchRecommender),
            f"it promises {promise} and its recommender is no TorchRecommender",
            "derive the recommender from TorchRecommender, or take the promise out of `gives`")
    assert isinstance(model, TorchRecommender)
    return model


def scores(lab: Lab) -> None:
    """Finite floating-point scores of shape (users, all items), in any order of users."""
    from bench._contracts_lab import all_scores

    model = fitted(lab)
    for split in ("valid", "test"):
        found = all_scores(model, split)
        shape = (model.data.n_genuine, model.data.n_items)
        require(tuple(found.shape) == shape, f"scores have shape {tuple(found.shape)}, not "
                f"{shape}", "give a score to every item for each user asked")
        require(found.is_floating_point() and bool(torch.isfinite(found).all()),
                "scores are not all finite numbers",
                "find out where NaN or infinity comes from; such scores cannot be ranked")
    some = torch.tensor([7, 3, 3])
    with torch.no_grad():
        part = model.scores(some).cpu()
    require(torch.allclose(part, found[some], rtol=1e-4, atol=1e-5),
            "a user's scores depend on which users are asked together",
            "score each user alone: evaluation goes in blocks of any size")


def beats_pop(lab: Lab) -> None:
    """Better than popularity where there is structure to find (floors: no better)."""
    from bench._contracts_lab import all_scores, fit, ndcg
    from bench.models.pop import Pop

    data, plugin = lab.data(), lab.plugin()
    model = fitted(lab)
    if "gradients" in plugin.gives and lab.params.get("epochs", 99) < 10:
        model = fit(lab.plugin(epochs=30, **_quick(plugin)), data)
    floor, mine = ndcg(fit(Pop(), data), data), ndcg(model, data)
    if lab.cls.name in FLOORS:
        require(mine <= floor, f"{lab.cls.name} is exempt since {FLOORS[lab.cls.name]}, and has "
                f"ndcg@10 {mine:.4f} above {floor:.4f}", "take it off the exemptions")
        return
    found = all_scores(model)
    require(not torch.allclose(found, found[:1].expand_as(found)),
            "every user gets the same scores: the model ignores who is asked",
            "let the scores depend on the user")
    if "prompts" in plugin.gives and lab.params.get("model") == UNTAUGHT:
        return  # random weights answer at random; what real ones know no test here can say
    require(mine > floor, f"ndcg@10 is {mine:.4f} on the blocks data, popularity has {floor:.4f}",
            "check the loss and the indices; give test_params with which it learns in a second")


def _quick(plugin: Any) -> dict[str, Any]:
    return {"learning_rate": 0.02} if "learning_rate" in plugin.params() else {}


def save_and_load(lab: Lab) -> None:
    """What `state` gives, loaded into a fresh model, gives equal scores."""
    from bench._contracts_lab import all_scores
    from bench.context import Context
    from bench.models.base import build

    model = fitted(lab)
    state = model.state()
    require(all(isinstance(v, torch.Tensor) for v in state.values()),
            "state holds something else than tensors", "keep what is learned as tensors by name")
    fresh = build(lab.plugin(), lab.data(), Context(0))
    fresh.load_state({k: v.clone() for k, v in state.items()})
    for split in ("valid", "test"):
        require(torch.equal(all_scores(model, split), all_scores(fresh, split)),
                "a loaded model scores otherwise than the one that was saved",
                "let state hold everything learned, buffers included, and load_state restore it")


def sees_no_future(lab: Lab) -> None:
    """Other test items change neither training nor scores, other validation items no score that
    is given for validation."""
    from bench._contracts_lab import all_scores, fit, with_other_items
    from bench.context import Context
    from bench.models.base import build

    model, data = fitted(lab), lab.data()
    again = fit(lab.plugin(), with_other_items(data, "test"))
    for split in ("valid", "test"):
        require(torch.equal(all_scores(model, split), all_scores(again, split)),
                f"with other test items its {split} scores differ: it has read what it is to "
                "predict", "learn from data.train, stop by data.valid, never read data.test")
    fresh = build(lab.plugin(), with_other_items(data, "valid"), Context(0))
    fresh.load_state({k: v.clone() for k, v in model.state().items()})
    require(torch.equal(all_scores(model, "valid"), all_scores(fresh, "valid")),
            "scores for the validation split depend on the validation items",
            "read data.known(split), which holds what a model may know of a user then")


def gives_known(lab: Lab) -> None:
    """`gives` names things that attacks and defenses know."""
    unknown = sorted(lab.plugin().gives - GIVES)
    require(not unknown, f"gives names {', '.join(unknown)}", f"known: {', '.join(sorted(GIVES))}")


def gives_gradients(lab: Lab) -> None:
    """Promised: a loss that is finite and differentiable in the parameters."""
    model = torch_model(lab, "gradients")
    batch = next(iter(model.batches(0, 64)))
    with model.evaluating():
        with model.ctx.seeded("contract"):
            loss = model.loss(batch)
        with model.ctx.seeded("contract"):
            again = model.loss(batch)
    require(bool(torch.equal(loss, again)), "asked twice for the same loss, it gives two values",
            "let the loss follow from parameters, batch and seed: what it counts along may move "
            "on in training mode alone")
    weights = [p for p in model.module.parameters() if p.requires_grad]
    require(loss.ndim == 0 and bool(torch.isfinite(loss)), "the loss is no finite scalar",
            "return one number per batch")
    require(loss.requires_grad, "the loss does not depend on the parameters",
            "do not detach, and do not compute the loss under no_grad")
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    require(any(g is not None and bool((g != 0).any()) for g in found),
            "the loss has no gradient", "let the parameters take part in the loss")
    require(lab.plugin().whole_histories == ("items" not in batch),
            f"whole_histories is {lab.plugin().whole_histories}, and its batches hold "
            f"{', '.join(sorted(batch))}", "say so exactly where no row is of one item: defenses "
            "that weigh or draw rows by their items ask for it")


def gives_embeddings(lab: Lab) -> None:
    """Promised: tables with one row per user or item, which reach the loss and the scores."""
    from bench._contracts_lab import all_scores
    from bench.perturb import attack_batches, gradient

    model = torch_model(lab, "embeddings")
    tables = model.tables()
    require(bool(tables), "it promises embeddings and has no table", "list them in tables()")
    require(("features" in lab.plugin().gives) == any(t.role == "feature" for t in tables.values()),
            "it promises features and has no table of role feature, or has one and says nothing",
            "let `gives` name features exactly where feature vectors of items are read")
    roles = {t.role for t in tables.values()} - {"feature"}
    require(roles == lab.plugin().table_roles,
            f"table_roles is {', '.join(sorted(lab.plugin().table_roles)) or 'empty'}, and its "
            f"tables are of {', '.join(sorted(roles)) or 'neither'}",
            "let table_roles name user and item where there is such a table: defenses that ask "
            "for one would fail otherwise")
    for key, table in tables.items():
        size = model.data.n_users if table.role == "user" else model.data.n_items
        require(table.role in ("user", "item", "feature") and len(table.rows()) == size,
                f"table {key!r} has {len(table.rows())} rows for {size} {table.role}s",
                "start and stop delimit one row per user or item, padding left out")
    with model.evaluating():
        found, _ = gradient(model, attack_batches(model), list(tables))
    still = [k for k, g in found.items() if not bool((g != 0).any())]
    require(not still, f"the loss does not move with table {', '.join(still)}",
            "let batch_loss read the table from the module")
    before, state = all_scores(model), {k: v.clone() for k, v in model.state().items()}
    for key, table in tables.items():
        delta = torch.ones_like(table.rows()) * torch.linspace(-1, 1, table.rows().shape[1])
        with model.perturbed({key: delta}):
            require(not torch.equal(before, all_scores(model)),
                    f"table {key!r} does not reach the scores",
                    "compute scores from the parameters, and drop caches in forget()")
    require(torch.equal(before, all_scores(model))
            and all(torch.equal(v, model.state()[k]) for k, v in state.items()),
            "after a perturbation the model is not what it was", "drop caches in forget()")


def gives_histories(lab: Lab) -> None:
    """Scores depend on what is known of a user exactly where histories are promised."""
    from bench._contracts_lab import all_scores

    model, promised = fitted(lab), "histories" in lab.plugin().gives
    same = torch.equal(all_scores(model, "valid"), all_scores(model, "test"))
    if promised:
        require(not same, "it promises histories, and its scores do not depend on them",
                "read the history that `split` allows, or take the promise out of `gives`")
    else:
        require(same, "its scores depend on the split, and it does not promise histories",
                "add \"histories\" to gives: attacks on histories would pass it by otherwise")


def gives_ratings(lab: Lab) -> None:
    """Ratings are read exactly where that is promised, and low ones count against an item."""
    from bench._contracts_lab import all_scores, fit

    model, data = fitted(lab), lab.data()
    rows, item = data.train, int(data.popularity.argmax())
    assert rows.ratings is not None
    if "ratings" not in lab.plugin().gives:
        other = dataclasses.replace(rows, ratings=6 - rows.ratings)
        require(torch.equal(all_scores(model), all_scores(fit(
            lab.plugin(), data.replace(train=other)))),
            "its scores depend on ratings, and it does not promise them",
            "add \"ratings\" to gives: attacks by low ratings would pass it by otherwise")
        return
    low = dataclasses.replace(rows, ratings=np.where(rows.items == item, 1.0, rows.ratings))
    before = float(all_scores(model)[:, item].mean())
    after = float(all_scores(fit(lab.plugin(), data.replace(train=low)))[:, item].mean())
    require(after < before, f"an item that all of its users rate lowest scores {after:.4g}, with "
            f"their own ratings {before:.4g}: it promises ratings",
            "let low ratings count against an item, or take the promise out of `gives`")


def gives_dislikes(lab: Lab) -> None:
    """Rows labelled as disliked are read exactly where that is promised, and count against an
    item. What promises ratings reads those rows too.

    Who re-ranks candidates passes over what evaluation leaves out, disliked items of the user
    among them: there the scores of users without such rows are looked at.
    """
    from bench._contracts_lab import all_scores, fit, refuse

    data = lab.data()
    parts = {split: dataclasses.replace(rows, labels=np.ones(len(rows), np.int8))
             for split in ("train", "valid", "test") for rows in [getattr(data, split)]}
    liked = data.replace(threshold=1.0, **parts)
    refuse(lab.plugin().unfit(liked))
    item = int(data.popularity.argmax())
    others = np.setdiff1d(np.arange(data.n_users), np.concatenate(
        [rows.users[rows.items == item] for rows in parts.values()]))
    train = parts["train"].plus(Interactions(
        others, np.full(len(others), item), np.ones(len(others)), np.zeros(len(others)),
        np.zeros(len(others), np.int8)))
    before = all_scores(fit(lab.plugin(), liked))
    after = all_scores(fit(lab.plugin(), liked.replace(train=train)))
    if not {"dislikes", "ratings"} & lab.plugin().gives:
        if "prompts" in lab.plugin().gives:
            rest = np.setdiff1d(np.arange(data.n_users), others)
            before, after = before[rest], after[rest]
        require(torch.equal(before, after),
                "its scores depend on disliked rows, and it does not promise that",
                "learn from data.train.positives(), or add \"dislikes\" to gives")
        return
    was, now = float(before[:, item].mean()), float(after[:, item].mean())
    require(now < was, f"an item that everybody else dislikes scores {now:.4g}, without those rows "
            f"{was:.4g}: it promises to read them",
            "let disliked rows count against an item, or take the promise out of `gives`")


def gives_user_separable(lab: Lab) -> None:
    """Promised: the gradient of two users together is a weighted sum of theirs alone, and stays
    where it is when the rows of a third leave the data.

    The weights are left open: a mean over rows or positions divides by how many there are.
    """
    from bench.models.base import TorchRecommender, build

    model = torch_model(lab, "user-separable")
    users = torch.unique(next(iter(model.batches(0, 4096)))["users"])
    users, gone = users[:2], int(users[-1])
    apart = torch.stack([_slope(model, users[:1]), _slope(model, users[1:])], dim=1)  # (P, 2)
    together = _slope(model, users)[:, None]  # (P, 1), P coordinates of all parameters
    shares = torch.linalg.lstsq(apart, together).solution  # (2, 1)
    rest = float((together - apart @ shares).norm() / together.norm().clamp_min(1e-30))
    require(rest < 1e-3 and bool((shares > 0).all()),
            f"it promises user-separable, and {rest:.1%} of two users' gradient is not theirs",
            "take the promise out: private training would claim a bound that does not hold")

    # what the model itself keeps of the data (counts, norms) tells of everybody, too
    bare = build(lab.plugin(), model.data.without_users(np.arange(model.data.n_users) == gone),
                 model.ctx)
    assert isinstance(bare, TorchRecommender)
    with torch.no_grad():
        for mine, trained in zip(bare.module.parameters(), model.module.parameters(), strict=True):
            mine.copy_(trained)
    bare.forget()
    moved = float((_slope(bare, users)[:, None] - together).norm()
                  / together.norm().clamp_min(1e-30))
    require(moved < 1e-4,
            f"it promises user-separable, and two users' gradient moves by {moved:.1%} when the "
            "rows of another user leave the data",
            "keep what is counted over users' rows out of the loss; the number of users is public")


def _slope(model: TorchRecommender, users: torch.Tensor) -> torch.Tensor:
    """The gradient of the loss of these users' rows by all parameters, one after another: (P,)."""
    batch = next(iter(model.batches(0, 4096)))
    rows = torch.isin(batch["users"], users)
    part = {k: v[rows] if v.ndim and len(v) == len(rows) else v for k, v in batch.items()}
    weights = [p for p in model.module.parameters() if p.requires_grad]
    with model.ctx.seeded("contract"), model.evaluating():
        found = torch.autograd.grad(model.loss(part), weights, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                      for p, g in zip(weights, found, strict=True)]).double()
