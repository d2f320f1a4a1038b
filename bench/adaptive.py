"""Profile attacks made against the defended pipeline: of several disguises, the best survives.

A defense that was only met by attackers who did not know of it has shown nothing (Carlini et
al., "On Evaluating Adversarial Robustness", 2019; on recommenders: the weighting of GraphRfi
falls to an attacker who knows it, arXiv 2211.11534). The attacker here runs the defense itself:
profiles are disguised to different degrees, each candidate is put through the defense's cleaning
and a training with its hooks, and the one whose targets fare best is injected.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from bench.data import Dataset, Ints
from bench.errors import PluginError

if TYPE_CHECKING:
    from bench.api import Context, Profile, ProfileAttack
    from bench.models.base import Recommender

SURROGATE = {"name": "bprmf", "params": {"dim": 32, "epochs": 40, "learning_rate": 0.01,
                                         "batch_size": 1024, "patience": 0}}


def best_disguise(attack: ProfileAttack, made: list[Profile], seen: Dataset, targets: Ints,
                  lengths: Ints, ctx: Context) -> list[Profile]:
    """The candidate whose targets stand best (push) or worst (nuke) for genuine users.

    Candidate t of `tries` gives up the share t/(tries − 1) of each profile's fillers for items
    of one genuine user, so that the last is a genuine history plus the targets: what detectors
    find hardest to tell. The defense is run on each; the model trained is the attacked one
    (white box) or a small matrix factorisation (gray and black box), both with the defense.
    Nothing but `seen` is used. Writes what was chosen to `ctx.notes`.
    """
    victim = ctx.victim
    if victim is None:
        raise PluginError(f"{attack.name}: adaptive: true needs to know the attacked pipeline")
    found = []
    for t in range(attack.tries):
        share = t / (attack.tries - 1)
        disguised = [_disguise(p, share, seen, targets, ctx, fake) for fake, p in enumerate(made)]
        model = _trained(attack, attack.with_profiles(seen, disguised, ctx), ctx)
        found.append((_standing(model, seen, targets), share, disguised))
    pick = min if attack.goal == "push" else max
    _, share, chosen = pick(found, key=lambda candidate: candidate[0])
    ctx.notes["disguise"] = {"share": share, "rank": {f"{s:.2f}": r for r, s, _ in found}}
    return chosen


def _disguise(profile: Profile, share: float, seen: Dataset, targets: Ints, ctx: Context,
              fake: int) -> Profile:
    """The profile with a share of its fillers replaced by items of a genuine user."""
    fillers = np.flatnonzero(~np.isin(profile.items, targets))
    count = round(share * len(fillers))
    if not count:
        return profile
    rng = ctx.stream("disguise", fake)
    users = np.flatnonzero(np.bincount(seen.train.users, minlength=seen.n_users) > 0)
    if not len(users):
        return profile
    rows = seen.train[seen.train.users == rng.choice(users)]
    out = rng.permutation(fillers)[:count]  # the same order for every share
    kept = np.delete(np.arange(len(profile.items)), out)
    free = np.flatnonzero(~np.isin(rows.items, profile.items[kept]) & ~np.isin(rows.items, targets))
    taken = rng.permutation(free)[:count]
    keep_more = out[len(taken):]  # the genuine user has too few: these fillers stay
    keep_more = keep_more[~np.isin(profile.items[keep_more], rows.items[taken])]
    items = np.concatenate([profile.items[kept], profile.items[keep_more], rows.items[taken]])
    ratings = None
    if profile.ratings is not None and rows.ratings is not None:
        ratings = np.concatenate([profile.ratings[kept], profile.ratings[keep_more],
                                  rows.ratings[taken]])
    return dataclasses.replace(profile, items=items, ratings=ratings)


def _trained(attack: ProfileAttack, poisoned: Dataset, ctx: Context) -> Recommender:
    from bench.registry import Registry

    if attack.knowledge == "white":
        model: Recommender = ctx.victim.trained(poisoned)
        return model
    surrogate = Registry().make("models", SURROGATE)
    # a defense that cannot stand on the surrogate still cleans the data, where it does
    fits = ctx.victim.defense.unfit(surrogate, poisoned) is None
    made: Recommender = ctx.victim.trained(
        poisoned if fits else ctx.victim.defense.clean(poisoned, ctx), model=surrogate,
        defended=fits)
    return made


def _standing(model: Recommender, seen: Dataset, targets: Ints) -> float:
    """Mean share of the catalogue that stands above a target, over users without it: lower is
    better exposed. A rank sees an effect where no list holds a target yet."""
    import torch

    from bench.models.base import TorchRecommender, user_blocks

    has = np.zeros((seen.n_users, len(targets)), bool)
    for n, target in enumerate(targets):
        has[seen.train.users[seen.train.items == target], n] = True
    total, count = 0.0, 0
    if isinstance(model, TorchRecommender):
        model.module.eval()
    with torch.no_grad():
        for users in user_blocks(np.arange(seen.n_genuine), 1024, model.ctx.device):
            scores = model.scores(users, "valid").cpu()  # (B, items)
            for n, target in enumerate(targets):
                own = scores[:, int(target)].unsqueeze(1)  # (B, 1)
                above = ((scores > own).double().mean(dim=1)
                         + 0.5 * (scores == own).double().mean(dim=1)).numpy()
                free = ~has[users.cpu().numpy(), n]
                total += float(above[free].sum())
                count += int(free.sum())
    return total / max(count, 1)
