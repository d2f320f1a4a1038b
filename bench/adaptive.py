"""Profile attacks made against the defended pipeline: of several disguises, the best survives.

A defense that was only met by attackers who did not know of it has shown nothing (Carlini et
al., "On Evaluating Adversarial Robustness", 2019; on recommenders: the weighting of GraphRfi
falls to an attacker who knows it, arXiv 2211.11534). The attacker here runs the defense itself:
profiles are disguised to different degrees, each candidate is put through the defense's cleaning
and a training with its hooks, and the one whose targets fare best is injected.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data import Dataset, Ints
from bench.errors import PluginError

if TYPE_CHECKING:
    from bench.api import Context, Defense, ModelPlugin, Profile, ProfileAttack
    from bench.models.base import Recommender

_SIZE = {"dim": 32, "epochs": 40, "learning_rate": 0.01, "batch_size": 1024, "patience": 0}
SURROGATE = {"name": "bprmf", "params": _SIZE}
RATING_SURROGATE = {"name": "rating-mf", "params": _SIZE}  # sees that a low rating is none to like


def best_disguise(attack: ProfileAttack, made: list[Profile], seen: Dataset, targets: Ints,
                  ctx: Context) -> list[Profile]:
    """The candidate whose targets stand best (push) or worst (nuke) for genuine users.

    Candidate t of `tries` gives up the share t/(tries − 1) of each profile's fillers for items
    of one genuine user, so that the last is a genuine history plus the targets: what detectors
    find hardest to tell. The defense is run on each; the model trained is the attacked one
    (white box, with its own seed) or a small matrix factorisation (gray and black box; of
    ratings, where a nuke gives low ones), both with the defense. Who is not white-box knows
    neither what the attacked training draws nor what its defense does: both have a seed of the
    attacker's.
    Nothing but `seen` is used; of equals the least disguised is kept. Writes what was chosen,
    each candidate's `standing`, and what was asked of the attacked pipeline to `ctx.notes`.
    """
    if ctx.victim is None:
        raise PluginError(f"{attack.name}: adaptive: true needs to know the attacked pipeline")
    found = []
    for t in range(attack.tries):
        share = t / (attack.tries - 1)
        disguised = [_disguise(p, share, seen, targets, ctx, fake) for fake, p in enumerate(made)]
        poisoned = attack.with_profiles(seen, disguised, ctx)
        if attack.knowledge == "white":
            rank = asked_standing(poisoned, seen, targets, ctx)
        else:
            rank = standing(_surrogate(attack, poisoned, ctx), seen, targets)
        found.append((rank, share, disguised))
    pick = min if attack.goal == "push" else max
    _, share, chosen = pick(found, key=lambda candidate: candidate[0])
    ctx.notes["disguise"] = {"share": share, "rank": {f"{s:.2f}": r for r, s, _ in found}}
    return chosen


def _disguise(profile: Profile, share: float, seen: Dataset, targets: Ints, ctx: Context,
              fake: int) -> Profile:
    """The profile with a share of its fillers replaced, in their places, by rows of one genuine
    user: drawn among those with enough rows where there are such, else the one with most. A
    larger share replaces what a smaller one does, and more."""
    fillers = np.flatnonzero(~np.isin(profile.items, targets))
    count, rng = round(share * len(fillers)), ctx.stream("disguise", fake)
    rows = seen.train[~np.isin(seen.train.items, targets)]
    active = np.bincount(rows.users, minlength=seen.n_users)
    if not count or not active.any():
        return profile
    enough = np.flatnonzero(active >= min(len(fillers), active.max()))
    rows = rows[rows.users == rng.choice(enough)]
    order, mixed = rng.permutation(fillers), rng.permutation(len(rows))
    shared = np.isin(profile.items[order[:count]], rows.items)  # genuine already: they stay
    places = order[:count][~shared]
    taken = mixed[~np.isin(rows.items[mixed], profile.items)][:len(places)]
    items, ratings = profile.items.copy(), profile.ratings
    items[places[:len(taken)]] = rows.items[taken]
    if ratings is not None and rows.ratings is not None:
        ratings = np.array(ratings, np.float64)
        ratings[places[:len(taken)]] = rows.ratings[taken]
    return dataclasses.replace(profile, items=items, ratings=ratings)


def unmet(attack: ProfileAttack, defense: Defense, data: Dataset) -> str | None:
    """Why disguises that are compared on a surrogate meet nothing of this defense, or None where
    they meet it, or its cleaning at least. The surrogate is trained on what the attacker sees:
    no validation rows, and in black box no attributes of users."""
    from bench.context import Context
    from bench.defense import Defense

    reason = defense.unfit(_surrogate_plugin(attack), attack._seen(data, Context(0)))
    if reason is None or type(defense).clean is not Defense.clean:
        return None
    return f"disguises are compared on a surrogate without it: {reason}"


def _surrogate_plugin(attack: ProfileAttack) -> ModelPlugin:
    from bench.registry import Registry

    low = attack.goal == "nuke" and attack.holds_targets
    made: Any = Registry().make("models", RATING_SURROGATE if low else SURROGATE)
    return made  # type: ignore[no-any-return]


def _surrogate(attack: ProfileAttack, poisoned: Dataset, ctx: Context) -> Recommender:
    """A surrogate trained on these rows, with the defense where it can stand on it."""
    surrogate, defense = _surrogate_plugin(attack), ctx.victim.defense
    # a defense that cannot stand on the surrogate still cleans the data, where it does
    fits = defense.unfit(surrogate, poisoned) is None
    if not fits:
        poisoned = defense.clean(poisoned, ctx.victim.context())
    made: Recommender = ctx.victim.trained(poisoned, model=surrogate, defended=fits)
    return made


def asked_standing(poisoned: Dataset, seen: Dataset, targets: Ints, ctx: Context) -> float:
    """The targets' standing in the attacked pipeline trained on these rows with its own seed, as
    a white-box attacker knows it. Counted: one training, one query per user whose scores are
    read."""
    rank = standing(ctx.victim.trained(poisoned, as_attacked=True), seen, targets)
    ctx.count(int((seen.activity > 0).sum()), trainings=1)
    return rank


def standing(model: Recommender, seen: Dataset, targets: Ints) -> float:
    """Mean share of the catalogue that stands above a target, over the users with train rows
    and without the target: lower is better exposed. A rank sees an effect where no list holds a
    target yet."""
    import torch

    from bench.models.base import user_blocks

    has = np.zeros((seen.n_users, len(targets)), bool)
    for n, target in enumerate(targets):
        has[seen.train.users[seen.train.items == target], n] = True
    total, count = 0.0, 0
    with torch.no_grad(), model.evaluating():
        for users in user_blocks(np.flatnonzero(seen.activity > 0), 1024, model.ctx.device):
            scores = model.scores(users, "valid").cpu()  # (B, items)
            for n, target in enumerate(targets):
                own = scores[:, int(target)].unsqueeze(1)  # (B, 1)
                above = ((scores > own).double().mean(dim=1)
                         + 0.5 * (scores == own).double().mean(dim=1)).numpy()
                free = ~has[users.cpu().numpy(), n]
                total += float(above[free].sum())
                count += int(free.sum())
    return total / max(count, 1)
