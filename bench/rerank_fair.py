"""Re-ranking of all users at once so that two groups are served alike: the linear program, and
what stands in it for labels that nobody has yet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset, Floats, Ints
from bench.errors import CannotActError
from bench.fairness import Sides
from bench.models.base import Recommender, user_blocks
from bench.rerank import Reranked, unit

METRICS = ("f1", "precision", "recall")
_BLOCK = 1024  # users scored at once


@dataclass(frozen=True)
class Solution:
    """Lists that keep the constraint.

    Attributes:
        places: of the chosen candidates, best score first, (U, k).
        before, after: the metric of the 1s and of the 0s, for the model's lists and for these.
    """

    places: Ints
    before: tuple[float, float]
    after: tuple[float, float]


def worth(relevance: Floats, length: int, wanted: Floats, metric: str) -> Floats:
    """What each candidate adds to its user's metric: (U, N) -> (U, N).

    precision: r/K; recall: r/|T|; f1: 2r/(K + |T|), which is exact, as F1 of a list of K items is
    linear in its hits.
    """
    if metric == "precision":
        return relevance / length
    size = np.maximum(wanted, 1.0)[:, None]  # (U, 1)
    return relevance / size if metric == "recall" else 2 * relevance / (length + size)


def solve(scores: Floats, gains: Floats, side: Sides, length: int, eps: float) -> Solution:
    """max Σ s·w over lists of `length` items, with |M(1) − M(0)| ≤ eps (Li et al., WWW 2021).

    M(g) is the mean of Σ_i gain·w over the users of a side. One constraint ties the users
    together, so the linear program (0 ≤ w ≤ 1) has a dual of one number μ: each user's list is
    the best by s − μ·e, e an item's effect on the gap, and the gap falls as μ grows. μ is found by
    bisection. At its value the program's optimum mixes the lists just above and just below; whole
    lists come from taking over the users that differ, one by one, until the gap is within eps. It
    then holds exactly, unless one exchange of items changes the gap by more than 2·eps (eps 0, few
    users): then it is missed by less than that.

    Args:
        scores: (U, N), best first, −inf for no candidate. gains: (U, N). side: 1, 0 or −1, (U,).

    Raises:
        CannotActError: the candidates do not allow a gap as small as eps.
    """
    there, length = np.isfinite(scores), min(length, scores.shape[1])
    effect = np.zeros(scores.shape)  # of an item in a list on M(1) − M(0)
    for which, sign in ((1, 1.0), (0, -1.0)):
        effect[side == which] = sign * gains[side == which] / max(int((side == which).sum()), 1)
    effect = np.where(there, effect, 0.0)
    sign = np.sign(_best(scores, effect, 0.0, length)[1]) or 1.0

    def at(price: float) -> tuple[Ints, float]:
        """The lists at this μ, and the gap in the direction that it had at first."""
        lists, gap = _best(scores, effect, sign * price, length)
        return lists, sign * gap

    places, gap = plain, _ = at(0.0)
    if gap > eps:
        low, high = 0.0, 1.0
        while at(high)[1] > eps:
            low, high = high, high * 4
            if high > 1e12:
                raise CannotActError(f"no lists of {length} out of {scores.shape[1]} candidates "
                                     f"bring the groups within {eps:g} of each other; allow more "
                                     "candidates or a larger eps")
        while (middle := (low + high) / 2) not in (low, high):
            low, high = (middle, high) if at(middle)[1] > eps else (low, middle)
        places = _between(at(low)[0], at(high)[0], sign * effect, eps)
    chosen = np.take_along_axis(np.where(there, gains, 0.0), places, axis=1).sum(axis=1)
    before = np.take_along_axis(np.where(there, gains, 0.0), plain, axis=1).sum(axis=1)
    return Solution(places, *[(float(m[side == 1].mean()), float(m[side == 0].mean()))
                              for m in (before, chosen)])


def _best(scores: Floats, effect: Floats, price: float, length: int) -> tuple[Ints, float]:
    """Each user's best places by s − μ·e in the order of the scores, and the gap: (U, k)."""
    order = np.argsort(-(scores - price * effect), axis=1, kind="stable")[:, :length]
    places = np.sort(order, axis=1).astype(np.int64)  # candidates come best first
    return places, float(np.take_along_axis(effect, places, axis=1).sum())


def _between(open_: Ints, closed: Ints, effect: Floats, eps: float) -> Ints:
    """Of lists whose gap is above eps and lists whose gap is not, which differ for a few users:
    as many of the first as the constraint allows, with the gap no lower than −eps if one can."""
    places = closed.copy()
    gap = float(np.take_along_axis(effect, places, axis=1).sum())
    own = [np.take_along_axis(effect, p, axis=1).sum(axis=1) for p in (open_, closed)]
    for user in np.flatnonzero((open_ != closed).any(axis=1)):
        other = gap + float(own[0][user] - own[1][user])
        if other <= eps or (gap < -eps and abs(other) < abs(gap)):
            places[user], gap = open_[user], other
    return places


