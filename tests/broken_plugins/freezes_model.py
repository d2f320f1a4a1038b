"""Leaves the model's parameters frozen."""

from bench.api import Context, Dataset, EmbeddingAttack

BREAKS = "inputs-unchanged"
BECAUSE = "what the trained model may learn, or its mode"


class FreezesModel(EmbeddingAttack):
    """Leaves the model's parameters frozen, to save time; no paper.

    Example: attacks: [freezes-model]
    """

    name = "freezes-model"

    def delta(self, model, radii, data: Dataset, ctx: Context):
        import torch

        model.module.requires_grad_(False)
        return {k: torch.zeros_like(model.tables()[k].rows()) for k in radii}
