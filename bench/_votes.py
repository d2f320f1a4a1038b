"""Recommenders that serve shares of votes: of members, or of noisy copies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench import certificates as proof
from bench.errors import ScoreError
from bench.models.base import Recommender, TorchRecommender, Wrapped, user_blocks

if TYPE_CHECKING:
    from bench.context import Context
    from bench.data import Dataset, Interactions

_SCORES_PER_BLOCK = 1 << 21


class Pairs:
    """(user, item) pairs as masks of blocks of users."""

    def __init__(self, rows: Interactions, data: Dataset) -> None:
        order = np.argsort(rows.users, kind="stable")
        self.n_items, self.items = data.n_items, rows.items[order]
        self.starts = np.searchsorted(rows.users[order], np.arange(data.n_users + 1))

    def mask(self, users: Tensor) -> Tensor:
        """True at the pairs: (B, m)."""
        who = users.cpu().numpy()
        first, count = self.starts[who], self.starts[who + 1] - self.starts[who]
        row = np.repeat(np.arange(len(who)), count)
        place = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
        found = torch.zeros(len(who), self.n_items, dtype=torch.bool)
        found[row, self.items[np.repeat(first, count) + place]] = True
        return found.to(users.device)


class Voting(Wrapped):
    """Scores are shares of votes for an item; who votes is a subclass's matter.

    Args:
        base: the trained model.
        data: whose rows say what a user has already; nobody votes for that.
        draws: how many votes there are per user.
        alpha: what is certified of one user, over all items, may be wrong with this probability.
    """

    def __init__(self, base: Recommender, data: Dataset, draws: int, alpha: float) -> None:
        super().__init__(base)
        self.known_data, self.draws = data, draws
        # two bounds for each item, since which items a list holds is seen on the same draws
        self.bounds = [torch.as_tensor(b, device=base.ctx.device) for b in proof.binomial_bounds(
            draws, alpha / (2 * data.n_items))]  # lower, upper: (draws + 1,) each
        self._known: dict[str, Pairs] = {}

    @property
    def score_kind(self) -> str:
        return "other"  # a share of votes is no probability of liking

    @abstractmethod
    def votes(self, users: Tensor, split: str) -> Tensor:
        """Votes for each item, int64 (B, m)."""

    def scores(self, users: Tensor, split: str = "test") -> Tensor:
        return (self.votes(users, split).double() / self.draws).float()  # (B, m)

    def known(self, users: Tensor, split: str) -> Tensor:
        """What the users have already: bool (B, m)."""
        if split not in self._known:
            self._known[split] = Pairs(self.known_data.known(split), self.known_data)
        return self._known[split].mask(users)

    def blocks(self, genuine: bool) -> Iterator[Tensor]:
        """All users, or the genuine ones, in blocks."""
        data = self.known_data
        size = max(1, _SCORES_PER_BLOCK // max(data.n_items, 1))
        everyone = np.arange(data.n_genuine if genuine else data.n_users)
        return user_blocks(everyone, size, self.ctx.device)

    def lists_of(self, model: Recommender, split: str, k: int,
                 order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(users (B,), their k best unknown items (B, k)) of a model, block by block; an item
        that the user has, where fewer than k are left, is −1."""
        for users in self.blocks(genuine=False):
            known = self.known(users, split)
            scores = model.scores(users, split)
            if not bool(torch.isfinite(scores).all()):
                raise ScoreError(f"{type(model).__name__}: scores are NaN or infinite; they have "
                                 "no rank, look for a training that diverged")
            found = proof.top_lists(scores.masked_fill(known, -torch.inf), k, order)
            yield users, torch.where(known.gather(1, found), -1, found)

    def served(self, users: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """For a block: votes (B, m), the k items served (B, m) bool, what is known (B, m)."""
        votes, known = self.votes(users, "test"), self.known(users, "test")
        top = proof.top_lists(votes.masked_fill(known, -1), k)
        chosen = torch.zeros_like(known).scatter_(1, top, True)
        return votes, chosen & ~known, known


class Ensemble(Voting):
    """Members trained on subsets of users; each votes for its N' best items of every user.

    Args:
        member: the b-th member, trained; called once for each b.
        picks: N'.
        subset: s, users per member.
    """

    def __init__(self, base: Recommender, data: Dataset, members: int, alpha: float, *,
                 member: Callable[[int], Recommender], picks: int, subset: int) -> None:
        super().__init__(base, data, members, alpha)
        self.member, self.picks, self.subset = member, picks, subset
        self._lists: dict[str, Tensor] = {}

    def lists(self, split: str) -> Tensor:
        """What each member votes for: int32 (members, users, N'), −1 for nothing. Members are
        not kept: another split than the one served trains them again, to the same numbers."""
        if split not in self._lists:
            made = []
            for b in range(self.draws):
                member = self.member(b)
                order = torch.as_tensor(self.ctx.stream("ties", b).permutation(
                    self.data.n_items), device=self.ctx.device)  # equal scores: by chance
                with member.evaluating(), torch.no_grad():
                    made.append(torch.cat([found.int() for _, found in self.lists_of(
                        member, split, self.picks, order)]))
            self._lists[split] = torch.stack(made)
        return self._lists[split]

    def votes(self, users: Tensor, split: str) -> Tensor:
        lists = self.lists(split)[:, users].long()  # (members, B, N')
        flat = lists.permute(1, 0, 2).flatten(1)  # (B, members · N')
        counts = torch.zeros(len(users), self.data.n_items, dtype=torch.long, device=flat.device)
        return counts.scatter_add_(1, flat.clamp_min(0), (flat >= 0).long())  # (B, m)

    def certificate(self, fakes: Sequence[int], length: int) -> dict[str, Any]:
        """What is certain of genuine users' lists of `length` against each number of fake users.

        The test positives enter for the certified hit rate and recall alone, as in evaluation.
        """
        lower, upper = self.bounds
        truth = Pairs(self.base.data.truth("test"), self.base.data)
        shares = {e: proof.untouched_share(self.known_data.n_users, self.subset, e)
                  for e in fakes}
        kept: dict[int, list[Any]] = {e: [] for e in fakes}
        hits: dict[int, list[Any]] = {e: [] for e in fakes}
        wanted = []
        for users in self.blocks(genuine=True):
            votes, chosen, known = self.served(users, length)
            relevant = truth.mask(users) & ~known
            wanted.append(relevant.sum(dim=1).cpu().numpy())
            for items, found in ((chosen, kept), (relevant, hits)):
                inside = proof.ranked(lower[votes], items, length)
                outside = proof.ranked(upper[votes], ~items & ~known, length)
                for e, untouched in shares.items():
                    found[e].append(proof.certified_overlap(inside, outside, length, self.picks,
                                                            untouched))
        per_user = np.concatenate(wanted)
        asked = per_user > 0
        made: dict[str, Any] = {"certified_items": {
            str(e): float(np.concatenate(kept[e]).mean()) for e in fakes}}
        if asked.any():
            sure = {str(e): np.concatenate(hits[e])[asked] for e in fakes}
            made[f"certified_hr@{length}"] = {e: float((r > 0).mean()) for e, r in sure.items()}
            made[f"certified_recall@{length}"] = {e: float((r / per_user[asked]).mean())
                                                  for e, r in sure.items()}
        return made


class Smoothed(Voting):
    """Noisy copies of a model's vectors; each votes for its K best items of every user.

    Args:
        spreads: table key -> standard deviation of the noise on its rows.
        sigma: the same in the unit in which radii are stated.
        k: K.
    """

    base: TorchRecommender

    def __init__(self, base: TorchRecommender, data: Dataset, draws: int, alpha: float, *,
                 spreads: Mapping[str, float], sigma: float, k: int) -> None:
        super().__init__(base, data, draws, alpha)
        self.spreads, self.sigma, self.k = dict(spreads), sigma, k
        self._counts: dict[str, Tensor] = {}

    def forget(self) -> None:
        super().forget()
        self._counts.clear()

    def stand_in(self, ctx: Context, copies: int) -> TorchRecommender:
        """The expectation over noise of the attacker's own: the votes themselves have no slope."""
        from bench.served import Noisy, noise_of

        return Noisy(self.base, self, noise_of(self.base.tables(), self.spreads, copies, ctx))

    def votes(self, users: Tensor, split: str) -> Tensor:
        return self.count(split)[users].long()  # (B, m)

    def count(self, split: str) -> Tensor:
        """Votes of all users, int32 (users, m), counted once until `forget`."""
        if split not in self._counts:
            self._counts[split] = self._vote(split)
        return self._counts[split]

    @torch.no_grad()
    def _vote(self, split: str) -> Tensor:
        """Clean and attacked vectors meet the same noise."""
        data, base = self.known_data, self.base
        counts = torch.zeros(data.n_users, data.n_items, dtype=torch.int32, device=self.ctx.device)
        streams = {key: self.ctx.torch_stream("smoothing", key) for key in self.spreads}
        with base.evaluating():
            for _ in range(self.draws):
                noise = {key: torch.randn(base.tables()[key].rows().shape, generator=stream)
                         .to(self.ctx.device) * self.spreads[key]
                         for key, stream in streams.items()}  # (rows, width) each
                with base.perturbed(noise):
                    for users, found in self.lists_of(base, split, self.k):
                        counts[users] = counts[users].scatter_add(
                            1, found.clamp_min(0), (found >= 0).int())
        return counts

    def certificate(self, radii: Sequence[float]) -> dict[str, Any]:
        """The share of the K items served to genuine users that stay for sure at each radius: in
        more than half of the noisy lists, and among the K served."""
        found = [self.radii(users) for users in self.blocks(genuine=True)]
        shares = {}
        for name, parts in zip(("voted", "served"), zip(*found, strict=True), strict=True):
            shares[name] = {f"{r:g}": float(torch.cat([(part > r).sum(dim=1) for part in parts])
                                            .double().mean()) / self.k for r in radii}
        return {"certified_share": shares}

    def radii(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For each item served to a block of users the radius below which it stays in more than
        half of the noisy lists, and among the K served; 0 for other items: (B, m) each."""
        votes, chosen, known = self.served(users, self.k)
        lower, upper = (bound[votes].masked_fill(known, 0.0) for bound in self.bounds)  # (B, m)
        # of an item served, the K-th strongest other is the K + 1-th strongest of all (in a tie
        # at the end of the list they are equal); where there are no more than K, nothing passes
        rival = torch.zeros_like(upper)
        if upper.shape[1] > self.k:
            rival += upper.topk(self.k + 1, dim=1).values[:, [self.k]]
        major = proof.majority_radius(lower.cpu().numpy(), self.sigma)
        within = proof.list_radius(lower.cpu().numpy(), rival.cpu().numpy(), self.sigma)
        return (torch.as_tensor(major, device=users.device).masked_fill(~chosen, 0.0),
                torch.as_tensor(within, device=users.device).masked_fill(~chosen, 0.0))