class FairLists(Reranked):
    """The model with all users' lists chosen by the program. See `user-fairness`.

    The relevance of a candidate is estimated on the validation split: per side, a logistic
    regression of whether a candidate was taken up there on its rank, its score within the user's
    candidates, and its popularity. Lists are made anew when the model changes (`forget`).

    Raises:
        CannotActError: when lists are asked for: nothing says what a side's lists are worth, or no
            lists are as alike as that.
    """

    def __init__(self, base: Recommender, data: Dataset, side: Sides, length: int,
                 candidates: int, eps: float, metric: str) -> None:
        super().__init__(base, data, length, candidates)
        self.side, self.eps, self.metric = side, eps, metric
        self.popularity = np.bincount(data.train.positives().items, minlength=data.n_items)
        self._solved: dict[str, Solution] = {}

    def forget(self) -> None:
        super().forget()
        self._solved.clear()

    def choose(self, users: Tensor, items: Tensor, values: Tensor, split: str) -> Tensor:
        return torch.as_tensor(self.solution(split).places, device=users.device)[users]

    def solution(self, split: str = "test") -> Solution:
        """All users' lists for a split, made once."""
        if split not in self._solved:
            items, values = self._candidates(split)
            if self.blank():
                places = np.tile(np.arange(min(self.length, items.shape[1])), (len(items), 1))
                self._solved[split] = Solution(places, (math.nan,) * 2, (math.nan,) * 2)
                return self._solved[split]
            scores = unit(torch.as_tensor(values)).numpy().astype(np.float64)
            liked = self.seen.valid.positives().users
            wanted = np.bincount(liked, minlength=self.seen.n_users).astype(np.float64)
            wanted[wanted == 0] = wanted[wanted > 0].mean()  # nothing known: as many as others
            gains = worth(self._relevance(items, scores), self.length, wanted, self.metric)
            self._solved[split] = solve(scores, gains, self.side, self.length, self.eps)
        return self._solved[split]

    def judged(self) -> Ints:
        """Users with a positive in the validation split."""
        return np.unique(self.seen.valid.positives().users)

    def blank(self) -> bool:
        """Whether nobody of one side has a positive in the validation split, as where injected
        users are all of it: nothing says what its lists are worth, and none are chosen."""
        judged = self.side[self.judged()]
        return not all((judged == which).any() for which in (1, 0))

    def _candidates(self, split: str) -> tuple[Ints, Floats]:
        """Every user's candidates and their scores, (n_users, N) each."""
        parts = []
        with torch.no_grad(), self.base.evaluating():
            for users in user_blocks(np.arange(self.seen.n_users), _BLOCK, self.ctx.device):
                parts.append(self.best(self.base.scores(users, split).detach(), users, split))
        items, values = (torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True))
        return items, values.astype(np.float64)

    def _relevance(self, items: Ints, scores: Floats) -> Floats:
        """P(the user takes the item up), by the regression of the user's side: (n_users, N)."""
        with self.ctx.seeded("user-fairness"):  # importing it draws from Python's generator
            from sklearn.linear_model import LogisticRegression

        data = self.seen
        known_items, known_values = self._candidates("valid")
        known = unit(torch.as_tensor(known_values)).numpy()
        truth = data.valid.positives()
        keys = np.unique(truth.users * data.n_items + truth.items)
        owner = np.arange(data.n_users)[:, None]
        label = np.isin(owner * data.n_items + known_items, keys)  # (n_users, N)
        judged = np.isin(np.arange(data.n_users), self.judged())
        found = np.zeros(items.shape)
        for which in (1, 0):
            fit = judged & (self.side == which)
            x, y = self._features(known_items[fit], known[fit]), label[fit].ravel()
            there = np.isfinite(known[fit]).ravel()
            own = self.side == which
            if not y[there].any():  # worth 0 for all of them would "close" any gap
                raise CannotActError(
                    f"user-fairness: of {int(fit.sum())} users of {'one' if which else 'the other'}"
                    f" group with validation items, nobody has one among {items.shape[1]} "
                    "candidates, so that lists have no known worth; allow more candidates")
            if y[there].all():
                found[own] = 1.0
                continue
            model = LogisticRegression(max_iter=1000, random_state=0).fit(x[there], y[there])
            p = model.predict_proba(self._features(items[own], scores[own]))[:, 1]
            found[own] = p.reshape(int(own.sum()), -1)
        return np.where(np.isfinite(scores), found, 0.0)

    def _features(self, items: Ints, scores: Floats) -> Floats:
        """(users · N, 3): log rank, score within the user's candidates, log popularity."""
        rank = np.broadcast_to(np.log2(np.arange(items.shape[1]) + 2.0), items.shape)
        columns = [rank, np.where(np.isfinite(scores), scores, 0.0),
                   np.log1p(self.popularity[items])]
        return np.stack([c.ravel() for c in columns], axis=1)
