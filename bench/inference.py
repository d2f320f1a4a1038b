"""Attacks that read private facts out of a trained model: who or what was in its training.

The author gives a score to candidates, without being told which are members; this class draws
the candidates, matched so that popularity tells nothing, and measures.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from bench.attack import Attack, Struck, ThreatModel
from bench.context import Context
from bench.data import Dataset, Floats, Interactions, Ints
from bench.errors import CannotActError, PluginError
from bench.plugin import param

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared


class PrivacyAttack(Attack):
    """After training: changes nothing, and infers. Base of the kinds below."""

    threat: ClassVar[ThreatModel] = ThreatModel("output-query", "black", "infer")

    @abstractmethod
    def infer(self, model: Recommender, prepared: Prepared, ctx: Context
              ) -> tuple[dict[str, float], dict[str, Any]]:
        """What was measured ("mia-auc", …), and facts for the report."""

    @contextlib.contextmanager
    def strike(self, model: Recommender, prepared: Prepared, ctx: Context) -> Iterator[Struck]:
        with model.evaluating(), ctx.seeded(self.name):  # classifiers of libraries draw
            found, facts = self.infer(model, prepared, ctx)
        yield Struck(model, prepared.genuine, None, facts, found)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Pairs of user and item, some of which were trained on; (n,) each.

    Attributes:
        background: the train data without any of the pairs.
    """

    users: Ints
    items: Ints
    background: Dataset

    def added(self, chosen: np.ndarray[Any, Any]) -> Dataset:
        """The background with the chosen pairs (bool (n,)) in its train rows."""
        data = self.background
        count = int(chosen.sum())
        rows = Interactions(
            users=self.users[chosen], items=self.items[chosen],
            ratings=None if data.train.ratings is None else np.full(
                count, float(np.median(data.train.ratings))),
            times=None if data.train.times is None else np.full(
                count, float(np.nanmedian(data.train.times))),
            labels=None if data.train.labels is None else np.ones(count, np.int8))
        return data.replace(train=data.train.plus(rows))


class InteractionMembership(PrivacyAttack):
    """Whether this user's interaction with this item was trained on.

    Candidates are half train positives, half items that the same user never took in any split,
    of equal popularity: a member's item was taken by c others, its partner by the c of the
    nearest free item. Authors write `judge` and are handed candidates in an order that says
    nothing.
    """

    candidates: int = param(2000, "how many pairs, half of them members", low=20)

    @abstractmethod
    def judge(self, model: Recommender, candidates: Candidates, ctx: Context) -> Floats:
        """A score for every candidate, (n,): higher where it was more likely trained on."""

    def budget_text(self) -> str:
        return f"{self.candidates} candidate pairs, half of them members"

    @final
    def infer(self, model: Recommender, prepared: Prepared, ctx: Context
              ) -> tuple[dict[str, float], dict[str, Any]]:
        from bench.roc import measured

        drawn, is_member = matched_pairs(prepared.train, self.candidates, ctx)
        scores = np.asarray(self.judge(model, drawn, ctx), np.float64)
        if scores.shape != drawn.users.shape or not np.isfinite(scores).all():
            raise PluginError(f"{self.name}: one finite score per candidate is needed, "
                              f"({len(drawn.users)},); {scores.shape} came back")
        popular = prepared.train.popularity[drawn.items]
        facts = {"members": int(is_member.sum()), "non_members": int((~is_member).sum()),
                 "popularity_members": float(popular[is_member].mean() - 1),
                 "popularity_non_members": float(popular[~is_member].mean())}
        return measured(scores, is_member, drawn.users, ctx.stream("roc")), facts


def matched_pairs(data: Dataset, count: int, ctx: Context
                  ) -> tuple[Candidates, np.ndarray[Any, Any]]:
    """Candidates, half of them train positives, shuffled; and which are (bool (n,)).

    Raises:
        CannotActError: no user has both a train positive and a free item.
    """
    rows = data.train.positives()
    rows = rows[rows.users < data.n_genuine]
    taken = np.zeros((data.n_genuine, data.n_items), bool)
    for part in (data.train, data.valid, data.test):
        mine = part.users < data.n_genuine
        taken[part.users[mine], part.items[mine]] = True
    rng = ctx.stream("candidates")
    used = np.zeros_like(taken)
    users, members, others = [], [], []
    for row in rng.permutation(len(rows)):
        user, item = int(rows.users[row]), int(rows.items[row])
        free = np.flatnonzero(~taken[user] & ~used[user])
        if not len(free):
            continue
        # others who took the member's item, against others who took the partner
        apart = np.abs(data.popularity[free] - (data.popularity[item] - 1))
        nearest = free[apart == apart.min()]
        partner = int(nearest[rng.integers(len(nearest))])
        used[user, partner] = True
        users.append(user)
        members.append(item)
        others.append(partner)
        if 2 * len(users) >= min(count, len(rows)):  # as many positives stay in the background
            break
    if not users:
        raise CannotActError("no user has both a train positive and an item that is free")
    who = np.array(users * 2, np.int64)
    what = np.array(members + others, np.int64)
    is_member = np.arange(len(who)) < len(users)
    order = rng.permutation(len(who))
    keys = data.train.users * data.n_items + data.train.items
    gone = np.isin(keys, who[is_member] * data.n_items + what[is_member])
    background = data.replace(train=data.train[~gone])
    return Candidates(who[order], what[order], background), is_member[order]


