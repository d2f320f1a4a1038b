"""What users are shown, members of the training and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data import Dataset, Ints
from bench.errors import CannotActError

if TYPE_CHECKING:
    from bench.api import Context, ModelPlugin
    from bench.models.base import Recommender


def served(model: Recommender, plugin: ModelPlugin, data: Dataset, users: Ints,
           outside: np.ndarray[Any, Any], serving: str, k: int,
           ctx: Context) -> Ints:
    """The lists of these users, (n, k), best first, without what they took; shorter where a user
    took so much that fewer items are left.

    Members are served by the model. Others (outside, bool (n,)) get the most popular items, or,
    by fold-in, what the model makes of their own history.
    """
    scores = all_scores(model, users)
    if serving == "popular":
        trained = model.data.popularity.astype(np.float64)
        scores[outside] = trained
    else:
        scores[outside] = all_scores(folded_in(model, plugin, data, ctx), users[outside])
    rows = data.train
    for place, user in enumerate(users.tolist()):
        scores[place, rows.items[rows.users == user]] = -np.inf
    left = int(np.isfinite(scores).sum(axis=1).min()) if len(scores) else 0
    if not left:
        raise CannotActError("a user took every item, and is recommended none")
    best = np.argsort(-scores, axis=1, kind="stable")
    return best[:, :min(k, left)].astype(np.int64)


def folded_in(model: Recommender, plugin: ModelPlugin, data: Dataset, ctx: Context) -> Recommender:
    """What was learned, put before everybody's train rows: users it was not trained on are
    scored from their history."""
    from bench.models.base import build, innermost

    full = build(plugin, data.replace(test=data.test[:0]), ctx)
    try:
        full.load_state(innermost(model).state())
    except (RuntimeError, KeyError, ValueError) as error:
        raise CannotActError(f"{plugin.name} keeps what it learned by user, and cannot be put "
                             "before the histories of others") from error
    away = np.setdiff1d(data.train.users, innermost(model).data.train.users)[:50]
    found = all_scores(full, away) if len(away) else np.zeros((0, 1))
    if len(found) > 1 and (np.ptp(found, axis=1) == 0).all():
        raise CannotActError(f"{plugin.name} keeps what it learned by user: those it was not "
                             "trained on get no scores")
    return full


def all_scores(model: Recommender, users: Ints, size: int = 1024) -> np.ndarray[Any, Any]:
    """Scores from the train histories, float64 (n, items)."""
    import torch

    found = []
    with torch.no_grad(), model.evaluating():
        for start in range(0, len(users), size):
            block = torch.from_numpy(users[start:start + size]).to(model.ctx.device)
            found.append(model.scores(block, "valid").double().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, model.data.n_items))


def released_scores(model: Recommender, users: Ints, known: Dataset) -> np.ndarray[Any, Any]:
    """What a reader of the item vectors makes of them, float64 (n, items): no user's own row is
    read; each is made anew from the rows that are known of the user.

    p_u = (C + λI)⁻¹ (mean of the known items' vectors − mean of all), C their covariance over the
    catalogue and λ a tenth of its mean diagonal; s_ui = p_u · v_i.

    Raises:
        CannotActError: the model has no single table of item vectors.
    """
    from bench.models.base import TorchRecommender, innermost

    bare = innermost(model)
    tables = [t for t in bare.tables().values() if t.role == "item"] if isinstance(
        bare, TorchRecommender) else []
    if len(tables) != 1:
        raise CannotActError("the model has no single table of item vectors to read")
    vectors = tables[0].rows().detach().double().cpu().numpy()  # (items, d)
    vectors = vectors - vectors.mean(axis=0)
    spread = vectors.T @ vectors / len(vectors)  # (d, d)
    ridge = max(0.1 * float(np.trace(spread)) / len(spread), 1e-12)
    rows = known.train.positives()
    means = np.zeros((len(users), vectors.shape[1]))
    for place, user in enumerate(users.tolist()):
        mine = rows.items[rows.users == user]
        if len(mine):
            means[place] = vectors[mine].mean(axis=0)
    made: np.ndarray[Any, Any] = np.linalg.solve(spread + ridge * np.eye(len(spread)),
                                                 means.T).T @ vectors.T
    return made
