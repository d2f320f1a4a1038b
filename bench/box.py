"""User vectors as the images that image attacks expect: a box [0, 1], four logits, labels.

Attacks of image libraries assume inputs in [0, 1], a label that is the largest logit, examples
that do not know of each other, and logits of a scale that softmax can read. A recommender gives
none of it. Here (CATALOGUE A6):

- one scalar shift and scale maps the whole table into the box with room for ε on every side, so
  that balls stay balls and the library's clamp(0, 1) never bites;
- the logits of an example are four: its chosen item, and the K-th, (K+1)-th and (K+2)-th best
  rivals *at the perturbed vector*. The chosen item is the largest of them exactly while it is in
  the top K, so that "misclassified" means "left the list";
- they are divided by their spread at the clean vector and raised above zero: cross-entropy is
  not saturated, and losses that fill with zeros are right;
- where a defense serves under noise, the scores are shares of votes over noise of the attacker's
  own, made smooth.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.differentiable import scores_with
from bench.errors import CannotActError, PluginError
from bench.queries import uncounted
from bench.served import Noisy, Shift, copies_of, shifted

if TYPE_CHECKING:
    from bench.models.base import Table, TorchRecommender

MARGIN = 0.05  # free room at each side of the box, as a share of its width
SIDE = 5  # Square in L2 cuts its picture by fifths


def square_side(width: int) -> int:
    """The side of the smallest square picture that holds so many coordinates and that the block
    search of the library can start on: blocks of a fifth of the side, whole or not there."""
    side = max(SIDE, math.isqrt(max(width, 1) - 1) + 1)
    while True:
        block = side // SIDE
        room = side - (side - block * SIDE) // 2  # from where the library lays the first block
        if room % block == 0 or room >= side // block * block:
            return side
        side += 1


class UserScores:
    """Scores of all items as a differentiable function of user vectors.

    Where a score is a dot product of the tables plus something per item, that is what is
    computed; any other model is run with its table replaced. Of a model that is served under
    noise they are shares of votes (`bench.served.Noisy`).

    Args:
        model: in evaluation mode, with one user table.
        users: the users whose vectors may move, (n,).

    Raises:
        CannotActError: the model has no user table, or several.
    """

    def __init__(self, model: TorchRecommender, users: Tensor) -> None:
        own = [t for t in model.tables().values() if t.role == "user"]
        if len(own) != 1:
            raise CannotActError(f"the library bounds one vector per example, and this model has "
                            f"{len(own) or 'no'} table{'s' if len(own) > 1 else ''} of users")
        self.model, self.copies = copies_of(model)
        self.noisy = model if isinstance(model, Noisy) else None
        self.users, self.table = users, own[0]
        self._key = next(k for k, t in model.tables().items() if t.role == "user")
        self.vectors = own[0].rows()[users]  # (n, d)
        self.queries = 0
        with torch.no_grad(), uncounted(self.model):
            inside = self.model.scores(users)  # (n, m)
        self.queries += len(users)
        self._linear = self._as_dot_product(inside)
        if self.noisy is None:
            self.clean = inside  # (n, m)
        else:
            with torch.no_grad():
                self.clean = self(self.vectors, torch.arange(len(users), device=users.device))

    def _as_dot_product(self, inside: Tensor) -> tuple[str, Tensor, Tensor] | None:
        items = [(key, t.rows()) for key, t in self.model.tables().items() if t.role == "item"
                 and t.weight.shape[1] == self.vectors.shape[1]]
        if len(items) != 1:
            return None
        key, rows = items[0]
        rest = inside - self.vectors @ rows.T  # (n, m)
        bias = rest.mean(dim=0)  # (m,)
        spread = inside.std().clamp_min(1e-12)
        if bool((rest - bias).abs().max() > 1e-4 * spread):
            return None
        # with one user, or users all alike, any scorer looks so where they stand: ask elsewhere
        moved = -0.5 * self.vectors.roll(1, dims=1)  # (n, d)
        self.queries += len(moved)
        with torch.no_grad(), uncounted(self.model):
            found = self._by_model(moved, torch.arange(len(moved), device=moved.device), {})
        off = (found - moved @ rows.T - bias).abs().max()
        return (key, rows, bias) if bool(off <= 1e-3 * spread) else None

    def __call__(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Scores (b, m) of the users at `rows` (b,) of `users`, with these vectors (b, d)."""
        self.queries += len(vectors) * len(self.copies)
        found = [self._of_copy(vectors, rows, noise) for noise in self.copies]
        return found[0] if self.noisy is None else self.noisy.voted(self.users[rows], found)

    def _of_copy(self, vectors: Tensor, rows: Tensor, noise: Shift) -> Tensor:
        if self._key in noise:
            vectors = vectors + noise[self._key][self.users[rows]]
        if self._linear is not None:
            key, items, bias = self._linear
            return vectors @ (items + noise[key] if key in noise else items).T + bias
        parts, size = [], len(self.users)  # a user twice in one part would get one vector
        for start in range(0, len(rows), size):
            parts.append(self._by_model(vectors[start:start + size], rows[start:start + size],
                                        noise))
        return torch.cat(parts)

    def _by_model(self, vectors: Tensor, rows: Tensor, noise: Shift) -> Tensor:
        if len(torch.unique(rows)) != len(rows):
            return torch.cat([self._by_model(v[None], r[None], noise)
                              for v, r in zip(vectors, rows, strict=True)])
        who = self.users[rows]
        changed = shifted(self.model, noise)
        table = changed.get(self.table.parameter, self.table.weight).detach()
        changed[self.table.parameter] = table.index_put((who + self.table.start,), vectors)
        return scores_with(self.model, changed, who)


