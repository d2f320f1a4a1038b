"""The items of a history that matter most, replaced by similar ones that do harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.api import Context, Dataset, param
from bench.data import Ints
from bench.histories import HistoryAttack
from bench.inside import COPIES, WHAT_COPIES

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import TorchRecommender
    from bench.positions import Reader


class Substitution(HistoryAttack):
    """Substitution attack on sequential recommenders, guided by slopes at the places of a history.

        importance_t = ‖∂ℓ/∂e_t‖₂,   v_t = argmax_v cos(e_t ± step · sign(∂ℓ/∂e_t), e_v)
        over items v with cos(e_t, e_v) ≥ similarity

    The `edits` places of highest importance are taken one after another; of the `tries` best
    items v the one is put there that serves most by the model's own scores, none where none
    does. Untargeted, ℓ is the cross-entropy of the item that the model recommends for the
    history as it was, raised; to push it is that of the target (their mean), lowered. Yue, Zeng,
    Kou, Shang and Wang, "Defending Substitution-Based Profile Pollution Attacks on Sequential
    Recommenders", RecSys 2022. Their code keeps the best of ten even where all ten serve the
    attacker worse than no change, and judges untargeted tries by the test item, which no
    attacker has; here neither. Slopes are taken once, as there, or (fresh) after every change.
    In push no two targets stand side by side.

    Budget: `edits` items of a user's history replaced, each by one of cosine at least
    `similarity`. White-box. Only the newest max_length items, which the model reads, change.

    Args:
        edits, similarity: the budget.
        goal, targets, stratum: whether items are pushed, and which.
        tries: candidates that are scored for each place.
        step: how far e_t moves along the sign of its slope, in every coordinate.
        fresh: slopes are taken anew after each replacement.
        copies: of noise, where randomised smoothing is attacked.
        adaptive: see the base class.

    Shapes: histories are arrays of items (length,); slopes (users, max_length, width).

    Example: attacks: [{substitution: {edits: [1, 2, 5]}}]
    """

    name = "substitution"
    changes = ("substitute",)
    places_targets = "apart"
    similarity: float = param(0.5, "lowest cosine of a replaced item's vector and its "
                              "replacement's; -1: any", low=-1, high=1)
    tries: int = param(10, "candidates scored for each place", low=1)
    step: float = param(1.0, "length of the step along the sign of the slope", above=0)
    fresh: bool = param(False, "take slopes anew after each replacement")
    copies: int = param(COPIES, WHAT_COPIES, low=1)

    def edit(self, model: TorchRecommender, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        from bench.positions import Reader, padded, written_back

        reader, made = Reader(model, targets, histories, ctx, data), []
        for rows in reader.blocks(len(histories)):
            part = [histories[r] for r in rows.tolist()]
            items, lengths = padded(part, reader.width, ctx.device)
            made += written_back(part, self.replaced(reader, rows, items, lengths, targets),
                                 lengths)
        return made

    def replaced(self, reader: Reader, users: Tensor, items: Tensor, lengths: Tensor,
                 targets: Ints) -> Tensor:
        """The histories (B, L) with up to `edits` places changed."""
        import torch

        row = torch.arange(len(items), device=items.device)
        open_ = items >= 0  # (B, L), places not taken yet
        aim = torch.as_tensor(np.asarray(targets), device=items.device)
        current, slope = reader.gain(users, items, lengths), torch.empty(0)
        for n in range(min(self.edits, items.shape[1])):
            if n == 0 or self.fresh:
                slope = reader.slopes(users, items, lengths)  # (B, L, d)
            importance = torch.where(open_, slope.norm(dim=2), -torch.inf)  # (B, L)
            at = importance.argmax(dim=1)  # (B,)
            old = items[row, at].clamp_min(0)  # (B,), of who has no history: anything
            order = reader.alignment(old, slope[row, at], self.step)  # (B, n_items)
            order[reader.cosine(old) < self.similarity] = -torch.inf
            order[row, old] = -torch.inf
            beside = torch.zeros_like(open_[:, 0])  # (B,): a neighbour is a target
            for side in (at - 1, at + 1):
                inside = (side >= 0) & (side < lengths)
                beside |= inside & torch.isin(items[row, side.clamp(0, items.shape[1] - 1)], aim)
            order[beside[:, None] & torch.isin(torch.arange(order.shape[1], device=aim.device),
                                               aim)] = -torch.inf
            order[~open_[row, at]] = -torch.inf  # fewer places than edits
            items, current = reader.best(users, items, lengths, at, order, self.tries, current)
            open_[row, at] = False
        return items

    @classmethod
    def test_params(cls) -> dict[str, float]:
        return {"similarity": -1.0}  # hardly trained vectors of few items are unlike each other
