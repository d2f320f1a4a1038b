"""Slopes of a recommender's scores by the places of a history, and items that follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data import Ints
from bench.errors import CannotActError
from bench.perturb import TINY
from bench.served import copies_of
from bench.shown_lists import unit_vectors

if TYPE_CHECKING:
    from bench.context import Context
    from bench.data import Dataset
    from bench.models.base import TorchRecommender

_ROWS = 256  # histories read at once


def padded(histories: Sequence[Ints], width: int, device: str) -> tuple[Tensor, Tensor]:
    """The newest `width` items of each history: (B, width), −1 pads on the right; lengths (B,)."""
    items = np.full((len(histories), width), -1, np.int64)
    lengths = np.array([min(len(h), width) for h in histories], np.int64)
    for row, (history, length) in enumerate(zip(histories, lengths, strict=True)):
        items[row, :length] = history[len(history) - length:]
    return (torch.as_tensor(items, device=device), torch.as_tensor(lengths, device=device))


class Reader:
    """A model that an attack may look into, put before histories at will.

    Everything asked is counted in `ctx.notes["queries"]`: a history scored or differentiated is
    one.

    Args:
        model: in evaluation mode. Its users are numbered as the histories. Where it stands for
            one that is served under noise, gains and slopes are means over its copies.
        aim: items to push; empty: away from what the model recommends.
        histories: as they are before the attack; what it recommends for them is aimed away from.
        data: whose known rows are no recommendations, beside what the histories hold: evaluation
            masks them, also where a defense took them out of the training.
    """

    def __init__(self, model: TorchRecommender, aim: Ints, histories: Sequence[Ints],
                 ctx: Context, data: Dataset | None = None) -> None:
        self.model, self.copies = copies_of(model)
        self.ctx = ctx
        self.width = int(self.model.hyper.max_length)  # type: ignore[attr-defined]
        self.table = self.model.history_table()
        self.unit: Tensor = unit_vectors(model).float()  # (n_items, d)
        self.wanted: Tensor  # (users, aims): items whose probability is raised, or lowered
        self.sign = 1.0
        if len(aim):
            self.wanted = torch.as_tensor(aim, device=ctx.device).expand(len(histories), -1)
        else:
            self.sign = -1.0
            self.wanted = self._recommended(histories, data)

    def _recommended(self, histories: Sequence[Ints], data: Dataset | None) -> Tensor:
        """The best item of each user that is not known of the user: (users, 1)."""
        found, known = [], None if data is None else data.known("test")
        for rows in self.blocks(len(histories)):
            part = [histories[r] for r in rows.tolist()]
            scores = self.scores(rows, *padded(part, self.width, self.ctx.device)).clone()
            for row, items in enumerate(part):
                scores[row, torch.as_tensor(items, device=scores.device)] = -torch.inf
                if known is not None:
                    own = known.items[known.users == int(rows[row])]
                    scores[row, torch.as_tensor(own, device=scores.device)] = -torch.inf
            found.append(scores.argmax(dim=1, keepdim=True))
        return torch.cat(found)

    def blocks(self, count: int) -> list[Tensor]:
        """Row numbers 0 … count − 1 in blocks."""
        return [torch.arange(start, min(start + _ROWS, count), device=self.ctx.device)
                for start in range(0, count, _ROWS)]

    def _count(self, rows: int) -> None:
        self.ctx.notes["queries"] = self.ctx.notes.get("queries", 0) + rows

    def _noisy(self, rows: int) -> Iterator[None]:
        """Once for each copy, with the vectors as they are in it."""
        for noise in self.copies:
            self._count(rows)
            with self.model.perturbed(noise) if noise else contextlib.nullcontext():
                yield

    def _each(self, users: Tensor, items: Tensor, lengths: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [self.model.history_scores(users, items, lengths)
                    for _ in self._noisy(len(users))]

    def scores(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """(B, n_items) for histories (B, L) of lengths (B,): of several copies the mean log
        probability."""
        found = self._each(users, items, lengths)
        return found[0] if len(found) == 1 else torch.stack(
            [s.double().log_softmax(dim=1) for s in found]).mean(dim=0)

    def _gain(self, users: Tensor, scores: Tensor) -> Tensor:
        """Mean log probability of the items pushed, or minus that of the item recommended:
        (B,). The attack raises it."""
        logs = scores.double().log_softmax(dim=1).gather(1, self.wanted[users])
        return self.sign * logs.mean(dim=1)

    def gain(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """What the attack raises, for each history: float64 (B,)."""
        return torch.stack([self._gain(users, scores)
                            for scores in self._each(users, items, lengths)]).mean(dim=0)

    def slopes(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """The gain's slope by the vector at each place, zero where there is no item: (B, L, d).

        By the vector that is read there alone: the rows that items score by stay fixed.
        """
        found = []
        for _ in self._noisy(len(users)):
            rows = self.table.rows()[items.clamp_min(0)]  # (B, L, d)
            vectors = rows.clone().requires_grad_()
            with torch.enable_grad():
                with self.model.looking_up(items, vectors):
                    scores = self.model.history_scores(users, items, lengths)
                if not scores.requires_grad:
                    raise CannotActError("the model holds the vectors of a history's items fixed")
                (slope,) = torch.autograd.grad(self._gain(users, scores).sum(), vectors)
            found.append(slope)
        return torch.where((items >= 0)[..., None], torch.stack(found).mean(dim=0), 0.0)

    def alignment(self, items: Tensor, slope: Tensor, step: float = 1.0) -> Tensor:
        """cos(e + step · sign g, every item) for the items (B,) at places of slope (B, d):
        (B, n_items)."""
        moved = self.table.rows()[items] + step * slope.sign()  # (B, d)
        moved = moved / moved.norm(dim=1, keepdim=True).clamp_min(TINY)
        cosine: Tensor = moved @ self.unit.T
        return cosine

    def cosine(self, items: Tensor) -> Tensor:
        """cos(e, every item): (B, n_items)."""
        cosine: Tensor = self.unit[items] @ self.unit.T
        return cosine

    def best(self, users: Tensor, items: Tensor, lengths: Tensor, at: Tensor, order: Tensor,
             tries: int, current: Tensor) -> tuple[Tensor, Tensor]:
        """One item more, the one that gains most of the first few.

        Args:
            items: (B, L). lengths: (B,). at: the place that may change, (B,).
            order: how much each item (B, n_items) is worth trying, −inf for never.
            current: the gain as it is, (B,); −inf where the place must change.

        Returns:
            items with the place changed where that gains, and the gain: (B, L), (B,).
        """
        row = torch.arange(len(items), device=items.device)
        worth, choice = order.topk(min(tries, order.shape[1]), dim=1)  # (B, tries)
        kept, reached = items.clone(), current.clone()
        for n in range(choice.shape[1]):
            changed = items.clone()
            changed[row, at] = choice[:, n]
            value = torch.where(torch.isfinite(worth[:, n]),
                                self.gain(users, changed, lengths), -torch.inf)
            better = value > reached
            kept[better], reached[better] = changed[better], value[better]
        return kept, reached


def written_back(histories: Sequence[Ints], items: Tensor, lengths: Tensor) -> list[Ints]:
    """The histories with their newest places as in items (B, L): what is older stays."""
    found, rows = [], items.cpu().numpy()
    for history, row, length in zip(histories, rows, lengths.tolist(), strict=True):
        found.append(np.concatenate([history[:len(history) - length], row[:length]]))
    return found
