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
from bench.stages import without_test

if TYPE_CHECKING:
    from bench.api import ModelPlugin
    from bench.models.base import Recommender
    from bench.stages import Prepared


class PrivacyAttack(Attack):
    """After training: changes nothing, and infers. Base of the kinds below.

    `audits` marks what measures how lists differ rather than what can be inferred: it reports no
    AUC, and its finding beside a floor.
    """

    audits: ClassVar[bool] = False
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
        background: the train data without any of the pairs; it holds no test row.
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

    `reads` says where scores come from: own are those that the user is served, which a promise
    about what is released (dp-sgd, dpals: all but users' own rows) does not cover; released are
    made of the item vectors alone, which it does.

    Half of the candidates are members: positives that the users really took, whatever a defense
    makes of them before the training. The others are, by `non_members`,

    - free: items that the same user never took in any split, of equal popularity: a member's item
      was taken by c others, its partner by the c of the nearest free item. A model that knows the
      user's taste tells them apart without having seen the member;
    - held-out: positives like the members, drawn with them and kept out of the training of this
      cell by the toss of a coin. Nothing but membership tells them apart, so that a promise of
      differential privacy bounds what is found in what it covers.

    Authors write `judge` and are handed candidates in an order that says nothing.
    """

    candidates: int = param(2000, "how many pairs, half of them members", low=20)
    non_members: str = param("free", "the other half: items that the user never took, or positives "
                             "held out of the training", choices=("free", "held-out"))
    reads: str = param("own", "the scores that the user is served, or such as the released item "
                       "vectors and the rest of the history give", choices=("own", "released"))

    @abstractmethod
    def judge(self, model: Recommender, candidates: Candidates, ctx: Context) -> Floats:
        """A score for every candidate, (n,): higher where it was more likely trained on."""

    @property
    def trains(self) -> bool:
        return self.non_members == "held-out"

    def budget_text(self) -> str:
        return (f"{self.candidates} candidate pairs, half of them members, half {self.non_members}"
                + ("" if self.reads == "own" else ", from the item vectors"))

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        if self.reads == "released" and "embeddings" not in model.gives:
            return f"{model.name} exposes no vectors of items; reads: own reads its scores"
        return None

    @final
    def scores_read(self, model: Recommender, users: Ints, candidates: Candidates
                    ) -> np.ndarray[Any, Any]:
        """Scores of these users, float64 (n, items), as `reads` says."""
        from bench.serving import all_scores, released_scores

        if self.reads == "own":
            return all_scores(model, users)
        return released_scores(model, users, candidates.background)

    def _pairs(self, data: Dataset, ctx: Context) -> tuple[Candidates, np.ndarray[Any, Any]]:
        draw = held_out_pairs if self.trains else matched_pairs
        return draw(data, self.candidates, ctx)

    def before_training(self, data: Dataset, ctx: Context) -> Dataset:
        drawn, is_member = self._pairs(data, ctx)
        return _without(data, drawn.users[~is_member], drawn.items[~is_member])

    @final
    def infer(self, model: Recommender, prepared: Prepared, ctx: Context
              ) -> tuple[dict[str, float], dict[str, Any]]:
        from bench.roc import measured

        # what users took, not what a defense made of it: that is what is to be protected
        data = prepared.genuine
        drawn, is_member = self._pairs(data, ctx)
        scores = np.asarray(self.judge(model, drawn, ctx), np.float64)
        if scores.shape != drawn.users.shape or not np.isfinite(scores).all():
            raise PluginError(f"{self.name}: one finite score per candidate is needed, "
                              f"({len(drawn.users)},); {scores.shape} came back")
        popular = data.popularity[drawn.items]
        others = popular - (1 if self.trains else is_member)  # the user's own row does not count
        facts = {"members": int(is_member.sum()), "non_members": int((~is_member).sum()),
                 "popularity_members": float(others[is_member].mean()),
                 "popularity_non_members": float(others[~is_member].mean()),
                 "exchangeable": self.trains, "reads": self.reads}
        return measured(scores, is_member, drawn.users, ctx.stream("roc"),
                        exchangeable=self.trains), facts


def matched_pairs(data: Dataset, count: int, ctx: Context
                  ) -> tuple[Candidates, np.ndarray[Any, Any]]:
    """Candidates, half of them train positives, shuffled; and which are (bool (n,)).

    Raises:
        CannotActError: no user has both a train positive and a free item.
    """
    rows = data.train.positives()
    rows = rows[rows.users < data.n_genuine]
    taken = data.known("test"), data.test
    all_users = np.concatenate([p.users for p in taken])
    all_items = np.concatenate([p.items for p in taken])
    order = np.argsort(all_users, kind="stable")
    starts = np.searchsorted(all_users[order], np.arange(data.n_users + 1))
    rng = ctx.stream("candidates")
    busy: dict[int, np.ndarray[Any, Any]] = {}  # of the users drawn: what they took, or was drawn
    users, members, others = [], [], []
    for row in rng.permutation(len(rows)):
        user, item = int(rows.users[row]), int(rows.items[row])
        if user not in busy:
            busy[user] = np.zeros(data.n_items, bool)
            busy[user][all_items[order[starts[user]:starts[user + 1]]]] = True
        free = np.flatnonzero(~busy[user])
        if not len(free):
            continue
        # others who took the member's item, against others who took the partner
        apart = np.abs(data.popularity[free] - (data.popularity[item] - 1))
        nearest = free[apart == apart.min()]
        partner = int(nearest[rng.integers(len(nearest))])
        busy[user][partner] = True
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
    background = without_test(_without(data, who[is_member], what[is_member]))
    return Candidates(who[order], what[order], background), is_member[order]


def held_out_pairs(data: Dataset, count: int, ctx: Context
                   ) -> tuple[Candidates, np.ndarray[Any, Any]]:
    """Train positives, at most half of each user's, shuffled; and a random half of them, the
    members (bool (n,)).

    Raises:
        CannotActError: no two users' positives can be spared.
    """
    rows = data.train.positives()
    rows = rows[rows.users < data.n_genuine]
    keys = np.unique(rows.users * data.n_items + rows.items)
    rng = ctx.stream("held-out-pairs")
    keys = rng.permutation(keys)
    who = keys // data.n_items
    by_user = np.argsort(who, kind="stable")
    size = np.bincount(who, minlength=data.n_users)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    place = np.empty(len(keys), np.int64)  # of each pair among its user's
    place[by_user] = np.arange(len(keys)) - first[who[by_user]]
    keys = keys[place < size[who] // 2][:count]
    keys = keys[:len(keys) // 2 * 2]
    if not len(keys):
        raise CannotActError("no user has two train positives, of which one could be held out")
    is_member = rng.permutation(np.arange(len(keys)) % 2 == 0)
    users, items = keys // data.n_items, keys % data.n_items
    background = without_test(_without(data, users, items))
    return Candidates(users, items, background), is_member


def _without(data: Dataset, users: Ints, items: Ints) -> Dataset:
    """The data without these pairs in its train rows."""
    keys = data.train.users * data.n_items + data.train.items
    return data.replace(train=data.train[~np.isin(keys, users * data.n_items + items)])


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
        # alike but for membership where all lists are made, and made from histories as they are
        rows, given = prepared.train.train, prepared.attacked.train
        exchangeable = (self.serving == "fold-in" and np.array_equal(rows.users, given.users)
                        and np.array_equal(rows.items, given.items))
        facts = {"members": len(members), "non_members": len(outside), "shadow_users": len(own),
                 "activity_members": float(data.activity[members].mean()),
                 "activity_non_members": float(data.activity[outside].mean()),
                 "exchangeable": exchangeable, "reads": "own"}
        return measured(scores, is_member, users, ctx.stream("roc"),
                        exchangeable=exchangeable), facts


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
