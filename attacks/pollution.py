"""Items appended to a history that pull a target up, found on the model or on a copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import Context, Dataset, ModelPlugin, ThreatModel, param
from bench.data import Ints
from bench.extraction import DEFAULTS, WHAT, too_long
from bench.histories import HistoryAttack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.positions import Reader


class Pollution(HistoryAttack):
    """Profile pollution (push): appends `edits` items, guided by slopes at their places.

    Begins with copies of the target (of several, in turn). From the newest place to the oldest
    appended, of the `tries` items of largest cos(e − step · sign ∂ℓ/∂e, e_v), ℓ the target's
    cross-entropy at the beginning, the one is put there that raises the target's probability
    most; a target that would stand beside another is replaced in any case. Yue, He, Zeng and
    McAuley, "Black-Box Attacks on Sequential Recommenders via Data-Free Model Extraction",
    RecSys 2021.

    knowledge: black is the paper's attacker, who sees only lists. Slopes and probabilities are
    those of a surrogate that learned to rank as the lists for made-up histories do (see
    `model-extraction`); every history asked for is a query. white looks into the model itself:
    what black falls short of it is the price of the copy.

    Budget: `edits` items appended to a user's history, and in black the queries that the facts
    count (sequences · length). No two targets stand side by side.

    Args:
        edits: the budget (at most as many as the model reads).
        targets, stratum: which items are pushed.
        tries, step: candidates scored for each place; the step along the sign of the slope.
        knowledge: black or white.
        surrogate, sequences, length, k, epochs: of the extraction.
        adaptive: see the base class.

    Shapes: histories are arrays of items (length,); slopes (users, max_length, width).

    Example: attacks: [{pollution: {edits: [2, 10], knowledge: [black, white]}}]
    """

    name = "pollution"
    threat = ThreatModel("test-input", "black", "push")
    goals = ("push",)
    changes = ("append",)
    places_targets = "apart"
    edits: int = param(2, "most items appended per user", low=0)
    goal: str = param("push", "targets into the lists", choices=("push",))
    tries: int = param(10, "candidates scored for each place", low=1)
    step: float = param(1.0, "length of the step along the sign of the slope", above=0)
    knowledge: str = param("black", "black: sees lists, and learns a surrogate from them; white: "
                           "sees the model", choices=("black", "white"))
    surrogate: str = param(DEFAULTS["surrogate"], WHAT["surrogate"], choices=("SASRec", "GRU4Rec"))
    sequences: int = param(DEFAULTS["sequences"], WHAT["sequences"], low=1)
    length: int = param(DEFAULTS["length"], WHAT["length"], low=1)
    k: int = param(DEFAULTS["k"], WHAT["k"], low=2)
    epochs: int = param(DEFAULTS["epochs"], WHAT["epochs"], low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        reason = super().unfit(model, data)
        if reason is None and self.knowledge == "black":
            reason = too_long(self.length, data)
        return reason

    def edit(self, model: Any, histories: list[Ints], targets: Ints, data: Dataset,
             ctx: Context) -> list[Ints]:
        from bench.extraction import extract
        from bench.positions import Reader, padded, written_back

        if self.knowledge == "black":  # what the copy is asked is no query
            model = extract(model, self, ctx)
            ctx = Context(ctx.seed, ctx.device)
        reader, made = Reader(model, targets, histories, ctx), []
        count = min(self.edits, reader.width)
        for rows in reader.blocks(len(histories)):
            part = [np.concatenate([histories[r], np.resize(targets, count)])
                    for r in rows.tolist()]
            items, lengths = padded(part, reader.width, ctx.device)
            older = np.array([h[-reader.width - 1] if len(h) > reader.width else -1 for h in part])
            made += written_back(part, self.appended(reader, rows, items, lengths, targets, count,
                                                     np.isin(older, targets)), lengths)
        return made

    def appended(self, reader: Reader, users: Tensor, items: Tensor, lengths: Tensor,
                 targets: Ints, count: int, after: Any) -> Tensor:
        """The histories (B, L), whose newest `count` places begin as targets, worked over; `after`
        (B,) says where the item before them all, which is not read, is a target."""
        import torch

        row = torch.arange(len(items), device=items.device)
        aim = torch.as_tensor(targets, device=items.device)
        current, slope = reader.gain(users, items, lengths), reader.slopes(users, items, lengths)
        for n in range(count):
            at = lengths - 1 - n  # (B,), from the newest place on
            old = items[row, at]
            beside = torch.zeros_like(at, dtype=torch.bool)  # (B,): a neighbour keeps its target
            if n > 0:
                beside |= torch.isin(items[row, at + 1], aim)
            if n == count - 1:
                left = torch.isin(items[row, (at - 1).clamp_min(0)], aim)
                beside |= torch.where(at > 0, left, torch.as_tensor(after, device=items.device))
            must = beside & torch.isin(old, aim)
            order = reader.alignment(old, slope[row, at], self.step)  # (B, n_items)
            order[row, old] = -torch.inf
            order[beside[:, None] & torch.isin(torch.arange(order.shape[1], device=aim.device),
                                               aim)] = -torch.inf
            items, current = reader.best(users, items, lengths, at, order, self.tries,
                                         torch.where(must, -torch.inf, current))
        return items

    @classmethod
    def test_params(cls) -> dict[str, Any]:
        return {"knowledge": "white", "stratum": "tail", "sequences": 20, "length": 6, "epochs": 1}
