"""Sequential models trained on mixtures of neighbouring items in place of items of a history."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.api import Dataset, Defense, ModelPlugin, param
from bench.neighbourhoods import no_places
from bench.training import mean

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Batch
    from bench.training import Loop


class NeighbourhoodSampling(Defense):
    """Dirichlet neighbourhood sampling: a share of each input sequence is read as convex mixtures.

    At int(share · items) places of every training history (at least one) the item's vector e_i
    is replaced by Σ_v η_v e_v over its neighbours v, η ~ Dirichlet(alpha in one hop, alpha ·
    decay in two). One hop are items of cosine at least `similarity` (or the `fewest` nearest,
    and at most `most`, drawn at random), two hops their neighbours, at most `most` too. So the
    model learns to answer alike in the convex hull of what an attacker may put there. Yue, Zeng,
    Kou, Shang and Wang, "Defending Substitution-Based Profile Pollution Attacks on Sequential
    Recommenders", RecSys 2022; defaults of their code. What is predicted stays as it is, and the
    vectors in the mixture learn. Neighbourhoods follow the vectors every `rebuild` epochs.

    share 0 equals `none` bit for bit. Nothing changes when the model serves. For models that
    look up the items of a history one by one. Adaptive attack: substitution, which by default
    takes its slopes on the defended model (adaptive: true).

    Example: defenses: [{neighbourhood-sampling: {share: 0.5}}]
    """

    name = "neighbourhood-sampling"
    share: float = param(0.5, "share of the places of a history that are replaced", low=0, high=1)
    similarity: float = param(0.5, "cosine from which items are neighbours", low=-1, high=1)
    fewest: int = param(2, "neighbours that every item has, however far", low=1)
    most: int = param(25, "neighbours in one hop, and as many in two", low=1)
    alpha: float = param(1.0, "Dirichlet parameter of neighbours in one hop", above=0)
    decay: float = param(0.5, "factor on alpha for those in two", above=0)
    rebuild: int = param(10, "epochs between new neighbourhoods", low=1)

    def unfit(self, model: ModelPlugin, data: Dataset) -> str | None:
        return no_places(model) if self.share else None

    def wrap(self, loop: Loop) -> Callable[[int], float] | None:
        if not self.share:
            return None
        mixed = Mixed(self, loop)

        def run_epoch(epoch: int) -> float:
            losses = []
            for batch in loop.batches(epoch):
                vectors = mixed.vectors(batch, epoch)
                with loop.model.looking_up(batch["histories"], vectors):
                    losses.append(loop.step(batch, epoch))
            return mean(losses)

        return run_epoch

    @classmethod
    def neutral_params(cls) -> dict[str, Any]:
        return {"share": 0.0}


class Mixed:
    """Neighbourhoods as they are now, and a stream of draws that is made once and kept."""

    def __init__(self, hyper: NeighbourhoodSampling, loop: Loop) -> None:
        self.hyper, self.model = hyper, loop.model
        self.rng = loop.model.ctx.stream(hyper.name)
        self.built = 0

    def vectors(self, batch: Batch, epoch: int) -> Tensor:
        """What is read in place of the batch's histories (B, L), with their graph: (B, L, d)."""
        import torch

        from bench.neighbourhoods import chosen_places, neighbourhoods

        h, table = self.hyper, self.model.history_table()
        if not self.built or epoch >= self.built + h.rebuild:
            self.near = neighbourhoods(table.rows().double().cpu().numpy(), h.similarity,
                                       h.fewest, h.most, h.alpha, h.decay, self.rng)
            self.built = epoch
        items, rows = batch["histories"], table.weight[table.start:table.stop]  # (n_items, d)
        at = chosen_places(items, h.share, self.rng)  # (B, L)
        which = items[at].cpu().numpy()  # (P,)
        weights = torch.as_tensor(self.near.mixtures(which, self.rng), dtype=rows.dtype,
                                  device=rows.device)  # (P, 2 · most)
        near = rows[torch.as_tensor(self.near.items[which], device=rows.device)]
        mixture = (weights[..., None] * near).sum(dim=1)  # (P, d)
        return rows[items.clamp_min(0)].masked_scatter(at[..., None], mixture)