class Box:
    """The scalar map of a table's vectors into [0, 1], with room for the ball."""

    def __init__(self, table: Table, radius: float) -> None:
        rows = table.rows()
        low, high = float(rows.min()) - radius, float(rows.max()) + radius
        room = MARGIN * (high - low)
        self.low, self.scale = low - room, (high - low) + 2 * room
        self.radius = radius / self.scale

    def into(self, vectors: Tensor) -> Tensor:
        return (vectors - self.low) / self.scale

    def out(self, inside: Tensor) -> Tensor:
        return inside * self.scale + self.low


class BoxScorer(nn.Module):
    """Pictures (b, 1, h, w) in the box to logits (b, 4), or to those of the whole catalogue.

    Args:
        scores: of all users under attack.
        box: maps pictures back to vectors.
        chosen: the item of each user that is to leave the list, (n,).
        masked: items never recommended to the user, bool (n, m).
        k: length of the list.
        rows: which users the pictures show, in order; `only` pins a single one, for attacks
            that reorder or repeat examples.
        catalogue: give all items as logits instead of four.
        square: square pictures, as block search needs (its blocks are taller than a flat
            one); others are 1 × d, so that no budget is spent on what is left over.
    """

    def __init__(self, scores: UserScores, box: Box, chosen: Tensor, masked: Tensor, k: int,
                 catalogue: bool = False, square: bool = False) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1, device=chosen.device))  # says the device
        self.scores, self.box, self.k, self.catalogue = scores, box, k, catalogue
        self.chosen, self.masked = chosen, masked
        self.width = scores.vectors.shape[1]
        side = square_side(self.width)
        self.shape = (1, side, side) if square else (1, 1, self.width)
        self.only: int | None = None
        four = self._four(scores.clean, torch.arange(len(chosen), device=chosen.device))
        spread = four.amax(dim=1) - four.amin(dim=1)  # (n,)
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        kept = scores.clean.masked_fill(masked, torch.nan)
        deviation = torch.stack([r[~torch.isnan(r)].std() for r in kept])  # (n,)
        self.deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def pictures(self, vectors: Tensor) -> Tensor:
        """Vectors (n, d) as pictures (n, 1, h, w) in the box; what is left over is grey."""
        size = self.shape[1] * self.shape[2]
        flat = torch.full((len(vectors), size), 0.5, device=vectors.device)
        flat[:, :self.width] = self.box.into(vectors)
        return flat.reshape(len(vectors), *self.shape)

    def vectors(self, pictures: Tensor) -> Tensor:
        return self.box.out(pictures.reshape(len(pictures), -1)[:, :self.width])

    def rows(self, count: int) -> Tensor:
        """Which user each of `count` pictures shows: one pinned, or all in order, repeated."""
        if self.only is not None:
            return torch.full((count,), self.only, device=self.chosen.device)
        return torch.arange(count, device=self.chosen.device) % len(self.chosen)

    def forward(self, pictures: Tensor) -> Tensor:
        rows = self.rows(len(pictures))
        scores = self.scores(self.vectors(pictures), rows)  # (b, m)
        if self.catalogue:
            floor = scores.detach().amin(dim=1, keepdim=True)
            scores = torch.where(self.masked[rows], floor, scores)
            return (scores - floor) / self.deviation[rows, None]
        four = self._four(scores, rows) / self.spread[rows, None]
        return four - four.detach().amin(dim=1, keepdim=True) + 1.0

    def labels(self) -> Tensor:
        """The label of each user: the chosen item, as the logits count it."""
        return self.chosen if self.catalogue else torch.zeros_like(self.chosen)

    def _four(self, scores: Tensor, rows: Tensor) -> Tensor:
        """The chosen item's score, then the K-th to (K+2)-th best rival's: (b, 4)."""
        own = self.chosen[rows, None]  # (b, 1)
        rivals = scores.masked_fill(self.masked[rows], -torch.inf).scatter(1, own, -torch.inf)
        best = rivals.topk(self.k + 2, dim=1).values[:, self.k - 1:]  # (b, 3)
        below = scores.detach().amin(dim=1, keepdim=True) - 1  # where there are fewer rivals
        best = torch.where(torch.isinf(best), below, best)
        return torch.cat([scores.gather(1, own), best], dim=1)

    @contextlib.contextmanager
    def pinned(self, row: int) -> Iterator[None]:
        """Every picture shows this user."""
        self.only = row
        try:
            yield
        finally:
            self.only = None

    def check_room(self, pictures: Tensor) -> None:
        """No coordinate may touch the box: else its clamp has cut the attack short."""
        if bool((pictures <= 0).any() | (pictures >= 1).any()):
            raise PluginError("a perturbed vector touches the box of the library, so that its "
                              "clamp and not the ball bounded the attack")