class UserMembership(PrivacyAttack):
    """Whether a user's whole history was trained on.

    Of the genuine users, a share `held_out` is kept out of training: half of them are the
    non-members that are judged, the other half are the attacker's own, for shadow models. As many
    members are judged as non-members, of like activity. Authors write `judge_users`.
    """

    held_out: float = param(0.3, "share of genuine users kept out of the training", above=0,
                            high=0.8)
    k: int = param(100, "length of the lists that are read", low=1)
    serving: str = param("popular", "what non-members are shown: popular items, or their lists "
                         "by the model from their history (fold-in)",
                         choices=("popular", "fold-in"))

    @abstractmethod
    def judge_users(self, lists: Ints, histories: list[Ints], shadow: Dataset, model: ModelPlugin,
                    ctx: Context) -> Floats:
        """A score for every candidate user, (n,): higher where more likely a member.

        Args:
            lists: what each candidate is recommended, (n, k).
            histories: what each candidate took, which the attacker knows.
            shadow: the attacker's own users' train rows.
            model: the kind of the attacked model, for shadow models.
        """

    @property
    def trains(self) -> bool:
        return True

    def budget_text(self) -> str:
        return f"{self.held_out:.0%} of the users held out, non-members are served {self.serving}"

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        from bench import foldin

        if (self.serving == "fold-in" and "histories" not in model.gives
                and foldin.unfit(model) is not None):
            return f"{model.name} cannot serve a user it was not trained on from a history"
        if round(self.held_out * data.n_genuine) < 8:
            return f"{self.held_out:.0%} of {data.n_genuine} users are too few to hold out"
        return None

    def _groups(self, data: Dataset, ctx: Context) -> tuple[Ints, Ints]:
        """Non-members, and the attacker's own users."""
        order = ctx.stream("held-out").permutation(np.flatnonzero(data.activity > 0))
        count = round(self.held_out * len(order))
        return np.sort(order[:count // 2]), np.sort(order[count // 2:count])

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        away = np.zeros(data.n_users, bool)
        away[np.concatenate(self._groups(data, ctx))] = True
        kept = data.without_users(away)
        return kept.replace(valid=data.valid[~away[data.valid.users]])

    @final
    def infer(self, model: Recommender, prepared: Prepared, ctx: Context
              ) -> tuple[dict[str, float], dict[str, Any]]:
        from bench.roc import measured
        from bench.serving import served

        data = prepared.genuine
        outside, own = self._groups(data, ctx)
        members = _alike(data, outside, np.concatenate([outside, own]), ctx)
        users = np.concatenate([members, outside])
        order = ctx.stream("order").permutation(len(users))
        users, is_member = users[order], (np.arange(len(users)) < len(members))[order]
        plugin = ctx.victim.model
        lists = served(model, plugin, data, users, np.isin(users, outside), self.serving, self.k,
                       ctx)
        rows = data.train.positives()
        histories = [rows.items[rows.users == u] for u in users]
        away = np.ones(data.n_users, bool)
        away[own] = False
        shadow = data.without_users(away).replace(valid=data.valid[:0], test=data.test[:0])
        scores = np.asarray(self.judge_users(lists, histories, shadow, plugin, ctx), np.float64)
        if scores.shape != users.shape or not np.isfinite(scores).all():
            raise PluginError(f"{self.name}: one finite score per user is needed, {users.shape}; "
                              f"{scores.shape} came back")
        facts = {"members": len(members), "non_members": len(outside), "shadow_users": len(own),
                 "activity_members": float(data.activity[members].mean()),
                 "activity_non_members": float(data.activity[outside].mean())}
        return measured(scores, is_member, users, ctx.stream("roc")), facts


def _alike(data: Dataset, outside: Ints, away: Ints, ctx: Context) -> Ints:
    """As many trained users as there are outside, each of the nearest activity still free."""
    free = np.setdiff1d(np.flatnonzero(data.activity > 0), away)
    free = ctx.stream("alike").permutation(free)
    chosen = []
    for user in outside[:len(free)]:
        nearest = int(np.argmin(np.abs(data.activity[free] - data.activity[user])))
        chosen.append(int(free[nearest]))
        free = np.delete(free, nearest)
    return np.array(chosen, np.int64)
